"""Letters, faces and small patterns in boxes: what each of some tokenizers keeps of them.

    python studies/crops.py default default-sharp --eval EVAL_CLIPS

Each row of the picture is a box: the original, then the tokenizers in the order given.
The boxes were chosen by eye in clips that may be shown. LPIPS is that of the box, over all 49
frames; the picture shows a frame late in the clip, four times as large. No clip has handwriting.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from judging import perceptual
from leaning import eval_shots, plainly
from PIL import Image
from torch import Tensor

from reeltok import load
from reeltok.metrics import paired as metrics

FRAME, SIDE, SCALE = 44, 48, 4


@dataclass(frozen=True, kw_only=True)
class Place:
    """A box of SIDE pixels in the middle square of a clip, at 128 pixels."""

    clip: str
    what: str
    top: int
    left: int

    def of(self, x: Tensor) -> Tensor:
        """The box of all frames."""
        return x[..., self.top : self.top + SIDE, self.left : self.left + SIDE]


PLACES = (
    Place(clip="02_03_blocks.mp4", what="letters", top=40, left=32),
    Place(clip="16_carphone_pristine.mp4", what="a face that moves", top=32, left=32),
    Place(clip="21_friday.mp4", what="a small face", top=2, left=78),
    Place(clip="21_friday.mp4", what="drawers, a fine pattern", top=34, left=48),
)


def enlarged(x: Tensor) -> Tensor:
    """One frame of a box, "c h w"."""
    return x[0, :, FRAME].clamp(-1, 1).repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name or a folder")
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/studies/crops"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    names = {place.clip for place in PLACES}
    shots = {shot.name: shot.x for shot in eval_shots(asked.eval) if shot.name in names}
    made = {}
    for model in asked.models:
        code = plainly(load(model))
        made[model] = {name: code(x)[0] for name, x in shots.items()}
    net, rows = perceptual(torch.device("cpu")), []
    lines = ["| box | " + " | ".join(f"{model}, LPIPS | PSNR" for model in asked.models) + " |"]
    lines.append("|---" * (2 * len(asked.models) + 1) + "|")
    for place in PLACES:
        x = place.of(shots[place.clip])
        found = [place.of(made[model][place.clip]) for model in asked.models]
        rows.append(torch.cat([enlarged(v) for v in (x, *found)], dim=2))
        cells = []
        for y in found:
            lpips = metrics.lpips(net, x, y).mean().item() if net else float("nan")
            cells += [f"{lpips:.3f}", f"{metrics.psnr(x, y).mean().item():.2f}"]
        lines.append(f"| {place.what} | " + " | ".join(cells) + " |")
    picture = ((torch.cat(rows, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(picture.numpy()).save(asked.out / "crops.png")
    (asked.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
