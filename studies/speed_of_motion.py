"""CoordTok's figure 7 in simulation: one tokenizer, the same episodes at four speeds of motion.

    python studies/speed_of_motion.py coordtok-push EPISODES --out runs/studies/speed_of_motion

EPISODES are those of `reeltok data push`, long enough for the largest speed. At speed v a clip is
every v-th frame from the start of an episode, at speed 0 its first frame repeated: so scene, light
and first frame are the same at every speed, which real clips of more or less motion never are.
Beside the model stands the mean frame, the best still picture, which says what the speed costs by
itself. Nothing is trained.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from display import finish
from judging import Scores, score_changes
from matplotlib.figure import Figure

from reeltok import load
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.devices import describe_machine
from reeltok.evaluate.intervals import Estimate, estimate
from reeltok.evaluate.push.candidates import pixels_of
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import to_unit

SPEEDS = (0, 1, 2, 4)
MEASURES = ("all pixels", "changing", "still")


def at_speed(frames: np.ndarray, speed: int, length: int) -> np.ndarray:
    """`length` frames "t h w 3" of an episode at a speed. ValueError for one that is too short."""
    needed = speed * (length - 1) + 1
    if len(frames) < needed:
        raise ValueError(
            f"{length} frames at speed {speed} take {needed}, an episode has {len(frames)}: render "
            f"longer ones (reeltok data push --frames {needed})"
        )
    return frames[np.arange(length) * speed]


@torch.no_grad()
def judge(model: Tokenizer, clip: Clip, length: int) -> dict[str, dict[int, Scores]]:
    """The model and the mean frame of one episode at each speed."""
    frames = clip.read(frames=max(SPEEDS) * (length - 1) + 1).frames.numpy()
    found: dict[str, dict[int, Scores]] = {"model": {}, "mean frame": {}}
    for speed in SPEEDS:
        real = at_speed(frames, speed, length)
        tokens = model.encode(to_unit(torch.from_numpy(np.ascontiguousarray(real))))
        made = pixels_of(model.decode(tokens))[0]
        mean = real.mean(0, keepdims=True).round().astype(np.uint8)
        found["model"][speed] = score_changes(real, made)
        found["mean frame"][speed] = score_changes(real, np.broadcast_to(mean, real.shape))
    return found


# ---------------------------------------------------------------- what episodes say together


def values(episodes: Sequence[Mapping], who: str, speed: int, measure: str) -> list[float]:
    """A measure of every episode that has it."""
    return [e[who][speed][measure] for e in episodes if measure in e[who][speed]]


def mean_of(values: Sequence[float]) -> Estimate:
    return estimate(values, [1] * len(values))


def paired(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """The mean difference of episodes, so that what makes an episode hard cancels."""
    return mean_of([a - b for a, b in zip(after, before, strict=True)])


def summary(episodes: Sequence[Mapping]) -> dict[str, dict[str, Estimate]]:
    """Means, what each doubling of the speed costs, and the model's gain over the mean frame."""
    found: dict[str, dict[str, Estimate]] = {}
    for measure in MEASURES:
        moving = [v for v in SPEEDS if v or measure != "changing"]
        of = {w: {v: values(episodes, w, v, measure) for v in moving} for w in episodes[0]}
        for who, each in of.items():
            found[f"{who}, {measure}"] = {f"{v}": mean_of(each[v]) for v in moving}
            steps = {f"{v} to {u}": paired(each[u], each[v]) for v, u in pairwise(moving)}
            steps["1 to 4"] = paired(each[4], each[1])
            found[f"{who}, {measure}, change"] = steps
        gain = {f"{v}": paired(of["model"][v], of["mean frame"][v]) for v in moving if v}
        found[f"gain over the mean frame, {measure}"] = gain
    shares = {f"{v}": mean_of(values(episodes, "model", v, "share")) for v in SPEEDS}
    return found | {"share of pixels that change": shares}


