"""Whether a file ends where its own structure says, or was cut off; read from its bytes alone.

Each container is walked over the lengths that it declares, and nothing of it is decoded.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal

Ending = Literal["whole", "cut", "unsaid"]  # unsaid: the file does not declare where it ends

_FILE_SIZE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # ASF, file properties object
_INDEX = b"NX\xdd\x67\x2f\x23\xe6\x4e"  # NUT, start code of the index at the end
_PACKETS = (188, 192, 204)  # bytes of a transport packet: plain, with a time code, with parity


def ending_of(file: str | BinaryIO, kind: str) -> Ending:
    """How a file of FFmpeg's format `kind` ends; one that is not known here does not say."""
    walk = _WALKS.get(kind)
    if walk is None:
        return "unsaid"
    with _opened(file) as data:
        return walk(data, data.seek(0, io.SEEK_END))


def length_of(file: str | BinaryIO) -> int:
    """Bytes of a file."""
    with _opened(file) as data:
        return data.seek(0, io.SEEK_END)


@contextmanager
def _opened(file: str | BinaryIO) -> Iterator[BinaryIO]:
    """The file to look around in; one that is open already stands afterwards where it stood."""
    if isinstance(file, str):
        with open(file.removeprefix("file:"), "rb") as opened:
            yield opened
        return
    at = file.tell()
    try:
        yield file
    finally:
        file.seek(at)


