"""One stream through a network: in parts where frames are large, in less where memory runs out.

Where a network can, frames go through it in strips, which changes nothing (strips.py); for others
`Tiles` cuts them into overlapping squares and puts tokens and pixels together again. `StreamRunner`
carries one stream: a past for every strip or tile, smaller runs where memory is short.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reeltok.arguments import is_count, is_number, said
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.offload import Offload
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.strips import FrameSource, StripNetwork, Strips, join_rows


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


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How large frames are coded: in strips or tiles of `pixels`.

    `room`: bytes of what strips remember that stay in memory, the rest waits in a temporary file
    (None: all stay).
    """

    pixels: int
    room: int | None = None

    def __post_init__(self) -> None:
        require_pixels(self.pixels, "pixels")
        if self.room is not None and (not is_number(self.room) or self.room < 0):
            raise ValueError(
                f"room={said(self.room)} is not a number of bytes: give 0 or more, or None"
            )


def require_pixels(tile: Any, name: str = "tile") -> None:
    """ValueError unless `tile` is a number of pixels."""
    if not is_count(tile):
        raise ValueError(f"{name}={said(tile)} is not a number of pixels: give 1 or more, or None")


TileLike = int | Tiling | None
"""Pixels of tiles or of the height of strips, with more said of them; None: frames are whole."""


def tiling_of(tile: TileLike, spec: Spec) -> dict[str, Any]:
    """What a `StreamState` of the tokenizer of `spec` is made with. ValueError as `check_tile`.

    A `Tiling` asks for strips: where there are none, frames are whole.
    """
    pixels, room = (tile.pixels, tile.room) if isinstance(tile, Tiling) else (tile, None)
    if isinstance(tile, Tiling) and not spec.strips:
        pixels = None
    check_tile(pixels, spec)
    return {"tile": pixels, "offload": None if room is None else Offload(room)}


def check_tile(tile: int | None, spec: Spec) -> None:
    """ValueError unless tiles of `tile` pixels fit the tokenizer of `spec`."""
    if tile is None:
        return
    require_pixels(tile)
    if spec.window is not None:
        raise ValueError(f"{spec.name} codes whole frames: leave tile=None")
    if tile < spec.least_tile:
        raise ValueError(
            f"`tile={tile}` is less than the {spec.least_tile} pixels of a token of {spec.name}: "
            f"give {spec.least_tile} or more, or leave it out"
        )


def scaled(cells: slice, origin: int, factor: int) -> slice:
    """Pixels of `cells`, `factor` each, counted from the cell `origin`."""
    return slice((cells.start - origin) * factor, (cells.stop - origin) * factor)


