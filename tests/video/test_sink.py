"""Files out: whole or not at all, checked before the first frame, said in one sentence."""

import errno
import io
import os
import stat
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from small_clips import pattern

from reeltok.evaluate.candidates.codecs import CODERS, encode_packets
from reeltok.video import sink
from reeltok.video.lookahead import x264_options
from reeltok.video.movie import CONTAINERS, Movie
from reeltok.video.record import Video, read, stream, write

VIDEO = Video(pattern(), fps=25.0)


def untouched() -> Iterator[Video]:
    """Parts that must not be asked for."""
    raise AssertionError("a frame was consumed")
    yield


def layout_of(path: Path) -> str:
    with av.open(str(path)) as source:
        return source.streams.video[0].pix_fmt


# --- forms ----------------------------------------------------------------------------------------


def test_odd_sizes_become_444_and_say_so(tmp_path: Path) -> None:
    frames = pattern(4, 31, 47)
    written = write(Video(frames, fps=25), tmp_path / "a.mp4")
    assert len(written.notes) == 1
    assert "31x47" in written.notes[0]
    assert layout_of(tmp_path / "a.mp4") == "yuv444p"
    assert read(tmp_path / "a.mp4").frames.shape == frames.shape
    assert write(VIDEO, tmp_path / "b.mp4").notes == ()
    assert layout_of(tmp_path / "b.mp4") == "yuv420p"


def test_pad_even_repeats_the_edge(tmp_path: Path) -> None:
    frames = torch.zeros(3, 31, 47, 3, dtype=torch.uint8)
    frames[:, -1], frames[:, :, -1] = 255, 255
    written = write(Video(frames, fps=25), tmp_path / "a.mp4", pad_even=True, crf=1)
    back = read(tmp_path / "a.mp4").frames
    assert back.shape == (3, 32, 48, 3)
    assert layout_of(tmp_path / "a.mp4") == "yuv420p"
    assert written.notes == ()
    assert (written.height, written.width) == (32, 48)
    assert back[:, 31].min() > 200
    assert back[:, :, 47].min() > 200


@pytest.mark.parametrize(
    ("name", "more"), [("a.mkv", {"lossless": True}), ("a.gif", {}), ("a.webm", {"codec": "vp9"})]
)
def test_pad_even_is_followed_where_odd_sizes_could_be_kept(
    tmp_path: Path, name: str, more: dict
) -> None:
    frames = pattern(3, 31, 47)
    write(Video(frames, fps=25), tmp_path / name, pad_even=True, **more)
    back = read(tmp_path / name).frames
    assert back.shape == (3, 32, 48, 3)
    if more.get("lossless"):
        assert torch.equal(back[:, :31, :47], frames)
        assert torch.equal(back[:, 31], back[:, 30])


@pytest.mark.parametrize("codec", ["hevc", "vp9", "av1", "mpeg4", "prores", "libx264", "ffv1"])
def test_other_codecs(tmp_path: Path, codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    frames = pattern(4, 64, 96)
    name = "a.mov" if codec == "prores" else "a.mkv"
    write(Video(frames, fps=25), tmp_path / name, codec=codec)
    back = read(tmp_path / name)
    assert back.fps == 25
    assert (back.frames.float() - frames.float()).abs().mean() < 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("codec", "least"), [("hevc", 16), ("av1", 32), ("ffv1", 2), ("libx265", 16)]
)
def test_sizes_that_an_encoder_fails_on_are_refused(tmp_path: Path, codec: str, least: int) -> None:
    """SVT-AV1 never came back from a frame of 6x334."""
    for height, width in ((least, 334), (334, least)):
        write(Video(pattern(4, height, width), fps=25), tmp_path / "a.mkv", codec=codec)
        assert read(tmp_path / "a.mkv").frames.shape == (4, height, width, 3)
    (tmp_path / "a.mkv").unlink()
    few = least - (1 if codec != "av1" else 2)
    for height, width in ((few, 334), (334, few)):
        said = rf"takes heights and widths from {least} pixels on, the video has {height}x{width}: "
        with pytest.raises(ValueError, match=said + "use h264 or another codec"):
            write(Video(pattern(1, height, width), fps=25), tmp_path / "a.mkv", codec=codec)
    assert list(tmp_path.iterdir()) == []


