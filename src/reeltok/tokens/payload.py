"""The bytes of a .reel file: a safetensors file with a bit-packed payload, hashed block by block.

`ReelSink` writes a payload of unknown length, `ReelSource` reads any range of it and checks what it
reads. What the bytes mean is said in tokens.py; the layout is described in docs/tokens.md.
"""

import hashlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from reeltok.files.atomic import Unfinished, is_pipe, naming, standard_input, standard_output
from reeltok.files.parsing import parse_config, parse_json
from reeltok.tokens.header import (
    BLOCK,
    DTYPES,
    LONGEST_HEADER,
    NAMES,
    VERSION,
    About,
    Entry,
    description_hash,
    header_bytes,
    read_about,
    read_table,
)

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
        checked = parse_config(about, About, "these tokens cannot be saved", strict=True)
        checked.require_fit(self.entries)
        # Widest values first: the format allows no gaps, and each must be aligned to its width.
        order = sorted(self.entries, key=lambda each: -DTYPES[self.entries[each].dtype].itemsize)
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


# Reading.


class ReelSource:
    """An open .reel file ("-": standard input, spooled first): `about`, payload, named tensors.

    Raises ValueError, in one sentence, for a file that is not a .reel, is cut, altered or newer.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        if str(path) != "-" and not Path(path).exists():
            raise FileNotFoundError(f"there is no file {path}")
        piped = str(path) == "-" or is_pipe(path)
        self.file = spooled(path) if piped else Path(path).open("rb")  # noqa: SIM115
        with ExitStack() as stack:  # closes the file where something is wrong with it
            stack.callback(self.close)
            self.size = self.file.seek(0, io.SEEK_END)
            self.entries, self.about = self.read_header()
            self.payload = self.entries[self.about.payload.name]
            self.hashes = [bytes(row) for row in self.tensor("blocks").numpy()]
            stack.pop_all()
        self.checked: set[int] = set()

    def read_header(self) -> tuple[dict[str, Entry], About]:
        """Where tensors lie and what is said about them; checks that all bytes are there."""
        table = self.read_json()
        metadata = self.read_metadata(table.pop("__metadata__", {}))
        try:
            entries = read_table(table)
        except ValueError:
            raise self.altered("its header") from None
        end = self.start + max((each.stop for each in entries.values()), default=0)
        if self.size < end:
            raise self.cut_off(end)
        if self.size > end:
            raise self.altered("its end")
        try:
            said = metadata.get("about", "")
            if description_hash(said, table) != metadata.get("sha256"):
                raise ValueError("its hash is another")
            about = read_about(said)
            about.require_fit(entries)
        except ValueError:
            raise self.altered("its description") from None
        return entries, about

    def read_json(self) -> dict[str, Any]:
        """The header as safetensors has it."""
        self.file.seek(0)
        length = int.from_bytes(self.file.read(8), "little")
        raw = self.file.read(min(length, LONGEST_HEADER))
        if not raw.startswith(b"{") or length > LONGEST_HEADER:
            raise self.alien()
        self.start = 8 + length  # of the tensors
        if self.size < self.start:
            raise self.cut_off(self.start)
        try:
            return parse_json(raw, "header")
        except ValueError:
            raise self.altered("its header") from None

    def read_metadata(self, metadata: Any) -> dict[str, str]:
        """The file's own strings, of a format and a version that this package reads."""
        if not isinstance(metadata, dict) or metadata.get("format") != "reel":
            raise self.alien()
        version = metadata.get("version")
        texts = all(isinstance(value, str) for value in metadata.values())
        if not texts or version is None or not re.fullmatch("[0-9]{1,9}", version):
            raise self.altered("its version")
        if int(version) > VERSION:
            raise ValueError(
                f"{self.path} is a .reel file of version {version} and this reeltok reads up to "
                f"version {VERSION}; upgrade reeltok to read it"
            )
        return metadata

    def read(self, start: int, stop: int) -> bytes:
        """Payload bytes start..stop, after checking the blocks that hold them (each once)."""
        for index in range(start // BLOCK, -(-stop // BLOCK)):
            if index not in self.checked:
                end = min((index + 1) * BLOCK, self.payload.stop - self.payload.start)
                data = self.raw(self.payload, index * BLOCK, end)
                if hashlib.sha256(data).digest() != self.hashes[index]:
                    raise self.altered(f"bytes {index * BLOCK} to {end} of its tokens")
                self.checked.add(index)
        return self.raw(self.payload, start, stop)

    def tensor(self, name: str) -> Tensor:
        """A named tensor, after checking its hash."""
        entry = self.entries[name]
        data = self.raw(entry, 0, entry.stop - entry.start)
        if hashlib.sha256(data).hexdigest() != self.about.tensors[name]:
            raise self.altered(f"its tensor {name!r}")
        dtype = DTYPES[entry.dtype]
        flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0)
        return flat.to(dtype).reshape(entry.shape)

    def raw(self, entry: Entry, start: int, stop: int) -> bytes:
        self.file.seek(self.start + entry.start + start)
        return self.file.read(stop - start)

    def alien(self) -> ValueError:
        return ValueError(f"{self.path} is not a .reel file; give one that `reeltok encode` wrote")

    def cut_off(self, expected: int) -> ValueError:
        return ValueError(
            f"{self.path} is cut off: {expected} bytes were written and {self.size} are there; "
            f"copy or encode it again"
        )

    def altered(self, where: str) -> ValueError:
        return ValueError(
            f"{self.path} was altered after it was written (seen in {where}); "
            f"copy or encode it again"
        )

    def close(self) -> None:
        self.file.close()


def spooled(path: str | Path) -> IO[bytes]:
    """What is left in a pipe ("-": standard input) as a file of its own."""
    name = "(standard input)" if str(path) == "-" else Path(path).name
    with nullcontext(standard_input()) if str(path) == "-" else Path(path).open("rb") as given:
        spool = tempfile.TemporaryFile()  # noqa: SIM115 (closed by ReelSource)
        with naming(Path(tempfile.gettempdir(), name)):
            shutil.copyfileobj(given, spool)
        return spool
