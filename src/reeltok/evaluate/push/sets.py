"""Sets of videos of the pushing world without true ones beside them: how they move, what is new.

Numbers of single videos are compared as distributions, and calibrated by sets of which the answer
is known: another half of the real ones, frozen, shuffled and blurred videos.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8

from reeltok.evaluate.push.locate import warn_other_size
from reeltok.evaluate.push.measures import CHANGED
from reeltok.evaluate.push.untold import follow_objects

Frames = UInt8[np.ndarray, "t h w 3"]
STILL = 0.3  # pixels a frame: less is not motion of the gripper
T = TypeVar("T")
SMALL, SAMPLED = 16, 8  # pixels and frames of what videos are compared by


def statistics_of(frames: Frames) -> dict[str, float]:
    """How one video moves.

    "speed" and "turns" of the gripper: pixels from frame to frame, and the mean angle in degrees
    between its steps; "resting": share of frames in which it stays; "missing": share in which it is
    not there; "changing": share of pixels that differ from the frame before, and "pushed": from the
    first to the last frame, without what the gripper's columns cover in either. Of the "objects"
    in the first frame, how many have "moved" when last seen, and are "lost" in the last; and
    "contacts": share of steps in which one moves near the gripper.
    """
    followed = follow_objects(frames)
    place = followed.gripper
    steps = np.diff(place, axis=0)
    length = np.linalg.norm(steps, axis=1)
    known = ~np.isnan(length)
    x = frames.astype(np.int16)
    changing = np.abs(np.diff(x, axis=0)).max(-1) > CHANGED
    return {
        "speed": float(length[known].mean()) if known.any() else 0.0,
        "turns": mean_turn(steps[known]),
        "resting": float((length[known] < STILL).mean()) if known.any() else 1.0,
        "missing": float(np.isnan(place[:, 0]).mean()),
        "changing": float(changing.mean()),
        "pushed": pushed_share(x, place),
        "objects": float(len(followed.moved)),
        "moved": float(followed.moved.sum()),
        "lost": float(followed.lost.sum()),
        "contacts": float(followed.touched.mean()),
    }


def mean_turn(steps: Float[np.ndarray, "n 2"]) -> float:
    """The mean angle between a step of the gripper and the next; steps at rest do not count."""
    moving = steps[np.linalg.norm(steps, axis=1) > STILL]
    if len(moving) < 2:
        return 0.0
    angles = np.arctan2(moving[:, 1], moving[:, 0])
    turned = (np.diff(angles) + np.pi) % (2 * np.pi) - np.pi
    return float(np.degrees(np.abs(turned)).mean())


def pushed_share(x: np.ndarray, place: Float[np.ndarray, "t 2"]) -> float:
    """Share of pixels that differ between first and last frame away from the arm, which is above.

    Columns within an eighth of the picture from the gripper's in either frame do not count.
    """
    differs = np.abs(x[-1] - x[0]).max(-1) > 3 * CHANGED
    width = x.shape[2]
    columns = np.arange(width) + 0.5
    far = np.ones(width, bool)
    for at in (place[0, 0], place[-1, 0]):
        if not np.isnan(at):
            far &= np.abs(columns - at) > width / 8
    return float(differs[:, far].mean()) if far.any() else 0.0


def kolmogorov(a: Sequence[float], b: Sequence[float]) -> float:
    """The Kolmogorov-Smirnov statistic: the largest gap of two cumulative distributions, 0 to 1."""
    first, second = np.sort(a), np.sort(b)
    at = np.concatenate([first, second])
    below = [np.searchsorted(each, at, side="right") / len(each) for each in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


def gap_of(key: str, a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]]) -> float:
    """The Kolmogorov-Smirnov statistic of one statistic of two sets of videos."""
    return kolmogorov([row[key] for row in a], [row[key] for row in b])


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """One set against the reference: the mean of each statistic, its gap, and the gaps' mean.

    Gaps are means over `groups` groups of as many of the `videos`.
    """

    videos: int
    groups: int
    means: dict[str, float]
    gaps: dict[str, float]
    gap: float


def groups_of(sets: Mapping[str, Sequence[T]]) -> dict[str, list[Sequence[T]]]:
    """Each set in groups of as many videos as the smallest set has; the rest is left out.

    Larger sets are nearer to any reference by chance, so that only those of one size compare.
    """
    size = min(len(videos) for videos in sets.values())
    return {
        name: [videos[i : i + size] for i in range(0, len(videos) - size + 1, size)]
        for name, videos in sets.items()
    }


def compare_sets(
    real: Sequence[Frames], sets: Mapping[str, Sequence[Frames]]
) -> dict[str, SetScore]:
    """Every set's statistics against those of real videos, in groups of one size (`groups_of`).

    ValueError for fewer than two videos.
    """
    for name, videos in {"the real set": real, **sets}.items():
        if len(videos) < 2:
            raise ValueError(f"{name} holds {len(videos)} videos: give two or more")
    warn_other_size(real[0])
    wanted = [statistics_of(video) for video in real]
    found = {}
    for name, groups in groups_of(sets).items():
        rows = [[statistics_of(video) for video in group] for group in groups]
        gaps = {
            key: float(np.mean([gap_of(key, wanted, each) for each in rows])) for key in wanted[0]
        }
        used = [row for each in rows for row in each]
        found[name] = SetScore(
            videos=len(used),
            groups=len(groups),
            means={key: float(np.mean([row[key] for row in used])) for key in wanted[0]},
            gaps=gaps,
            gap=float(np.mean(list(gaps.values()))),
        )
    return found


# ---------------------------------------------------------------- sets that are known to be bad


def held_first_frame(frames: Frames) -> Frames:
    """The first frame, over and over."""
    return np.broadcast_to(frames[:1], frames.shape)


def shuffle(frames: Frames) -> Frames:
    """The frames in a random order, always the same."""
    return frames[np.random.default_rng(0).permutation(len(frames))]


def blur(frames: Frames) -> Frames:
    """The frames at a quarter of their size, enlarged again."""
    x = rearrange(torch.from_numpy(np.ascontiguousarray(frames)).float(), "t h w c -> t c h w")
    small = F.interpolate(x, scale_factor=0.25, mode="area")
    large = F.interpolate(small, size=x.shape[2:], mode="bilinear").round().clamp(0, 255)
    return rearrange(large, "t c h w -> t h w c").to(torch.uint8).numpy()


SPOILED: dict[str, Callable[[Frames], Frames]] = {
    "frozen": held_first_frame,
    "shuffled": shuffle,
    "blurred": blur,
}


# ---------------------------------------------------------------- the nearest video


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """For each video the nearest window of others: its number, the distance in levels (RMS)."""

    numbers: tuple[int, ...]
    distances: tuple[float, ...]


def nearest_sketches(
    sketches: Float[torch.Tensor, "n d"], among: Float[torch.Tensor, "m d"]
) -> Nearest:
    """The nearest of `among` to each, by the RMS difference of eight frames at 16x16 pixels."""
    exact = "donot_use_mm_for_euclid_dist"  # products would lose what is below a tenth of a level
    distances = torch.cdist(sketches, among, compute_mode=exact) / sketches.shape[1] ** 0.5
    found = distances.min(1)
    return Nearest(numbers=tuple(found.indices.tolist()), distances=tuple(found.values.tolist()))


def sketch(frames: Frames) -> Float[torch.Tensor, " n"]:
    """Eight frames of a video at 16x16 pixels, as one row of numbers."""
    at = np.linspace(0, len(frames) - 1, SAMPLED).round().astype(int)
    x = rearrange(torch.from_numpy(np.ascontiguousarray(frames[at])).float(), "t h w c -> t c h w")
    return F.interpolate(x, size=(SMALL, SMALL), mode="area").flatten()
