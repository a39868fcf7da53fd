"""Files that are cut off: refused where their structure tells, noted where it cannot."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from small_clips import Clip, marked, number_of, repack

from reeltok.video.ending import ending_of
from reeltok.video.record import read, stream

LIVE = {"live": "1"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
CMAF = {"movflags": "cmaf+frag_keyframe+empty_moov"}
X264 = {"codec": "libx264", "layout": "yuv420p", "options": {"g": "12", "bf": "2"}}
VP9 = {"codec": "libvpx-vp9", "layout": "yuv420p", "options": {"deadline": "realtime", "g": "12"}}
FORMS = {  # name: how it is encoded, how it is packed again, whether it says where it ends
    "a.mkv": (X264, None, True),
    "live.mkv": (X264, LIVE, False),
    "live.webm": (VP9, LIVE, False),
    "a.ts": (X264, None, False),
    "a.nut": (X264, {}, True),
    "a.flv": (X264, {}, True),
    "frag.mp4": (X264, FRAGMENTS, True),
    "cmaf.mp4": (X264, CMAF, True),
    "fast.mp4": (X264, {"movflags": "faststart"}, True),
    "a.asf": (X264, {}, True),
    "a.ivf": (VP9, {}, True),
    "a.y4m": ({"codec": "wrapped_avframe", "layout": "yuv420p"}, None, True),
    "a.gif": ({"codec": "gif", "layout": "rgb8"}, None, True),
    "a.apng": ({"codec": "apng", "layout": "rgb24"}, None, True),
    "mjpeg.avi": ({"codec": "mjpeg", "layout": "yuvj420p"}, None, True),
    "a.mjpeg": ({"codec": "mjpeg", "layout": "yuvj420p"}, None, False),
    "a.h264": (X264, None, False),
    "a.m2v": ({"codec": "mpeg2video", "layout": "yuv420p"}, None, False),
    "a.mpg": ({"codec": "mpeg2video", "layout": "yuv420p"}, None, False),
}


@pytest.fixture
def form(clip: Clip, tmp_path: Path) -> Callable[[str], Path]:
    """A whole file of one of the forms."""

    def make(name: str) -> Path:
        encoded, packed, _ = FORMS[name]
        base = "base.webm" if encoded is VP9 else name if packed is None else "base.mp4"
        path = clip(base, marked(40), **encoded)
        return path if packed is None else repack(path, tmp_path / name, **packed)

    return make


@pytest.mark.parametrize("name", FORMS)
def test_no_cut_passes_in_silence(form: Callable[[str], Path], name: str) -> None:
    path = form(name)
    with stream(path) as whole:
        assert sum(map(len, whole)) == 40
        assert bool(whole.notes) is not FORMS[name][2]
    data = path.read_bytes()
    for eighth in range(1, 8):
        path.write_bytes(data[: len(data) * eighth // 8])
        try:
            with stream(path) as found:
                assert sum(map(len, found)) <= 40
        except ValueError:
            continue
        assert any("does not say where it ends" in note for note in found.notes)


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("a.mpg", "a.m2v")])
def test_frames_before_the_cut_are_read(form: Callable[[str], Path], name: str) -> None:
    path = form(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    assert [number_of(frame) for frame in read(path, frames=3).frames] == [0, 1, 2]


@pytest.mark.parametrize("name", ["a.mkv", "frag.mp4", "a.ts", "a.y4m", "a.nut"])
def test_a_cut_file_can_be_read_up_to_there(form: Callable[[str], Path], name: str) -> None:
    path = form(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
    for damage in ("stop", "skip"):
        video = read(path, damage=damage)
        assert 12 <= len(video) < 40
        assert [number_of(frame) for frame in video.frames[:12]] == list(range(12))
        assert any("cut off after" in note for note in video.notes)


OGG_PAGES = [(2, [30]), (0, [100, 120]), (0, [255, 255, 7]), (4, [80])]


def ogg(pages: list[tuple[int, list[int]]], serial: bytes = b"abcd") -> bytes:
    """Pages of one logical stream, of flags and sizes, without real content."""
    out = b""
    for flags, sizes in pages:
        head = b"OggS\0" + bytes([flags]) + bytes(8) + serial + bytes(8) + bytes([len(sizes)])
        out += head + bytes(sizes) + bytes(sum(sizes))
    return out


def test_an_ogg_file_ends_with_the_last_page_of_every_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.ogv"
    other = ogg([(2, [9]), (4, [9])], b"efgh")
    whole = ogg(OGG_PAGES)
    for data, ending in (
        (whole, "whole"),
        (other + whole, "whole"),
        (whole[:-1], "cut"),
        (ogg(OGG_PAGES[:-1]), "cut"),
        (other + ogg(OGG_PAGES[:-1]), "cut"),
        (whole[:40], "cut"),
    ):
        path.write_bytes(data)
        assert ending_of(f"file:{path}", "ogg") == ending
        with path.open("rb") as file:
            file.seek(3)
            assert ending_of(file, "ogg") == ending
            assert file.tell() == 3


@pytest.mark.parametrize("head", ["W32\0:1 H32", "W-5 H-7", "H32", "W H", "W99999999999 H2", ""])
def test_an_odd_head_of_y4m_is_one_sentence(tmp_path: Path, head: str) -> None:
    path = tmp_path / "a.y4m"
    path.write_bytes(f"YUV4MPEG2 {head} F10:1 Ip C420jpeg\nFRAME\n".encode() + bytes(1536))
    with contextlib.suppress(ValueError, OSError):
        assert len(read(path)) == 1
    with path.open("rb") as file:
        assert ending_of(file, "yuv4mpegpipe") in ("cut", "whole", "unsaid")
