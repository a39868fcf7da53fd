"""BAIR robot pushing: its TFRecord files, with two cameras, actions and gripper positions.

A TFRecord is a row of length-framed messages; each is a protobuf `Example`, a map from a name to
bytes or floats. Both formats are small enough to be read here, without TensorFlow.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.data.actions import ACTION
from reeltok.files.atomic import write_file
from reeltok.files.text import printable
from reeltok.video.record import Video, write

CameraName = Literal["aux1", "main"]
SIDE = 64  # pixels of a frame, stored as raw RGB
FPS = 10.0
ROWS = 1024  # of a message, whose checksums are computed at once


@dataclass(frozen=True, eq=False, kw_only=True)
class Push:
    """One recorded motion of the robot."""

    frames: UInt8[Tensor, "t 64 64 3"]
    actions: Float[Tensor, "t 4"]  # what was commanded after each frame
    positions: Float[Tensor, "t 3"]  # of the gripper


def read_push(path: str | Path, offset: int, *, camera: CameraName = "aux1") -> Push:
    """The motion of the record that begins at `offset` (see `record_offsets`).

    ValueError with one sentence where the record is not one of BAIR's.
    """
    where = f"{path}, record at byte {offset}"
    message = read_record(path, offset)
    try:
        features = parse_example(message)
    except (IndexError, ValueError, OverflowError, struct.error):
        raise ValueError(f"{where} is not a protobuf Example: is it one of BAIR's?") from None
    return _push(features, camera, where)


def save_push(path: Path, offset: int, target: Path) -> Path:
    """Write the frames of a motion as a lossless video; `target`, which `video.read` takes."""
    write(Video(read_push(path, offset).frames, FPS), target, lossless=True)
    return target


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """How many clips were written, and how many were there before."""

    written: int
    kept: int


def unpack_motions(path: Path, folder: Path, *, replace: bool = False) -> Unpacked:
    """Write each motion of a file as a lossless clip NAME-0000.mkv, its actions beside it.

    Those that are there already are kept, unless `replace`.
    """
    written = kept = 0
    for number, offset in enumerate(record_offsets(path)):
        clip = folder / f"{path.stem}-{number:04d}.mkv"
        if clip.exists() and not replace:
            kept += 1
            continue
        push = read_push(path, offset)
        held = BytesIO()
        np.save(held, push.actions.numpy())
        write_file(clip.with_suffix(".actions.npy"), held.getvalue())
        write(Video(frames=push.frames, fps=FPS), clip, lossless=True)
        written += 1
    return Unpacked(written=written, kept=kept)


def _push(features: dict[str, bytes | np.ndarray], camera: CameraName, where: str) -> Push:
    image = f"image_{camera}/encoded"
    frames: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    while f"{len(frames)}/{image}" in features:
        at = len(frames)
        pixels = features[f"{at}/{image}"]
        if not isinstance(pixels, bytes) or len(pixels) != SIDE * SIDE * 3:
            raise ValueError(f"{where}: frame {at} is not {SIDE}x{SIDE} RGB as BAIR's frames are")
        frames.append(np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3))
        actions.append(_floats(features, f"{at}/action", ACTION, where))
        positions.append(_floats(features, f"{at}/endeffector_pos", 3, where))
    if not frames:
        some = printable(", ".join(sorted(features)[:3]) or "nothing")
        raise ValueError(f"{where} is not one of BAIR's: it has no 0/{image}, but holds {some}")
    return Push(
        frames=torch.from_numpy(np.stack(frames)),
        actions=torch.from_numpy(np.stack(actions)),
        positions=torch.from_numpy(np.stack(positions)),
    )


def _floats(
    features: dict[str, bytes | np.ndarray], key: str, count: int, where: str
) -> np.ndarray:
    value = features.get(key)
    if not isinstance(value, np.ndarray) or value.shape != (count,):
        raise ValueError(f"{where}: {key} should be {count} numbers as in BAIR's files")
    return value


# ---------------------------------------------------------------- TFRecord


def record_offsets(path: str | Path) -> list[int]:
    """Where each message of a TFRecord file begins, in bytes; the payloads are not read.

    Raises ValueError where the file is not a TFRecord, is empty, or ends within a message.
    """
    offsets, at, size = [], 0, Path(path).stat().st_size
    with Path(path).open("rb") as file:
        while at < size:
            file.seek(at)
            offsets.append(at)
            at += 12 + _length(file.read(12), path) + 4
    if at != size or not offsets:
        what = "ends within a record: fetch it again" if offsets else "is empty"
        raise ValueError(f"{path} {what}")
    return offsets


def read_record(path: str | Path, offset: int) -> bytes:
    """The message that begins at `offset`. ValueError where its checksum is another."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        length = min(_length(file.read(12), path), Path(path).stat().st_size)
        message, stored = file.read(length), file.read(4)
    if _masked_crc(message) != int.from_bytes(stored, "little"):
        raise ValueError(f"{path} is damaged: the checksum of a record differs, fetch it again")
    return message


