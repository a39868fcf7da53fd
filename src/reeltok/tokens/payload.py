"""The bytes of a .reel file: a safetensors file with a bit-packed payload, hashed block by block.

`ReelSink` writes a payload of unknown length; `source.py` reads it. What the bytes mean is said in
record.py; the layout is described in docs/tokens.md.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from reeltok.arguments import check_path
from reeltok.files.atomic import Unfinished, naming, standard_output
from reeltok.files.parsing import parse_config
from reeltok.tokens.dtypes import NAMES
from reeltok.tokens.header import BLOCK, UNSAVED, WIDTHS, About, Entry, header_bytes

IDS_AT_ONCE = 2**17  # ids held as single bits at once (4 to 8 MiB); a multiple of 8


# Ids as bits.


def word(bits: int) -> np.dtype:
    """A big-endian word that holds an id of so many bits."""
    return np.dtype(">u4" if bits <= 32 else ">u8")


def pack_ids(ids: Int64[np.ndarray, "n"], bits: int) -> UInt8[np.ndarray, "m"]:
    """`bits` bits per id, most significant bit first, without gaps; zeros fill the last byte."""
    words = np.ascontiguousarray(ids, dtype=word(bits))
    unused = 8 * words.itemsize - bits
    rows = [words[start : start + IDS_AT_ONCE] for start in range(0, len(words), IDS_AT_ONCE)]
    packed = []
    for row in rows:
        single = np.unpackbits(row.view(np.uint8).reshape(len(row), -1), axis=1)
        packed.append(np.packbits(single[:, unused:]))
    return np.concatenate(packed) if packed else np.empty(0, dtype=np.uint8)


def unpack_ids(
    packed: UInt8[np.ndarray, "m"], bits: int, count: int, skip: int = 0
) -> Int64[np.ndarray, "n"]:
    """`count` ids from packed bytes, after `skip` bits."""
    ids = np.empty(count, dtype=np.int64)
    for start in range(0, count, IDS_AT_ONCE):
        stop = min(count, start + IDS_AT_ONCE)
        first, last = skip + start * bits, skip + stop * bits
        single = np.unpackbits(packed[first // 8 : -(-last // 8)])
        single = single[first % 8 : first % 8 + last - first]
        wide = np.zeros((stop - start, 8 * word(bits).itemsize), dtype=np.uint8)
        wide[:, -bits:] = single.reshape(-1, bits)
        ids[start:stop] = np.packbits(wide, axis=1).view(word(bits)).reshape(-1)
    return ids


# Writing.


class ReelSink:
    """Takes a payload and named tensors piece by piece; `finish` makes the file, all at once.

    The pieces are spooled in an unnamed file beside `path` ("-": standard output).
    """

    def __init__(self, path: str | Path) -> None:
        check_path(path, "a .reel file")
        self.stack = ExitStack()
        with ExitStack() as stack:
            self.part = None if str(path) == "-" else stack.enter_context(Unfinished(path))
            folder = self.part.path.parent if self.part else None
            # Whatever is written up to `finish` counts as this file, or as the spool of a pipe.
            self.name = path if self.part else Path(tempfile.gettempdir(), "(standard output)")
            with naming(self.name, inside=folder or Path(tempfile.gettempdir())):
                self.payload = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                self.others = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            self.stack = stack.pop_all()
        self.target = str(path) if self.part else "standard output"
        self.entries: dict[str, Entry] = {}
        self.hashes: dict[str, str] = {}
        self.whole = hashlib.sha256()
        self.block = hashlib.sha256()
        self.blocks: list[bytes] = []

    @property
    def length(self) -> int:
        """Bytes of payload so far."""
        return self.payload.tell()

    def add(self, data: bytes | memoryview) -> None:
        """Append bytes to the payload."""
        view = memoryview(data)
        self.whole.update(view)
        room = BLOCK - self.length % BLOCK
        with naming(self.name):
            self.payload.write(view)
        while len(view) >= room:
            self.block.update(view[:room])
            self.blocks.append(self.block.digest())
            self.block, view, room = hashlib.sha256(), view[room:], BLOCK
        self.block.update(view)

    def add_tensor(self, name: str, tensor: Tensor) -> None:
        """Append a named tensor beside the payload."""
        if tensor.dtype not in NAMES:
            raise ValueError(
                f"tensor {name!r} has dtype {tensor.dtype}, which a .reel file cannot hold"
            )
        data = tensor_bytes(tensor)
        start = self.others.tell()
        with naming(self.name):
            self.others.write(data)
        shape = tuple(tensor.shape)
        self.entries[name] = Entry(NAMES[tensor.dtype], shape, start, start + len(data))
        self.hashes[name] = hashlib.sha256(data).hexdigest()

    def finish(self, name: str, dtype: str, shape: tuple[int, ...], about: dict[str, Any]) -> None:
        """Write the file: the payload under `name`, and `about` with all the hashes."""
        rest = [self.block.digest()] if self.length % BLOCK else []
        blocks = np.frombuffer(b"".join(self.blocks + rest), dtype=np.uint8).reshape(-1, 32)
        self.add_tensor("blocks", torch.from_numpy(blocks.copy()))
        payload = {
            "name": name,
            "bytes": self.length,
            "block": BLOCK,
            "sha256": self.whole.hexdigest(),
        }
        about = {**about, "payload": payload, "tensors": self.hashes}
        self.entries[name] = Entry(dtype, shape, 0, self.length)
        checked = parse_config(about, About, UNSAVED, strict=True)
        checked.require_fit(self.entries)
        # Widest values first: the format allows no gaps, and each must be aligned to its width.
        order = sorted(self.entries, key=lambda each: -WIDTHS[self.entries[each].dtype])
        with naming(self.name), self.open() as file:
            file.write(header_bytes({each: self.entries[each] for each in order}, about))
            for each in order:
                source = self.payload if each == name else self.others
                copy_range(source, file, self.entries[each])
        if self.part is not None:
            self.part.finish()
        self.close()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """What the file is written to."""
        if self.part is None:
            with naming("standard output"):
                file = standard_output()
                yield file
                file.flush()
        else:
            with self.part.path.open("xb") as file:
                yield file

    def close(self) -> None:
        """Drop what was spooled; without `finish` nothing is left."""
        self.stack.close()


def copy_range(source: IO[bytes], target: IO[bytes], entry: Entry) -> None:
    source.seek(entry.start)
    left = entry.stop - entry.start
    while left:
        data = source.read(min(left, 2**20))
        target.write(data)
        left -= len(data)


def tensor_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
