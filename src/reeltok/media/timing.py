"""When pictures are shown: constant and variable rates, the span asked for, resampling.

Only arithmetic on time stamps, in seconds; files are read in `source`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which pictures are asked for: from `start` seconds, at most `frames`, `fps` per second."""

    start: float = 0.0
    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise ValueError(f"start is in seconds from the first frame, not {self.start}")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames must be 1 or more, not {self.frames}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be positive, not {self.fps}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """How often each frame of a file is shown (0: dropped), and the rate or times that result."""

    repeats: Int[np.ndarray, " n"]
    times: Float[np.ndarray, " t"] | None  # seconds from the first picture; None: constant rate
    fps: float | None  # of the pictures; the mean where the rate varies
    start: float  # seconds from the file's first frame to the first picture

    @property
    def count(self) -> int:
        """Pictures in all."""
        return int(self.repeats.sum())


def fraction_of(fps: float) -> Fraction:
    """A rate in frames per second as a fraction; 29.97 is taken for 30000/1001 and so on."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    if ntsc and abs(float(ntsc) / fps - 1) < 5e-6:
        return ntsc
    return Fraction(fps).limit_denominator(1001)


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
        # A quarter of a frame is the most: with a tick of one frame, a gap is no rounding.
        allowed = min(1.01 * tick, 0.25 / rate) + 1e-7
        if np.abs(stamps - stamps[0] - steps / rate).max() <= allowed:
            return rate, True
    return mean, False


def plan(
    stamps: Float[np.ndarray, " n"], tick: float, rates: Sequence[float], span: Span
) -> Plan | None:
    """What to show of frames with sorted `stamps` (seconds since the file's first frame).

    None when `span` starts after the last of them.
    """
    late = int(np.searchsorted(stamps, span.start - 0.51 * tick - 1e-6))
    kept = stamps[late:]
    if not len(kept):
        return None
    fps, constant = find_rate(kept if len(kept) > 1 else stamps, tick, rates)
    repeats = np.zeros(len(stamps), np.int64)
    if span.fps is None or fps is None:
        repeats[late:][: span.frames] = 1
        times = None if constant else (kept - kept[0])[: span.frames]
        return Plan(repeats=repeats, times=times, fps=fps, start=float(kept[0]))
    exact = np.arange(len(kept)) / fps if constant else kept - kept[0]
    shown = _resample(exact, float(exact[-1]) + 1 / fps, span.fps)[: span.frames]
    repeats[late:] = np.bincount(shown, minlength=len(kept))
    return Plan(repeats=repeats, times=None, fps=span.fps, start=float(kept[0]))


def _resample(times: Float[np.ndarray, " n"], end: float, fps: float) -> Int[np.ndarray, " t"]:
    """The frame on show at 0, 1/fps, 2/fps ... before `end`: the latest that is not later."""
    wanted = np.arange(max(1, math.ceil(end * fps - 1e-6))) / fps
    return np.searchsorted(times, wanted + 1e-6, side="right") - 1