def _length(head: bytes, path: str | Path) -> int:
    if len(head) < 12 or _masked_crc(head[:8]) != int.from_bytes(head[8:], "little"):
        raise ValueError(f"{path} is not a TFRecord file, or it is damaged")
    return int.from_bytes(head[:8], "little")


def _masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated by 15 bits and offset."""
    crc = (_crc_of_many if len(data) >= 4 * ROWS else _crc)(data) ^ 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """The register of CRC-32C behind `data`, bit by bit."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def _crc_of_many(data: bytes) -> int:
    """The same of many bytes: of all rows at once, which are then joined by twos.

    The register is linear: behind two rows it is that of the second, plus what a row of zeros
    makes of that of the first. `zeros` is what such a row makes of each of its bits.
    """
    table = np.array([_crc(bytes([value]), 0) for value in range(256)], np.uint32)
    rows = np.frombuffer(bytes(-len(data) % ROWS) + data, np.uint8).copy()
    rows[-len(data) :][:4] ^= 0xFF  # as if the register began with ones
    crc, zeros = np.zeros(ROWS, np.uint32), np.uint32(1) << np.arange(32, dtype=np.uint32)
    for column in rows.reshape(ROWS, -1).T:
        crc = crc >> 8 ^ table[(crc ^ column) & 0xFF]
        zeros = zeros >> 8 ^ table[zeros & 0xFF]
    while len(crc) > 1:
        crc = _mapped(crc[::2], zeros) ^ crc[1::2]
        zeros = _mapped(zeros, zeros)
    return int(crc[0])


def _mapped(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """What a linear map makes of 32-bit values; `images` is what it makes of each bit."""
    bits = values[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(bits * images, axis=1)


# ---------------------------------------------------------------- protobuf


def parse_example(message: bytes) -> dict[str, bytes | np.ndarray]:
    """The features of a protobuf `Example`: bytes, or an array of floats or integers.

    Raises IndexError or struct.error where the bytes are not such a message.
    """
    found: dict[str, bytes | np.ndarray] = {}
    for example in _children(message, 1):  # Example.features
        for entry in _children(example, 1):  # Features.feature: key 1, value 2
            (key,) = _children(entry, 1)[-1:] or [b""]
            for value in _children(entry, 2):
                found[key.decode()] = _feature(value)
    return found


def _feature(message: bytes) -> bytes | np.ndarray:
    for texts in _children(message, 1):  # BytesList
        return b"".join(_children(texts, 1)[:1])
    for floats in _children(message, 2):  # FloatList: packed, or one by one
        values = [v for field, v in _fields(floats) if field == 1]
        return np.frombuffer(b"".join(v for v in values if isinstance(v, bytes)), "<f4")
    for numbers in _children(message, 3):  # Int64List
        (packed,) = _children(numbers, 1)[:1] or [b""]
        return np.array(list(_varints(packed)), np.int64)
    return b""


def _children(message: bytes, wanted: int) -> list[bytes]:
    return [v for field, v in _fields(message) if field == wanted and isinstance(v, bytes)]


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The (number, value) pairs of a message; fixed-width numbers are given as their bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise IndexError(f"protobuf has no wire type {kind} here")
        if at + length > len(message):
            raise IndexError("a protobuf field reaches past the end of its message")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value - (1 << 64) if value >> 63 else value
