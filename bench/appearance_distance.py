"""Does the appearance distance order damage as people do? Graded blur, noise and frame swaps.

    python bench/appearance_distance.py DATA --out docs/appearance-distance

writes the figure (.svg) and the numbers with machine and commit (.json). DATA is judged under
the protocol shared-eval; only numbers leave this script, no pictures.
"""

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import describe
from matplotlib.figure import Figure

from reeltok.evaluate.clips import clips
from reeltok.files.checkpoints import load_weights
from reeltok.metrics.distances import appearance_features, feature_moments, frechet_distance
from reeltok.metrics.lpips import BACKBONES, Backbone, read_weights
from reeltok.nn.moments import Moments

Change = Callable[[torch.Tensor], torch.Tensor]


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Frames "t 3 h w" under a Gaussian of `sigma` pixels."""
    reach = int(3 * sigma + 1)
    taps = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    x = F.pad(x, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, taps, groups=3), taps.transpose(2, 3), groups=3)


def noise(x: torch.Tensor, deviation: float) -> torch.Tensor:
    """Frames with Gaussian noise of `deviation`, in [0, 1] units."""
    return (x + 2 * deviation * torch.randn(x.shape)).clamp(-1, 1)


def swap(x: torch.Tensor, pairs: int) -> torch.Tensor:
    """Frames with the first so many neighbours exchanged, two by two."""
    order = torch.arange(len(x))
    order[: 2 * pairs] = order[: 2 * pairs].view(-1, 2).flip(1).flatten()
    return x[order]


LADDERS: dict[str, tuple[str, Callable[[torch.Tensor, float], torch.Tensor], tuple[float, ...]]] = {
    "blur": ("sigma, pixels", blur, (0.5, 1, 2, 4)),
    "noise": ("deviation, of the range", noise, (0.01, 0.02, 0.05, 0.1)),
    "frame swaps": ("pairs of 17 frames", lambda x, n: swap(x, int(n)), (1, 2, 4, 8)),
}


@torch.no_grad()
def measure(data: Path) -> dict[str, list[float]]:
    """The distance at each step of each ladder, over all clips."""
    torch.manual_seed(0)
    net = Backbone("alex")
    load_weights(net, read_weights(BACKBONES["alex"]), what="the alex backbone's file")
    changes: list[Change] = [lambda x: x]
    changes += [
        lambda x, step=step, change=change: change(x, step)
        for _, change, steps in LADDERS.values()
        for step in steps
    ]
    sums: list[Moments | None] = [None] * len(changes)
    for clip in clips("shared-eval", data):
        x = clip.video.tensor()[0].transpose(0, 1)
        for i, change in enumerate(changes):
            found = feature_moments(appearance_features(net(change(x))[-1]))
            held = sums[i]
            sums[i] = found if held is None else held + found
        print(clip.name, flush=True)
    real = sums[0]
    assert real is not None
    values = iter([frechet_distance(real, s) for s in sums[1:] if s is not None])
    return {name: [next(values) for _ in steps] for name, (_, _, steps) in LADDERS.items()}


def draw(found: dict[str, list[float]], path: Path) -> None:
    """One panel per ladder, on one logarithmic scale."""
    figure = Figure(figsize=(9, 2.8), layout="tight")
    panels = figure.subplots(1, len(found), sharey=True)
    for panel, (name, values) in zip(panels, found.items(), strict=True):
        unit, _, steps = LADDERS[name]
        panel.plot(range(len(steps)), values, marker="o")
        panel.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        panel.set(title=name, xlabel=unit, yscale="log")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("appearance distance")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, write, and fail unless every ladder rises."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/appearance-distance"))
    asked = parser.parse_args()
    found = measure(asked.data)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        name: dict(zip(map(str, LADDERS[name][2]), values, strict=True))
        for name, values in found.items()
    }
    text = json.dumps({"distance": record, "machine": describe()}, indent=1)
    asked.out.with_suffix(".json").write_text(text + "\n")
    draw(found, asked.out.with_suffix(".svg"))
    print(text)
    for name, values in found.items():
        if values != sorted(values):
            raise SystemExit(f"{name} is not in order: {values}")


if __name__ == "__main__":
    main()