def test_a_size_counts_as_it_is_padded(tmp_path: Path) -> None:
    video = Video(pattern(4, 15, 15), fps=25)
    written = write(video, tmp_path / "a.mkv", codec="hevc", pad_even=True)
    assert (written.height, written.width) == (16, 16)


def test_avi_has_no_reordered_frames(tmp_path: Path) -> None:
    write(VIDEO, tmp_path / "a.avi")
    write(VIDEO, tmp_path / "a.mkv")
    for name, reordered in (("a.avi", False), ("a.mkv", True)):
        with av.open(str(tmp_path / name)) as source:
            assert source.streams.video[0].codec_context.has_b_frames == reordered


def test_a_crf_that_the_codec_does_not_have_is_refused(tmp_path: Path) -> None:
    for crf in (-1, 52, float("nan")):
        with pytest.raises(ValueError, match=r"outside what h264 takes: 0 to 51"):
            write(pattern(2).numpy(), tmp_path / "a.mp4", fps=5, crf=crf)
    write(pattern(2).numpy(), tmp_path / "a.webm", fps=5, crf=63)


def test_a_preset_is_heard(tmp_path: Path) -> None:
    moving = torch.cat([pattern(1, height=96, width=96).roll(i, dims=2) for i in range(12)])
    sizes = []
    for preset in ("ultrafast", "slow"):
        write(moving.numpy(), tmp_path / "a.mp4", fps=25, crf=20, preset=preset)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes[1] < 0.8 * sizes[0]


def test_crf_is_heard(tmp_path: Path) -> None:
    noise = Video(torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8), fps=25)
    for name in ("a.mp4", "a.webm"):
        write(noise, tmp_path / name, crf=10)
        fine = (tmp_path / name).stat().st_size
        write(noise, tmp_path / name, crf=45)
        assert (tmp_path / name).stat().st_size < fine / 2


