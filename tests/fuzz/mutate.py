"""Damage for every kind of file: random in its bytes, or thought out, so that it gets past checks.

Everything takes a `random.Random`, so that a number says which input it was.
"""

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

TWIN = "\0twin"  # behind a key: it is written as its twin, so that the key stands there twice
RAW = {  # texts that `json.dumps` does not make
    '"@deep"': "[" * 3000 + "]" * 3000,
    '"@deeper"': '{"a":' * 100 + "0" + "}" * 100,
    '"@wide"': "1" + "0" * 400,
    '"@digits"': "7" * 5000,
    '"@huge"': "1e999",
}
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 10**6, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, -(2**63), 10**30)
FLOATS = (0.0, -0.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    "x",
    "../../etc/passwd",
    "\x1b[31m\n",
    "\ud800",
    "a" * 5000,
    "9" * 30,
    "é\u202e",
    "None",
)
OTHERS = (None, True, False, [], {}, [[]], [0], {"a": 0}, *(key[1:-1] for key in RAW))


def odd(draw: Random) -> Any:
    """A value that is seldom the right one."""
    return copy.deepcopy(draw.choice(draw.choice((NUMBERS, FLOATS, TEXTS, OTHERS))))


# ---------------------------------------------------------------- bytes


def spoil(data: bytes, draw: Random, *, other: bytes = b"") -> bytes:
    """A few random changes of a file; `other` is one to take pieces from."""
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        data = draw.choice(BYTES)(bytearray(data or b"\0"), draw, other)
    return data


def _flip(data: bytearray, draw: Random, other: bytes) -> bytes:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _set(data: bytearray, draw: Random, other: bytes) -> bytes:
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(("big", "little"))
    at, value = draw.randrange(len(data)), draw.choice(NUMBERS) % 256**width
    data[at : at + width] = value.to_bytes(width, order)
    return bytes(data)


def _cut(data: bytearray, draw: Random, other: bytes) -> bytes:
    at = draw.randrange(len(data))
    stop = draw.choice((len(data), min(len(data), at + draw.randrange(1, 64))))
    return bytes(data[:at] + data[stop:])


def _repeat(data: bytearray, draw: Random, other: bytes) -> bytes:
    at = draw.randrange(len(data))
    return bytes(data[:at] + data[at : at + draw.randrange(1, 64)] * 2 + data[at:])


def _splice(data: bytearray, draw: Random, other: bytes) -> bytes:
    other = other or bytes(data)
    at, length = draw.randrange(len(other)), draw.randrange(1, 256)
    place = draw.randrange(len(data))
    data[place : place + length] = other[at : at + length]
    return bytes(data)


BYTES: tuple[Callable[[bytearray, Random, bytes], bytes], ...] = (
    *(_flip, _flip, _set, _set, _cut, _repeat, _splice),
)


# ---------------------------------------------------------------- JSON


def dump(value: Any) -> bytes:
    """JSON with what Python's own writer does not make: see RAW and TWIN."""
    text = json.dumps(value).replace("\\u0000twin", "")
    for key, raw in RAW.items():
        text = text.replace(key, raw)
    return text.encode("utf-8", "surrogatepass")


def change(value: Any, draw: Random) -> Any:
    """A copy of a JSON value with one to three things in it changed."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(walk(value))
        if not places:
            return odd(draw)
        holder, key = draw.choice(places)
        draw.choice(EDITS)(holder, key, draw)
    return value


def walk(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object with every key or index of it, however deep."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in list(inner) if isinstance(value, dict | list) else ():
        yield value, key
        if isinstance(each, dict | list):
            yield from walk(each)


def _replace(holder: Any, key: Any, draw: Random) -> None:
    holder[key] = odd(draw)


def _remove(holder: Any, key: Any, draw: Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, draw: Random) -> None:
    if isinstance(holder, dict):
        name = draw.choice((key + TWIN, key.upper(), "", "x" + key))
        holder[name] = copy.deepcopy(holder[key]) if name.endswith(TWIN) else holder.pop(key)
    else:
        holder.insert(key, copy.deepcopy(holder[key]))


def _scale(holder: Any, key: Any, draw: Random) -> None:
    value = holder[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        holder[key] = [value]
    else:
        holder[key] = draw.choice(
            (value + 1, value - 1, -value, 2 * value, value * 0.5, str(value))
        )


def _swap(holder: Any, key: Any, draw: Random) -> None:
    other = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


EDITS = (_replace, _replace, _remove, _rename, _scale, _scale, _swap)


# ---------------------------------------------------------------- safetensors


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def join(header: Any, body: bytes) -> bytes:
    """The file of a header and tensors."""
    raw = dump(header)
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + body


def spoil_tensors(data: bytes, draw: Random) -> bytes:
    """A safetensors file with another header, or other tensors."""
    header, body = split(data)
    kind = draw.randrange(4)
    if kind < 2:
        return join(change(header, draw), body)
    return join(header, spoil(body, draw)) if kind == 2 else spoil(data, draw)


# ---------------------------------------------------------------- boxes of mp4 and its kin

HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex")


def boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
    """Where every box begins and ends, however deep."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        end = start + int.from_bytes(data[start : start + 4], "big")
        if not start + 8 <= end <= stop:
            return
        yield start, end
        if data[start + 4 : start + 8] in HOLDERS:
            yield from boxes(data, start + 8, end)
        start = end


def spoil_boxes(data: bytes, draw: Random) -> bytes:
    """The file with a box lost, repeated, renamed or with other numbers in it."""
    found = [(a, b) for a, b in boxes(data) if data[a + 4 : a + 8] != b"mdat"]
    if not found:
        return spoil(data, draw)
    start, end = draw.choice(found)
    kind = draw.randrange(5)
    if kind == 0:
        return data[: start + 4] + draw.choice((b"free", b"\0\0\0\0")) + data[start + 8 :]
    if kind == 1:
        size = (draw.choice(NUMBERS) % 2**32).to_bytes(4, "big")
        return data[:start] + size + data[start + 4 :]
    if kind == 2:
        return data[:end] + data[start:end] + data[end:]
    inside = data[start + 8 : end] or b"\0"
    changed = spoil(inside, draw)[: len(inside)].ljust(len(inside), b"\0")
    return data[: start + 8] + changed + data[start + 8 + len(inside) :]
