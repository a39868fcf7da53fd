"""BAIR's files: small ones are written here in the same format, byte by byte."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reeltok.data.bair import (
    CameraName,
    Push,
    _crc,
    _crc_of_many,
    _masked_crc,
    parse_example,
    read_push,
    record_offsets,
)
from reeltok.evaluate.clips import clips
from reeltok.evaluate.protocols import PROTOCOLS


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(field: int, payload: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def feature(value: bytes | list[float], *, packed: bool = True) -> bytes:
    if isinstance(value, bytes):
        return message(1, message(1, value))
    if packed:
        return message(2, message(1, struct.pack(f"<{len(value)}f", *value)))
    return message(2, b"".join(varint(1 << 3 | 5) + struct.pack("<f", v) for v in value))


def example(features: dict[str, bytes]) -> bytes:
    entries = (message(1, key.encode()) + message(2, value) for key, value in features.items())
    return message(1, b"".join(message(1, entry) for entry in entries))


def framed(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    sums = (struct.pack("<I", _masked_crc(part)) for part in (length, payload))
    return length + next(sums) + payload + next(sums)


def push(frames: int, seed: int = 0) -> dict[str, bytes]:
    random = np.random.default_rng(seed)
    features = {}
    for i in range(frames):
        for camera in ("aux1", "main"):
            pixels = random.integers(0, 256, (64, 64, 3), np.uint8).tobytes()
            features[f"{i}/image_{camera}/encoded"] = feature(pixels)
        features[f"{i}/action"] = feature([i, 1.5, -2.0, 0.25], packed=i % 2 == 0)
        features[f"{i}/endeffector_pos"] = feature([0.5, i, 3.0])
    return features


def write_bair(path: Path, motions: int = 2, frames: int = 3) -> Path:
    path.write_bytes(b"".join(framed(example(push(frames, seed))) for seed in range(motions)))
    return path


def pushes(path: Path, camera: CameraName = "aux1") -> list[Push]:
    return [read_push(path, offset, camera=camera) for offset in record_offsets(path)]


def test_the_checksum_of_many_bytes_is_the_plain_one() -> None:
    data = np.random.default_rng(0).integers(0, 256, 9000, np.uint8).tobytes()
    for count in (4096, 4097, 5000, 9000):
        assert _crc_of_many(data[:count]) == _crc(data[:count])


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    record = bytearray(framed(example(push(2))))
    record[600] ^= 1
    (tmp_path / "x.tfrecord").write_bytes(record)
    with pytest.raises(ValueError, match=r"checksum of a record differs"):
        read_push(tmp_path / "x.tfrecord", 0)


def test_the_checksum_is_crc32c() -> None:
    crc = 0xE3069283  # CRC-32C of "123456789" (RFC 3720)
    assert _masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_pushes_hold_frames_actions_and_positions(tmp_path: Path) -> None:
    path = write_bair(tmp_path / "softmotion30_44k.tfrecords")
    first, second = pushes(path)
    assert first.frames.shape == (3, 64, 64, 3)
    wanted = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert (first.frames[0].numpy() == wanted).all()
    assert first.actions.tolist() == [[i, 1.5, -2.0, 0.25] for i in range(3)]
    assert first.positions.tolist() == [[0.5, i, 3.0] for i in range(3)]
    (main, _) = pushes(path, camera="main")
    assert (main.frames != first.frames).any()
    assert (second.frames != first.frames).any()


def test_integers_of_other_examples_are_read_too() -> None:
    numbers = message(3, message(1, varint(5) + varint((1 << 64) - 2)))
    assert parse_example(example({"label": numbers}))["label"].tolist() == [5, -2]


def refused(path: Path, data: bytes, match: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match):
        pushes(path)


def test_other_files_are_refused_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecords"
    good = example(push(2))
    refused(path, b"this is a text and no record at all", "is not a TFRecord file")
    refused(path, framed(good)[:-900], "ends within a record")
    refused(path, framed(b"\xff\xff\xff"), "record at byte 0 is not a protobuf Example")
    other = example({"image/encoded": feature(b"\x89PNG"), "image/class/label": feature([1.0])})
    refused(path, framed(other), r"no 0/image_aux1/encoded, but holds image/class/label, image/enc")
    odd = message(2, message(1, b"12345"))  # floats of five bytes
    long = message(3, message(1, b"\xff" * 12 + b"\x01"))  # an integer of 85 bits
    for value in (odd, long, message(1, message(1, b"\xff"))[:-1]):
        data = framed(example(push(1) | {"0/action": value}))
        refused(path, data, rf"{path}, record at byte 0")
    refused(path, framed(example({"\x1b[31m\n": feature(b"x")})), r"holds [ -~]*$")
    small = push(1) | {"0/image_aux1/encoded": feature(b"\x00" * 300)}
    refused(path, framed(example(small)), "frame 0 is not 64x64 RGB")
    del small["0/action"]
    small["0/image_aux1/encoded"] = feature(bytes(64 * 64 * 3))
    refused(path, framed(example(small)), "0/action should be 4 numbers")


def test_records_are_found_without_reading_them(tmp_path: Path) -> None:
    path = write_bair(tmp_path / "a.tfrecords", motions=3, frames=1)
    assert len(record_offsets(path)) == 3
    assert record_offsets(path)[1] == path.stat().st_size // 3
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        record_offsets(path)


def test_bair_records_are_clips(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    write_bair(tmp_path / "test/push.tfrecords", motions=2, frames=5)
    protocol = replace(PROTOCOLS["bair"], frames=4)
    found = [*clips(protocol, tmp_path)]
    assert [clip.name for clip in found] == ["test/push.tfrecords#0", "test/push.tfrecords#1"]
    assert found[0].video.frames.shape == (4, 64, 64, 3)
    assert found[0].video.fps == 10
    wanted = read_push(
        tmp_path / "test/push.tfrecords", record_offsets(tmp_path / "test/push.tfrecords")[1]
    )
    assert torch.equal(found[1].video.frames, wanted.frames[:4])
    (slow, _) = clips(replace(protocol, frames=3, fps=5), tmp_path)
    assert torch.equal(slow.video.frames[1], found[0].video.frames[2])
