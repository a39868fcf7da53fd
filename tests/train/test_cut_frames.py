"""Training clips by time: every way of keeping them gives the same frames, at the rate asked."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from reeltok.data.find import find_clips
from reeltok.train.clips import DataConfig, Window
from reeltok.train.data import ClipSource
from reeltok.train.frames import ClipFrames, check_clips, open_clips
from reeltok.video.record import read

CODECS = {".gif": ("gif", "rgb8"), ".y4m": ("wrapped_avframe", "yuv420p")}
VARYING = [0, 40, 80, 200, 240, 250, 400, 520, 560, 600, 640, 700, 860, 900, 920, 1000, 1100, 1140]


def made(path: Path, *, fps: Fraction | int = 25, stamps: list[int] | None = None) -> Path:
    """A clip of 48 frames (or as many as time stamps in ms), no two alike, with B-frames."""
    codec, layout = CODECS.get(path.suffix, ("libx264", "yuv420p"))
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=fps, options={"bf": "2"} if codec == "libx264" else {})
        track.height, track.width, track.pix_fmt = 32, 48, layout
        if stamps:
            track.codec_context.time_base = Fraction(1, 1000)
        for number in range(len(stamps) if stamps else 48):
            pixels = np.full((32, 48, 3), 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=layout)
            if stamps:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def config(**values) -> DataConfig:
    window = Window(frames=5, size=16, batch=4)
    return replace(DataConfig(windows=(window,), holdout=0.0, cache="none"), **values)


def opened(path: Path, tmp_path: Path, **values) -> ClipFrames:
    held, broken = open_clips(find_clips(path), config(**values), cache=tmp_path / "cache")
    assert not broken
    return next(iter(held.values()))


@pytest.mark.parametrize("fps", [None, 8.0, 30.0])
@pytest.mark.parametrize("name", ["a.avi", "a.mp4", "a.mkv", "a.ts", "a.gif", "a.y4m", "v.mkv"])
def test_every_cache_cuts_the_same_frames(tmp_path: Path, name: str, fps: float | None) -> None:
    """Also where pictures are reordered without time stamps (avi), and where the rate varies."""
    path = made(tmp_path / name, stamps=VARYING if name == "v.mkv" else None)
    whole = read(path, fps=fps).frames
    ways = [opened(path, tmp_path, cache=kind, fps=fps) for kind in ("none", "disk", "memory")]
    assert {way.clip.frames for way in ways} == {len(whole)}
    for start, stop, step in ((0, 5, 1), (5, 10, 1), (3, 9, 2), (len(whole) - 4, len(whole), 1)):
        for way in ways:
            cut = way.cut(slice(start, stop, step))
            assert torch.equal(cut, whole[start:stop:step]), (way.held is None, start)


@pytest.mark.parametrize(
    ("source", "target", "count"),
    [
        (24, 16.0, 32),
        (Fraction(24000, 1001), 24.0, 49),
        (30, 12.0, 20),
        (25, 30.0, 58),
        (24, 24.0, 48),
    ],
)
def test_clips_are_resampled_to_the_rate_itself(
    tmp_path: Path, source: Fraction, target: float, count: int
) -> None:
    """Not by the nearest whole step: 24 frames per second would become 12 or 24 instead of 16."""
    path = made(tmp_path / "a.mp4", fps=source)
    frames = opened(path, tmp_path, fps=target)
    assert (frames.clip.fps, frames.clip.frames) == (target, count)
    assert torch.equal(frames.cut(slice(0, count)), read(path, fps=target).frames)
    batch = ClipSource({frames.clip: frames}, config(fps=target, strides=(2, 3))).batch(0)
    assert batch.x.shape == (4, 3, 5, 16, 16)


def test_frames_that_cannot_be_decoded_leave_the_others_to_train_on(tmp_path: Path) -> None:
    path = made(tmp_path / "a.ts")
    data = path.read_bytes()
    heads = [n for n in range(len(data) // 188) if data[188 * n + 1] & 0x5F == 0x41]
    heads = [n for n in heads if data[188 * n + 2] == 0]  # the packets that begin frames
    path.write_bytes(data[: 188 * heads[20]] + data[188 * heads[20] + 188 :])
    with pytest.raises(ValueError, match="set `damage` to stop or skip"):
        opened(path, tmp_path, cache="disk")
    whole = read(path, damage="skip").frames
    for kind in ("none", "disk"):
        frames = opened(path, tmp_path, cache=kind, damage="skip")
        assert frames.clip.frames == len(whole) == 47
        for start in (0, 17, 42):
            assert torch.equal(frames.cut(slice(start, start + 5)), whole[start : start + 5])
    with pytest.raises(ValueError, match="cannot be decoded"):
        check_clips(path.parent, out=tmp_path / "out")
    found = check_clips(path.parent, out=tmp_path / "out", damage="skip")
    assert (found.frames, found.damaged) == (47, {"a.ts": 1})
