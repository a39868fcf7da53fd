"""One stream through a network: in tiles where frames are large, in less where memory runs out.

`ExactTiles` cuts a token grid into parts that are read with all they depend on, `Tiles` into
overlapping squares where that is the whole frame; both put tokens and pixels together again.
`StreamRunner` carries one stream: a past for every tile, smaller runs where memory is short.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized


@dataclass(frozen=True)
class Tiles:
    """Overlapping tiles of a token grid of `rows` x `columns` cells; None is one tile of all.

    Neighbours share a quarter of a tile. Tokens are taken from the tile whose edge is further
    away; pixels are blended linearly.
    """

    rows: int
    columns: int
    cells: int | None

    def boxes(self) -> list[tuple[slice, slice]]:
        return [(y, x) for y in self._spans(self.rows) for x in self._spans(self.columns)]

    def _spans(self, length: int) -> list[slice]:
        if self.cells is None or self.cells >= length:
            return [slice(0, length)]
        step = max(1, self.cells - self._overlap)
        starts = [*range(0, length - self.cells, step), length - self.cells]
        return [slice(a, a + self.cells) for a in starts]

    @property
    def _overlap(self) -> int:
        return max(1, (self.cells or 0) // 4)

    def join_tokens(self, parts: list[Tensor]) -> Tensor:
        """Tokens `... h w` of every box as one grid: a later box begins half an overlap in."""
        if len(parts) == 1:
            return parts[0]
        whole = parts[0].new_empty(*parts[0].shape[:-2], self.rows, self.columns)
        half = (self._overlap + 1) // 2
        for (y, x), part in zip(self.boxes(), parts, strict=True):
            top, left = (half if s.start else 0 for s in (y, x))
            whole[..., y.start + top : y.stop, x.start + left : x.stop] = part[..., top:, left:]
        return whole

    def join_pixels(self, made: Iterable[Tensor], factors: tuple[int, int]) -> Tensor:
        """Pixels `... h w` of every box as one frame, linear ramps where boxes overlap."""
        parts = list(made)
        if len(parts) == 1:
            return parts[0]
        height, width = self.rows * factors[0], self.columns * factors[1]
        whole = parts[0].new_zeros(*parts[0].shape[:-2], height, width)
        total = whole.new_zeros(height, width)
        for (y, x), part in zip(self.boxes(), parts, strict=True):
            rise = self._ramp(y, self.rows, factors[0]), self._ramp(x, self.columns, factors[1])
            weight = torch.outer(*rise).to(part)
            rows = slice(y.start * factors[0], y.stop * factors[0])
            columns = slice(x.start * factors[1], x.stop * factors[1])
            whole[..., rows, columns] += part * weight
            total[rows, columns] += weight
        return whole / total

    def _ramp(self, span: slice, length: int, factor: int) -> Tensor:
        count, overlap = (span.stop - span.start) * factor, self._overlap * factor
        ramp = (torch.arange(count) + 0.5) / overlap
        rise = ramp if span.start else torch.ones(count)
        fall = ramp.flip(0) if span.stop < length else torch.ones(count)
        return torch.minimum(rise, fall).clamp(max=1.0)


@dataclass(frozen=True)
class ExactTiles:
    """Tiles of a token grid that are read with `halo` cells around them, so that nothing changes.

    A tile and its halo have at most the cells of a square of `cells` and its halo (None: one tile
    of all); of such tiles those are taken that read the fewest cells in all. A halo ends with the
    frame, where a network pads the tile as it pads the frame.
    """

    rows: int
    columns: int
    cells: int | None
    halo: int

    def boxes(self) -> list[tuple[slice, slice]]:
        """What is read for every tile, its halo included."""
        grow = lambda s, length: slice(max(0, s.start - self.halo), min(length, s.stop + self.halo))
        return [(grow(y, self.rows), grow(x, self.columns)) for y, x in self._inner()]

    def join_tokens(self, parts: Iterable[Tensor]) -> Tensor:
        """Tokens `... h w` of every box as one grid, halos dropped."""
        return self.join_pixels(parts, (1, 1))

    def join_pixels(self, parts: Iterable[Tensor], factors: tuple[int, int]) -> Tensor:
        """Pixels `... h w` of every box as one frame, halos dropped."""
        whole, (height, width) = None, factors
        for box, inner, part in zip(self.boxes(), self._inner(), parts, strict=True):
            if box == (slice(0, self.rows), slice(0, self.columns)):
                return part
            if whole is None:
                size = self.rows * height, self.columns * width
                whole = part.new_empty(*part.shape[:-2], *size)
            y, x = (scaled(s, 0, n) for s, n in zip(inner, factors, strict=True))
            top, left = (scaled(s, b.start, n) for s, b, n in zip(inner, box, factors, strict=True))
            whole[..., y, x] = part[..., top, left]
        assert whole is not None, "a grid has at least one cell"
        return whole

    def _inner(self) -> list[tuple[slice, slice]]:
        """The tiles themselves."""
        down, across = self._counts()
        return [
            (y, x)
            for y in split_evenly(self.rows, down)
            for x in split_evenly(self.columns, across)
        ]

    def _counts(self) -> tuple[int, int]:
        """How many tiles there are one below another, and side by side."""
        rows, columns, both = self.rows, self.columns, 2 * self.halo
        if self.cells is None:
            return 1, 1
        most, found = (self.cells + both) ** 2, []
        for across in range(1, -(-columns // self.cells) + 1):
            height = most // min(columns, -(-columns // across) + both)
            if height > both or height >= rows:
                down = 1 if height >= rows else -(-rows // (height - both))
                read = (rows + both * (down - 1)) * (columns + both * (across - 1))
                found.append((read, down, across))
        return min(found)[1:]


def split_evenly(length: int, parts: int) -> list[slice]:
    """`length` cells in parts as equal as can be, the larger ones last."""
    ends = [length * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def scaled(cells: slice, origin: int, factor: int) -> slice:
    """Pixels of `cells`, `factor` each, counted from the cell `origin`."""
    return slice((cells.start - origin) * factor, (cells.stop - origin) * factor)


Options = Mapping[str, Any]
"""Further arguments of `encode_part` or `decode_part`."""


@runtime_checkable
class StreamNetwork(Protocol):
    """What a course needs of a tokenizer."""

    def encode_part(self, x: Tensor, past: Past | None, *_: Any, **options: Any) -> Quantized: ...
    def decode_part(self, z: Tensor, past: Past | None, *_: Any, **options: Any) -> Tensor: ...
    def crop_options(self, options: Options, rows: slice, columns: slice) -> Options: ...
    def cut_options(self, options: Options, at: int) -> tuple[Options, Options]: ...


@dataclass(eq=False, kw_only=True)
class StreamState:
    """Where one stream stands: `pasts` is what the network remembers, for every tile.

    Tiles have `tile` pixels (None: whole frames). `independent`: every run is a clip of its own,
    without a past. `reference` is what the caller gave.
    """

    pasts: list[Past] = field(default_factory=list)
    tile: int | None = None
    independent: bool = False
    reference: Any = None

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile={self.tile} is no number of pixels: give 1 or more, or None")


@dataclass(kw_only=True)
class StreamRunner:
    """One stream through `network`, whose tokens stand for `cell` = (height, width) pixels.

    `first_length` and `group_length` are those of the first and the further groups, in what is cut
    when memory runs out: frames or steps. `causal`: runs may be cut. `halo`: how many cells on
    each side of its own a cell depends on (None: all).
    """

    network: StreamNetwork
    cell: tuple[int, int]
    first_length: int
    group_length: int
    causal: bool
    state: StreamState
    halo: int | None = None

    def encode(self, x: Tensor, real: int, options: Options) -> Quantized:
        """Tokens of a run of whole groups `b c t h w`, of which `real` frames are the video's."""
        saved = [past.copy() for past in self.state.pasts]
        try:
            return self._encode_tiles(x, real, options)
        except RuntimeError as error:
            size = max(x.shape[3] // self.cell[0], x.shape[4] // self.cell[1])
            cut = self._shrink_after_oom(error, saved, x.shape[2], size)
        if cut is None:
            return self.encode(x, real, options)
        first, rest = self.network.cut_options(options, cut)
        early = self.encode(x[:, :, :cut], min(real, cut), first)
        late = self.encode(x[:, :, cut:], max(0, real - cut), rest)
        ids = [part.ids for part in (early, late) if part.ids is not None]
        joined = torch.cat(ids, dim=1) if ids else None
        return replace(early, z=torch.cat([early.z, late.z], dim=2), ids=joined)

    def decode(self, z: Tensor, options: Options, *, last: bool) -> Tensor:
        """Frames `b c t h w` of a run of whole steps `b d *grid`; some may be held back."""
        saved = [past.copy() for past in self.state.pasts]
        try:
            return self._decode_tiles(z, options, last)
        except RuntimeError as error:
            cut = self._shrink_after_oom(error, saved, z.shape[2], max(z.shape[3:], default=0))
        if cut is None:
            return self.decode(z, options, last=last)
        first, rest = self.network.cut_options(options, cut)
        early = self.decode(z[:, :, :cut], first, last=False)
        return torch.cat([early, self.decode(z[:, :, cut:], rest, last=last)], dim=2)

    def _encode_tiles(self, x: Tensor, real: int, options: Options) -> Quantized:
        (height, width), parts = self.cell, []
        tiles = self._tiles(x.shape[3] // height, x.shape[4] // width)
        for i, (row, column) in enumerate(tiles.boxes()):
            rows, columns = scaled(row, 0, height), scaled(column, 0, width)
            box = x[..., rows, columns]
            seen = self.network.crop_options(options, rows, columns)
            parts.append(self.network.encode_part(box, self._past(i), frames=real, **seen))
        if len(parts) == 1:
            return parts[0]
        z, ids = [p.z for p in parts], [p.ids for p in parts if p.ids is not None]
        joined = tiles.join_tokens(ids) if ids else None
        return replace(parts[0], z=tiles.join_tokens(z), ids=joined)

    def _decode_tiles(self, z: Tensor, options: Options, last: bool) -> Tensor:
        if z.ndim != 5:
            return self.network.decode_part(z, self._past(0), last=last, **options)
        tiles = self._tiles(z.shape[3], z.shape[4])
        return tiles.join_pixels(self._decoded(tiles, z, options, last), self.cell)

    def _decoded(
        self, tiles: Tiles | ExactTiles, z: Tensor, options: Options, last: bool
    ) -> Iterator[Tensor]:
        """The frames of one box after another."""
        for i, (row, column) in enumerate(tiles.boxes()):
            rows, columns = scaled(row, 0, self.cell[0]), scaled(column, 0, self.cell[1])
            seen = self.network.crop_options(options, rows, columns)
            yield self.network.decode_part(z[..., row, column], self._past(i), last=last, **seen)

    def _tiles(self, rows: int, columns: int) -> Tiles | ExactTiles:
        if self.halo is None:
            return Tiles(rows, columns, self._cells)
        return ExactTiles(rows, columns, self._cells, self.halo)

    def _past(self, tile: int) -> Past | None:
        if self.state.independent:
            return None
        while len(self.state.pasts) <= tile:
            self.state.pasts.append(Past())
        return self.state.pasts[tile]

    @property
    def _cells(self) -> int | None:
        return None if self.state.tile is None else max(2, self.state.tile // self.cell[0])

    def _shrink_after_oom(
        self, error: RuntimeError, saved: list[Past], length: int, cells: int
    ) -> int | None:
        """Where to cut a run that did not fit; None: once more, in smaller tiles.

        Raises `error` again if it was another one, or if nothing smaller is left.
        """
        if not ran_out_of_memory(error):
            raise error
        fresh = all(past.empty for past in saved)
        groups = (length - (self.first_length if fresh else self.group_length)) // self.group_length
        self.state.pasts = saved
        if self.causal and groups > 0:
            cut = (self.first_length if fresh else self.group_length) + (
                groups - 1
            ) // 2 * self.group_length
            self.state.independent = False
            warnings.warn(f"out of memory: going on with {cut} of {length} at a time", stacklevel=4)
            return cut
        cells = min(cells, self._cells or cells) // 2
        if not fresh or cells < max(2, self.halo or 0):
            raise error
        self.state.tile, self.state.pasts = cells * self.cell[0], []
        warnings.warn(f"out of memory: going on in tiles of {self.state.tile} pixels", stacklevel=4)
        return None


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised `error` because memory was short, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory"))
