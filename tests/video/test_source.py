"""Files in: time stamps, seeking, turning, resizing, images, pipes. Bad input: test_damage.py."""

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_clips import Clip, damaged, marked, number_of, pattern, repack, rough

from reeltok.video.record import Video, read, stream, write
from reeltok.video.size import fit_size

STAMPS = [0, 40, 80, 200, 240, 250, 400, 520, 560, 600]  # ms


def close(a: torch.Tensor, b: torch.Tensor, levels: float = 3) -> bool:
    return a.shape == b.shape and float((a.float() - b.float()).abs().mean()) < levels


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.webm"])
def test_varying_time_stamps_are_kept_and_written_back(
    clip: Clip, tmp_path: Path, name: str
) -> None:
    video = read(clip("source.mkv", stamps=STAMPS))
    assert video.times is not None
    assert (video.times * 1000).round().tolist() == STAMPS
    assert video.fps == pytest.approx(10 / 0.64)
    write(video, tmp_path / name)
    back = read(tmp_path / name)
    assert back.times is not None
    assert (back.times - video.times).abs().max() <= 0.0005


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.gif"])
def test_a_slide_show_lasts_as_long_as_its_slides(tmp_path: Path, name: str) -> None:
    """The last frame is shown for its own time, also after writing and in parts."""
    times = torch.tensor([0.0, 5.0, 10.0, 13.3]).double()
    slides = Video(pattern(4), fps=0.2, times=times, last=6.7)
    assert slides.seconds == pytest.approx(20)
    for parts in (slides, [slides[:2], replace(slides[2:], times=times[2:])]):
        write(parts, tmp_path / name)
        back = read(tmp_path / name)
        assert back.times is not None
        assert torch.allclose(back.times, times)
        assert back.seconds == pytest.approx(20)
        assert back.fps == pytest.approx(0.2)
    assert len(read(tmp_path / name, fps=2)) == 40
    assert read(tmp_path / name, start=4).seconds == pytest.approx(15)
    assert read(tmp_path / name, frames=2).seconds == pytest.approx(10)
    with stream(tmp_path / name, chunk=3) as parts:
        assert [part.seconds for part in parts] == [pytest.approx(13.3), pytest.approx(6.7)]


def test_what_a_container_does_not_keep_of_time_is_noted(tmp_path: Path) -> None:
    times = torch.tensor([0.0, 5.0, 10.0, 13.3]).double()
    slides = Video(pattern(4), fps=0.2, times=times, last=6.7)
    for name, said in (("a.ts", "how long the last frame"), ("a.avi", "no time stamps")):
        assert any(said in note for note in write(slides, tmp_path / name).notes)
    assert not write(slides, tmp_path / "a.mkv").notes


def test_a_gif_of_another_maker_lasts_as_long_as_its_delays(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture.numpy()) for picture in pattern(6)]
    delays = [100, 50, 200, 120, 50, 200]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=delays)
    video = read(tmp_path / "a.gif")
    assert video.seconds == pytest.approx(0.72)
    assert len(read(tmp_path / "a.gif", fps=25)) == 18
    for part, seconds in ((video[:3], 0.35), (video[4:], 0.25), (video[::2], 0.72)):
        assert part.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("fps", [24, 30, Fraction(30000, 1001)])
@pytest.mark.parametrize("name", ["a.h264", "a.hevc", "a.m2v"])
def test_bare_streams_have_the_rate_that_their_pictures_say(
    clip: Clip, name: str, fps: Fraction
) -> None:
    codec = {"a.h264": "libx264", "a.hevc": "libx265", "a.m2v": "mpeg2video"}[name]
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = clip(name, pattern(12, 64, 64), codec=codec, layout="yuv420p", fps=fps, options=options)
    video = read(path)
    assert (len(video), video.times) == (12, None)
    assert video.fps == pytest.approx(float(fps))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.nut", "a.y4m", "a.gif"])
