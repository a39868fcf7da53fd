"""What `write` and `Video.of` take beside a Video: lists, arrays, tensors, Pillow's pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_clips import pattern
from torch import Tensor

from reeltok.video.record import Video, read, to_unit, write

FRAMES = pattern(5, 16, 24)
VALUES = to_unit(FRAMES)  # 1 3 t h w


@pytest.mark.parametrize(
    "given",
    [
        lambda: FRAMES,
        lambda: FRAMES.numpy(),
        lambda: FRAMES.permute(0, 3, 1, 2),
        lambda: FRAMES.permute(3, 0, 1, 2),
        lambda: FRAMES.permute(3, 0, 1, 2)[None],
        lambda: FRAMES[None],
        lambda: FRAMES.numpy()[:, ::-1][:, ::-1],  # a view that torch cannot take
        lambda: VALUES,
        lambda: VALUES.double().numpy(),
        lambda: VALUES[0],
        lambda: VALUES[0].movedim(0, 1),
        lambda: VALUES.clone().requires_grad_(),
        lambda: list(FRAMES),
        lambda: list(FRAMES.numpy()),
        lambda: iter(FRAMES.permute(0, 3, 1, 2).numpy()),
        lambda: [Image.fromarray(picture) for picture in FRAMES.numpy()],
        lambda: list(VALUES[0].movedim(0, 1)),
        lambda: [FRAMES[:2], Video(FRAMES[2:4], 5.0), FRAMES[4].numpy()],
    ],
)
def test_usual_layouts_are_written(tmp_path: Path, given: Callable[[], Any]) -> None:
    written = write(given(), tmp_path / "a.mkv", fps=10, lossless=True)
    assert (written.frames, written.fps) == (5, 10)
    assert torch.equal(read(tmp_path / "a.mkv").frames, FRAMES)


@pytest.mark.parametrize("fold", [lambda x: x, list])
def test_grey_and_transparent_pictures(tmp_path: Path, fold: Callable[[Tensor], Any]) -> None:
    grey = FRAMES[..., :1]
    write(fold(grey), tmp_path / "a.mkv", fps=10, lossless=True)
    assert torch.equal(read(tmp_path / "a.mkv").frames, grey.expand_as(FRAMES))
    clear = torch.cat([FRAMES, torch.zeros_like(grey)], -1)
    clear[:, :, 12:, 3] = 255
    write(fold(clear), tmp_path / "a.mkv", fps=10, lossless=True)
    back = read(tmp_path / "a.mkv").frames
    assert back[:, :, :12].eq(0).all()
    assert torch.equal(back[:, :, 12:], FRAMES[:, :, 12:])


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "CMYK", "I;16"])
def test_pictures_of_every_mode(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.full((16, 24), 255, np.uint8))
    picture = grey.convert(mode)
    if mode == "I;16":
        picture = Image.fromarray(np.full((16, 24), 65535, np.uint16))
    write([picture] * 3, tmp_path / "a.mkv", fps=10, lossless=True)
    assert read(tmp_path / "a.mkv").frames.eq(255).all()
    write(picture, tmp_path / "a.png")
    assert read(tmp_path / "a.png").frames.eq(255).all()


def test_a_list_of_grey_arrays(tmp_path: Path) -> None:
    write([np.full((16, 24), 7, np.uint8)] * 2, tmp_path / "a.mkv", fps=10, lossless=True)
    assert read(tmp_path / "a.mkv").frames.eq(7).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a.mp4", "a value of type str is not a video"),
        (Path("a.mp4"), "is not a video"),
        (5, "a value of type int is not a video"),
        (None, "is not a video"),
        ({"frames": 1}, "a value of type dict is not a video"),
        ([], "no frames to write"),
        ([1, 2], "a value of type int is not a picture"),
        (["a.png"], "a value of type str is not a picture"),
        (np.zeros((2, 16, 24, 3)), "not float64"),
        ([np.zeros((16, 24, 3), np.float32)], "not float32"),
        (np.zeros((2, 16, 24, 3), np.int64), "not int64"),
        (np.zeros((2, 16, 24, 3), np.uint16), "not uint16"),
        (np.zeros((2, 16, 24, 3), bool), "not bool"),
        (np.zeros((2, 16, 24, 2), np.uint8), r"not uint8 \(2, 16, 24, 2\)"),
        (np.zeros((5, 16, 24), np.uint8), r"not uint8 \(5, 16, 24\)"),
        (np.zeros((3, 3, 16, 24), np.uint8), "could be 'c t h w' or 't c h w'"),
        (torch.zeros(3, 3, 16, 24), "could be 'c t h w' or 't c h w'"),
        (torch.zeros(2, 3, 4, 16, 24), "not float32"),
        (np.zeros((0, 16, 24, 3), np.uint8), "at least one frame"),
        ([np.zeros((16, 24, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)], "changes its frame"),
        ([Image.new("F", (24, 16))], "no fixed range"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_what_is_no_video_is_said(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        write(given, tmp_path / "a.mp4", fps=10)
    assert not list(tmp_path.iterdir())


def test_a_rate_is_needed_for_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give it with `fps`"):
        write(list(FRAMES), tmp_path / "a.mp4")


def test_of_takes_the_same_layouts() -> None:
    for given in (FRAMES.permute(3, 0, 1, 2), VALUES[0], FRAMES.numpy()):
        assert torch.equal(Video.of(given, fps=3).frames, FRAMES)


def test_floats_of_three_rows_may_be_channels_last() -> None:
    """Then nobody knows; bytes are channels last, as everywhere."""
    x = torch.rand(3, 8, 8, 3) * 2 - 1
    for given in (x, x.numpy(), torch.rand(5, 3, 8, 3)):
        with pytest.raises(ValueError, match=r"could be .*'t h w c'"):
            Video.of(given)
    assert Video.of(torch.rand(3, 8, 8, 5) * 2 - 1).frames.shape == (8, 8, 5, 3)
    assert Video.of(torch.zeros(3, 8, 8, 3, dtype=torch.uint8)).frames.shape == (3, 8, 8, 3)