@pytest.mark.parametrize(
    ("suffix", "codec"), [(s, codec) for s, kind in CONTAINERS.items() for codec in kind.codecs]
)
def test_every_codec_in_every_container_keeps_its_frames_and_times(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    times = torch.tensor([0, 0.04, 0.08, 0.2, 0.28], dtype=torch.float64)
    for video in (Video(pattern(5, 64, 64), 25.0), Video(pattern(5, 64, 64), 12.5, times)):
        write(video, tmp_path / f"a{suffix}", codec=codec)
        back = read(tmp_path / f"a{suffix}")
        assert len(back) == 5
        if video.times is None or suffix == ".avi":
            assert (back.fps, back.times) == (video.fps, None)
        else:
            assert back.times is not None
            assert (back.times - times).abs().max() < 0.001


def test_fps_overrides_rate_and_times(tmp_path: Path) -> None:
    times = torch.tensor([0, 0.1, 0.15, 0.6], dtype=torch.float64)
    write(Video(pattern(4), fps=6.0, times=times), tmp_path / "a.mp4", fps=12)
    back = read(tmp_path / "a.mp4")
    assert (back.fps, back.times) == (12, None)


def test_a_mean_rate_is_said_where_times_cannot_be_kept(tmp_path: Path) -> None:
    times = torch.tensor([0, 0.1, 0.15, 0.6], dtype=torch.float64)
    video = Video(pattern(4), fps=5.0, times=times)
    assert "mean rate" in write(video, tmp_path / "a.avi").notes[0]
    assert read(tmp_path / "a.avi").fps == 5
    assert "time stamps" in write(video, tmp_path / "folder").notes[0]


def test_gif_keeps_varying_delays(tmp_path: Path) -> None:
    times = torch.tensor([0, 0.1, 0.15, 0.6], dtype=torch.float64)
    write(Video(pattern(4), fps=5.0, times=times), tmp_path / "a.gif")
    back = read(tmp_path / "a.gif").times
    assert back is not None
    assert (back - times).abs().max() < 1e-6


def test_the_delay_of_a_gif_is_not_written_into_its_pixels(tmp_path: Path) -> None:
    """Codes and comments may hold the bytes with which a graphic control extension begins."""
    sign = b"\x21\xf9\x04"
    picture = b"\x2c" + bytes(4) + b"\1\0\1\0\x80" + bytes(6) + b"\2\x0a" + sign + bytes(7) + b"\0"
    comment = b"\x21\xfe\x08" + sign + bytes(5) + b"\0"
    head, control = b"GIF89a\1\0\1\0\x80\0\0" + sign + bytes(3), sign + b"\0%b\0\0"
    form = head + control + picture + control + picture + comment + b"\x3b"
    (tmp_path / "a.gif").write_bytes(form % (b"\5\0", b"\6\0"))
    sink.set_last_delay(tmp_path / "a.gif", 0x0201)
    assert (tmp_path / "a.gif").read_bytes() == form % (b"\5\0", b"\1\2")


def test_rates_that_a_container_lacks_are_said(tmp_path: Path) -> None:
    written = write(Video(pattern(4), fps=240.0), tmp_path / "a.gif")
    assert written.notes == (
        ".gif shows at most 100 frames per second: these are shown slower, instead of 240",
    )
    assert write(Video(pattern(4), fps=100.0), tmp_path / "a.gif").notes == ()
    for name in ("a.avi", "a.mkv", "a.webm"):
        with pytest.raises(ValueError, match="takes at most 1000 frames per second, not 2000"):
            write(Video(pattern(4), fps=2000.0), tmp_path / name)
    write(Video(pattern(4), fps=1000.0), tmp_path / "a.mkv", lossless=True)
    assert read(tmp_path / "a.mkv").fps == 1000


def test_images_out(tmp_path: Path) -> None:
    written = write(VIDEO, tmp_path / "folder")
    assert (written.frames, written.codec) == (10, "png")
    assert sorted(os.listdir(tmp_path / "folder"))[0] == "000000.png"
    write(VIDEO[:4], tmp_path / "folder")  # frames of its own making may be replaced
    assert torch.equal(read(tmp_path / "folder").frames, VIDEO.frames[:4])
    for name in ("a.png", "a.bmp", "a.tif"):
        write(VIDEO[2:3], tmp_path / name)
        assert torch.equal(read(tmp_path / name).frames, VIDEO.frames[2:3])
    write(VIDEO[:1], tmp_path / "a.webp", lossless=True)
    write(VIDEO[:1], tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="one frame and the video has more"):
        write(VIDEO, tmp_path / "b.png")
    assert not [name for name in os.listdir(tmp_path) if "b.png" in name or ".part" in name]


class Pipe(io.BytesIO):
    """Standard output, forwards only."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = self

    def seek(self, *_: object) -> int:
        raise OSError("a pipe")


@pytest.mark.parametrize("lossless", [False, True])
def test_standard_output_is_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lossless: bool
) -> None:
    pipe = Pipe()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        written = write(VIDEO, "-", lossless=lossless)
    assert (written.path, written.frames) == (None, 10)
    (tmp_path / "a").write_bytes(pipe.getvalue())
    back = read(tmp_path / "a")
    assert (len(back), back.fps) == (10, 25)
    assert (back.frames.float() - VIDEO.frames.float()).abs().mean() < (0.01 if lossless else 3)


# --- whole or not at all --------------------------------------------------------------------------


def test_the_output_may_be_the_input(tmp_path: Path) -> None:
    write(VIDEO, tmp_path / "a.mkv", lossless=True)
    write(stream(tmp_path / "a.mkv", chunk=2), tmp_path / "a.mkv", lossless=True)
    assert torch.equal(read(tmp_path / "a.mkv").frames, VIDEO.frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "folder", "a.png", "a.webm"])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path: Path, name: str, error: BaseException) -> None:
    write(VIDEO[:1], tmp_path / name)
    before = read(tmp_path / name).frames

    def parts() -> Iterator[Video]:
        yield VIDEO[:1]
        raise error

    with pytest.raises(type(error)):
        write(parts(), tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert torch.equal(read(tmp_path / name).frames, before)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png"])
def test_a_full_disk_is_one_sentence(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    whole = sink._Whole

    def full(_: Path, mode: str) -> object:
        return whole("/dev/full", mode)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sink, "_Whole", full)
    monkeypatch.setattr("PIL.Image.Image.save", no_space)
    with pytest.raises(OSError, match=r"a\.\w+ \(frame \d+\): the disk is full") as at:
        write(VIDEO[:1], tmp_path / name)
    assert at.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_outputs_have_the_rights_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(VIDEO, tmp_path / "a.mp4")
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_a_link_is_followed_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").touch()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "real.mp4")
    write(VIDEO, tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").is_symlink()
    assert len(read(tmp_path / "real.mp4")) == 10


@pytest.mark.parametrize("name", ["a.mkv", "a.png"])
def test_the_name_of_a_link_says_what_is_written(tmp_path: Path, name: str) -> None:
    """What it leads to may have no suffix, as in a hub's cache, or another one."""
    video = VIDEO if name == "a.mkv" else Video(pattern(1), fps=None)
    write(video, tmp_path / f"plain-{name}")
    for target in ("blob", "blob.mp4"):
        (tmp_path / name).symlink_to(target)
        for _ in range(2):  # it is not there yet, and it is there
            write(video, tmp_path / name)
            head = (tmp_path / target).read_bytes()[:32]
            assert head == (tmp_path / f"plain-{name}").read_bytes()[:32]
        (tmp_path / name).unlink()


def test_parts_are_let_go_of_one_by_one(tmp_path: Path) -> None:
    alive: list[weakref.ref] = []

    def parts() -> Iterator[Video]:
        for _ in range(6):
            part = Video(pattern(2), fps=25)
            alive.append(weakref.ref(part))
            yield part
            assert sum(ref() is not None for ref in alive) <= 2

    assert write(parts(), tmp_path / "a.mp4").frames == 12


# --- refused before a frame is taken --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.xyz", {}, r"unknown suffix '.xyz': known are .mp4"),
        ("a.mp4", {"lossless": True}, "ffv1 video does not go into .mp4: use .mkv or .avi"),
        ("a.mkv", {"lossless": True, "codec": "vp9"}, "lossless is FFV1, not vp9"),
        ("a.mkv", {"codec": "ffv2"}, "unknown codec 'ffv2': did you mean ffv1"),
        ("a.webm", {"codec": "h264"}, "h264 video does not go into .webm: use .mp4"),
        ("a.gif", {"crf": 20}, "gif has no crf"),
        ("a.jpg", {"lossless": True}, "use .png"),
        ("folder", {"codec": "h264"}, "codec, crf and preset go with a video file"),
        ("a.mp4", {"preset": "quick"}, "h264 has no preset 'quick'; there are ultrafast"),
        ("a.webm", {"preset": "fast"}, "vp9 has no preset 'fast'; there are none: leave it out"),
        ("folder", {"preset": "fast"}, "go with a video file"),
        ("taken", {}, "holds other files"),
        ("taken/notes.txt/", {}, "is a file, not a folder"),
        ("a.mp4", {"audio_from": "none.mp4"}, "no file none.mp4"),
    ],
)
def test_what_cannot_be_written_is_refused_first(
    tmp_path: Path, name: str, options: dict, message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=message) as at:
        write(untouched(), f"{tmp_path}/{name}", **options)
    assert "\n" not in str(at.value)
    assert os.listdir(tmp_path) == ["taken"]
    assert os.listdir(tmp_path / "taken") == ["notes.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_first(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write into"):
        write(untouched(), tmp_path / "a.mp4")
    tmp_path.chmod(0o700)