def test_start_is_the_first_frame_not_before_it_in_every_container(clip: Clip, name: str) -> None:
    codec = {"a.y4m": "wrapped_avframe", "a.gif": "gif"}.get(name, "libx264")
    path = clip(name, marked(60), codec=codec, layout="rgb8" if codec == "gif" else "yuv420p")
    for start, first in ((0.5, 13), (0.52, 13), (0.53, 14), (1.0, 25), (0.01, 1)):
        video = read(path, start=start, frames=3)
        assert [number_of(frame) for frame in video.frames] == [first, first + 1, first + 2]
        assert video.start == pytest.approx(first / 25)


def test_negative_time_stamps_in_matroska_lose_nothing(clip: Clip, tmp_path: Path) -> None:
    """FFmpeg gives no time stamps before 0: they are counted back from the first that it gives."""
    path = clip("a.mkv", marked(40), layout="yuv420p", options={"bf": "2", "g": "12"})
    data = bytearray(path.read_bytes())
    cluster = data.index(b"\x1f\x43\xb6\x75")
    for at in range(cluster, len(data) - 6):  # SimpleBlock: size, track 1, time after the cluster's
        head = at + 1 + (9 - data[at + 1].bit_length())
        if data[at] == 0xA3 and data[head] == 0x81 and not data[head + 3] & 0x7F:
            stamp = int.from_bytes(data[head + 1 : head + 3], signed=True)
            data[head + 1 : head + 3] = (stamp - 600).to_bytes(2, signed=True)
    path.write_bytes(data)
    video = read(path)
    assert [number_of(frame) for frame in video.frames] == list(range(40))
    assert (video.fps, video.times) == (25, None)
    part = read(path, start=1.0, frames=2)
    assert [number_of(frame) for frame in part.frames] == [25, 26]


def test_parts_of_a_varying_stream_run_on(clip: Clip, tmp_path: Path) -> None:
    path = clip("a.mkv", stamps=STAMPS)
    write(stream(path, chunk=3), tmp_path / "b.mkv")
    times = read(tmp_path / "b.mkv").times
    assert times is not None
    assert (times * 1000).round().tolist() == STAMPS


@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), Fraction(24000, 1001), 60])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_constant_rates_have_no_times(clip: Clip, tmp_path: Path, name: str, fps: Fraction) -> None:
    video = read(clip(name, fps=fps))
    assert video.times is None
    assert video.fps == pytest.approx(float(fps), rel=1e-9)
    write(video, tmp_path / f"b{name}")
    assert read(tmp_path / f"b{name}").fps == pytest.approx(float(fps), rel=1e-9)


def test_clips_that_begin_late_on_their_clock_begin_at_zero(clip: Clip) -> None:
    late = [stamp + 5000 for stamp in STAMPS]
    video = read(clip("a.mkv", stamps=late), start=0.24)
    assert video.times is not None
    assert (video.times * 1000).round().tolist() == [0, 10, 160, 280, 320, 360]
    assert video.start == pytest.approx(0.24)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.gif"])
@settings(
    deadline=None,
    derandomize=True,
    max_examples=6,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=st.integers(0, 39), count=st.integers(1, 45))
def test_a_span_is_that_part_of_the_whole(
    long_clip: Callable[[str], Path], name: str, first: int, count: int
) -> None:
    path = long_clip(name)
    whole = read(path)
    assert len(whole) == 40
    part = read(path, start=first / 25, frames=count)
    assert torch.equal(part.frames, whole.frames[first : first + count])
    assert part.start == pytest.approx(first / 25)
    assert (part.fps, part.times) == (25, None)


