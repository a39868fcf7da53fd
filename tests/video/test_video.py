"""The Video record, and files in and out: what is kept, what is exact, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from reeltok.video.record import Video, read, stream, to_bytes, to_unit, write


def pattern(frames: int = 10, height: int = 32, width: int = 48) -> Tensor:
    """Smooth colours that move, no two frames alike: uint8 "t h w 3"."""
    t, y, x = torch.meshgrid(
        torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij"
    )
    return torch.stack([x * 4 + t * 6, y * 6 + t * 3, 200 - x - y - t], -1).clamp(0, 255).byte()


def noise(frames: int = 6, height: int = 32, width: int = 48) -> Tensor:
    """Every byte at random: nothing but a lossless codec brings it back."""
    return torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8)


def error(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference in levels."""
    return float((a.float() - b.float()).abs().mean())


# --- bytes and values -----------------------------------------------------------------------------


def test_bytes_survive_the_way_to_values_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    values = to_unit(every)
    assert values.min() == -1
    assert values.max() == 1
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(to_bytes(values.to(dtype)), every)


def test_values_are_rounded_not_truncated_and_clamped() -> None:
    levels = torch.tensor([99.6, 100.4, -7.0, 300.0]) / 127.5 - 1
    x = levels.reshape(1, 1, 1, 1, 4).expand(1, 3, 1, 1, 4)
    assert to_bytes(x)[0, 0, :, 0].tolist() == [100, 100, 0, 255]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_bytes(torch.full((1, 3, 1, 4, 4), float("nan")))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.ts", "a.gif"])
def test_every_container_keeps_frames_rate_and_size(tmp_path: Path, name: str) -> None:
    frames = pattern()
    written = write(Video(frames, fps=25.0), tmp_path / name)
    back = read(tmp_path / name)
    assert written.frames == len(back) == 10
    assert (back.height, back.width, back.fps, back.times) == (32, 48, 25.0, None)
    assert error(back.frames, frames) < (6 if name == "a.gif" else 3)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "folder"])
def test_lossless_is_exact(tmp_path: Path, name: str) -> None:
    frames = noise(height=31, width=47)
    write(Video(frames, fps=30.0), tmp_path / name, lossless=True)
    assert torch.equal(read(tmp_path / name).frames, frames)


def test_parts_of_a_stream_are_the_whole(tmp_path: Path) -> None:
    write(Video(pattern(), fps=25.0), tmp_path / "a.mp4")
    whole = read(tmp_path / "a.mp4")
    with stream(tmp_path / "a.mp4", chunk=4) as parts:
        assert (parts.frames, parts.height, parts.width, parts.fps) == (10, 32, 48, 25.0)
        videos = list(parts)
    assert [len(video) for video in videos] == [4, 4, 2]
    assert torch.equal(torch.cat([video.frames for video in videos]), whole.frames)


def test_of_takes_tensors_and_arrays() -> None:
    frames = pattern(3)
    video = Video.of(frames.numpy(), fps=8)
    assert torch.equal(video.frames, frames)
    assert video.fps == 8
    assert torch.equal(Video.of(video.tensor(), like=video).frames, frames)
    assert len(Video.of(np.zeros((4, 4, 3), np.uint8))) == 1
    with pytest.raises(ValueError, match=r"not float32 \(3, 4, 4\)"):
        Video.of(torch.zeros(3, 4, 4))


def test_a_stream_is_gone_through_once(tmp_path: Path) -> None:
    write(Video(pattern(), fps=25.0), tmp_path / "a.mp4")
    parts = stream(tmp_path / "a.mp4")
    assert sum(len(part) for part in parts) == 10
    with pytest.raises(ValueError, match="open it again"):
        list(parts)
    with stream(tmp_path / "a.mp4") as closed:
        pass
    with pytest.raises(ValueError, match="open it again"):
        list(closed)


def test_slices_keep_rate_times_and_place(tmp_path: Path) -> None:
    times = torch.tensor([0, 0.1, 0.15, 0.6], dtype=torch.float64)
    constant, varying = Video(pattern(4), 8.0), Video(pattern(4), 5.0, times, start=1.0)
    assert constant[2:].start == 0.25
    assert constant[::2].fps == 4
    assert constant[2:2].times is None
    assert varying[1:3].start == pytest.approx(1.1)
    assert varying[1:3].times is not None
    assert varying[1:3].times.tolist() == pytest.approx([0, 0.05])
    assert (constant.seconds, Video(pattern(4)).seconds) == (0.5, None)
    with pytest.raises(TypeError, match="slice"):
        constant[1]
    with pytest.raises(ValueError, match="forwards"):
        constant[::-1]


def test_what_it_prints() -> None:
    assert repr(Video(pattern(), fps=30000 / 1001)) == "Video(10 x 32x48, 29.97 fps)"
    assert repr(Video(pattern())) == "Video(10 x 32x48, no fps)"


def test_a_data_loader_makes_a_batch_for_a_tokenizer() -> None:
    frames = torch.randint(0, 256, (4, 5, 16, 24, 3), dtype=torch.uint8)
    videos = [{"video": Video(each, 25.0), "label": i} for i, each in enumerate(frames)]
    first, second = DataLoader(videos, batch_size=2)
    assert torch.equal(first["video"], torch.cat([Video(each).tensor() for each in frames[:2]]))
    assert second["label"].tolist() == [2, 3]
    mixed = [Video(frames[0]), Video(frames[1][:4])]
    with pytest.raises(ValueError, match="found 4 frames of 16x24 and 5 frames of 16x24"):
        next(iter(DataLoader(mixed, batch_size=2)))


def test_a_video_is_a_pytree_of_its_tensors() -> None:
    video = Video(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 25.0)
    moved = tree_map(lambda x: None if x is None else x + 1, video)
    assert (int(moved.frames.min()), moved.fps, moved.times) == (1, 25.0, None)
