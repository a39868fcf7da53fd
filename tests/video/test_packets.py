"""Packets that are no picture, half of one, or two."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from small_clips import Clip, marked, number_of, repack

from reeltok.video.record import read
from reeltok.video.survey import _Entry, _is_second_field


def uncoded(picture: bytes) -> bytes:
    """The picture of MPEG-4 that is shown then, but says "as the one before"."""
    at = picture.index(b"\0\0\1\xb6") + 4
    head = int.from_bytes(picture[at : at + 2])  # kind, second, mark, 5 bits of time, mark, coded
    return picture[at - 4 : at] + ((head & 0x3FC0) | 0x400F).to_bytes(2)


@pytest.mark.parametrize("name", ["b.avi", "b.mp4", "b.mkv"])
def test_pictures_that_are_not_coded_hold_the_one_before(
    clip: Clip, tmp_path: Path, name: str
) -> None:
    """As Xvid writes them: FFmpeg gives no frame for them."""
    made = clip("a.mp4", marked(20), codec="mpeg4", layout="yuv420p", options={"g": "1"})

    def change(number: int, data: bytes) -> bytes:
        return uncoded(data) if number in (8, 9, 19) else data

    video = read(repack(made, tmp_path / name, change=change))
    shown = [n for n in range(20) if n not in (8, 9, 19)]
    assert [number_of(picture) for picture in video.frames] == shown
    assert video.times is not None
    assert torch.allclose(video.times, torch.tensor(shown).double() / 25, atol=1e-6)
    if name != "b.avi":  # which keeps no duration
        assert video.last == pytest.approx(0.08)
    again = read(tmp_path / name, fps=25)
    numbers = [n - (n in (8, 9, 19)) - (n == 9) for n in range(20)]
    assert [number_of(picture) for picture in again.frames] == numbers[: len(again)]
    assert len(again) >= 19


def test_two_pictures_in_a_packet_are_followed_by_an_empty_one(clip: Clip, tmp_path: Path) -> None:
    """As DivX packs pictures that are shown before one which is decoded earlier."""
    options = {"bf": "1", "g": "30", "sc_threshold": "1000000000"}
    made = clip("a.mkv", marked(15), codec="mpeg4", layout="yuv420p", options=options)
    with av.open(str(made)) as source, av.open(str(tmp_path / "b.avi"), "w") as out:
        track = out.add_stream_from_template(source.streams.video[0])
        found = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        packed = [b"\0\0\1\xb2DivX503b1393p" + found[0]]
        for ahead, leaning in zip(found[1::2], found[2::2], strict=True):
            packed += [ahead + leaning, uncoded(ahead)]
        for number, data in enumerate(packed):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.duration, packet.time_base = 1, Fraction(1, 25)
            packet.is_keyframe, packet.stream = number == 0, track
            out.mux(packet)
    video = read(tmp_path / "b.avi")
    assert [number_of(picture) for picture in video.frames] == list(range(15))
    assert (video.fps, video.times) == (25, None)


def test_fields_that_are_packets_are_halves_of_frames() -> None:
    """As 1080i is broadcast (PAFF)."""
    halves = [entry(0, 1800), entry(1800, 1800), entry(3600, 1800), entry(None, 1800)]
    assert _is_second_field(halves[0], halves[1], 3600)
    assert _is_second_field(halves[2], halves[3], 3600)
    assert not _is_second_field(halves[1], halves[2], 0)  # progressive
    assert not _is_second_field(halves[0], halves[2], 3600)  # the second was lost
    assert not _is_second_field(entry(0, 3600), halves[2], 3600)


def entry(pts: int | None, duration: int) -> _Entry:
    return _Entry(pts=pts, dts=pts, duration=duration, key=False, whole=True, joins=False)