def _take(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _at_edge(at: int, length: int) -> Ending:
    return "whole" if at == length else "cut"


def _gif(file: BinaryIO, length: int) -> Ending:
    tail = _take(file, max(0, length - 64), 64)
    return "whole" if tail.rstrip(b"\0").endswith(b";") else "cut"


def _png(file: BinaryIO, length: int) -> Ending:
    at = 8
    while at + 12 <= length:
        head = _take(file, at, 8)
        at += 12 + int.from_bytes(head[:4])
        if head[4:] == b"IEND":
            return "whole" if at <= length else "cut"
    return "cut"


def _riff(file: BinaryIO, length: int) -> Ending:
    """AVI: one or more RIFF chunks; one that was never finished has no length of its own."""
    at = 0
    while at + 12 <= length:
        head = _take(file, at, 8)
        size = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF":
            return "whole"
        if size in (0, 0xFFFFFFFF):
            return "unsaid"
        at += 8 + size + size % 2
    return "cut" if at > length + 1 else "whole"


def _asf(file: BinaryIO, length: int) -> Ending:
    head = _take(file, 0, 65536)
    at = head.find(_FILE_SIZE)
    said = int.from_bytes(head[at + 40 : at + 48], "little") if at >= 0 else 0
    live = at >= 0 and head[at + 88] & 1 if len(head) > at + 88 else False
    return "unsaid" if not said or live else ("cut" if length < said else "whole")


def _ivf(file: BinaryIO, length: int) -> Ending:
    head = _take(file, 0, 32)
    at, found = int.from_bytes(head[6:8], "little"), 0
    while at + 12 <= length:
        at += 12 + int.from_bytes(_take(file, at, 4), "little")
        found += 1
    said = int.from_bytes(head[24:28], "little")
    if at != length or found < said:
        return "cut"
    return "whole" if said else "unsaid"


def _y4m(file: BinaryIO, length: int) -> Ending:
    """Frames of one length, each with a header line of its own."""
    header = _take(file, 0, 4096).partition(b"\n")[0]
    fields = {part[:1]: part[1:].decode("ascii", "replace") for part in header.split(b" ")[1:]}
    sides = [fields.get(letter, "") for letter in (b"W", b"H")]
    if not all(side.isdecimal() and len(side) < 10 for side in sides):
        return "unsaid"
    each = _y4m_bytes(int(sides[0]), int(sides[1]), fields.get(b"C", "420"))
    at = len(header) + 1
    while at < length:
        line = _take(file, at, 256).partition(b"\n")
        if not line[0].startswith(b"FRAME") or not line[1]:
            return "cut" if length - at < 256 else "unsaid"
        at += len(line[0]) + 1 + each
    return "cut" if at > length else "whole"


def _y4m_bytes(width: int, height: int, layout: str) -> int:
    deep = 2 if any(layout.endswith(f"p{bits}") for bits in (9, 10, 12, 14, 16)) else 1
    deep = 2 if layout in ("mono9", "mono10", "mono12", "mono16") else deep
    half, halves = -(-width // 2), -(-height // 2)
    if layout.startswith("mono"):
        chroma = 0
    elif layout.startswith("444"):
        chroma = (3 if layout == "444alpha" else 2) * width * height
    elif layout.startswith("422"):
        chroma = 2 * half * height
    elif layout.startswith("411"):
        chroma = 2 * -(-width // 4) * height
    else:
        chroma = 2 * half * halves
    return deep * (width * height + chroma)


def _transport(file: BinaryIO, length: int) -> Ending:
    """Packets of one length that begin with a sync byte; how many there are is said nowhere."""
    head = _take(file, 0, 4 * max(_PACKETS) + 4)
    for each in _PACKETS:
        sync = 4 if each == 192 else 0
        if all(head[at : at + 1] == b"\x47" for at in range(sync, min(length, 4 * each), each)):
            last = _take(file, max(0, length - each), each)
            return "unsaid" if last[sync : sync + 1] == b"\x47" else "cut"
    return "unsaid"


def _program(file: BinaryIO, length: int) -> Ending:
    """MPEG program and video streams may end with an end code, and need not."""
    tail = _take(file, max(0, length - 64), 64).rstrip(b"\0")
    return "whole" if tail.endswith((b"\0\0\x01\xb9", b"\0\0\x01\xb7")) else "unsaid"


def _flash(file: BinaryIO, length: int) -> Ending:
    head = _take(file, 0, 65536)
    at = head.find(b"filesize\0")
    said = struct.unpack(">d", head[at + 9 : at + 17])[0] if 0 <= at <= len(head) - 17 else 0.0
    if 0 < said < 2**53:
        return "cut" if length < said else "whole"
    at = int.from_bytes(head[5:9]) + 4
    while at + 15 <= length:
        at += 15 + int.from_bytes(_take(file, at + 1, 3))
    return "unsaid" if at == length else "cut"


def _nut(file: BinaryIO, length: int) -> Ending:
    """The last 12 bytes say how far before the end the index begins."""
    back = int.from_bytes(_take(file, max(0, length - 12), 8))
    found = 12 < back <= length and _take(file, length - back, 8) == _INDEX
    return "whole" if found else "cut"


def _ogg(file: BinaryIO, length: int) -> Ending:
    """Every logical stream ends with a page that is marked as its last."""
    at, open_streams = 0, set[bytes]()
    while at + 27 <= length:
        head = _take(file, at, 27)
        if not head.startswith(b"OggS"):
            return "unsaid"
        sizes = _take(file, at + 27, head[26])
        at += 27 + head[26] + sum(sizes)
        if len(sizes) < head[26] or at > length:
            return "cut"
        if head[5] & 4:
            open_streams.discard(head[14:18])
        else:
            open_streams.add(head[14:18])
    return "cut" if open_streams else _at_edge(at, length)


def _elements(file: BinaryIO, length: int) -> Iterator[tuple[int, bytes, int | None]]:
    """EBML elements from the start: where each begins, its identifier, its end (None: open)."""
    at = 0
    while at < length:
        head = _take(file, at, 12)
        wide = 9 - head[0].bit_length()
        size = 9 - head[wide].bit_length() if len(head) > wide else 9
        if wide > 4 or size > 8 or len(head) < wide + size:
            yield at, b"", length + 1 if len(head) < 12 else length
            return
        value = int.from_bytes(head[wide : wide + size]) & ((1 << 7 * size) - 1)
        endless = value == (1 << 7 * size) - 1
        inside = at + wide + size
        yield at, head[:wide], None if endless else inside + value
        at = inside if endless else inside + value


def _matroska(file: BinaryIO, length: int) -> Ending:
    """The segment declares its length; one that was written live does not, but its parts do."""
    live = False
    for _, identifier, end in _elements(file, length):
        live = live or end is None
        if end is not None and end > length and (identifier or live):  # else bytes that came after
            return "cut"
    return "unsaid" if live else "whole"


def _movie(file: BinaryIO, length: int) -> Ending:
    """Boxes of declared lengths; a fragmented file has any number of fragments after another."""
    at, found = 0, list[bytes]()
    while at < length:
        head = _take(file, at, 16)
        size, name = int.from_bytes(head[:4]), head[4:8]
        if len(head) < 8:
            return "cut" if b"moof" in found else "whole"
        if not name.isalnum():  # what follows the last box is not the file's own
            break
        found.append(name)
        at = length if size == 0 else at + (int.from_bytes(head[8:16]) if size == 1 else size)
        if size > 1 and size < 8:
            break
    if at > length or (found and found[-1] == b"moof"):
        return "cut"
    return "unsaid" if b"moof" in found and b"mfra" not in found else "whole"


_WALKS: dict[str, Callable[[BinaryIO, int], Ending]] = {
    "gif": _gif,
    "apng": _png,
    "avi": _riff,
    "asf": _asf,
    "ivf": _ivf,
    "yuv4mpegpipe": _y4m,
    "mpegts": _transport,
    "mpeg": _program,
    "mpegvideo": _program,
    "flv": _flash,
    "nut": _nut,
    "ogg": _ogg,
    "matroska,webm": _matroska,
    "mov,mp4,m4a,3gp,3g2,mj2": _movie,
}
