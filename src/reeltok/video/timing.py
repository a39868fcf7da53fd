"""When pictures are shown: constant and variable rates, the span asked for, resampling.

Only arithmetic on time stamps, in seconds; files are read in `source`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reeltok.arguments import check_rate, is_count, is_number, said

_COARSE = 0.005  # seconds: time stamps in larger units were never finer
MOST_FRAMES = 10**8  # at another rate: a month and more, or time stamps that are damaged
_LONG = 1.5  # frames: a last one held for less is not a choice, but what its muxer guessed
_SAME = 1e-6  # relative: rates that differ by less are one
_ROUNDING = 1e-9  # seconds
_NEAR = 5e-5  # seconds: half a unit of the fourth decimal, as far as people write times


@dataclass(frozen=True, kw_only=True)
class FrameSpan:
    """Which pictures are asked for: from `start` seconds, at most `frames`, `fps` per second."""

    start: float = 0.0
    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if not is_number(self.start) or self.start < 0:
            raise ValueError(f"start is in seconds from the first frame, not {said(self.start)}")
        if self.frames is not None and not is_count(self.frames):
            raise ValueError(f"frames must be 1 or more, not {said(self.frames)}")
        check_rate(self.fps)


@dataclass(frozen=True, eq=False, kw_only=True)
class FramePlan:
    """How often each frame of a file is shown (0: dropped), and the rate or times that result."""

    repeats: Int[np.ndarray, " n"]
    times: Float[np.ndarray, " t"] | None  # seconds from the first picture; None: constant rate
    fps: float | None  # of the pictures; the mean where the rate varies
    start: float  # seconds from the file's first frame to the first picture
    last: float | None = None  # seconds that the last picture is shown; None: 1 / fps
    until: float = 0.0  # seconds on the clock of the stamps up to which frames must be known
    stamps: Float[np.ndarray, " m"] | None = None  # of all frames that could be shown, seconds
    shown: Int[np.ndarray, " t"] | None = None  # which of those each picture is

    @property
    def count(self) -> int:
        """Pictures in all."""
        return int(self.repeats.sum())


def fraction_of(fps: float) -> Fraction:
    """A rate in frames per second as a fraction; 29.97 is taken for 30000/1001 and so on."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if ntsc and abs(float(ntsc) / fps - 1) < 5e-6:
        return ntsc
    slow = math.ceil(1000 / fps) if fps else 0
    return Fraction(fps).limit_denominator(max(1001, slow))


def find_rate(
    stamps: Float[np.ndarray, " n"], tick: float, rates: Sequence[float]
) -> tuple[float | None, bool]:
    """Frames per second of sorted time stamps, and whether they keep it within their rounding.

    `tick` is the unit of the stamps in seconds; `rates` are what the file says about itself.
    """
    rates = [rate for rate in rates if 0 < rate < 1000]
    span = float(stamps[-1] - stamps[0]) if len(stamps) > 1 else 0.0
    if span <= 0:
        return (rates[0] if rates else None), True
    mean = (len(stamps) - 1) / span
    likely = [*rates, float(round(mean)), float(fraction_of(round(mean) / 1.001)), mean]
    steps = np.arange(len(stamps))
    for rate in likely:
        if rate <= 0:
            continue
        # A quarter of a frame is the most: with a tick of one frame, a gap is not rounding.
        allowed = min(1.01 * tick, 0.25 / rate) + 1e-7
        if np.abs(stamps - stamps[0] - steps / rate).max() <= allowed:
            return rate, True
    return mean, False


def held(times: Any, last: float | None, index: int, after: int) -> float | None:
    """Seconds that picture `index` of `times` is shown where picture `after` is the next one.

    `last`: how long the last of all is shown; None: unknown.
    """
    if after < len(times):
        return float(times[after] - times[index])
    return None if last is None else float(times[-1] - times[index]) + last


def moments_of(times: Any, last: float | None, first: int, stop: int) -> tuple[Any, float | None]:
    """The times of pictures `first` up to `stop`, and how long the last of these is shown."""
    if times is None or first >= stop:
        return None if times is None else times[first:stop], None
    return times[first:stop], held(times, last, stop - 1, stop)


def durations(times: Sequence[float], last: float) -> list[float]:
    """Seconds that each picture is shown, the last of all for `last`."""
    return [*(after - time for time, after in pairwise(times)), last]


