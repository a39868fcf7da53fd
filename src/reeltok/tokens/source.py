"""A .reel file that is read: its header, any range of its payload, its tensors; all checked.

Without torch (but for what returns a tensor), so that a header is read in a moment. What the bytes
mean is said in record.py; the layout is described in docs/tokens.md.
"""

import hashlib
import io
import re
import shutil
import struct
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reeltok.arguments import check_path
from reeltok.files.atomic import is_pipe, naming, standard_input
from reeltok.files.parsing import parse_json
from reeltok.tokens.header import (
    BLOCK,
    LATEST,
    LONGEST_HEADER,
    VERSION,
    About,
    Entry,
    description_hash,
    read_about,
    read_table,
)

if TYPE_CHECKING:
    import torch


class ReelSource:
    """An open .reel file ("-": standard input, spooled first): `about`, payload, named tensors.

    Raises ValueError, in one sentence, for a file that is not a .reel, is cut, altered or newer.
    """

    def __init__(self, path: str | Path) -> None:
        check_path(path, "a .reel file")
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
            blocks = self.bytes_of("blocks")
            self.hashes = [blocks[at : at + 32] for at in range(0, len(blocks), 32)]
            self.times = self.read_times()
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
            self.sha256: str = metadata["sha256"]  # of the description, with the payload's own
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

    def bytes_of(self, name: str) -> bytes:
        """Those of a named tensor, after checking their hash."""
        entry = self.entries[name]
        data = self.raw(entry, 0, entry.stop - entry.start)
        if hashlib.sha256(data).hexdigest() != self.about.tensors[name]:
            raise self.altered(f"its tensor {name!r}")
        return data

    def tensor(self, name: str) -> "torch.Tensor":
        """A named tensor, after checking its hash."""
        import torch

        from reeltok.tokens.dtypes import DTYPES

        data, entry = self.bytes_of(name), self.entries[name]
        dtype = DTYPES[entry.dtype]
        flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0)
        return flat.to(dtype).reshape(entry.shape)

    def read_times(self) -> tuple[float, ...] | None:
        """The time stamps, where there are any: seconds that a video file can hold."""
        if "times" not in self.entries:
            return None
        times = struct.unpack(f"<{self.about.frames}d", self.bytes_of("times"))
        if not all(-LATEST <= time <= LATEST for time in times):  # nor NaN
            raise self.altered("its times")
        return times

    def raw(self, entry: Entry, start: int, stop: int) -> bytes:
        if self.file.closed:
            raise ValueError(f"{self.path} was closed: open it again to read from it")
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
