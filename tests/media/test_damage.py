"""Files that are damaged, cut off, or no videos: one sentence, never a shorter clip."""

from pathlib import Path

import av
import pytest
from PIL import Image
from small_clips import Clip, cut, damaged, pattern, repack, rough

from reeltok.video import Video, read, stream


def test_what_is_not_there_or_not_a_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("hello\n" * 500)
    (tmp_path / "a.txt").write_text("hello\n" * 500)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "a.png").write_bytes(b"\x89PNG no")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="no file"):
        read(tmp_path / "none.mp4")
    for name in ("a.mp4", "a.txt", "empty.mp4", "folder", "a.png"):
        with pytest.raises(ValueError, match=r"not a video|no video|no images|not an image") as at:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(at.value)
        assert "\n" not in str(at.value)


def test_sound_alone_is_not_a_video(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(16000))
    with pytest.raises(ValueError, match="holds no video"):
        read(tmp_path / "a.wav")


def test_a_file_without_its_header_is_refused(clip: Clip) -> None:
    with pytest.raises(ValueError, match="header is cut off"):
        read(cut(clip(frames=rough())))


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.avi", "libx264", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_a_file_that_is_cut_off_is_refused(
    clip: Clip, tmp_path: Path, name: str, codec: str, layout: str
) -> None:
    options = {"deadline": "realtime"} if codec == "libvpx-vp9" else {"bf": "0"}
    path = clip(name, rough(20), codec=codec, layout=layout, options=options)
    if name == "a.mov":  # with the index at the front, where a cut leaves it whole
        path = repack(path, tmp_path / "b.mov", movflags="faststart")
    assert len(read(path)) == 20
    with pytest.raises(ValueError, match="cut off"):
        read(cut(path))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_track_that_ends_before_it_says_so_is_damage(clip: Clip, name: str) -> None:
    """Where its structure is broken, FFmpeg looks for the next it knows and leaves out the rest."""
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    path = clip(name, rough(), codec=codec, layout="yuv420p", options={"deadline": "realtime"})
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : third + 30_000] = bytes(value ^ 0x5A for value in data[third : third + 30_000])
    path.write_bytes(data)
    with av.open(str(path)) as source:
        assert sum(packet.size > 0 for packet in source.demux(video=0)) < 40
    with pytest.raises(ValueError, match=r"cut off or damaged after \d+ frames"):
        read(path)


def test_a_hole_in_the_middle_says_how_far_it_got(clip: Clip) -> None:
    path = damaged(clip(frames=rough(), layout="yuv420p", options={"g": "10"}), 0.5)
    got: list[Video] = []
    with stream(path, chunk=1) as parts, pytest.raises(ValueError, match=r"damaged: .*frame \d+"):
        got.extend(parts)
    assert 5 < len(got) < 35


def test_pictures_that_the_decoder_had_to_mend_are_damage(clip: Clip) -> None:
    path = clip(frames=rough(), layout="yuv420p", options={"g": "100", "threads": "1"})
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 8000, 125):
        data[at] ^= 0x55
    path.write_bytes(data)
    with av.open(str(path)) as source:  # FFmpeg itself goes on to the end
        assert sum(1 for _ in source.decode(video=0)) == 40
    with pytest.raises(ValueError, match="cannot be decoded whole"):
        read(path)


def test_nothing_in_the_span_says_how_long_the_clip_is(clip: Clip, tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        with pytest.raises(ValueError, match=r"is 0.40 s long: start=3"):
            read(clip(name), start=3)
    Image.fromarray(pattern(1)[0].numpy()).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="start needs fps"):
        read(tmp_path / "0.png", start=1)
    with pytest.raises(ValueError, match="1 images"):
        read(tmp_path / "0.png", start=1, fps=2)


def test_a_change_of_size_in_mid_stream_names_the_frame_and_both_sizes(
    clip: Clip, tmp_path: Path
) -> None:
    small = clip("a.h264", pattern(5), layout="yuv420p").read_bytes()
    large = clip("b.h264", pattern(5, 48, 64), layout="yuv420p").read_bytes()
    (tmp_path / "c.h264").write_bytes(small + large)
    with pytest.raises(ValueError, match=r"frame 5 is 48x64, those before it 32x48"):
        read(tmp_path / "c.h264")


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "0.png")
    Image.new("RGB", (9, 6)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1.png \(frame 1\) is 6x9, the first is 6x8"):
        read(tmp_path)


@pytest.mark.parametrize(
    "asked",
    [{"start": -1.0}, {"frames": 0}, {"fps": 0.0}, {"size": 0}, {"size": (4, 0)}, {"chunk": 0}],
)
def test_arguments_that_make_no_sense_are_refused(clip: Clip, asked: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(asked))):
        stream(clip(), **asked)


def test_ffmpeg_stays_silent(clip: Clip, capfd: pytest.CaptureFixture[str]) -> None:
    """Damage is reported by the exception alone: nothing goes to the terminal beside it."""
    path = damaged(clip(frames=rough(), layout="yuv420p"), 0.5)
    with pytest.raises(ValueError, match="damaged"):
        read(path)
    assert capfd.readouterr() == ("", "")
