"""What people hand over: bytes, files, pipes, addresses; each gives what the path gives."""

import io
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from small_clips import Clip, pattern

from reeltok.video.record import Video, read, stream, write


class _Server(BaseHTTPRequestHandler):
    """Serves the bytes of `held` under their paths; "/cut" promises more than it sends."""

    def __init__(self, held: dict[str, bytes], *rest: object) -> None:
        self.held = held
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            return
        if path not in self.held:
            self.send_error(404)
            return
        data = self.held[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + 1000 * (path == "/cut")))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A clip, and the address of a server that has it as /a.mp4 and, cut off, as /cut."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    path = clip()
    held = {"/a.mp4": path.read_bytes(), "/cut": path.read_bytes()}
    server = HTTPServer(("127.0.0.1", 0), partial(_Server, held))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_bytes_and_files_are_read(clip: Clip) -> None:
    path = clip()
    expected, data = read(path).frames, path.read_bytes()
    for given in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert torch.equal(read(given).frames, expected)
    with path.open("rb") as file:
        file.seek(100)  # it is read from its beginning all the same
        for _ in range(2):
            assert torch.equal(read(file).frames, expected)
            assert not file.closed
        assert torch.equal(read(file, start=0.2, frames=3).frames, expected[5:8])


def test_files_that_cannot_be_searched_are_read(clip: Clip) -> None:
    path = clip()

    class Forwards(io.RawIOBase):
        def __init__(self) -> None:
            self.left = io.BytesIO(path.read_bytes())

        def readable(self) -> bool:
            return True

        def readinto(self, into: bytearray) -> int:  # type: ignore[override]
            return self.left.readinto(into)

    assert torch.equal(read(io.BufferedReader(Forwards())).frames, read(path).frames)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as process:
        assert torch.equal(read(process.stdout).frames, read(path).frames)


def test_named_pipes_are_read_once_and_do_not_hang(clip: Clip, tmp_path: Path) -> None:
    path, pipe = clip(), tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"cat {path} > {pipe}"]):
        assert torch.equal(read(pipe).frames, read(path).frames)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # as the shell hands over <(cat clip.mp4)
        assert len(read(f"/dev/fd/{process.stdout.fileno()}", frames=4)) == 4


def test_addresses_are_fetched(served: tuple[Path, str]) -> None:
    path, server = served
    assert torch.equal(read(f"{server}/a.mp4?signature=secret").frames, read(path).frames)
    with stream(f"{server}/a.mp4", chunk=4) as parts:
        assert parts.source is None
        assert [len(part) for part in parts] == [4, 4, 2]


def test_addresses_that_fail_are_one_sentence(served: tuple[Path, str]) -> None:
    _, server = served
    with pytest.raises(FileNotFoundError, match=r"none.mp4 cannot be fetched: 404") as at:
        read(f"{server}/none.mp4?signature=secret")
    assert "secret" not in str(at.value)
    with pytest.raises(OSError, match=r"cut cannot be fetched: [\d,]+ of [\d,]+ bytes arrived"):
        read(f"{server}/cut")
    with pytest.raises(OSError, match="cannot be fetched"):  # no way from the net to the disk
        read(f"{server}/moved")
    with pytest.raises(OSError, match=r"127.0.0.1:1/a.mp4 cannot be fetched"):
        read("http://user:secret@127.0.0.1:1/a.mp4")


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reeltok.video.inputs._WAIT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/a.mp4"
        with pytest.raises(
            OSError, match=rf"{address} cannot be fetched: it does not answer within"
        ):
            read(f"http://{address}")


def test_fsspec_opens_other_addresses(clip: Clip) -> None:
    path = clip()
    fsspec.filesystem("memory").pipe("/bucket/a.mp4", path.read_bytes())
    assert torch.equal(read("memory://bucket/a.mp4").frames, read(path).frames)
    assert torch.equal(read(f"file://{path}").frames, read(path).frames)
    with pytest.raises(FileNotFoundError, match=r"no file memory://bucket/b.mp4"):
        read("memory://bucket/b.mp4")
    with pytest.raises(OSError, match="nowhere://a cannot be fetched"):
        read("nowhere://a")


def test_only_a_str_without_a_file_is_an_address(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="as a str, not as a Path"):
        read(Path("http://127.0.0.1/a.mp4"))
    folder = tmp_path / "memory:"
    folder.mkdir()
    clip().rename(folder / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read("memory://a.mp4")) == 10


