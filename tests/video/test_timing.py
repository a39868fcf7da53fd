"""Rates, variable rates and resampling, on plain numbers."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reeltok.video.timing import FrameSpan, find_rate, first_from, fraction_of, plan_frames


@pytest.mark.parametrize(
    ("fps", "fraction"),
    [
        (29.97, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (25.0, Fraction(25)),
        (12.5, Fraction(25, 2)),
        (0.5, Fraction(1, 2)),
    ],
)
def test_rates_become_the_fractions_they_mean(fps: float, fraction: Fraction) -> None:
    assert fraction_of(fps) == fraction


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rate=st.sampled_from([Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 50, 60]),
    tick=st.sampled_from([0.001, 1 / 90000, 1 / 600]),
    count=st.integers(2, 400),
    told=st.booleans(),
)
def test_a_rounded_constant_rate_is_constant(
    rate: Fraction, tick: float, count: int, told: bool
) -> None:
    stamps = np.round(np.arange(count) / float(rate) / tick) * tick
    fps, constant = find_rate(stamps, tick, [float(rate)] if told else [])
    assert constant
    assert fps == pytest.approx(float(rate), rel=2 * tick * float(rate) / (count - 1))


def test_a_gap_is_not_rounding() -> None:
    for tick in (0.001, 1 / 25):  # the coarser one is the duration of a whole frame
        stamps = np.delete(np.arange(20) / 25, 18)
        assert find_rate(stamps, tick, [25.0])[1] is False


def test_resampling_shows_the_latest_frame_that_is_not_later() -> None:
    stamps = np.array([0.0, 0.1, 0.25, 0.9])
    shown = plan_frames(stamps, 0.001, [], FrameSpan(fps=5))
    assert shown is not None
    # at 0, .2, .4, .6, .8, 1.0 and 1.2 s; the clip lasts to 0.9 s and a mean frame of 0.3 s
    assert shown.repeats.tolist() == [1, 1, 3, 1]
    assert (shown.times, shown.fps) == (None, 5)


def test_thinning_a_constant_rate_takes_every_third() -> None:
    stamps = np.round(np.arange(30) / 30 * 1000) / 1000
    shown = plan_frames(stamps, 0.001, [30.0], FrameSpan(fps=10))
    assert shown is not None
    assert np.flatnonzero(shown.repeats).tolist() == list(range(0, 30, 3))


def test_start_is_the_first_frame_not_before_it() -> None:
    stamps = np.arange(10) / 25
    for start, first in ((0.0, 0), (0.04, 1), (0.041, 2), (0.36, 9)):
        shown = plan_frames(stamps, 1 / 12800, [25.0], FrameSpan(start=start))
        assert shown is not None
        assert np.flatnonzero(shown.repeats)[0] == first
        assert shown.start == pytest.approx(first / 25)
    assert plan_frames(stamps, 1 / 12800, [25.0], FrameSpan(start=0.4)) is None


def test_frames_limit_what_is_shown_after_resampling() -> None:
    shown = plan_frames(np.arange(10) / 10, 0.001, [10.0], FrameSpan(fps=20, frames=5))
    assert shown is not None
    assert shown.repeats.tolist() == [2, 2, 1] + [0] * 7
    assert shown.count == 5


@pytest.mark.parametrize(
    "span", [{"start": -1.0}, {"frames": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"start": np.inf}]
)
def test_spans_that_make_no_sense_are_refused(span: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(span))):
        FrameSpan(**span)


def test_a_tick_of_a_whole_frame_rounds_nothing() -> None:
    """avi, ogv and y4m count frames: half a tick would be half a frame."""
    stamps = np.arange(60) / 25
    for start, first in ((0.5, 13), (0.48, 12), (0.4801, 13), (0.47, 12), (0.52, 13)):
        for tick in (1 / 25, 1 / 12800, 0.001, 0.01):
            assert first_from(stamps, start, tick, 25.0) == first


def test_frames_are_found_by_their_exact_time_and_by_their_rounded_stamp() -> None:
    for tick in (0.001, 0.01):
        stamps = np.round(np.arange(60) / 30 / tick) * tick
        for index in range(60):
            assert first_from(stamps, index / 30, tick, 30.0) == index
            assert first_from(stamps, float(stamps[index]), tick, 30.0) == index
            assert first_from(stamps, index / 30 + 0.011, tick, 30.0) == index + 1


def test_the_last_picture_is_shown_until_the_end() -> None:
    slides = np.array([0.0, 5.0, 10.0, 13.3])
    shown = plan_frames(slides, 0.001, [], FrameSpan(), end=20.0)
    assert shown is not None
    assert shown.last == pytest.approx(6.7)
    assert shown.fps == pytest.approx(0.2)
    held = plan_frames(slides, 0.001, [], FrameSpan(fps=2), end=20.0)
    assert held is not None
    assert held.count == 40
    part = plan_frames(slides, 0.001, [], FrameSpan(start=4, frames=2), end=20.0)
    assert part is not None
    assert (part.last, part.times.tolist()) == (pytest.approx(3.3), [0.0, 5.0])  # type: ignore


def test_a_last_picture_of_its_own_length_makes_a_rate_vary() -> None:
    even = np.arange(6) / 10
    assert (shown := plan_frames(even, 0.01, [10.0], FrameSpan(), end=2.5)) is not None
    assert shown.times is not None
    assert shown.last == pytest.approx(2.0)
    for end in (0.6, 0.501, None):  # shorter ones are what muxers guess
        assert (shown := plan_frames(even, 0.01, [10.0], FrameSpan(), end=end)) is not None
        assert (shown.times, shown.last, shown.fps) == (None, None, 10)


def test_time_stamps_that_are_damaged_take_no_memory() -> None:
    stamps = np.array([0.0, 0.1, 4e8])
    with pytest.raises(ValueError, match="time stamps reach"):
        plan_frames(stamps, 0.001, [10.0], FrameSpan(fps=24.0))
    found = plan_frames(stamps, 0.001, [10.0], FrameSpan(fps=24.0, frames=9))
    assert found is not None
    assert found.shown.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
