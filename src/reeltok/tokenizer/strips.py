"""Large frames in little memory: coded in strips over the full width, from top to bottom.

Time outside, strips inside: a run of frames goes through the network strip by strip, then the next
run does. Rows at the seams come out as those of whole frames (`nn/rows.py`), so nothing changes. A
strip has a `Past` of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.nn.rows import Rows
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


@dataclass(eq=False, kw_only=True)
class Strips:
    """The strips of a run of frames, `cells` rows of cells each, and what they remember.

    `pasts` are those of each strip, by a name for each network that is passed through.
    """

    cells: int
    pasts: dict[str, list[Past]]

    def walk(self, network: str, total: int) -> Iterator[tuple[slice, Past]]:
        """From top to bottom: which of `total` rows of cells, and the past of the strip."""
        rows, pasts = Rows(), self.pasts.setdefault(network, [])
        starts = range(0, total, self.cells)
        pasts += [Past() for _ in starts[len(pasts) :]]
        for start, past in zip(starts, pasts, strict=True):
            stop = min(total, start + self.cells)
            past.rows, rows.last = rows, stop == total
            yield slice(start, stop), past
            past.rows = None

    def whole(self, network: str) -> Past:
        """The past of what is made of whole frames."""
        pasts = self.pasts.setdefault(network, [])
        if not pasts:
            pasts.append(Past())
        return pasts[0]


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

    The channels of a pixel lie side by side, as files want them.
    """
    whole, at = None, 0
    for part in parts:
        rows = convert(part)
        if whole is None:
            b, c, t, _, w = rows.shape
            whole = rows.new_empty(b, t, height, w, c).permute(0, 4, 1, 2, 3)
        whole[..., at : at + rows.shape[3], :] = rows
        at += rows.shape[3]
    assert whole is not None
    assert at == height, "strips make up frames"
    return whole