@pytest.fixture
def long_clip(clip: Clip, tmp_path: Path) -> Callable[[str], Path]:
    """40 frames with B-frames and a keyframe every 12; made once for each name."""

    def make(name: str) -> Path:
        if (tmp_path / name).exists():
            return tmp_path / name
        if name.endswith(".gif"):
            return clip(name, pattern(40), codec="gif", layout="rgb8")
        return clip(name, pattern(40), options={"g": "12", "bf": "3"})

    return make


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_spans_of_open_groups_are_exact(clip: Clip, name: str) -> None:
    """Pictures that lean over a keyframe cannot be decoded from it: the seek goes further back."""
    params = "open-gop=1:keyint=10:bframes=3:b-adapt=0:scenecut=0"
    path = clip(name, rough(40), layout="yuv420p", options={"x264-params": params})
    whole = read(path).frames
    for first in (9, 11, 12, 19, 21, 29):
        part = read(path, start=first / 25, frames=4)
        assert torch.equal(part.frames, whole[first : first + 4])
        assert part.times is None


@pytest.mark.parametrize("name", ["a.mkv", "a.mov", "a.avi"])
def test_pictures_that_lean_on_what_was_cut_away_are_left_out(
    clip: Clip, tmp_path: Path, name: str
) -> None:
    params = "open-gop=1:keyint=10:bframes=3:b-adapt=0:scenecut=0"
    path = clip(name, rough(40), layout="yuv420p", options={"x264-params": params})
    other = repack(path, tmp_path / f"b{name}", skip_groups=1)
    video, whole = read(other), read(path).frames
    assert (len(video), video.times) == (30, None)
    assert torch.equal(video.frames, whole[10:])
    assert sum(len(part) for part in stream(other, chunk=7)) == 30


def test_what_lies_before_the_keyframe_is_not_decoded(clip: Clip) -> None:
    """The span is entered at its keyframe: damage far before it does not matter."""
    path = clip(frames=rough(), layout="yuv420p", options={"g": "10", "bf": "0"})
    expected = read(path).frames[30:34]
    damaged(path, 0.1)
    assert torch.equal(read(path, start=30 / 25, frames=4).frames, expected)
    with pytest.raises(ValueError, match="cannot be decoded"):
        read(path, frames=10)


def test_fps_shows_the_latest_earlier_frame(clip: Clip) -> None:
    path = clip("a.mkv", stamps=STAMPS, options={"crf": "1"})
    whole = read(path).frames
    resampled = read(path, fps=10)
    assert (resampled.fps, resampled.times) == (10, None)
    # at 0, 100 ... 600 ms: the clip lasts one mean frame longer than its last time stamp
    assert torch.equal(resampled.frames, whole[[0, 2, 3, 5, 6, 6, 9]])
    assert torch.equal(read(path, fps=10, start=0.2, frames=2).frames, whole[[3, 5]])


# --- shape ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("angle", "turn"),
    [(90, 1), (-90, -1), (180, 2)],
)
def test_rotation_is_applied(clip: Clip, angle: int, turn: int) -> None:
    upright = read(clip("a.mp4")).frames
    turned = read(clip("b.mp4", rotation=angle))
    expected = torch.rot90(upright, turn, (1, 2))
    assert torch.equal(turned.frames, expected)
    assert (turned.height, turned.width) == expected.shape[1:3]
    assert read(clip("b.mp4", rotation=angle), size=(16, 20)).frames.shape == (10, 16, 20, 3)


@pytest.mark.parametrize(("flips", "axis"), [({"hflip": True}, 2), ({"vflip": True}, 1)])
def test_mirrors_are_applied(clip: Clip, flips: dict[str, bool], axis: int) -> None:
    mirrored = read(clip("b.mp4", rotation=0, flips=flips)).frames
    assert torch.equal(mirrored, read(clip("a.mp4")).frames.flip(axis))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    image = Image.fromarray(pattern(1)[0].numpy())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert np.array_equal(read(tmp_path / "a.png").frames[0].numpy(), expected)


@pytest.mark.parametrize(
    ("size", "found"),
    [(16, (16, 24)), (20, (20, 30)), ((10, 50), (10, 50)), (64, (64, 96)), (None, (32, 48))],
)
def test_size_is_the_short_side_or_both(
    clip: Clip, size: int | tuple[int, int] | None, found: tuple[int, int]
) -> None:
    with stream(clip(), size=size) as parts:
        assert (parts.height, parts.width) == found
        assert next(iter(parts)).frames.shape[1:3] == found


