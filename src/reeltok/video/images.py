"""Pictures: which files are pictures, their natural order, and their frames upright and whole.

What a file is stands in its first bytes, not in its name. One file may hold several pictures: the
pages of a TIFF, the frames of an animated WebP. (FFmpeg plays an animated PNG as a video.)
"""

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float
from PIL import Image

from reeltok.files.hashes import hash_parts
from reeltok.video.colour import UPRIGHT, Display
from reeltok.video.formats import open_container
from reeltok.video.inputs import Input, open_input
from reeltok.video.layout import picture_of
from reeltok.video.orientation import orientation_of
from reeltok.video.tiff import SIGNS, Tiff

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# Damage ends decoding instead of being painted over, in pictures as in Motion JPEG.
STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
_UNSAID = 0.1  # seconds that browsers show a frame for which the file says 0


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodedPicture:
    """One decoded picture, how to turn it upright, and where it came from for errors."""

    frame: av.VideoFrame
    display: Display
    name: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Pictures:
    """Pictures in order, decoded one by one; `load` takes rising numbers below `count`."""

    name: str
    count: int
    load: Callable[[int], DecodedPicture]
    stamps: Float[np.ndarray, " n"] | None = None  # seconds, where the file says when each shows
    end: float = 0.0  # seconds at which the last of those goes


def images_of(folder: Path) -> list[Path]:
    """The images of a folder in natural order: 2.png before 10.png; hidden ones are left out."""
    with os.scandir(folder) as entries:
        found = [
            entry
            for entry in entries
            if Path(entry.name).suffix.lower() in IMAGES
            and not entry.name.startswith(".")
            and not entry.is_dir()
        ]
    if not found:
        raise ValueError(
            f"the folder {folder} holds no images ({', '.join(IMAGES)}): to read a video, name its "
            "file"
        )
    for entry in found:
        if not entry.is_file():
            raise ValueError(
                f"{folder / entry.name} is not a file, or a link to none: put the image there, or "
                "remove it"
            )

    def natural(name: str) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"(\d+)", name)
        return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts], name

    return [folder / name for name in sorted((entry.name for entry in found), key=natural)]


def folder_fingerprint(folder: Path) -> str:
    """A short hash of its images: their names and sizes, and some of the first and the last."""
    files = images_of(folder)
    ends = [open_input(file).fingerprint() for file in (files[0], files[-1])]
    return hash_parts([*ends, *(f"{file.name} {file.stat().st_size}" for file in files)])[:32]


def pictures_of(taken: Input) -> Pictures | None:
    """The pictures in an input, or None where it is not a picture (a video, an animated PNG)."""
    kind = kind_of(taken.head())
    if kind is None or (kind == "JPEG" and _is_motion_jpeg(taken)):
        return None
    data = read_all(taken)
    if kind == "PNG" and _is_animated_png(data):
        return None
    if kind == "WEBP" and (moving := _animated_webp(data, taken.name)):
        return moving
    if kind == "TIFF":
        return _pages(Tiff(data), taken.name)
    return Pictures(name=taken.name, count=1, load=lambda _: _decoded(data, kind, taken.name))


def pictures_in(folder: Path) -> Pictures:
    """The images of a folder, one picture each. ValueError for a file with more than one."""
    files = images_of(folder)

    def load(number: int) -> DecodedPicture:
        file = files[number]
        data = file.read_bytes()
        kind = kind_of(data)
        if kind is None:
            raise ValueError(f"{file} is not an image, or it is damaged")
        if _holds_many(data, kind, str(file)):
            raise ValueError(
                f"{file} holds more than one picture, and an image of a folder is one frame: "
                "read it by itself"
            )
        return _decoded(data, kind, str(file))

    return Pictures(name=str(folder), count=len(files), load=load)


def never_left_out(pictures: Pictures) -> Pictures:
    """The same for who asked for damage to be passed over: the errors say that it is not."""

    def load(number: int) -> DecodedPicture:
        try:
            return pictures.load(number)
        except ValueError as error:
            raise ValueError(
                f"{error}; `damage` is for frames of videos, a picture is never left out"
            ) from error

    return replace(pictures, load=load)


