"""Pictures of a trained CoordTok and of a SiT on its planes.

    python studies/planes_shown.py RUN/best --data CLIPS [--flow SIT_RUN/best] --out FOLDER

Held-out clips of a whole window: frames, what the planes give back, and a boxed region of both,
which is decoded alone; then new clips, and both runs' curves. Writes `planes.png`, `samples.png`,
`curves.png` and, of all clips, `planes.json`.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

import torch
from display import finish
from judging import compare, cut, perceptual
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from reeltok import load
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.files.atomic import cache_folder
from reeltok.generate import flow
from reeltok.models.coordtok.network import CoordTok
from reeltok.train.coordtok_recipes import coordtok_cpu
from reeltok.train.data import ClipSource
from reeltok.train.frames import open_clips
from reeltok.train.logbook import read_lines

COLUMNS, BOX, GROUPS = 6, 24, ("open", "robot", "people")


def held_out(model: CoordTok, data: Path, out: Path) -> list[tuple[Clip, Tensor]]:
    """Whole windows of sources that the recipe holds out: the clips, and "1 c t h w" of each."""
    frames, size, _ = model.config.size
    config = coordtok_cpu().data
    opened, _ = open_clips(find_clips(data), config, cache=cache_folder("decoded"))
    source = ClipSource(opened, config)
    long = [c for c in source.held if c.frames >= frames and c.short >= size]
    return [(clip, cut(source, clip, slice(0, frames), size)) for clip in long]


def strip(x: Tensor, scale: int = 2) -> Tensor:
    """Frames spread over a clip, side by side, "c h w" in [-1, 1], each pixel `scale` times."""
    times = torch.linspace(0, x.shape[2] - 1, COLUMNS).long()
    row = torch.cat([x[0, :, t] for t in times], dim=2).clamp(-1, 1)
    return row.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def pile(rows: list[Tensor], target: Path) -> None:
    """Rows of one width below one another, as a picture."""
    padded = [torch.nn.functional.pad(row, (0, 0, 0, 4), value=1.0) for row in rows]
    picture = ((torch.cat(padded, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(picture.numpy()).save(target)


def busiest(x: Tensor) -> tuple[int, int]:
    """Top and left of the box with the most detail, in steps of the decoder's patches."""
    detail = x.diff(dim=3).abs().mean((0, 1, 2))[:, :-1] + x.diff(dim=4).abs().mean((0, 1, 2))[:-1]
    sums = torch.nn.functional.avg_pool2d(detail[None, None], BOX, stride=8)[0, 0]
    place = int(sums.argmax())
    return 8 * (place // sums.shape[1]), 8 * (place % sums.shape[1])


@torch.no_grad()
def show_planes(model: CoordTok, clips: list[tuple[Clip, Tensor]], out: Path) -> None:
    """One clip of each group, its reconstruction, and the boxed region of both; all scores."""
    net, scores, rows, seen = perceptual(torch.device("cpu")), [], [], set[str]()
    for clip, x in clips:
        tokens = model.encode(x)
        y = model.decode(tokens).clamp(-1, 1)
        scores.append({"name": clip.name, "group": clip.group, **compare(net, x, y)})
        print(scores[-1], flush=True)
        if clip.group in GROUPS and clip.group not in seen:
            seen.add(clip.group)
            (top, left), frames = busiest(x), x.shape[2]
            region = {"y": (top, top + BOX), "x": (left, left + BOX)}
            part = model.decode_region(tokens, t=(0, frames), **region, context="slice")
            whole = x[..., top : top + BOX, left : left + BOX]
            enlarge = lambda v: torch.nn.functional.interpolate(
                v[0].transpose(0, 1), scale_factor=model.config.size[1] / BOX, mode="nearest"
            ).transpose(0, 1)[None]
            rows += [strip(x), strip(y), strip(enlarge(whole)), strip(enlarge(part.clamp(-1, 1)))]
    pile(rows, out / "planes.png")
    keys = [key for key in scores[0] if key not in ("name", "group")]
    means = {key: fmean(score[key] for score in scores) for key in keys}
    (out / "planes.json").write_text(json.dumps({"means": means, "clips": scores}, indent=1))
    print(len(scores), "clips:", means)


@torch.no_grad()
def show_samples(model: CoordTok, folder: Path, count: int, out: Path) -> None:
    """New clips, a row each."""
    made = model.decode(flow.generate(flow.load(folder), model, count=count, seed=0), slices=16)
    assert isinstance(made, Tensor), "generated latents stand for tensors"
    pile([strip(one[None]) for one in made], out / "samples.png")


def draw_curves(runs: dict[str, tuple[Path, str]], out: Path) -> None:
    """A number of each run's log over its steps."""
    figure = Figure(figsize=(4 * len(runs), 2.6), dpi=80)
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (title, (run, key)) in zip(panels, runs.items(), strict=True):
        lines = [line for line in read_lines(run / "log.jsonl") if key in line]
        axes.plot([x["step"] for x in lines], [x[key] for x in lines], marker="o", ms=3)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("step", fontsize=8)
    finish(figure, panels, out / "curves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--flow", type=Path, help="a SiT on this model's planes")
    parser.add_argument("--count", type=int, default=6, help="new clips")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/planes_shown"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    model = load(asked.model)
    if not isinstance(model, CoordTok):
        raise SystemExit(f"planes_shown: {asked.model} holds a {model.family}: give a CoordTok's")
    show_planes(model, held_out(model, asked.data, asked.out), asked.out)
    runs = {"CoordTok, held-out PSNR, dB": (asked.model.parent, "psnr")}
    if asked.flow is not None:
        show_samples(model, asked.flow, asked.count, asked.out)
        runs["SiT, held-out loss"] = asked.flow.parent, "held_out"
    draw_curves(runs, asked.out)


if __name__ == "__main__":
    main()
