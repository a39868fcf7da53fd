"""Single images: which files are images, their natural order, and one decoded and upright."""

import io
import re
from pathlib import Path

import av
from PIL import Image

from reeltok.media.colour import UPRIGHT, Display

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# EXIF orientation -> display matrix (TIFF 6.0, tag 274).
_EXIF: dict[int, Display] = {
    1: UPRIGHT,
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def images_of(folder: Path) -> list[Path]:
    """The images of a folder in natural order: 2.png before 10.png."""
    found = [file for file in folder.iterdir() if file.suffix.lower() in IMAGES]
    if not found:
        raise ValueError(f"the folder {folder} holds no images ({', '.join(IMAGES)})")

    def natural(file: Path) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", file.name)]

    return sorted(found, key=natural)


def load_image(file: Path) -> tuple[av.VideoFrame, Display]:
    """The frame of an image file and how to turn it upright (EXIF)."""
    data = io.BytesIO(file.read_bytes())
    try:
        with av.open(data, "r") as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"{file} is not an image, or it is damaged") from error
    data.seek(0)
    try:
        orientation = Image.open(data).getexif().get(0x0112, 1)
    except (OSError, SyntaxError):  # readable for FFmpeg, not for Pillow: no orientation
        orientation = 1
    return frame, _EXIF.get(orientation, UPRIGHT)
