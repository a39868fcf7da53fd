"""Frames read in strips from top to bottom: what layers keep of the strip above.

A kernel that reaches below a row waits for the next strip, so a layer gives out a few rows less
than it was given. Below the last strip there are further ones without rows of their own, in each of
which a few layers give out the rest: not all at once, which would take the memory of many rows.
Nothing is computed twice, and rows come out as those of whole frames. What a layer remembers of
frames before belongs to the strip, in whose `Past` it is; what it remembers of rows above is here,
and goes with the frames.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class NamedLayer(Protocol):
    """A layer that knows its name in the network."""

    path: str


@dataclass(eq=False)
class Rows:
    """Where frames stand that are read in strips.

    `kept` are rows that layers still need, by their names; `ended` names the layers that need none
    and will get none, `passed` counts the rows that came by. In the present strip `ending` more
    layers may end, in the order in which rows pass them.
    """

    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    ending: int = 0

    @property
    def bytes(self) -> int:
        """Of all rows that are kept."""
        return sum(x.nbytes for kept in self.kept.values() for x in kept)

    def window(
        self,
        layer: NamedLayer,
        x: Float[Tensor, "b t h w c"],
        *,
        kernel: int,
        stride: int,
        edge: Any,
        mode: str = "constant",
    ) -> Float[Tensor, "b t h2 w c"]:
        """The rows under a kernel at all places that can be computed by now, to pad no more.

        `edge` = (rows above the frame, below it): zeros, or by another `mode` of `F.pad`.
        """
        before = self.kept.get(layer.path)
        if layer.path in self.ended or (before is None and not x.shape[2] and mode != "constant"):
            return x
        above, below = edge
        self.kept.pop(layer.path, None)
        ends = self._ends(layer)
        x = pad_rows(x, above, 0, mode) if before is None else torch.cat([*before, x], dim=2)
        x = pad_rows(x, 0, below, mode) if ends and below else x
        count = max(0, (x.shape[2] - kernel) // stride + 1)
        if not ends:
            self._keep(layer, [x[:, :, count * stride :]])
        return x[:, :, : count * stride + kernel - stride] if count else x[:, :, :0]

    def align(self, layer: NamedLayer, streams: Sequence[Tensor]) -> list[Tensor]:
        """The rows that all of `streams` ("b t h w c") have reached; those beyond wait."""
        before = self.kept.pop(layer.path, None)
        if before is not None:
            streams = [torch.cat(both, dim=2) for both in zip(before, streams, strict=True)]
        count = min(x.shape[2] for x in streams)
        if any(x.shape[2] > count for x in streams):
            self._keep(layer, [x[:, :, count:] for x in streams])
        return [x[:, :, :count] for x in streams]

    def gather(
        self, layer: NamedLayer, x: Float[Tensor, "b t h w c"]
    ) -> Float[Tensor, "b t h2 w c"]:
        """Whole frames once all rows have come, no rows before."""
        if layer.path in self.ended:
            return x
        x = torch.cat([*self.kept.pop(layer.path, []), x], dim=2)
        if self._ends(layer):
            return x
        self._keep(layer, [x])
        return x[:, :, :0]

    def first_of(self, layer: NamedLayer, x: Float[Tensor, "b t h w c"]) -> int:
        """The number in its frame of the first row of `x`, whose rows come by `layer` in order."""
        first = self.passed.get(layer.path, 0)
        self.passed[layer.path] = first + x.shape[2]
        return first

    def _ends(self, layer: NamedLayer) -> bool:
        """Whether a layer gets its last rows now; where it does not, none after it does."""
        if not self.ending:
            return False
        self.ending -= 1
        self.ended.add(layer.path)
        return True

    def _keep(self, layer: NamedLayer, rows: list[Tensor]) -> None:
        self.kept[layer.path] = [each.clone() for each in rows]


@dataclass(eq=False)
class SlidingRows:
    """Frames "b t h w c" of `height` of which rows come from elsewhere as layers ask for them.

    `parts` gives all rows, from top to bottom, in pieces. Layers ask for rows ever further down,
    each for its own: what is above them goes.
    """

    height: int
    parts: Callable[[], Iterator[Tensor]]
    windows: dict[str, "RowWindow"] = field(default_factory=dict)

    def around(self, layer: NamedLayer, start: int, stop: int) -> tuple[Tensor, int]:
        """Rows with `start` to `stop`, as far as there are such, and the number of the first."""
        if layer.path not in self.windows:
            self.windows[layer.path] = RowWindow(self.parts())
        return self.windows[layer.path].move(max(0, start), min(self.height, stop))


@dataclass(eq=False)
class RowWindow:
    """The rows of `SlidingRows` that one layer reads; `first` is the number of the uppermost."""

    parts: Iterator[Tensor]
    held: list[Tensor] = field(default_factory=list)
    first: int = 0

    def move(self, start: int, stop: int) -> tuple[Tensor, int]:
        """All rows from `start` or above it up to `stop`."""
        assert start >= self.first, "rows are asked for ever further down"
        while not self.held or self.first + sum(x.shape[2] for x in self.held) < stop:
            self.held.append(next(self.parts))
        while len(self.held) > 1 and self.first + self.held[0].shape[2] <= start:
            self.first += self.held.pop(0).shape[2]
        return torch.cat(self.held, dim=2), self.first


def rows_around(
    x: Tensor | SlidingRows, layer: NamedLayer, start: int, stop: int
) -> tuple[Tensor, int]:
    """Rows of `x` with `start` to `stop`, and the number of the first: all, where `x` is whole."""
    return (x, 0) if isinstance(x, Tensor) else x.around(layer, start, stop)


def pad_rows(
    x: Float[Tensor, "b t h w c"], above: int, below: int, mode: str
) -> Float[Tensor, "b t h2 w c"]:
    return F.pad(x, (0, 0, 0, 0, above, below), mode=mode)


def first_row(past: Any, layer: NamedLayer, x: Float[Tensor, "b t h w c"]) -> int:
    """The number in its frame of the first row of `x`, of which `layer` sees all; 0 of a whole."""
    return 0 if past is None or past.rows is None else past.rows.first_of(layer, x)


def aligned(past: Any, layer: NamedLayer, *streams: Tensor) -> Sequence[Tensor]:
    """Streams of one place, cut to the rows that all have; whole frames as they are."""
    if past is None or past.rows is None:
        return streams
    return past.rows.align(layer, streams)