def said(one: Estimate) -> str:
    """A mean with half its interval."""
    half = 0.0 if one.low is None or one.high is None else (one.high - one.low) / 2
    return f"{one.mean:.2f} ± {half:.2f}"


def table(found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """The means by speed, then the changes, in Markdown."""
    lines = ["| PSNR, dB | " + " | ".join(f"speed {v}" for v in SPEEDS) + " | 1 to 2 | 2 to 4 |"]
    lines += ["|---" * (len(SPEEDS) + 3) + "|"]
    for who in ("model", "mean frame"):
        for measure in MEASURES:
            means, steps = found[f"{who}, {measure}"], found[f"{who}, {measure}, change"]
            cells = [said(means[f"{v}"]) if f"{v}" in means else "" for v in SPEEDS]
            if who == "mean frame":
                cells[0] = "exact" if cells[0] else ""
            cells += [said(steps[step]) for step in ("1 to 2", "2 to 4")]
            lines.append(f"| {who}, {measure} | " + " | ".join(cells) + " |")
    shares = found["share of pixels that change"]
    cells = [f"{100 * shares[f'{v}'].mean:.1f} %" for v in SPEEDS]
    return "\n".join([*lines, "| pixels that change | " + " | ".join(cells) + " | | |", ""])


def draw(found: Mapping[str, Mapping[str, Estimate]], target: Path) -> None:
    """PSNR against speed: all, changing and still pixels, the mean frame dashed."""
    figure = Figure(figsize=(7.5, 2.8), dpi=80)
    panels = figure.subplots(1, len(MEASURES))
    for axes, measure in zip(panels, MEASURES, strict=True):
        for who, style in (("model", "o-"), ("mean frame", "s--")):
            means = found[f"{who}, {measure}"]
            shown = [v for v in SPEEDS if f"{v}" in means and (v or who == "model")]
            each = [means[f"{v}"] for v in shown]
            low = [one.mean - (one.mean if one.low is None else one.low) for one in each]
            high = [(one.mean if one.high is None else one.high) - one.mean for one in each]
            middle = [one.mean for one in each]
            axes.errorbar(shown, middle, (low, high), fmt=style, ms=4, lw=1, label=who)
        axes.set_title(f"{measure}, dB", fontsize=9)
        axes.set_xticks(SPEEDS)
        axes.set_xlabel("speed of motion", fontsize=8)
    panels[0].legend(fontsize=7)
    finish(figure, panels, target)


def study(asked: argparse.Namespace) -> None:
    """Judge all episodes; write table, record and figure."""
    model = load(asked.model)
    clips, episodes = find_clips(asked.data)[: asked.episodes], []
    for clip in clips:
        episodes.append(judge(model, clip, asked.frames))
        psnr = {v: round(one["all pixels"], 2) for v, one in episodes[-1]["model"].items()}
        print(f"{clip.name}: {psnr}", flush=True)
    found = summary(episodes)
    asked.out.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": describe_machine(),
        "models": {"model": {"name": model.name, "weights": model.hash()}},
        "frames": asked.frames,
        "found": {k: {v: asdict(one) for v, one in each.items()} for k, each in found.items()},
        "episodes": {c.name: e for c, e in zip(clips, episodes, strict=True)},
    }
    (asked.out / "record.json").write_text(json.dumps(rounded(record), indent=1) + "\n")
    (asked.out / "table.md").write_text(table(found))
    draw(found, asked.out / "speed_of_motion.png")
    print(table(found))


def rounded(value: object) -> object:
    """The same record, its numbers to five digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a tokenizer: a name or a folder")
    parser.add_argument("data", type=Path, help="episodes of `reeltok data push`")
    parser.add_argument("--frames", type=int, default=128, help="frames of a clip")
    parser.add_argument("--episodes", type=int, help="so many at most")
    parser.add_argument("--out", type=Path, default=Path("runs/studies/speed_of_motion"))
    asked = parser.parse_args()
    try:
        study(asked)
    except (ValueError, OSError) as error:
        raise SystemExit(f"speed_of_motion: {error}") from error


if __name__ == "__main__":
    main()
