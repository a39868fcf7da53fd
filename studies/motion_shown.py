"""The motion and the skipped cells of a RefTok, beside its clip; and what it does on still clips.

    python studies/motion_shown.py MODEL --eval EVAL_CLIPS --out runs/studies/motion
    python studies/motion_shown.py MODEL --eval EVAL_CLIPS --clips 06_apple 04_slow

For each clip: the share of skipped ids by block, and a picture with a row for each block shown: the
original, what was decoded, the motion of its last frame (hue: direction, strength: up to 16 pixels)
and the skipped cells (dimmed where the tokens speak). Then the first frame of each clip, repeated:
the share of SKIP from the fourth block on, and how far PSNR falls from block to block at most.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from leaning import BLOCK, SIZE, Shot, eval_shots
from PIL import Image
from torch import Tensor

from reeltok import load
from reeltok.evaluate.results import describe_machine
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.traced import TracedBlock, colour_motion, dim_cells, trace_blocks

SHOWN = (1, 3, 6)  # blocks of the picture
LEGIBLE = 192  # smaller frames are enlarged towards so many pixels
STILL_BLOCKS, SETTLED = 8, 4


def picture(shot: Shot, blocks: list[TracedBlock]) -> Image.Image:
    """A row for each of the blocks SHOWN."""
    rows = []
    for number in SHOWN:
        if number > len(blocks):
            break
        block, last = blocks[number - 1], shot.x[:, :, number * BLOCK].permute(0, 2, 3, 1)
        made = block.frames[-1:].clamp(-1, 1)
        moved = torch.full_like(made, -0.1)
        moved = moved if block.moved is None else colour_motion(moved, block.moved[-1:])
        rows.append(torch.cat([last, made, moved, dim_cells(made, ~block.skipped[-1:])], dim=2)[0])
    whole = ((torch.cat(rows) + 1) * 127.5).round().clamp(0, 255).byte()
    image = Image.fromarray(whole.numpy())
    ratio = max(1, LEGIBLE // shot.x.shape[4])
    return image.resize((image.width * ratio, image.height * ratio), Image.Resampling.NEAREST)


def psnr(x: Tensor, y: Tensor) -> float:
    """dB of frames in [-1, 1]."""
    return float(-10 * torch.log10(((x - y) / 2).square().mean() + 1e-8))


def stand_still(model: RefTok, frame: Tensor) -> dict[str, float]:
    """What becomes of one frame "1 c 1 h w", repeated: skipped ids, and the largest fall in dB."""
    x = frame.expand(-1, -1, 1 + BLOCK * STILL_BLOCKS, -1, -1)
    blocks = trace_blocks(model, x)[1:]
    rows = frame[0, :, 0].permute(1, 2, 0)
    scores = [psnr(block.frames[-1].clamp(-1, 1), rows) for block in blocks]
    shares = [block.skipped[-1].float().mean().item() for block in blocks]
    falls = [max(0.0, a - b) for a, b in pairwise(scores)]
    return {
        "skipped": fmean(shares[SETTLED - 1 :]),
        "fall": max(falls),
        "first": scores[0],
        "last": scores[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a RefTok: a name or a folder")
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--clips", nargs="*", help="names of clips, or how they begin; all if none")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side")
    parser.add_argument("--out", type=Path, help="a folder for pictures and the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load(given.model)
    if not isinstance(model, RefTok):
        parser.error(f"{given.model} is not a RefTok: give one")
    shots = eval_shots(given.eval, given.frames, given.size)
    if given.clips:
        shots = [shot for shot in shots if shot.name.startswith(tuple(given.clips))]
    record: dict[str, dict[str, object]] = {}
    for shot in shots:
        blocks = trace_blocks(model, shot.x[:, :, : 1 + (given.frames - 1) // BLOCK * BLOCK])[1:]
        shares = [block.skipped[-1].float().mean().item() for block in blocks]
        still = stand_still(model, shot.x[:, :, :1])
        record[shot.name] = {"skipped": shares, "still": still}
        print(
            f"{shot.name:28} skipped {fmean(shares):.2f}   still: skipped {still['skipped']:.3f}, "
            f"{still['first']:.2f} to {still['last']:.2f} dB, largest fall {still['fall']:.3f} dB"
        )
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            shown = picture(shot, blocks)
            shown.save(given.out / f"{Path(shot.name).stem}.webp", quality=90)
    if given.out:
        whole = {"machine": describe_machine(), "model": model.hash(), "clips": record}
        (given.out / "motion_shown.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
