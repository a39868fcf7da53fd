"""Which way up a photograph is, as its EXIF or its XMP says it (tag 274 of TIFF 6.0).

Read here and not by Pillow, which warns of damaged tags: a warning can only be silenced for all
threads at once. What is damaged is left out.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress

from reeltok.video.colour import UPRIGHT, Display
from reeltok.video.tiff import SIGNS, Tiff

_DISPLAYS: dict[int, Display] = {
    1: UPRIGHT,
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_RAW = b"Raw profile type exif\0"  # as ImageMagick wrote EXIF into PNG before there was a chunk
_TEXTS = (b"iTXt", b"tEXt", b"zTXt")  # PNG's chunks of text
_LONGEST = 2**20  # bytes of unpacked text


def orientation_of(data: bytes, kind: str) -> Display:
    """The display matrix of a picture of this kind, by Pillow's name; upright where none is said.

    XMP counts where EXIF says nothing.
    """
    blocks = [block.removeprefix(b"Exif\0\0") for block in _blocks(data, kind)]
    for block in blocks:
        if block.startswith(SIGNS):
            tiff = Tiff(block)
            if (found := tiff.tags(tiff.first).get(274)) is not None:
                return _DISPLAYS.get(found, UPRIGHT)
    for block in blocks:
        if kind != "TIFF" and (said := _IN_XMP.search(block)):
            return _DISPLAYS[int(said[1])]
    return UPRIGHT


def _blocks(data: bytes, kind: str) -> Iterator[bytes]:
    """The parts of a picture that may hold EXIF or XMP."""
    if kind == "TIFF":
        yield data
    elif kind == "JPEG":
        yield from _jpeg_blocks(data)
    elif kind == "PNG":
        yield from _png_blocks(data)
    elif kind == "WEBP":
        at = 12
        while at + 8 <= len(data):
            length = int.from_bytes(data[at + 4 : at + 8], "little")
            if data[at : at + 4] in (b"EXIF", b"XMP "):
                yield data[at + 8 : at + 8 + length]
            at += 8 + length + length % 2


def _jpeg_blocks(data: bytes) -> Iterator[bytes]:
    """What stands in the APP1 segments before the pixels (ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # filled up
            at += 1
            continue
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
        if data[at + 1] == 0xE1:
            yield data[at + 4 : end]
        at = end


def _png_blocks(data: bytes) -> Iterator[bytes]:
    """The EXIF and the texts of a PNG, before the pixels or behind them."""
    at = 8
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if kind == b"eXIf" or kind in _TEXTS:
            body = data[at + 8 : at + 8 + length]
            packed = kind == b"zTXt"
            yield _unpacked(body[len(_RAW) :], packed) if body.startswith(_RAW) else body
        at += 12 + length


def _unpacked(text: bytes, packed: bool) -> bytes:
    """The EXIF in a text of ImageMagick's: three lines of its own, then hexadecimal digits."""
    with suppress(ValueError, zlib.error):
        if packed:
            text = zlib.decompressobj().decompress(text[1:], _LONGEST)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
    return b""
