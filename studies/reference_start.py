"""What a finer first frame gives a RefTok whose blocks carry pixels on: stored bits and PSNR.

    python studies/reference_start.py reftok-default --eval EVAL_CLIPS --out runs/studies/start.json

Frame 0 as tokens, or stored as a WebP picture of some quality; the first 17 and 49 frames of each
clip of EVAL_CLIPS that has so many, the middle square at 128 pixels. Bits are those of the payload:
packed ids, pictures and modes of blocks.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from leaning import Shot, eval_shots
from motion_ceiling import psnr

from reeltok import load
from reeltok.devices import describe_machine
from reeltok.evaluate.intervals import estimate
from reeltok.models.reftok.network import RefTok
from reeltok.tokenizer.packing import packing_for
from reeltok.tokens.packing.coder import pack_segment
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.record import Tokens

LENGTHS = (17, 49)
QUALITIES = (None, 10, 30, 50)  # None: frame 0 as tokens
TAIL = 4  # the last frames


@dataclass(frozen=True)
class Coded:
    """What a clip came to: stored bits per pixel, PSNR in dB of all frames, the first, the last."""

    bits: float
    psnr: float
    first: float
    tail: float


def stored_bits(tokens: Tokens, packing: PackingModel) -> int:
    """All bits of the tokens of one clip, its ids packed."""
    ids = tokens.flat()[0].view(tokens.grid)[:, None]
    beside = tokens.total_bits - ids.numel() * tokens.bits
    return beside + 8 * len(pack_segment(ids, packing, tokens.bits))


@torch.no_grad()
def code(shot: Shot, frames: int, model: RefTok, packing: PackingModel) -> Coded:
    """Encode the first frames of a clip, and judge what comes back."""
    x = shot.x[:, :, :frames]
    tokens = model.encode(x)
    made = model.decode(tokens).clamp(-1, 1)
    parts = slice(None), slice(0, 1), slice(-TAIL, None)
    scores = [psnr(made[:, :, part], x[:, :, part]) for part in parts]
    return Coded(stored_bits(tokens, packing) / (frames * x[0, 0, 0].numel()), *scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load(given.model)
    assert isinstance(model, RefTok), f"{given.model} is no RefTok"
    packing, lines = packing_for(model), []
    for frames in LENGTHS:
        shots, plain = eval_shots(given.eval, frames), list[float]()
        for quality in QUALITIES:
            view = model if quality is None else model.under(start="webp", quality=quality)
            coded = [code(shot, frames, view, packing) for shot in shots]
            plain = plain or [each.psnr for each in coded]
            gained = [each.psnr - base for each, base in zip(coded, plain, strict=True)]
            gain = estimate(gained, [1] * len(gained))
            means = {name: fmean(getattr(c, name) for c in coded) for name in vars(coded[0])}
            lines.append({"frames": frames, "quality": quality, "clips": len(shots), **means})
            lines[-1]["gain"] = [gain.mean, gain.low, gain.high]
            print(json.dumps(lines[-1]), flush=True)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": describe_machine(), "model": model.name, "weights": model.hash()}
        given.out.write_text(json.dumps({**record, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