def test_the_long_side_is_made_even() -> None:
    assert fit_size(1080, 1920, 256) == (256, 456)
    assert fit_size(1920, 1080, 256) == (456, 256)
    assert fit_size(100, 100, 33) == (33, 33)


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    small = read(tmp_path / "a.png", size=16).frames.float()[:, :, 2:-2]
    assert (small - 127.5).abs().max() < 2  # picking pixels would give 0 or 255


@pytest.mark.parametrize("layout", ["yuv420p10le", "yuv422p", "yuv444p", "yuv444p10le", "yuv440p"])
def test_layouts_decode(clip: Clip, layout: str) -> None:
    codec = "libx264" if "10" in layout else "ffv1"
    frames = pattern()
    assert close(read(clip("a.mkv", frames, codec=codec, layout=layout)).frames, frames)


@pytest.mark.parametrize("layout", ["gray", "gbrp16le", "gray16le", "rgb24"])
def test_layouts_without_chroma_or_matrix_decode(clip: Clip, layout: str) -> None:
    frames = pattern()[..., :1].expand(-1, -1, -1, 3)
    codec = "png" if layout == "rgb24" else "ffv1"
    name = "a.mov" if codec == "png" else "a.mkv"
    assert close(read(clip(name, frames, codec=codec, layout=layout)).frames, frames, 0.6)


def test_hidden_frames_of_vp8_are_not_counted(clip: Clip, tmp_path: Path) -> None:
    path = clip("a.webm", codec="libvpx", layout="yuv420p", options={"g": "100"})

    def hide(number: int, data: bytes) -> bytes:  # bit 4 of the first byte: to be shown
        return bytes([data[0] & ~0x10]) + data[1:] if number == 4 else data

    video = read(repack(path, tmp_path / "b.webm", change=hide))
    assert len(video) == 9
    assert video.times is not None
    assert (video.times * 25).round().tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]


# --- images and pipes -----------------------------------------------------------------------------


def test_a_folder_of_images_is_sorted_as_people_count(tmp_path: Path) -> None:
    frames = pattern(12)
    for number, picture in enumerate(frames.numpy()):
        Image.fromarray(picture).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    video = read(tmp_path)
    assert torch.equal(video.frames, frames)
    assert video.fps is None
    part = read(tmp_path, fps=5, start=0.4, frames=3)
    assert torch.equal(part.frames, frames[2:5])
    assert part.fps == 5


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.jpg", "100%d.png"])
def test_an_image_is_one_frame(tmp_path: Path, name: str) -> None:
    frames = pattern(1)
    Image.fromarray(frames[0].numpy()).save(tmp_path / name, quality=95)
    video = read(tmp_path / name)
    assert (len(video), video.fps) == (1, None)
    exact = name.endswith(("png", "bmp", "tif"))
    assert torch.equal(video.frames, frames) if exact else close(video.frames, frames)


def test_a_pipe_is_read(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip()

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise OSError("a pipe")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(path.read_bytes()))))
    assert torch.equal(read("-").frames, read(path).frames)


def test_names_are_names_not_addresses(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip().rename(tmp_path / "http:a%03d*.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read("http:a%03d*.mp4")) == 10


# --- real clips -----------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.parametrize("name", ["14_bigbuckbunny.mp4", "16_carphone_pristine.mp4"])
def test_real_clips_are_read_whole(shared: Path, name: str) -> None:
    import csv

    table = csv.DictReader((shared / "data/eval/manifest.csv").read_text().splitlines())
    entry = next(row for row in table if row["file"] == name)
    path = shared / "data/eval" / name
    video = read(path)
    assert (len(video), video.height, video.width) == tuple(
        int(entry[key]) for key in ("frames", "h", "w")
    )
    assert video.fps == pytest.approx(float(entry["fps"]), abs=0.01)
    assert torch.equal(read(path, start=10 / video.fps, frames=5).frames, video.frames[10:15])