Options = Mapping[str, Any]
"""Further arguments of `encode_part` or `decode_part`."""
Convert = Callable[[Tensor], Tensor]


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

    Tiles have `tile` pixels (None: whole frames), as strips have in height, whose pasts are in
    `strips`, by the name of what they pass through, or wait in `offload`.
    `independent`: every run is a clip of its own, without a past. `reference` is what the caller
    gave.
    """

    pasts: list[Past] = field(default_factory=list)
    strips: dict[str, list[Past]] = field(default_factory=dict)
    offload: Offload | None = None
    tile: int | None = None
    independent: bool = False
    reference: Any = None

    def __post_init__(self) -> None:
        if self.tile is not None:
            require_pixels(self.tile)


@dataclass(kw_only=True)
class StreamRunner:
    """One stream through `network`, whose tokens stand for `cell` = (height, width) pixels.

    `first_length` and `group_length` are those of the first and the further groups, in what is cut
    when memory runs out: frames or steps. `causal`: runs may be cut. `strips`: the network is a
    `StripNetwork` too.
    """

    network: StreamNetwork
    cell: tuple[int, int]
    first_length: int
    group_length: int
    causal: bool
    state: StreamState
    strips: bool = False

    def encode(self, source: FrameSource, real: int, options: Options) -> Quantized:
        """Tokens of a run of whole groups `b c t h w`, of which `real` frames are the video's."""
        strips = self._strips()
        if strips is not None and isinstance(self.network, StripNetwork):
            with self._one_strip(source.shape[3:]):
                return self.network.encode_strips(source, strips, frames=real, **options)
        return self._encode(source.whole(), real, options)

    def decode(self, z: Tensor, options: Options, *, last: bool, convert: Convert) -> Tensor:
        """Frames `b c t h w` of a run of whole steps `b d *grid`; some may be held back.

        `convert` makes of rows of frames what is kept of them.
        """
        strips = self._strips()
        if strips is not None and isinstance(self.network, StripNetwork):
            height, width = (n * side for n, side in zip(z.shape[3:], self.cell, strict=True))
            with self._one_strip((height, width)):
                rows = self.network.decode_strips(z, strips, last=last, **options)
                return join_rows(rows, height, convert)
        return convert(self._decode(z, options, last=last))

    def _strips(self) -> Strips | None:
        """The strips of this run; None for whole frames and for tiles."""
        if not self.strips or self._cells is None:
            return None
        pasts = {} if self.state.independent else self.state.strips
        offload = None if self.state.independent else self.state.offload
        return Strips(cells=self._cells, pasts=pasts, offload=offload)

    @contextmanager
    def _one_strip(self, size: Sequence[int]) -> Iterator[None]:
        """MemoryError, in a sentence, where memory runs out within a strip of frames of `size`."""
        try:
            yield
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            raise MemoryError(
                f"memory ran out in strips of {self.state.tile} pixels of frames of "
                f"{size[0]}x{size[1]}: give a lower `memory` or `tile`, a shorter `chunk`, or "
                "smaller frames"
            ) from error

    def _encode(self, x: Tensor, real: int, options: Options) -> Quantized:
        saved = [past.copy() for past in self.state.pasts]
        try:
            return self._encode_tiles(x, real, options)
        except RuntimeError as error:
            size = max(x.shape[3] // self.cell[0], x.shape[4] // self.cell[1])
            cut = self._shrink_after_oom(error, saved, x.shape[2], size)
        if cut is None:
            return self.encode(FrameSource(x, lambda rows: rows, self.cell[0]), real, options)
        first, rest = self.network.cut_options(options, cut)
        early = self._encode(x[:, :, :cut], min(real, cut), first)
        late = self._encode(x[:, :, cut:], max(0, real - cut), rest)
        ids = [part.ids for part in (early, late) if part.ids is not None]
        joined = torch.cat(ids, dim=1) if ids else None
        return replace(early, z=torch.cat([early.z, late.z], dim=2), ids=joined)

    def _decode(self, z: Tensor, options: Options, *, last: bool) -> Tensor:
        saved = [past.copy() for past in self.state.pasts]
        try:
            return self._decode_tiles(z, options, last)
        except RuntimeError as error:
            cut = self._shrink_after_oom(error, saved, z.shape[2], max(z.shape[3:], default=0))
        if cut is None:
            return self.decode(z, options, last=last, convert=lambda rows: rows)
        first, rest = self.network.cut_options(options, cut)
        early = self._decode(z[:, :, :cut], first, last=False)
        return torch.cat([early, self._decode(z[:, :, cut:], rest, last=last)], dim=2)

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

    def _decoded(self, tiles: Tiles, z: Tensor, options: Options, last: bool) -> Iterator[Tensor]:
        """The frames of one box after another."""
        for i, (row, column) in enumerate(tiles.boxes()):
            rows, columns = scaled(row, 0, self.cell[0]), scaled(column, 0, self.cell[1])
            seen = self.network.crop_options(options, rows, columns)
            yield self.network.decode_part(z[..., row, column], self._past(i), last=last, **seen)

    def _tiles(self, rows: int, columns: int) -> Tiles:
        return Tiles(rows, columns, None if self.strips else self._cells)

    def _past(self, tile: int) -> Past | None:
        if self.state.independent:
            return None
        while len(self.state.pasts) <= tile:
            self.state.pasts.append(Past())
        return self.state.pasts[tile]

    @property
    def _cells(self) -> int | None:
        if self.state.tile is None:
            return None
        return max(1 if self.strips else 2, self.state.tile // self.cell[0])

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
        if not fresh or cells < 2:
            raise error
        self.state.tile, self.state.pasts = cells * self.cell[0], []
        parts = "strips" if self.strips else "tiles"
        warnings.warn(
            f"out of memory: going on in {parts} of {self.state.tile} pixels", stacklevel=4
        )
        return None


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised `error` because memory was short, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory"))
