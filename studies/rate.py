"""What weighing bits gains where latents are refined: PSNR and packed bits, by the weight.

    python studies/rate.py default reftok-default --eval EVAL_CLIPS --every 4 --out rate.json

17 frames of each clip, the middle square at 128 pixels, in eight steps; bits are those of packed
ids as they are stored. The first line of a model has its latents as the encoder gives them.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from leaning import SIZE, Shot, eval_shots

from reeltok import load
from reeltok.evaluate.results import describe_machine
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.skip import skipped_cells
from reeltok.tokenizer.contract import Tokenizer
from reeltok.transcode.packing import packed_bits

FRAMES, STEPS = 17, 8
WEIGHTS = (0.0, 5.0, 10.0, 20.0, 40.0)


def code(model: Tokenizer, plain: Tokenizer, shot: Shot) -> dict[str, float]:
    """PSNR in dB of a clip, its packed bits a token and a pixel, and the share of skipped ids."""
    tokens = model.encode(shot.x)
    made, bits = plain.decode(tokens), packed_bits(plain, tokens)
    assert isinstance(made, torch.Tensor)
    assert tokens.ids is not None
    assert bits is not None, "constriction and a packing model are needed"
    error = ((made.clamp(-1, 1) - shot.x) / 2).square().mean()
    skips = isinstance(plain, RefTok) and plain.config.skip > 0
    codes = plain.lookup(tokens.ids).movedim(1, -1)
    return {
        "psnr": float(-10 * torch.log10(error)),
        "bits_per_token": bits / tokens.ids.numel(),
        "bits_per_pixel": bits / shot.x.shape[2:].numel(),
        "skipped": float(skipped_cells(codes).float().mean()) if skips else 0.0,
    }


def judge(plain: Tokenizer, shots: list[Shot], weights: list[float]) -> list[dict[str, Any]]:
    """Without refinement, then by each weight: the means over clips, and each clip."""
    used: list[dict[str, Any]] = [{"refine": 0}]
    used += [{"refine": STEPS, "rate_weight": weight} for weight in weights]
    found = []
    for how in used:
        clips = [code(plain.under(**how), plain, shot) for shot in shots]
        means = {key: fmean(clip[key] for clip in clips) for key in clips[0]}
        found.append({**how, **means, "clips": clips})
        said = ", ".join(f"{key} {value:.4f}" for key, value in means.items())
        print(f"{plain.name}: {how}: {said}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="tokenizers with packing models")
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="take one of so many clips")
    parser.add_argument("--weights", nargs="+", type=float, default=list(WEIGHTS))
    parser.add_argument("--out", type=Path, help="a file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shots, results = eval_shots(given.eval, FRAMES, SIZE)[:: given.every], {}
    for name in given.models:
        plain = load(name)
        rows = judge(plain, shots, given.weights)
        results[name] = {"name": name, "weights": plain.hash(), "rows": rows}
    if given.out:
        clips = [shot.name for shot in shots]
        whole = {"machine": describe_machine(), "clips": clips, "models": results}
        given.out.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