class PartTimes:
    """When the pictures of a video's parts are shown: each part begins where the one before ends.

    So slices, whose times begin at 0, and parts of a stream, whose times run on, come to the same.
    """

    def __init__(self) -> None:
        self.fps: float | None = None
        self.varying: bool | None = None
        self.until = 0.0

    def of(self, part: Any) -> Float[Tensor, " t"] | None:
        """The times of the next part, a `Video`; None where the first had none.

        ValueError for a part of another constant rate than the first.
        """
        first = self.varying is None
        if first:
            self.varying, self.fps = part.times is not None, part.fps
        if not self.varying:
            if part.fps and self.fps and abs(part.fps / self.fps - 1) > _SAME:
                raise ValueError(
                    f"the video began with {self.fps:g} frames per second and goes on with "
                    f"{part.fps:g}: read all of it with one `fps`"
                )
            return None
        times, rate = part.times, part.fps or self.fps
        if times is None:
            times = torch.arange(len(part), dtype=torch.float64) / (rate or 1.0)
        if not len(times):
            return times
        if not first and abs(float(times[0]) - self.until) > _ROUNDING:
            times = times - times[0] + self.until
        self.until = float(times[-1]) + (part.last or 1 / (rate or 1.0))
        return times


def first_from(
    stamps: Float[np.ndarray, " n"], seconds: float, tick: float, rate: float | None
) -> int:
    """The first frame that is not before `seconds`; at a constant `rate`, or None.

    A frame of a constant rate may be asked for by its exact time or by its stamp, which the file
    rounded to its `tick`; with a varying one, half a tick is allowed where ticks are fine.
    """
    if rate is None:
        allowed = 0.51 * tick if tick <= _COARSE else 0.0
        return int(np.searchsorted(stamps, seconds - allowed - _NEAR))
    number = round(float(stamps[0]) * rate)
    zero = number / rate if abs(number / rate - stamps[0]) <= 1.01 * tick else stamps[0]
    exact = zero + np.arange(len(stamps)) / rate
    return int(np.searchsorted(np.maximum(exact, stamps), seconds - _NEAR))


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """How fast frames follow one another: per second, and whether evenly."""

    fps: float | None  # the mean where they do not
    even: bool
    last: float | None  # seconds that the last one is shown, where they do not


def _pace(
    kept: Float[np.ndarray, " n"], tick: float, rates: Sequence[float], end: float | None
) -> _Pace:
    fps, even = find_rate(kept, tick, rates)
    if fps and end is not None and end - kept[-1] > _LONG / fps:
        even = False
    if even:
        return _Pace(fps=fps, even=True, last=None)
    if end is None or end <= kept[-1]:  # nothing says how long the last one is shown: as the mean
        return _Pace(fps=fps, even=False, last=1 / fps if fps else None)
    return _Pace(fps=len(kept) / float(end - kept[0]), even=False, last=float(end - kept[-1]))


def plan_frames(
    stamps: Float[np.ndarray, " n"],
    tick: float,
    rates: Sequence[float],
    span: FrameSpan,
    end: float | None = None,
) -> FramePlan | None:
    """What to show of frames with sorted `stamps` (seconds since the file's first frame).

    `end` is when the last of them ceases to be shown, where that is known. None when `span` starts
    after the last of them.
    """
    rate, even = find_rate(stamps, tick, rates)
    late = first_from(stamps, span.start, tick, rate if even else None)
    kept = stamps[late:]
    if not len(kept):
        return None
    pace = _pace(kept, tick, [rate] if len(kept) == 1 and rate else rates, end)
    fps, until, times, last = pace.fps, None, None, None
    if span.fps is not None and fps is not None:
        exact = np.arange(len(kept)) / fps if pace.even else kept - kept[0]
        until = float(exact[-1]) + (pace.last or 1 / fps)
        shown, fps = late + _resample(exact, until, span.fps, span.frames), span.fps
        until = float(kept[0]) + (len(shown) - 1) / fps
    else:
        shown = np.arange(late, len(stamps))[: span.frames]
        if not pace.even:
            times, last = moments_of(kept - kept[0], pace.last, 0, len(shown))
    return FramePlan(
        repeats=np.bincount(shown, minlength=len(stamps)),
        times=times,
        fps=fps,
        start=float(kept[0]),
        last=last,
        until=float(stamps[shown[-1]]) if until is None else until,
        stamps=stamps,
        shown=shown,
    )


def on_show(
    times: Float[np.ndarray, " n"], instants: Float[np.ndarray, " t"]
) -> Int[np.ndarray, " t"]:
    """The frame on show at each instant: the latest that is not later."""
    return np.searchsorted(times, instants + 1e-6, side="right") - 1


def _resample(
    times: Float[np.ndarray, " n"], end: float, fps: float, most: int | None
) -> Int[np.ndarray, " t"]:
    """The frame on show at 0, 1/fps, 2/fps ... before `end`, `most` of them."""
    count = max(1, math.ceil(end * fps - 1e-6))
    count = count if most is None else min(count, most)
    if count > MOST_FRAMES:
        raise ValueError(
            f"its time stamps reach {end:.0f} s, which are {count} frames at {fps:g} fps: give "
            "frames= for the first ones"
        )
    return on_show(times, np.arange(count) / fps)
