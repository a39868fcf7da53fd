"""Small inputs that once failed, where reference data has them; the other tests make their own."""

from pathlib import Path
from typing import Any

import pytest

from reeltok.video.record import read

pytestmark = pytest.mark.weights


def number_of(picture: Any) -> int:
    """The number that eight bars across a test picture spell, the lowest bit on the left."""
    grey = picture.float().mean(-1)
    height, width = grey.shape
    rows = grey[height // 2 - 4 : height // 2 + 4]
    bars = [rows[:, int((b + 0.3) * width / 8) : int((b + 0.7) * width / 8)] for b in range(8)]
    return sum(int(bar.mean() > 118) << b for b, bar in enumerate(bars))


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("10_three_frames.png", 3),
        ("10_three_frames.webp", 3),
        ("10_mp4_named.png", 60),
        ("11_mac_folder", 2),
    ],
)
def test_pictures_and_videos_are_told_apart(shared: Path, name: str, frames: int) -> None:
    video = read(shared / "cases" / name)
    assert len(video) == frames
    if frames == 60:
        assert [number_of(picture) for picture in video.frames] == list(range(60))


def test_half_a_jpeg_is_refused(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"07_half.jpg is not an image, or it is damaged"):
        read(shared / "cases/07_half.jpg")


def test_raw_pictures_keep_their_order(shared: Path) -> None:
    path = shared / "cases/20_96x64_25_8bit_420.yuv"
    with pytest.raises(ValueError, match="give `raw='96x64:25:yuv420p'"):
        read(path)
    video = read(path, raw="96x64:25:yuv420p")
    assert (video.fps, video.height, video.width) == (25, 64, 96)
    assert [number_of(picture) for picture in video.frames] == list(range(10))
