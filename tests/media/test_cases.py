"""Files on which reading once went wrong, each with the right values (its README says which)."""

import os
from pathlib import Path

import pytest
from small_clips import number_of

from reeltok.video import Video, read, stream

CASES = Path(os.environ.get("REELTOK_SHARED", "../shared")) / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"there is no {CASES}")


def numbers(video: Video) -> list[int]:
    return [number_of(frame) for frame in video.frames]


@pytest.mark.parametrize("name", ["04_25fps.mp4", "04_25fps.avi", "03_bf.avi", "09_negative.mkv"])
def test_start_and_spans(name: str) -> None:
    whole = read(CASES / name)
    assert numbers(whole) == list(range(60))
    assert (whole.fps, whole.times) == (25, None)
    assert numbers(read(CASES / name, start=0.5, frames=3)) == [13, 14, 15]
    for first in (5, 25, 45):
        span = read(CASES / name, start=first / 25, frames=5)
        assert numbers(span) == list(range(first, first + 5))


def test_a_gap_is_time() -> None:
    video = read(CASES / "05_gap.mp4")
    assert (len(video), video.seconds) == (20, pytest.approx(2.4))
    assert len(read(CASES / "05_gap.mp4", fps=25)) == 60


@pytest.mark.parametrize(
    ("name", "left"), [("06_cut.ogv", 24), ("06_cut.ts", 31), ("06_frag_cut.mp4", 48)]
)
def test_a_cut_is_refused_or_what_is_left_is_read(name: str, left: int) -> None:
    with pytest.raises(ValueError, match=f"is cut off or damaged after {left} frames .*--damage"):
        read(CASES / name)
    assert len(read(CASES / name, damage="skip")) == left
    assert numbers(read(CASES / name, frames=3)) == [0, 1, 2]


def test_transport_streams() -> None:
    assert numbers(read(CASES / "08_two_segments.ts")) == [*range(60)] * 2
    with pytest.raises(ValueError, match=r"frame 28 \(1.12 s\) cannot be decoded: give --damage"):
        read(CASES / "08_one_packet_lost.ts")
    with stream(CASES / "08_one_packet_lost.ts", damage="skip") as lost:
        assert (lost.frames, lost.damaged, lost.seconds) == (59, 1, pytest.approx(2.4))
    late = read(CASES / "08_no_keyframe_at_start.ts", damage="skip")
    assert (numbers(late), late.damaged) == (list(range(16, 60)), 14)
