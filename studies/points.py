"""Held-out scores at points of training, clip by clip, and what pairs of lines say by them.

A verdict counts when the paired difference of two lines keeps its sign, with its interval, at every
point of the last half of training, and does not shrink towards zero there; else the difference is
not shown at so many steps.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from judging import Judge, Scores, Seen, compare, perceptual, score_changes
from matplotlib.figure import Figure
from torch import Tensor

from reeltok.evaluate.intervals import Estimate, estimate
from reeltok.files.atomic import replacing
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import to_bytes

POINTS = 8  # of a training; the last half of them counts
TOGETHER = 10  # clips that a network sees at once
Points = dict[int, dict[str, list[float]]]  # by step: each measure of every held-out clip


@torch.no_grad()
def score_clips(model: Tokenizer, seen: Seen, how: Judge, device: torch.device) -> list[Scores]:
    """The scores of every held-out clip at its own rate."""
    net, clips, found = perceptual(device), [x for _, x in seen.clips[None]], []
    for start in range(0, len(clips), TOGETHER):
        x = torch.cat(clips[start : start + TOGETHER]).to(device)
        with torch.autocast(device.type, enabled=False):
            y = how.pass_through(model, x).float().clamp(-1, 1)
            for a, b in zip(x.split(1), y.split(1), strict=True):
                changes = score_changes(pixels(a), pixels(b))
                found.append(compare(net, a, b) | {k: changes[k] for k in ("changing", "still")})
    return found


def pixels(x: Tensor) -> Any:
    """One video "1 c t h w" as bytes."""
    return to_bytes(x).cpu().numpy()


def record_points(
    validated: Tokenizer, seen: Seen, how: Judge, folder: Path
) -> Callable[[int], Scores]:
    """A task's `validate` that keeps every clip's scores in `folder`/points.json."""

    def validate(step: int) -> Scores:
        device = next(validated.parameters()).device
        each = score_clips(validated.eval(), seen, how, device)
        validated.train()
        known = read_points(folder)
        known[step] = {key: [round(one[key], 5) for one in each] for key in each[0]}
        with replacing(folder / "points.json") as part:
            part.write_text(json.dumps(known))
        return {key: fmean(values) for key, values in known[step].items()}

    return validate


def read_points(folder: Path) -> Points:
    """What is known of a run; nothing before its first point."""
    path = folder / "points.json"
    if not path.is_file():
        return {}
    return {int(step): found for step, found in json.loads(path.read_text()).items()}


# ---------------------------------------------------------------- two lines


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One measure of two lines: the difference at every point, over clips; what it comes to."""

    measure: str
    gains: dict[int, Estimate]
    verdict: str


def mean_over_seeds(runs: Sequence[Points], step: int, measure: str) -> list[float]:
    """Each clip's mean over seeds."""
    return [fmean(values) for values in zip(*(run[step][measure] for run in runs), strict=True)]


def paired(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """The mean difference over clips, so that what makes a clip hard cancels."""
    return estimate([a - b for a, b in zip(first, second, strict=True)], [1] * len(first))


def decide(
    ours: Sequence[Points],
    others: Sequence[Points],
    measure: str,
    *,
    less: bool = False,
    trained: int | None = None,
) -> Verdict:
    """Whether our runs are better than the others', over the last half of their common points.

    `less`: a smaller value of the measure is better; differences are in its own units. `trained`
    are our steps, where points count something else.
    """
    steps = sorted(set.intersection(*(set(run) for run in (*ours, *others))))
    if not steps:
        raise ValueError("two lines share no point of training: train both for as many steps")
    values = {s: [mean_over_seeds(runs, s, measure) for runs in (ours, others)] for s in steps}
    gains = {step: paired(*pair) for step, pair in values.items()}
    late = [step for step in steps if 2 * step >= steps[-1]]
    sign = -1 if less else 1
    better, worse = (all(beyond_zero(gains[s], side) for s in late) for side in (sign, -sign))
    if not better and not worse:
        said = "not shown at {} steps"
    elif shrinks(values[late[0]], values[late[-1]]):
        said = "not shown at {} steps: it shrinks"
    else:
        said = "holds at {} steps" if better else "does not hold at {} steps"
    end = f"{trained or steps[-1]:,}"
    return Verdict(measure=measure, gains=gains, verdict=said.format(end))


def beyond_zero(one: Estimate, sign: int) -> bool:
    """Whether the whole interval lies on one side of zero; no interval never does."""
    if one.low is None or one.high is None:
        return False
    return one.low > 0 if sign > 0 else one.high < 0


def shrinks(early: Sequence[Sequence[float]], late: Sequence[Sequence[float]]) -> bool:
    """Whether the difference of a pair of lines comes nearer to zero, beyond its interval."""
    before, after = ([a - b for a, b in zip(*pair, strict=True)] for pair in (early, late))
    sign = 1 if fmean(after) > 0 else -1
    return beyond_zero(paired([sign * v for v in after], [sign * v for v in before]), -1)


def said(one: Estimate, digits: int) -> str:
    """A difference with its interval."""
    text = f"{one.mean:+.{digits}f}"
    if one.low is None or one.high is None:
        return text
    return f"{text} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"


def verdict_table(found: Mapping[str, Sequence[Verdict]]) -> str:
    """A row for each pair of lines and measure: at half of training, at its end, the verdict."""
    lines = ["| | measure | at half of the steps | at the end | verdict |", "|---" * 5 + "|"]
    for name, verdicts in found.items():
        for one in verdicts:
            steps = sorted(one.gains)
            half = next(step for step in steps if 2 * step >= steps[-1])
            digits = 2 if one.measure in ("psnr", "changing", "still") else 4
            cells = [said(one.gains[step], digits) for step in (half, steps[-1])]
            lines.append(f"| {name} | {one.measure} | {' | '.join(cells)} | {one.verdict} |")
    return "\n".join([*lines, ""])


def add_verdicts(lab: Any, found: Mapping[str, Sequence[Verdict]], beside: Any, said: str) -> None:
    """What pairs of lines say, below a study's table, in its record, and as a figure."""
    path, page = lab.out / "record.json", lab.out / "table.md"
    record = json.loads(path.read_text())
    record["verdicts"] = {
        name: {
            one.measure: {
                "verdict": one.verdict,
                "gains": {step: vars(gain) for step, gain in one.gains.items()},
            }
            for one in verdicts
        }
        for name, verdicts in found.items()
    }
    path.write_text(json.dumps(record | {"beside": beside}, indent=1) + "\n")
    page.write_text(f"{page.read_text()}\n{verdict_table(found)}\n{said}\n")
    draw_gains(found, lab.out / f"{lab.study.name}.png")


def draw_gains(found: Mapping[str, Sequence[Verdict]], target: Path) -> None:
    """The paired difference of each pair of lines over training, with its interval."""
    from display import finish

    measures = [one.measure for one in next(iter(found.values()))]
    figure = Figure(figsize=(1 + 2.9 * len(measures), 2.8), dpi=80)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, number in zip(panels, range(len(measures)), strict=True):
        for name, verdicts in found.items():
            gains = dict(sorted(verdicts[number].gains.items()))
            low = [one.mean if one.low is None else one.low for one in gains.values()]
            high = [one.mean if one.high is None else one.high for one in gains.values()]
            axes.plot(list(gains), [one.mean for one in gains.values()], "o-", ms=3, label=name)
            axes.fill_between(list(gains), low, high, alpha=0.2)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_title(f"difference in {measures[number]}", fontsize=8)
        axes.set_xlabel("steps", fontsize=8)
    panels[0].legend(fontsize=6)
    finish(figure, panels, target)