def kind_of(head: bytes) -> str | None:
    """Pillow's name of the kind of picture that begins with these bytes; None for no picture."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(SIGNS):
        return "TIFF"
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return "BMP"
    return None


def read_all(taken: Input) -> bytes:
    """All bytes of an input."""
    return taken.head(-1)


# --- one picture ----------------------------------------------------------------------------------


def _decoded(data: bytes, kind: str, name: str) -> DecodedPicture:
    try:
        with open_container(io.BytesIO(data), name) as container:
            container.streams.video[0].codec_context.options = STRICT
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError, ValueError) as error:
        if kind == "TIFF":  # Pillow knows more of its many kinds
            return _decoded_by_pillow(data, kind, name)
        raise ValueError(f"{name} is not an image, or it is damaged") from error
    if frame.is_corrupt or (kind == "JPEG" and jpeg_end(data) is None):
        raise ValueError(f"{name} is cut off or damaged: it is not the whole picture")
    return DecodedPicture(frame=frame, display=orientation_of(data, kind), name=name)


def _decoded_by_pillow(data: bytes, kind: str, name: str) -> DecodedPicture:
    """The same by Pillow, which turns pictures upright by itself."""
    try:
        picture = Image.open(io.BytesIO(data), formats=[kind])
        picture.load()
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is not an image, or it is damaged") from error
    try:
        pixels = picture_of(picture)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return DecodedPicture(frame=frame, display=UPRIGHT, name=name)


def jpeg_end(data: bytes) -> int | None:
    """Where the first JPEG in `data` ends, or None if it does not (ITU-T T.81, annex B)."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker == 0xD9:
            return at + 2
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # stuffed, or without a length
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def jpegs_are_whole(data: bytes) -> bool:
    """Whether every JPEG in `data` ends: one, or the two fields of an interlaced frame."""
    while (end := jpeg_end(data)) is not None:
        data = data[end:].lstrip(b"\0\xff")  # cameras fill up what they write
        if not data.startswith(b"\xd8"):
            return True
        data = b"\xff" + data
    return False


# --- several in one file --------------------------------------------------------------------------


def _holds_many(data: bytes, kind: str, name: str) -> bool:
    if kind == "PNG":
        return _is_animated_png(data)
    if kind == "WEBP":
        return bool(_animated_webp(data, name))
    return kind == "TIFF" and len(Tiff(data).pages(name)) > 1


def _is_motion_jpeg(taken: Input) -> bool:
    """JPEG after JPEG without a container; a camera's second view or a thumbnail is none."""
    if taken.suffix in IMAGES:
        return False
    if taken.suffix in (".mjpeg", ".mjpg"):
        return True
    data = read_all(taken)
    end = jpeg_end(data)
    return end is not None and data.startswith(b"\xff\xd8\xff", end) and b"MPF\0" not in data[:end]


def _is_animated_png(data: bytes) -> bool:
    """Whether a PNG has animation: acTL before the first IDAT."""
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind == b"IDAT":
            return False
        if kind == b"acTL":
            return int.from_bytes(data[at + 8 : at + 12]) > 1
        at += 12 + length
    return False


def _pages(tiff: Tiff, name: str) -> Pictures:
    """The pages of a TIFF, each decoded as a file of its own."""
    pages = tiff.pages(name)

    def load(number: int) -> DecodedPicture:
        said = name if len(pages) == 1 else f"page {number + 1} of {name}"
        return _decoded(tiff.page(pages[number]), "TIFF", said)

    return Pictures(name=name, count=len(pages), load=load)


def _animated_webp(data: bytes, name: str) -> Pictures | None:
    """The frames of an animated WebP as Pillow lays them over one another; None for a still."""
    if data[12:16] != b"VP8X" or not data[20:21] or not data[20] & 0b10:
        return None
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ValueError(f"{name} is cut off: its header promises more bytes")
    try:
        picture: Any = Image.open(io.BytesIO(data), formats=["WEBP"])
        shown = [_seconds(picture, number) for number in range(picture.n_frames)]
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{name} is not an image, or it is damaged") from error
    ends = np.cumsum(shown)

    def load(number: int) -> DecodedPicture:
        try:
            picture.seek(number)
            pixels = np.asarray(picture.convert("RGBA"))
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{name} is damaged: frame {number} cannot be decoded") from error
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
        return DecodedPicture(frame=frame, display=UPRIGHT, name=f"frame {number} of {name}")

    stamps = np.concatenate([[0.0], ends[:-1]])
    return Pictures(name=name, count=len(shown), load=load, stamps=stamps, end=float(ends[-1]))


def _seconds(picture: Any, number: int) -> float:
    picture.seek(number)
    picture.load()
    return picture.info.get("duration", 0) / 1000 or _UNSAID
