"""Judging on held-out episodes of the pushing world: by horizon, with intervals over episodes."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from reeltok.data.actions import ACTION, read_clip_actions
from reeltok.data.clip import Clip
from reeltok.data.push import read_truth
from reeltok.evaluate.intervals import estimate
from reeltok.evaluate.push.candidates import EpisodeBatch, Make
from reeltok.evaluate.push.locate import warn_other_size
from reeltok.evaluate.push.measures import MOVED, Real, measure
from reeltok.evaluate.push.seen import SetDistance, measure_lpips
from reeltok.metrics.lpips import LPIPS
from reeltok.video.size import size_text

TOGETHER = 16  # episodes of a batch, which H.264 codes in one video
PAIRED = ("psnr", "changing")
HORIZONS = ((1, 8), (8, 16), (16, 32), (32, 64), (64, 128))  # frames [a, b); frame 0 is given


@dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """What the episodes themselves are, and how sure the gripper's colour is.

    `changing`: share of pixels that differ by more than 10 levels between frames 0 and 8; `moving`:
    share of episodes in which an object moves by more than 2 pixels; `followed`: share of objects
    whose colour finds them. The gripper is `found` in a share of the frames, `offset` pixels (x, y)
    from its palm's projection, give or take `scatter` (NaN where it is in none); in the others it
    is not judged.
    """

    episodes: int
    frames: int
    changing: float
    moving: float
    followed: float
    found: float
    offset: tuple[float, float]
    scatter: float


@dataclass(frozen=True, kw_only=True)
class PushScores:
    """`scores[candidate][measure]` is a dict of horizon ("8-15") to mean, low, high and clips.

    `by_frame` has the mean of every frame, `distances` what `SetDistance` finds: of every candidate
    and of sets of which the answer is known. It is empty without the network that they need.
    `gains[candidate][measure]` is, as `scores`, by how much the first candidate is above this one:
    the mean of the differences of episodes, so that what makes an episode hard cancels.
    """

    world: WorldFacts
    scores: dict[str, dict[str, dict[str, Any]]]
    by_frame: dict[str, dict[str, list[float | None]]]
    distances: dict[str, float]
    gains: dict[str, dict[str, dict[str, Any]]]


def batches_of(clips: Sequence[Clip], frames: int) -> Iterator[EpisodeBatch]:
    """The first `frames` frames of episodes, up to sixteen at a time.

    ValueError for one that is too short, of another size, or of another world.
    """
    count, shape = -(-len(clips) // TOGETHER), None
    edges = [len(clips) * number // count for number in range(count + 1)]
    for first, stop in pairwise(edges):
        some = clips[first:stop]
        videos = [clip.read(frames=frames).frames.numpy() for clip in some]
        for clip, video in zip(some, videos, strict=True):
            if len(video) < frames:
                raise ValueError(
                    f"{clip.name} has {len(video)} frames, {frames} are to be judged: give fewer"
                )
            shape = shape or video.shape
            if video.shape != shape:
                raise ValueError(
                    f"{clip.name} has {size_text(*video.shape[1:3])} pixels, {clips[0].name} "
                    f"has {size_text(*shape[1:3])}: give episodes of one size"
                )
        yield EpisodeBatch(
            frames=np.stack(videos),
            actions=torch.cat(
                [read_clip_actions(clip, count=frames, numbers=ACTION) for clip in some]
            ).numpy(),
            truths=tuple(read_truth(clip.path) for clip in some),
            first=first,
        )


def judge_episodes(
    candidates: Mapping[str, Make],
    clips: Sequence[Clip],
    *,
    frames: int,
    lpips: LPIPS | None = None,
    on_episode: Callable[[], object] = lambda: None,
) -> PushScores:
    """Let every candidate make the episodes, and measure what it made.

    With `lpips`, on the CPU, LPIPS too and the distances between sets. ValueError for fewer than
    two episodes, and for those that are not of the pushing world.
    """
    if len(clips) < 2:
        raise ValueError(f"an interval needs two episodes or more, there are {len(clips)}")
    rows: dict[str, dict[str, list[np.ndarray]]] = {name: defaultdict(list) for name in candidates}
    reals: list[Real] = []
    sets = None if lpips is None else SetDistance(net=lpips)
    for batch in batches_of(clips, frames):
        if not reals:
            warn_other_size(batch.frames[0])
        now = [Real.of(*pair) for pair in zip(batch.frames, batch.truths, strict=True)]
        if sets is not None:
            sets.add_real(batch.frames, batch.first)
        for name, make in candidates.items():
            videos = make(batch)
            for real, made in zip(now, videos, strict=True):
                found = measure(real, made) | (measure_lpips(lpips, real, made) if lpips else {})
                for measured, row in found.items():
                    rows[name][measured].append(row)
            if sets is not None:
                sets.add_made(name, videos, batch.first)
        reals += now
        for _ in now:
            on_episode()
    tables = {n: {m: np.stack(v) for m, v in each.items()} for n, each in rows.items()}
    return PushScores(
        world=world_facts(reals),
        scores={n: {m: by_horizon(v) for m, v in t.items()} for n, t in tables.items()},
        by_frame={n: {m: by_frame(v) for m, v in t.items()} for n, t in tables.items()},
        distances={} if sets is None else sets.distances(),
        gains=gains_of(tables),
    )


def gains_of(tables: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """By how many dB the first candidate is above each other one, episode by episode."""
    (_, first), *others = tables.items()
    return {
        name: {m: by_horizon(first[m] - table[m]) for m in PAIRED if m in table}
        for name, table in others
    }


def world_facts(reals: Sequence[Real]) -> WorldFacts:
    """What the real episodes are."""
    late = min(8, len(reals[0].frames) - 1)
    places = [real.truth.objects_pixels[: len(real.frames)] for real in reals]
    moved = [np.linalg.norm(place - place[0], axis=-1).max() > MOVED for place in places]
    offsets = np.concatenate([real.offsets for real in reals])
    known = ~np.isnan(offsets[:, 0])
    offsets = offsets[known]
    x, y = offsets.mean(0).tolist() if len(offsets) else (np.nan, np.nan)
    return WorldFacts(
        episodes=len(reals),
        frames=len(reals[0].frames),
        changing=float(np.mean([real.changed[late].mean() for real in reals])),
        moving=float(np.mean(moved)),
        followed=sum(len(r.colours) for r in reals) / sum(len(r.truth.shapes) for r in reals),
        found=float(known.mean()),
        offset=(x, y),
        scatter=float(np.sqrt(((offsets - [x, y]) ** 2).sum(-1).mean()))
        if len(offsets)
        else np.nan,
    )


def by_horizon(table: np.ndarray) -> dict[str, Any]:
    """The mean over episodes, of each one's mean over the frames of a horizon, and of the last."""
    last = table.shape[1] - 1
    spans = {f"{a}-{min(b, last + 1) - 1}": table[:, a:b] for a, b in HORIZONS if a < last}
    spans[f"{last}"] = table[:, last:]
    found = {}
    for name, part in spans.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # an episode of which nothing is known
            values = np.nanmean(part, axis=1)
        values = values[~np.isnan(values)]
        if len(values):
            found[name] = asdict(estimate(values.tolist(), [1] * len(values)))
    return found


def by_frame(table: np.ndarray) -> list[float | None]:
    """The mean of every frame over the episodes of which it is known."""
    known = ~np.isnan(table)
    total, count = np.where(known, table, 0.0).sum(0), known.sum(0)
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]
