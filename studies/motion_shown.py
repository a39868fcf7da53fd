"""The motion and the skipped cells of a RefTok, beside its clip; and what it does on still clips.

    python studies/motion_shown.py MODEL --eval EVAL_CLIPS --out runs/studies/motion
    python studies/motion_shown.py MODEL --eval EVAL_CLIPS --clips 06_apple 04_slow

For each clip: the share of skipped ids by block, and a picture with a row for each block shown: the
original, what was decoded, the motion of its last frame (hue: direction, strength: up to 16 pixels)
and the skipped cells (dimmed where the tokens speak). Then the first frame of each clip, repeated:
the share of SKIP from the fourth block on, and how far PSNR falls from block to block at most.
"""

import argparse
import colorsys
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from leaning import BLOCK, SIZE, Shot, eval_shots
from PIL import Image
from torch import Tensor

from reeltok import load
from reeltok.evaluate.results import describe_machine
from reeltok.models.reftok.motion import displacements
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import choose_references
from reeltok.nn.past import Past

STRONG = 16.0  # pixels of motion that are shown in full colour
SHOWN = (1, 3, 6)  # blocks of the picture
LEGIBLE = 192  # smaller frames are enlarged towards so many pixels
STILL_BLOCKS, SETTLED = 8, 4


@dataclass(frozen=True)
class Block:
    """One block: its frames "t h w c", skipped cells "h w" (last step), motion "h w 2" or None."""

    frames: Tensor
    skipped: Tensor
    moved: Tensor | None


@torch.no_grad()
def follow(model: RefTok, x: Tensor) -> list[Block]:
    """The blocks of a clip "1 c t h w" as the encoder makes them, without frame 0."""
    rows = x.permute(0, 2, 3, 4, 1).contiguous()
    found, known = [], choose_references(model.config, x, 0, None, None).options["references"]
    for coded in list(model.run(rows, Past(), known))[1:]:
        assert coded.quantized is not None
        skipped = (coded.quantized.z[0, -1] == 0).all(-1)
        motion = coded.motion
        moved = None if motion is None else displacements(motion.field, BLOCK)[0, -1]
        found.append(Block(coded.frames[0], skipped, moved))
    return found


def hues(moved: Tensor, size: int) -> Tensor:
    """Motion "h w 2" as colours "size size 3" in [-1, 1]: grey is none."""
    strength = (moved.norm(dim=-1) / STRONG).clamp(max=1)
    angle = torch.atan2(moved[..., 0], moved[..., 1]) / (2 * torch.pi) % 1
    pairs = zip(angle.flatten().tolist(), strength.flatten().tolist(), strict=True)
    colours = [colorsys.hsv_to_rgb(hue, much, 0.55 + 0.45 * much) for hue, much in pairs]
    small = torch.tensor(colours).view(*moved.shape[:2], 3) * 2 - 1
    ratio = size // moved.shape[0]
    return small.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)


def dimmed(frame: Tensor, skipped: Tensor) -> Tensor:
    """A frame "h w c" whose coded cells are dark."""
    ratio = frame.shape[0] // skipped.shape[0]
    shown = skipped.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)[..., None]
    return torch.where(shown, frame, frame * 0.25 - 0.75)


def picture(shot: Shot, blocks: list[Block]) -> Image.Image:
    """A row for each of the blocks SHOWN."""
    rows = []
    for number in SHOWN:
        if number > len(blocks):
            break
        block, last = blocks[number - 1], shot.x[0, :, number * BLOCK].permute(1, 2, 0)
        made = block.frames[-1].clamp(-1, 1)
        moved = torch.zeros_like(made) if block.moved is None else hues(block.moved, len(made))
        rows.append(torch.cat([last, made, moved, dimmed(made, block.skipped)], dim=1))
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
    blocks = follow(model, x)
    rows = frame[0, :, 0].permute(1, 2, 0)
    scores = [psnr(block.frames[-1].clamp(-1, 1), rows) for block in blocks]
    shares = [block.skipped.float().mean().item() for block in blocks]
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
        blocks = follow(model, shot.x[:, :, : 1 + (given.frames - 1) // BLOCK * BLOCK])
        shares = [block.skipped.float().mean().item() for block in blocks]
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
