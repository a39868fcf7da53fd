"""Where what strips remember waits between runs: in memory, or offloaded to a temporary file.

The file has no name: it goes with the process, however that ends. It is written and read, not
mapped: mapped pages count as memory of the process, and a full disk would be a signal instead of an
error.
"""

import tempfile
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from reeltok.files.atomic import cannot_write
from reeltok.nn.past import Past

Key = tuple[str, int]
"""What a past is kept under: the network's name and the number of the strip."""


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in the file."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(eq=False)
class Offload:
    """Pasts of up to `room` bytes stay in memory, the others lie in a temporary file meanwhile.

    `sizes` are the bytes of those in memory, `places` the start and the length of each one's place
    in the file, `stored` what lies there now.
    """

    room: int
    sizes: dict[Key, int] = field(default_factory=dict)
    places: dict[Key, tuple[int, int]] = field(default_factory=dict)
    stored: dict[Key, list[Stored]] = field(default_factory=dict)
    end: int = 0

    @cached_property
    def file(self) -> Any:
        """Made when it is first needed, closed with this record."""
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed below)
        weakref.finalize(self, file.close)
        return file

    def put(self, key: Key, past: Past) -> None:
        """Take what `past` holds; it stays there while it fits. OSError where the disk is full."""
        size = sum(x.nbytes for x in past.kept.values())
        others = sum(self.sizes.values()) - self.sizes.pop(key, 0)
        if others + size <= self.room:
            self.sizes[key] = size
            return
        start, space = self.places.get(key, (self.end, 0))
        if size > space:
            start, self.end = self.end, self.end + size
            self.places[key] = (start, size)
        try:
            self.file.seek(start)
            for x in past.kept.values():
                self._write(x)
        except OSError as error:
            where = tempfile.gettempdir() if tempfile.tempdir else "a temporary folder"
            at = " (what large frames need to remember; TMPDIR names another folder)"
            raise cannot_write(where, error, at=at) from error
        self.stored[key] = [Stored(n, x.shape, x.dtype, x.device) for n, x in past.kept.items()]
        past.kept = {}

    def take(self, key: Key, past: Past) -> None:
        """Give `past` back what it held."""
        if key not in self.stored:
            return
        self.file.seek(self.places[key][0])
        for each in self.stored.pop(key):
            past.kept[each.name] = self._read(each)

    def look(self, key: Key, past: Past) -> Past:
        """What `past` holds, or held where it lies in the file, where it stays."""
        if key not in self.stored:
            return past
        self.file.seek(self.places[key][0])
        return Past({each.name: self._read(each) for each in self.stored[key]})

    def clear(self) -> None:
        """Forget what lies here; its places are free."""
        self.sizes.clear()
        self.stored.clear()

    def _write(self, x: Tensor) -> None:
        left = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        while len(left):
            left = left[self.file.write(left) :]

    def _read(self, each: Stored) -> Tensor:
        x = torch.empty(each.shape, dtype=each.dtype)
        left = x.flatten().view(torch.uint8).numpy().data
        while len(left):
            count = self.file.readinto(left)
            assert count, "what was written is there"
            left = left[count:]
        return x.to(each.device)
