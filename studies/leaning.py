"""What a reference frame gives: a trained RefTok against its twin and the plain default.

    python studies/leaning.py RUN/best TWIN/best --eval EVAL_CLIPS --data TRAIN_CLIPS

Every clip of EVAL_CLIPS and every held-out one of TRAIN_CLIPS with 49 frames or more, the middle
square at 128 pixels: scores with all bits counted, paired differences with bootstrap intervals,
PSNR by block, and what becomes of it with a wrong reference, none, a stored one, or a scene cut.
Claim 1 of RefTok (arXiv 2507.02862), on our design.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from display import finish
from judging import cut, perceptual
from matplotlib.figure import Figure
from torch import Tensor

from reeltok import load, read
from reeltok.data.find import find_clips
from reeltok.devices import describe_machine
from reeltok.evaluate.intervals import Estimate, estimate
from reeltok.files.atomic import cache_folder
from reeltok.metrics import paired as metrics
from reeltok.metrics.lpips import LPIPS
from reeltok.models.reftok.network import RefTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.data import ClipSource, resize_square
from reeltok.train.frames import open_clips
from reeltok.train.recipes import reftok_cpu
from reeltok.video.record import to_unit

FRAMES, SIZE, BLOCK = 49, 128, 4
SCORES = {"psnr": 2, "ssim": 3, "lpips": 3, "detail": 2}


@dataclass(frozen=True, eq=False)
class Shot:
    """A clip to judge: its name and its frames "1 c t h w" in [-1, 1]."""

    name: str
    x: Tensor


@dataclass(frozen=True)
class Found:
    """What one way of coding came to on one clip: means, PSNR of each frame, bits."""

    scores: dict[str, float]
    frames: list[float]
    bits: int


Way = Callable[[Tensor], tuple[Tensor, int]]
"""From frames to their reconstruction and all of its bits."""


# ---------------------------------------------------------------- clips


def eval_shots(folder: Path, frames: int | None = FRAMES, size: int = SIZE) -> list[Shot]:
    """The clips of a folder that are long enough; all of their frames where `frames` is None."""
    found = []
    for item in find_clips(folder):
        video = read(item.path, frames=frames)
        if len(video) >= (frames or FRAMES):
            found.append(Shot(item.name, square(to_unit(video.frames), size)))
    return found


def held_out_shots(folder: Path, out: Path, frames: int | None = FRAMES) -> list[Shot]:
    """Clips of sources that `reftok_cpu` and its twin never saw; None: the longest, whole."""
    config = reftok_cpu().data
    if frames is None:
        config = replace(config, cache="none")  # a full cache cuts the longest clips
    opened, _ = open_clips(find_clips(folder), config, cache=cache_folder("decoded"))
    source = ClipSource(opened, config)
    long = [clip for clip in source.held if clip.frames >= FRAMES and clip.short >= SIZE]
    if frames is None:
        long = [max(long, key=lambda clip: clip.frames)]
    return [
        Shot(clip.name, cut(source, clip, slice(0, frames or clip.frames), SIZE)) for clip in long
    ]


def square(x: Tensor, size: int = SIZE) -> Tensor:
    """The middle square, scaled to `size`."""
    height, width = x.shape[3:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize_square(x[..., top : top + side, left : left + side], size)


# ---------------------------------------------------------------- ways to code


def plainly(model: Tokenizer) -> Way:
    """Encode and decode, as anyone would."""

    def way(x: Tensor) -> tuple[Tensor, int]:
        tokens = model.encode(x)
        return model.decode(tokens).clamp(-1, 1), tokens.total_bits

    return way


def with_reference(model: RefTok, of: Callable[[Tensor], Tensor]) -> Way:
    """Every block leans on one given frame; frame 0 is shown as it is and costs nothing."""
    view = model.under(policy="first")

    def way(x: Tensor) -> tuple[Tensor, int]:
        reference = of(x)
        tokens = view.encode(x[:, :, 1:], reference=reference)
        made = view.decode(tokens, reference=reference)
        return torch.cat([x[:, :, :1], made.clamp(-1, 1)], dim=2), tokens.total_bits

    return way


# ---------------------------------------------------------------- judging


@torch.no_grad()
def judge(way: Way, shot: Shot, net: LPIPS | None) -> Found:
    """The scores of one clip."""
    y, bits = way(shot.x)
    each = metrics.psnr(shot.x, y)[0]
    scores = {
        "psnr": each.mean().item(),
        "ssim": metrics.ssim(shot.x, y).mean().item(),
        "detail": metrics.detail(shot.x, y).mean().item(),
    }
    if net is not None:
        scores["lpips"] = metrics.lpips(net, shot.x, y).mean().item()
    return Found(scores, each.tolist(), bits)


def judge_all(
    ways: dict[str, Way], shots: Iterable[Shot], net: LPIPS | None
) -> dict[str, list[Found]]:
    """Every way on every clip."""
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for shot in shots:
        for name, way in ways.items():
            found[name].append(judge(way, shot, net))
        print(shot.name, *(f"{n} {f[-1].scores['psnr']:.2f}" for n, f in found.items()), flush=True)
    return found


def by_block(found: Sequence[Found]) -> list[float]:
    """Mean PSNR of frame 0 and of every block behind it, as far as all clips reach."""
    frames = min(len(one.frames) for one in found)
    ends = [0, *range(1, frames - BLOCK + 1, BLOCK)]
    return [
        fmean(fmean(one.frames[at : at + (BLOCK if at else 1)]) for one in found) for at in ends
    ]


def gap(first: Sequence[Found], second: Sequence[Found], key: str) -> Estimate:
    """How much `first` exceeds `second`, paired over clips."""
    gaps = [a.scores[key] - b.scores[key] for a, b in zip(first, second, strict=True)]
    return estimate(gaps, [1] * len(gaps))


def table(found: dict[str, list[Found]], against: str) -> list[str]:
    """A Markdown table: means, bits, and the PSNR's distance to the line `against`."""
    keys = [key for key in SCORES if key in found[against][0].scores]
    head = ["", *(key.upper() if key != "detail" else "detail" for key in keys), "bits", "PSNR gap"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, results in found.items():
        cells = [f"{fmean(r.scores[key] for r in results):.{SCORES[key]}f}" for key in keys]
        bits = fmean(one.bits for one in results)
        apart = gap(results, found[against], "psnr")
        if name == against or apart.low is None:
            said = "" if name == against else f"{apart.mean:+.2f}"
        else:
            said = f"{apart.mean:+.2f} [{apart.low:+.2f}, {apart.high:+.2f}]"
        lines.append(f"| {name} | " + " | ".join([*cells, f"{bits:,.0f}", said]) + " |")
    return lines


# ---------------------------------------------------------------- the study


def cut_shots(shots: Sequence[Shot]) -> list[Shot]:
    """Each clip's first 25 frames, then those of the next clip."""
    pairs = zip(shots, [*shots[1:], shots[0]], strict=True)
    half = FRAMES // 2 + 1
    return [
        Shot(f"{a.name} | {b.name}", torch.cat([a.x[:, :, :half], b.x[:, :, : FRAMES - half]], 2))
        for a, b in pairs
    ]


def variants(model: RefTok, shots: Sequence[Shot]) -> dict[str, Way]:
    """Other references for the same weights."""
    others = {
        id(shot.x): shots[i - 1].x[:, :, :1] for i, shot in enumerate(shots)
    }  # the clip before, as a wrong one
    stored = {
        f"previous, frame 0 as WebP q{quality}": plainly(model.under(start="webp", quality=quality))
        for quality in (10, 30, 50)
    }
    return {
        "previous": plainly(model),
        "none": plainly(model.under(policy="none")),
        "first": plainly(model.under(policy="first")),
        **stored,
        "previous, frame 0 lossless": plainly(model.under(start="lossless")),
        "first, given": with_reference(model, lambda x: x[:, :, :1]),
        "first, given of another clip": with_reference(model, lambda x: others[id(x)]),
    }


def draw(
    target: Path, found: dict[str, list[Found]], long: dict[str, list[Found]], name: str
) -> None:
    """PSNR by block: the mean of all clips, and one long clip."""
    figure = Figure(figsize=(9, 3.2), dpi=80)
    panels = figure.subplots(1, 2)
    for axes, results in zip(panels, (found, long), strict=True):
        for label, each in results.items():
            axes.plot(by_block(each), marker="o", ms=2, label=label)
        axes.set_xlabel("block of 4 frames (0: the first frame)", fontsize=8)
        axes.set_ylabel("PSNR, dB", fontsize=8)
        axes.legend(fontsize=7)
    panels[0].set_title(f"mean of {len(next(iter(found.values())))} clips", fontsize=9)
    panels[1].set_title(f"{name}, to its end", fontsize=9)
    finish(figure, panels, target)


def named(leaning: Tokenizer, twin: Tokenizer, plain: Tokenizer) -> dict[str, dict[str, str]]:
    """Which weights a record speaks of: names outlive them."""
    models = {"RefTok": leaning, "its twin": twin, "default": plain}
    return {way: {"name": one.name, "weights": one.hash()} for way, one in models.items()}


def study(asked: argparse.Namespace) -> None:
    """All tables, the record and the figure."""
    leaning, twin, plain = load(asked.reftok), load(asked.twin), load("default")
    if not isinstance(leaning, RefTok):
        raise ValueError(f"{asked.reftok} holds a {leaning.family}: give a RefTok's folder")
    net = perceptual(torch.device("cpu"))
    ways = {"RefTok": plainly(leaning), "its twin": plainly(twin), "default": plainly(plain)}
    shots = eval_shots(asked.eval)[: asked.clips]
    sets = {"data/eval": shots}
    if asked.data is not None:
        sets["held-out sources"] = held_out_shots(asked.data, asked.out)[: asked.clips]
    record, text = {"machine": describe_machine(), "models": named(leaning, twin, plain)}, []
    claims = {}
    for name, some in sets.items():
        claims[name] = judge_all(ways, some, net)
        text += [f"{name}, {len(some)} clips of {FRAMES}x{SIZE}x{SIZE}:", ""]
        text += [*table(claims[name], "its twin"), ""]
        blocks = {way: by_block(found) for way, found in claims[name].items()}
        rise = [a - b for a, b in zip(blocks["RefTok"], blocks["its twin"], strict=True)]
        text += ["gain by block, dB: " + " ".join(f"{value:+.2f}" for value in rise), ""]
        record[name] = {way: [vars(one) for one in found] for way, found in claims[name].items()}
    others = judge_all(variants(leaning, shots), shots, net)
    text += ["other references, data/eval:", "", *table(others, "none"), ""]
    joined, cuts = cut_shots(shots), {}
    for kind in ("plain", "ignore"):
        cuts[f"cuts={kind}"] = plainly(leaning.under(cuts=kind))
    cuts["none"] = plainly(leaning.under(policy="none"))
    seen = judge_all(cuts, joined, net)
    text += ["a cut behind frame 25, data/eval:", "", *table(seen, "none"), ""]
    whole = eval_shots(asked.eval, None)
    if asked.data is not None:
        whole += held_out_shots(asked.data, asked.out, None)
    long = max(whole, key=lambda shot: shot.x.shape[2])
    drift = judge_all(ways, [long], net)
    draw(asked.out / "leaning.png", claims["data/eval"], drift, long.name)
    record |= {"references": {way: [vars(one) for one in found] for way, found in others.items()}}
    record |= {"longest": {way: [vars(one) for one in found] for way, found in drift.items()}}
    record |= {"cuts": {way: [vars(one) for one in found] for way, found in seen.items()}}
    (asked.out / "record.json").write_text(json.dumps(record) + "\n")
    (asked.out / "table.md").write_text("\n".join(text))
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reftok", help="the trained RefTok: a name or a folder")
    parser.add_argument("twin", help="the same network trained without a reference")
    parser.add_argument("--eval", type=Path, required=True, help="clips to judge on")
    parser.add_argument("--data", type=Path, help="training clips, whose held-out ones are judged")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/leaning"))
    parser.add_argument("--clips", type=int, help="so many of each set, to rehearse")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    try:
        study(asked)
    except (ValueError, OSError) as error:
        raise SystemExit(f"leaning: {error}") from error


if __name__ == "__main__":
    main()