def test_no_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(OSError, match=rf"cannot write {tmp_path}/a\.mp4: Permission denied"):
        write(untouched(), tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (Video(pattern()), r"no frame rate \(images have none\): give it with `fps`"),
        ([], "no frames to write"),
        ([VIDEO, Video(pattern(2, 16, 16), fps=25)], "frame 10 is 16x16, those before it 32x48"),
        (Video(pattern(2, 31, 47), fps=25), "takes even sizes only, not 31x47: use `pad_even`"),
    ],
)
def test_videos_that_cannot_be_written(tmp_path: Path, video: Video, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(video, tmp_path / "a.mkv", codec="mpeg4")
    assert os.listdir(tmp_path) == []


def test_arrays_and_tensors_are_written_as_they_are(tmp_path: Path) -> None:
    write(np.zeros((3, 16, 16, 3), np.uint8), tmp_path / "a.mkv", fps=10, lossless=True)
    assert read(tmp_path / "a.mkv").frames.eq(0).all()
    write(torch.ones(1, 3, 2, 16, 16), tmp_path / "a.mkv", fps=10, lossless=True)
    assert read(tmp_path / "a.mkv").frames.eq(255).all()


def test_x264_takes_few_threads_on_any_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each holds frames of its own: 64 of them 417 bytes a pixel of 1920x1080, where 3 hold 150."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(64)}, raising=False)
    assert x264_options(256 * 256) == {"threads": "4"}
    assert x264_options(1920 * 1080) == {"threads": "4", "rc-lookahead": "17"}
    assert x264_options(3840 * 2160)["threads"] == "1"
    path = tmp_path / "few.mp4"
    write(VIDEO, path)
    assert b"threads=4 " in path.read_bytes()  # x264 notes its options in the file
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert x264_options(256 * 256) == {}


def test_a_packet_is_decoded_before_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """x265 says otherwise of one or two frames now and then, and the muxer refuses that."""
    encode = Movie._put

    class Late:
        """The encoder, but its packets are to be decoded too late."""

        def __init__(self, encoder: Any) -> None:
            self.encoder = encoder

        def encode(self, frame: Any) -> Any:
            for packet in self.encoder.encode(frame):
                packet.dts = packet.pts + 40
                yield packet

    def put(self: Movie, frame: Any) -> None:
        held, self._encoder = self._encoder, Late(self._encoder)
        encode(self, frame)
        self._encoder = held

    monkeypatch.setattr(Movie, "_put", put)
    write(Video(pattern(2), fps=25.0), tmp_path / "a.mp4", codec="mpeg4")
    assert len(read(tmp_path / "a.mp4")) == 2


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_transport_stream_of_few_frames_is_read_again(frames: int, tmp_path: Path) -> None:
    """FFmpeg takes such a short one for nothing that it knows."""
    flat = Video(torch.full((frames, 64, 64, 3), 90, dtype=torch.uint8), fps=25.0)
    for codec in ("h264", "mpeg4"):
        write(flat, tmp_path / "a.ts", codec=codec)
        assert len(read(tmp_path / "a.ts")) == frames


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="another system")
def test_svt_av1_makes_no_thread_a_real_time_one(tmp_path: Path) -> None:
    """As root it had done so, to the caller's too: on one processor nothing else ran any more."""
    seen = set[int]()

    def parts() -> Iterator[Video]:
        for _ in range(3):
            yield VIDEO
            seen.update(os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task"))

    write(parts(), tmp_path / "a.webm", codec="av1")
    clip = torch.zeros(9, 64, 64, 3, dtype=torch.uint8)
    encode_packets(CODERS["av1"], clip, 40)
    seen.add(os.sched_getscheduler(0))
    assert os.SCHED_FIFO not in seen
