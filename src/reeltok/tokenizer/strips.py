"""Large frames in little memory: coded in strips over the full width, from top to bottom.

Time outside, strips inside: a run of frames goes through the network strip by strip, then the next
run does. Rows at the seams come out as those of whole frames (`nn/rows.py`), so nothing changes. A
strip has a `Past` of its own, which may wait in a file meanwhile (offload.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.nn.rows import Rows
from reeltok.tokenizer.offload import Offload
from reeltok.video.frames import unit_values


@dataclass(frozen=True, eq=False)
class FrameSource:
    """Frames "b c t h w" on their way in, bytes or floats, made what a network takes when read.

    `enter` does that, and completes cells, which are `cell` pixels high.
    """

    x: Tensor
    enter: Callable[[Tensor], Tensor]
    cell: int

    @property
    def shape(self) -> torch.Size:
        """Clips, channels, frames, pixels, without what completes cells."""
        return self.x.shape

    @property
    def cells(self) -> int:
        """Rows of cells."""
        return -(-self.x.shape[3] // self.cell)

    def rows(self, cells: slice) -> Float[Tensor, "b c t h w"]:
        """The frames' pixels in rows of cells."""
        pixels = slice(cells.start * self.cell, cells.stop * self.cell)
        return self.enter(unit_values(self.x[..., pixels, :]))

    def whole(self) -> Float[Tensor, "b c t h w"]:
        return self.rows(slice(0, self.cells))

    def part(self, start: int, stop: int) -> "FrameSource":
        """Frames `start` to `stop` alone."""
        return FrameSource(self.x[:, :, start:stop], self.enter, self.cell)


@dataclass(eq=False, kw_only=True)
class Strips:
    """The strips of a run of frames, `cells` rows of cells each, and what they remember.

    `pasts` are those of each strip, by a name for each network that is passed through; `offload` is
    where they wait meanwhile (None: they stay as they are). `waited`: the most bytes of rows that
    waited between two strips so far.
    """

    cells: int
    pasts: dict[str, list[Past]]
    offload: Offload | None = None
    waited: int = 0

    def walk(self, network: str, total: int, *, keep: bool = True) -> Iterator[tuple[slice, Past]]:
        """From top to bottom: which of `total` rows of cells, and the past of the strip.

        Without `keep` it is a copy, and strips remember what they did before.

        Behind the last of them come strips without any, until no layer waits for rows. A layer
        holds back less than a row of cells, so as many may end in one strip as it has rows.
        """
        rows, below = Rows(), repeat(slice(total, total))
        for number, cells in enumerate(chain(self.split(total), below)):
            rows.ending, past = (
                self.cells if cells.start == total else 0,
                self.take(network, number),
            )
            past = past if keep else past.copy()
            past.rows = rows
            yield cells, past
            past.rows = None
            self.waited = max(self.waited, rows.bytes)
            self.put(network, number)
            if rows.ending:
                return

    def split(self, total: int) -> Iterator[slice]:
        """The strips of `total` rows of cells."""
        starts = range(0, total, self.cells)
        return (slice(start, min(total, start + self.cells)) for start in starts)

    def take(self, network: str, number: int) -> Past:
        """The past of a strip, with all that it remembers."""
        pasts = self.pasts.setdefault(network, [])
        pasts += [Past() for _ in range(len(pasts), number + 1)]
        if self.offload is not None:
            self.offload.take((network, number), pasts[number])
        return pasts[number]

    def put(self, network: str, number: int) -> None:
        """Lay the past of a strip away until it is taken again."""
        if self.offload is not None:
            self.offload.put((network, number), self.pasts[network][number])

    def look(self, network: str, number: int) -> Past:
        """What the past of a strip holds, to read alone; it stays where it is."""
        past = self.pasts[network][number]
        return past if self.offload is None else self.offload.look((network, number), past)

    def clear(self) -> None:
        """Forget all that strips remember."""
        self.pasts.clear()
        if self.offload is not None:
            self.offload.clear()

    def whole(self, network: str) -> Past:
        """The past of what is made of whole frames."""
        pasts = self.pasts.setdefault(network, [])
        if not pasts:
            pasts.append(Past())
        return pasts[0]


@dataclass(eq=False, kw_only=True)
class Regrouped:
    """Streams of rows "b t h w c", cut again into strips of `strips` out of whatever comes.

    `scales` are the rows of each stream for a row of cells.
    """

    strips: Iterator[slice]
    scales: tuple[int, ...]
    waiting: list[Tensor] = field(default_factory=list)
    here: slice | None = None

    def add(self, *streams: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
        """More rows, below those so far: the cells and rows of strips that are complete by now."""
        pairs = zip(self.waiting, streams, strict=True) if self.waiting else ((x,) for x in streams)
        self.waiting = [torch.cat(parts, dim=2) for parts in pairs]
        while (here := self.here or next(self.strips, None)) is not None:
            counts = [(here.stop - here.start) * scale for scale in self.scales]
            self.here = here
            if any(x.shape[2] < n for x, n in zip(self.waiting, counts, strict=True)):
                return
            self.here = None
            yield here, [x[:, :, :n] for x, n in zip(self.waiting, counts, strict=True)]
            self.waiting = [x[:, :, n:].clone() for x, n in zip(self.waiting, counts, strict=True)]


@dataclass(eq=False)
class FilledRows:
    """Whole frames "b t h w c" of `height`, filled with rows as they come."""

    height: int
    frames: Tensor = field(default_factory=lambda: torch.empty(0))
    filled: int = 0

    def add(self, rows: Float[Tensor, "b t h w c"]) -> None:
        """More rows, below those so far."""
        if not self.filled:
            self.frames = rows.new_empty(*rows.shape[:2], self.height, *rows.shape[3:])
        self.frames[:, :, self.filled : self.filled + rows.shape[2]] = rows
        self.filled += rows.shape[2]


@runtime_checkable
class StripNetwork(Protocol):
    """What a tokenizer has whose `Spec.strips` is true."""

    def encode_strips(
        self, x: FrameSource, strips: Strips, *_: Any, **options: Any
    ) -> Quantized: ...
    def decode_strips(
        self, z: Tensor, strips: Strips, *_: Any, **options: Any
    ) -> Iterator[Tensor]: ...


def join_rows(
    parts: Iterator[Tensor], height: int, convert: Callable[[Tensor], Tensor]
) -> Shaped[Tensor, "b c t h w"]:
    """Rows of frames "b c t h w" as frames of `height` pixels, each part converted as it comes.

    Where frames are complete, the rows of later ones may follow. The channels of a pixel lie side
    by side, as files want them.
    """
    made: list[Tensor] = []
    at = 0
    for part in parts:
        rows = convert(part)
        if not rows.shape[3]:
            continue
        if at == 0:
            b, c, t, _, w = rows.shape
            made.append(rows.new_empty(b, t, height, w, c).permute(0, 4, 1, 2, 3))
        made[-1][..., at : at + rows.shape[3], :] = rows
        at = (at + rows.shape[3]) % height
    assert made, "there are frames"
    assert at == 0, "strips make up frames"
    return made[0] if len(made) == 1 else torch.cat(made, dim=2)
