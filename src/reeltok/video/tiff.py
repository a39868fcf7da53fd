"""The structure of TIFF files: their pages and tags (TIFF 6.0, section 2). EXIF is one, too.

BigTIFF has the same structure with wider numbers.
"""

from typing import Literal

SIGNS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # that one begins with
_WIDTHS = {1: 1, 3: 2, 4: 4, 16: 8}  # bytes of a number by its type


class Tiff:
    """The bytes of a TIFF; `first` is where the directory of its first page begins."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        self._wide, self._some, self._entry = (4, 2, 12)
        if self._number(2, 2) == 43:
            self._wide, self._some, self._entry = (8, 8, 20)
        self.first = self._number(self._wide, self._wide)

    def tags(self, at: int) -> dict[int, int]:
        """The tags of the page whose directory begins there, where they are single numbers."""
        begin, end = at + self._some, min(self._end(at), len(self.data))
        found = {}
        for entry in range(begin, end, self._entry):
            value = entry + self._entry - self._wide
            width = min(_WIDTHS.get(self._number(entry + 2, 2), self._wide), self._wide)
            found[self._number(entry, 2)] = self._number(value, width)
        return found

    def pages(self, name: str) -> list[int]:
        """Where the pages begin, without reduced copies and masks. ValueError for a missing one."""
        at, pages, seen = self.first, list[int](), set[int]()
        while at and at not in seen:
            seen.add(at)
            end = self._end(at)
            if end + self._wide > len(self.data):
                raise ValueError(f"{name} is cut off: page {len(seen)} is not there")
            if not self.tags(at).get(254, 0) & 0b101:
                pages.append(at)
            at = self._number(end, self._wide)
        return pages or [self.first]

    def page(self, at: int) -> bytes:
        """A TIFF whose header points to the page that begins there."""
        head = self.data[: self._wide] + at.to_bytes(self._wide, self._order)
        return b"".join((head, memoryview(self.data)[len(head) :]))

    def _number(self, at: int, width: int) -> int:
        return int.from_bytes(self.data[at : at + width], self._order)

    def _end(self, at: int) -> int:
        """Where the directory ends that begins there."""
        return at + self._some + self._entry * self._number(at, self._some)
