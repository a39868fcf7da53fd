"""What reading leaves as it is and says: pixel shape, interlacing, HDR, sizes that distort."""

import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from small_clips import Clip, pattern

from reeltok.video.record import Video, read, stream, write

HDR = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}


def anamorphic(path: Path, aspect: Fraction, rotation: int = 0) -> Path:
    """A clip of 32x48 whose pixels are not square."""
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=25)
        track.height, track.width, track.pix_fmt = 32, 48, "yuv420p"
        track.codec_context.sample_aspect_ratio = aspect
        if rotation:
            track.set_display_rotation(rotation)
        for picture in pattern().numpy():
            out.mux(track.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(track.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi", "a.ts"])
def test_the_ratio_of_pixels_is_kept(tmp_path: Path, name: str) -> None:
    path = anamorphic(tmp_path / "in.mkv", Fraction(16, 11))
    video = read(path)
    assert (video.height, video.width, video.aspect) == (32, 48, Fraction(16, 11))
    assert write(video, tmp_path / name).notes == ()
    assert read(tmp_path / name).aspect == Fraction(16, 11)
    write(stream(path, chunk=3), tmp_path / name)
    assert read(tmp_path / name).aspect == Fraction(16, 11)
    assert Video.of(video.tensor(), like=video).aspect == video[2:4].aspect == Fraction(16, 11)
    with stream(path) as parts:
        assert "with pixels of 16:11" in parts.notes[0]


def test_a_turned_ratio_is_turned(tmp_path: Path) -> None:
    turned = read(anamorphic(tmp_path / "a.mp4", Fraction(2), rotation=90))
    assert (turned.height, turned.width, turned.aspect) == (48, 32, Fraction(1, 2))


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(100, 1), Fraction(1, 50)])
def test_square_and_senseless_ratios_are_square(tmp_path: Path, aspect: Fraction) -> None:
    with stream(anamorphic(tmp_path / "a.mp4", aspect)) as parts:
        assert (parts.aspect, parts.notes) == (1, ())


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "folder"])
def test_a_ratio_that_cannot_be_kept_is_said(tmp_path: Path, name: str) -> None:
    video = read(anamorphic(tmp_path / "a.mp4", Fraction(2)))
    assert "squeezed" in write(video, tmp_path / name).notes[0]


def test_a_height_and_width_stand_for_square_pixels(tmp_path: Path) -> None:
    path = anamorphic(tmp_path / "a.mp4", Fraction(2))
    with stream(path, size=(32, 96)) as parts:
        assert (parts.aspect, parts.notes) == (1, ())
    with stream(path, size=(32, 48)) as parts:
        assert "distorts" in parts.notes[0]
    assert read(path, size=16).aspect == 2


def test_a_size_that_distorts_says_so(clip: Clip, tmp_path: Path) -> None:
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    for path in (clip(), tmp_path / "a.png"):
        with stream(path, size=(32, 32)) as parts:
            assert parts.notes == (
                f"{path} is 32x48: 32x32 distorts its shape (the short side alone, 32, keeps it)",
            )
        for size in (None, 16, 17, (16, 24), (64, 96), (17, 25)):
            with stream(path, size=size) as parts:
                assert parts.notes == ()


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"x264-params": "tff=1"}),
        ("a.ts", "libx264", {"x264-params": "bff=1"}),
        ("a.mkv", "mpeg2video", {"flags": "+ildct+ilme", "top": "1"}),
    ],
)
def test_interlaced_video_is_said(clip: Clip, name: str, codec: str, options: dict) -> None:
    path = clip(name, pattern(10, 64, 96), codec=codec, layout="yuv420p", options=options)
    with pytest.warns(UserWarning, match=f"{name} is interlaced"):
        assert len(read(path)) == 10


@pytest.mark.parametrize(("transfer", "said"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_said(clip: Clip, transfer: int, said: str) -> None:
    path = clip("a.mkv", layout="yuv420p10le", tags={**HDR, "color_trc": transfer}, matrix=9)
    with pytest.warns(UserWarning, match=rf"a.mkv is HDR \({said}\)"):
        assert read(path).colour.transfer == transfer


def test_usual_video_is_read_without_a_word(clip: Clip) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with stream(clip()) as parts:
            assert (parts.notes, parts.sound) == ((), None)
            assert np.all(next(iter(parts)).aspect == 1)