@pytest.mark.parametrize("given", [5, None, np.zeros((2, 4, 4, 3), np.uint8), io.StringIO("a")])
def test_what_is_no_input_is_said(given: object) -> None:
    with pytest.raises(ValueError, match=r"is read from a path|open as text"):
        read(given)  # type: ignore[arg-type]


def test_text_that_is_open_as_text_is_said(clip: Clip) -> None:
    with clip().open() as file, pytest.raises(ValueError, match="open it with mode 'rb'"):
        read(file)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [16.0, np.int64(16), [16.0, 24], (16, 24)])
def test_sizes_may_be_whole_floats(clip: Clip, size: object) -> None:
    assert read(clip(), size=size).frames.shape[1:3] == (16, 24)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size", [16.5, "16", (16,), (1, 2, 3), float("nan"), True, (16, "a"), -1.0]
)
@pytest.mark.usefixtures("types_unchecked")
def test_other_sizes_are_refused(clip: Clip, size: object) -> None:
    with pytest.raises(ValueError, match="size is the short side"):
        read(clip(), size=size)  # type: ignore[arg-type]


# --- raw ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "levels"), [("yuv420p", 6), ("rgb24", 0), ("nv12", 6)])
def test_raw_pictures_are_read_when_they_are_described(
    tmp_path: Path, layout: str, levels: float
) -> None:
    import av

    frames = pattern(6, 32, 48)
    data = b""
    for picture in frames.numpy():
        frame = av.VideoFrame.from_ndarray(picture).reformat(format=layout, dst_colorspace=5)
        data += frame.to_ndarray().tobytes()
    path = tmp_path / "a_48x32_30.yuv"
    path.write_bytes(data)
    for given in (path, data):
        video = read(given, raw=f"48x32:30:{layout}")
        assert (video.fps, video.frames.shape) == (30, frames.shape)
        assert (video.frames.float() - frames.float()).abs().mean() <= levels
    part = read(path, raw=f"48x32:30:{layout}", start=0.1, frames=2)
    assert torch.equal(part.frames, video.frames[3:5])
    with pytest.raises(ValueError, match=r"give `raw='48x32:30:yuv420p'"):
        read(path)
    with pytest.raises(ValueError, match="not a whole number of pictures of 48x31"):
        read(path, raw=f"48x31:30:{layout}")


@pytest.mark.parametrize("raw", ["48x32", "48x32:30", "0x32:30:gray", "48x32:0:gray", "a", 5])
@pytest.mark.usefixtures("types_unchecked")
def test_raw_that_is_not_understood_says_how_to_write_it(clip: Clip, raw: str) -> None:
    with pytest.raises(ValueError, match="WIDTHxHEIGHT:FPS:LAYOUT"):
        read(clip(), raw=raw)
    with pytest.raises(ValueError, match="no pixel format"):
        read(clip(), raw="48x32:30:nothing")


def test_what_is_not_raw_is_said(clip: Clip, tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv", "a.avi", "a.gif"):
        kind = {"codec": "gif", "layout": "rgb8"} if name == "a.gif" else {}
        with pytest.raises(ValueError, match="leave out raw"):
            read(clip(name, **kind), raw="4x4:25:gray")
    with pytest.raises(ValueError, match="folder of images"):
        read(tmp_path, raw="4x4:25:gray")


def test_what_was_read_from_memory_can_be_written(clip: Clip, tmp_path: Path) -> None:
    video = read(clip().read_bytes())
    assert write(video, tmp_path / "b.mp4").frames == 10


def test_a_fingerprint_tells_inputs_apart(tmp_path: Path) -> None:
    video = Video(torch.arange(6 * 8 * 8 * 3).remainder(251).byte().view(6, 8, 8, 3), 10.0)
    other = replace(video, frames=video.frames.flip(0))
    found = []
    for number, each in enumerate((video, other)):
        for name in (f"{number}.mkv", f"{number}.png", f"frames{number}/"):
            path = tmp_path / name
            whole = each[:1] if name.endswith(".png") else each
            write(whole, str(path), lossless=not name.endswith("/"))
            with stream(path) as opened:
                found.append(opened.fingerprint())
                assert len(opened.whole()) == len(whole)
    assert len(set(found)) == 6
    with (tmp_path / "0.mkv").open("rb") as file, stream(file) as opened:
        parts = iter(opened)
        assert opened.fingerprint() == found[0]
        assert torch.equal(next(parts).frames, video.frames)
