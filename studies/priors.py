"""RefTok's second claim at small scale: the same transformer on two tokenizers' ids.

    python studies/priors.py RefTok=RUN plain=RUN "plain, 4x larger"=RUN --data CLIPS

Every RUN is one of `reeltok train prior_cpu --set 'groups=["robot"]'`. From the first frame of
every held-out window of 16 frames each predicts the other 15, several times: scores of all samples
and of the best, and the appearance distance between all real and all predicted clips. FVD needs
I3D's weights: `reeltok bair` measures it.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from judging import cut, perceptual
from torch import Tensor

from reeltok import load
from reeltok.data.find import find_clips
from reeltok.devices import describe_machine
from reeltok.files.atomic import cache_folder
from reeltok.generate import masked
from reeltok.generate.prior import Prior
from reeltok.generate.recipes import GeneratorRecipe
from reeltok.generate.schedule import Sampling
from reeltok.metrics import paired as metrics
from reeltok.metrics.distances import appearance_features, feature_moments, frechet_distance
from reeltok.metrics.lpips import LPIPS
from reeltok.nn.moments import Moments
from reeltok.recipes import find_recipe
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.data import ClipSource
from reeltok.train.frames import open_clips

SHOWN = (0, 3, 6, 9, 12, 15)  # frames of a picture's row


@dataclass(frozen=True, eq=False)
class Rival:
    """A prior that is judged, with its tokenizer."""

    name: str
    prior: Prior
    tokenizer: Tokenizer

    def predict(self, x: Tensor, samples: int, sampling: Sampling) -> Tensor:
        """`samples` clips "n c t h w" that begin with the first frame of `x`."""
        start = x[:, :, :1].expand(samples, -1, -1, -1, -1)
        parts = masked.roll_out(self.prior, self.tokenizer, start, clips=1, sampling=sampling)
        return torch.cat([start, *parts], dim=2)[:, :, : x.shape[2]].clamp(-1, 1)


class Still:
    """No prediction at all: the given frame, repeated. Whoever sees motion must be above it."""

    name = "the given frame, repeated"

    def predict(self, x: Tensor, samples: int, sampling: Sampling) -> Tensor:
        return x[:, :, :1].expand(samples, -1, x.shape[2], -1, -1)


def open_rival(words: str) -> Rival:
    """NAME=RUN. ValueError for anything else."""
    name, equals, folder = words.partition("=")
    if not equals:
        raise ValueError(f"{words!r} names no run: give NAME=RUN")
    prior, tokenizer = masked.load(Path(folder) / "best"), load(Path(folder) / "tokenizer")
    masked.pick_clip(prior.config, tokenizer)
    return Rival(name, prior, tokenizer)


def windows(recipe: GeneratorRecipe, folder: Path, out: Path, most: int) -> list[Tensor]:
    """Held-out windows "1 c t h w", one after another, of all clips in turn."""
    data = replace(recipe.data, cache_size=96)
    frames, size = recipe.window.frames, recipe.window.size
    opened, _ = open_clips(find_clips(folder), data, cache=cache_folder("decoded"))
    source = ClipSource(opened, data)
    chosen = [c for c in source.held if c.group in recipe.groups and c.short >= size]
    starts = [(s, c) for c in chosen for s in range(0, c.frames - frames + 1, frames)]
    spread = np.linspace(0, len(starts) - 1, min(most, len(starts))).astype(int)
    return [
        cut(source, starts[i][1], slice(starts[i][0], starts[i][0] + frames), size) for i in spread
    ]


@dataclass(eq=False)
class Judged:
    """What one prior came to over all windows."""

    rows: list[dict[str, float]]
    real: list[Moments]
    made: list[Moments]
    first: list[Tensor]  # of each window, the first sample


def moments(net: LPIPS, x: Tensor) -> Moments:
    """The appearance features of clips "n c t h w"."""
    maps = [net.backbone(clip.transpose(0, 1))[-1] for clip in x]
    return feature_moments(torch.cat([appearance_features(m) for m in maps]))


@torch.no_grad()
def judge(rival: Rival | Still, shots: Sequence[Tensor], net: LPIPS | None, samples: int) -> Judged:
    """Predict every window `samples` times; scores of the 15 new frames."""
    found = Judged([], [], [], [])
    for x in shots:
        began = time.process_time()
        y = rival.predict(x, samples, Sampling(schedule="cosine", temperature=4.5))
        spent = (time.process_time() - began) / samples
        a, b = x[:, :, 1:].expand(samples, -1, -1, -1, -1), y[:, :, 1:]
        each = {"psnr": metrics.psnr(a, b).mean(1), "ssim": metrics.ssim(a, b).mean(1)}
        if net is not None:
            each["lpips"] = metrics.lpips(net, a, b).mean(1)
            found.real.append(moments(net, x))
            found.made.append(moments(net, y))
        row = {key: value.mean().item() for key, value in each.items()}
        row |= {f"best {key}": best(key, value) for key, value in each.items()}
        found.rows.append(row | {"processor s": spent})
        found.first.append(y[:1])
    return found


def best(key: str, values: Tensor) -> float:
    """The best of several samples: the smallest distance, the largest of the others."""
    return (values.min() if key == "lpips" else values.max()).item()


def summary(found: Judged) -> dict[str, float]:
    """Means over the windows, and the distance between the two sets."""
    means = {key: fmean(row[key] for row in found.rows) for key in found.rows[0]}
    if found.real:
        both = (reduce(add, moments) for moments in (found.real, found.made))
        means["appearance"] = frechet_distance(*both)
    return means


def table(found: dict[str, dict[str, float]], sizes: dict[str, float]) -> str:
    """The table in Markdown."""
    digits = {"psnr": 2, "ssim": 3, "lpips": 3}
    digits |= {f"best {key}": count for key, count in digits.items()} | {"appearance": 2}
    keys = [key for key in digits if key in next(iter(found.values()))]
    lines = ["| | parameters, M | " + " | ".join(keys) + " | processor s a clip |"]
    lines.append("|---" * (len(keys) + 3) + "|")
    for name, means in found.items():
        cells = [f"{means[key]:.{digits[key]}f}" for key in keys]
        row = [name, f"{sizes[name]:.1f}", *cells, f"{means['processor s']:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def draw(
    shots: Sequence[Tensor], found: dict[str, Judged], chosen: Sequence[int], out: Path
) -> None:
    """Truth and predictions one below the other, for some windows."""
    from PIL import Image

    rows = []
    for i in chosen:
        for clip in (shots[i], *(one.first[i] for one in found.values())):
            strip = torch.cat([clip[0, :, t] for t in SHOWN if t < clip.shape[2]], dim=2)
            rows.append(torch.nn.functional.pad(strip, (0, 0, 0, 4), value=1.0))
    picture = ((torch.cat(rows, dim=1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    Image.fromarray(picture.numpy()).save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--data", type=Path, required=True, help="clips to hold out from")
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/studies/priors"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        rivals = [open_rival(words) for words in asked.runs]
        recipe = find_recipe(Path(asked.runs[0].partition("=")[2]))
        assert isinstance(recipe, GeneratorRecipe), "a prior's run holds a prior's recipe"
        shots = windows(recipe, asked.data, asked.out, asked.windows)
    except (ValueError, OSError) as error:
        raise SystemExit(f"priors: {error}") from error
    net, found = perceptual(torch.device("cpu")), {}
    for rival in (*rivals, Still()):
        found[rival.name] = judge(rival, shots, net, asked.samples)
        print(rival.name, summary(found[rival.name]), flush=True)
    means = {name: summary(one) for name, one in found.items()}
    sizes = {r.name: sum(p.numel() for p in r.prior.parameters()) / 1e6 for r in rivals}
    sizes[Still.name] = 0.0
    shown = {rival.name: found[rival.name] for rival in rivals}
    draw(shots, shown, range(0, len(shots), max(1, len(shots) // 4)), asked.out / "priors.png")
    record = {"machine": describe_machine(), "windows": len(shots), "samples": asked.samples}
    record |= {"means": means, "rows": {name: one.rows for name, one in found.items()}}
    (asked.out / "record.json").write_text(json.dumps(record) + "\n")
    text = table(means, sizes)
    (asked.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
