"""The decoder's motion: read from the tokens beside the reference, refined, and followed.

    tokens, reference ─ coarse head ─ field at the scale of the tokens ─► coarse features follow it
    fine features, reference ─ fine head ─ field at that of the patches ─► fine features and pixels

The heads end in zeros: untrained, everything stays in its place. There is no side channel: the
encoder is shown what its search found, and the tokens carry as much of it as pays.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from reeltok.models.reftok.features import (
    ONE,
    InjectionShape,
    ReferenceFeatures,
    WholeReference,
)
from reeltok.models.reftok.motion import (
    REACH,
    BlockMotion,
    displacements,
    drop_small,
    enlarge_field,
    warp,
)
from reeltok.models.vidtok.stages import SPACE, Patch
from reeltok.nn.bounds import Width
from reeltok.nn.layers import Conv, Norm, Residual
from reeltok.nn.past import Layer, Past
from reeltok.nn.quantizers.contract import full_precision
from reeltok.nn.rows import SlidingRows, aligned, first_row, rows_around

COARSE, FINE = 8.0, 2.0  # pixels that one unit of a head's output stands for
TAPS = 3  # rows beyond a displacement that bicubic interpolation may read
UNIT = 4.0  # pixels of a field that networks read as 1


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MotionConfig:
    """How a network follows motion.

    The encoder searches and is shown what it found, the decoder reads a field from the tokens by
    heads of `width` channels; `where` leaves out one side.
    """

    width: Width = 64
    where: Literal["encoder", "decoder", "both"] = "both"


class FlowHead(Layer):
    """From features to a field, in pixels: zero at the start."""

    def __init__(self, channels_in: int, width: int, *, blocks: int, unit: float) -> None:
        super().__init__()
        self.conv_in = Conv(channels_in, width, ONE)
        self.blocks = nn.ModuleList(
            Residual(width, width, SPACE, edge="past-first") for _ in range(blocks)
        )
        self.norm = Norm(width)
        self.conv_out = Conv(width, 4, ONE, zero=True)
        self.unit = unit

    def forward(
        self, x: Float[Tensor, "b s h w c"], past: Past | None = None
    ) -> Float[Tensor, "b s h2 w 4"]:
        y = self.conv_in(x)
        for block in self.blocks:
            y = block(y, past)
        y = self.norm(y)
        with full_precision(y):  # bfloat16 would round 20 pixels to eighths
            return self.unit * self.conv_out(y.to(self.conv_out.weight.dtype)).float()


class EnlargeField(Layer):
    """`enlarge_field`; in strips, of the rows whose neighbours are known by now."""

    def __init__(self, ratio: tuple[int, int]) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(
        self, field: Float[Tensor, "b s h w 4"], past: Past | None = None
    ) -> Float[Tensor, "b s h2 w2 4"]:
        if past is None or past.rows is None:
            return enlarge_field(field, self.ratio)
        way: dict[str, Any] = {"kernel": 3, "stride": 1, "edge": (1, 1), "mode": "replicate"}
        around = past.rows.window(self, field, **way)
        if not around.shape[2]:
            return field.new_empty(*field.shape[:2], 0, field.shape[3] * self.ratio[1], 4)
        return enlarge_field(around, self.ratio, slice(1, around.shape[2] - 1))


@dataclass(frozen=True)
class FollowedReference:
    """The decoder's field at the scale of the patches, and what follows it of the reference."""

    field: Float[Tensor, "b s h w 4"]
    pixels: Float[Tensor, "b t h2 w2 c"]
    fine: Float[Tensor, "b t2 h3 w r"]
    patches: Float[Tensor, "b t2 h4 w d"]


class DecoderFlow(nn.Module):
    """The decoder's field, first at the scale of the tokens, then at that of the patches.

    `patch` folds pixels, `cell` are those (rows, columns) of a token. In strips every step gives
    the rows that can be computed by now.
    """

    def __init__(
        self, shape: InjectionShape, widths: tuple[int, int], config: MotionConfig, patch: Patch
    ) -> None:
        super().__init__()
        self.runs = shape.steps[0] // shape.steps[1]
        ratio, self.patch = 2**shape.halvings, patch.patch
        self.cell = self.patch[1] * ratio, self.patch[2] * ratio
        inside = self.runs * (shape.fine + widths[0]) + 4
        self.coarse = FlowHead(shape.coarse + widths[1], config.width, blocks=2, unit=COARSE)
        self.fine = FlowHead(inside, config.width, blocks=1, unit=FINE)
        self.enlarge_to_patches = EnlargeField((ratio, ratio))
        self.enlarge_to_pixels = EnlargeField(self.patch[1:])

    def begin(
        self, y: Float[Tensor, "b s h w c"], reference: ReferenceFeatures, past: Past
    ) -> Float[Tensor, "b s h2 w 4"]:
        """The field at the scale of the tokens, from the decoder's first features `y`."""
        y, around = aligned(past, self.coarse.conv_in, y, reference.coarse)
        around = around.expand(-1, y.shape[1], -1, -1, -1)
        return self.coarse(torch.cat([F.layer_norm(y, y.shape[-1:]), around], dim=-1), past)

    def follow_coarse(
        self, reference: WholeReference, field: Float[Tensor, "b s h w 4"], past: Past
    ) -> Float[Tensor, "b s h w r"]:
        """The reference's coarse features along the field at the scale of the tokens."""
        frames = field.shape[1] * self.runs * self.patch[0]
        top = first_row(past, self.coarse, field)
        place = RowPlace(self.coarse, self.cell, top)
        return follow(reference.coarse, field, frames, field.shape[1], place)

    def follow(
        self,
        reference: WholeReference,
        coarse: Float[Tensor, "b s h w 4"],
        y: Float[Tensor, "b t h2 w2 c"],
        patch: Patch,
        past: Past,
    ) -> FollowedReference:
        """The reference along the field at the scale of the patches: `coarse`, refined by `y`."""
        steps = coarse.shape[1] * self.runs
        frames = steps * self.patch[0]
        field = self.refine(reference, self.enlarge_to_patches(coarse, past), y, past)
        place = RowPlace(self.fine, self.patch[1:], first_row(past, self.fine, field))
        fine = follow(reference.fine, field, frames, steps, place)
        every = self.enlarge_to_pixels(field, past)
        top = first_row(past, self.enlarge_to_pixels, every)
        pixels = follow_pixels(reference.frame, every, frames, self.enlarge_to_pixels, top)
        return FollowedReference(field, pixels, fine, block_patches(patch, pixels))

    def refine(
        self,
        reference: WholeReference,
        field: Float[Tensor, "b s h w 4"],
        y: Float[Tensor, "b t h2 w c"],
        past: Past,
    ) -> Float[Tensor, "b s h3 w 4"]:
        """The field at the scale of the patches, from features there; a first frame's stand still.

        `field` is the rough one.
        """
        y = y.expand(-1, self.runs, -1, -1, -1) if y.shape[1] < self.runs else y
        y, field = aligned(past, self.fine.conv_in, y, field)
        steps, top = y.shape[1], first_row(past, self.fine.conv_in, field)
        place = RowPlace(self.fine.conv_in, self.patch[1:], top)
        moved = follow(reference.fine, field, steps * self.patch[0], steps, place)
        both = torch.cat([F.layer_norm(y, y.shape[-1:]), moved.to(y.dtype)], dim=-1)
        both = rearrange(both, "b (s r) h w c -> b s h w (r c)", r=self.runs)
        more = self.fine(torch.cat([both, (field / UNIT).to(y.dtype)], dim=-1), past)
        field, more = aligned(past, self.fine.conv_out, field, more)
        return field + more


# Features and pixels of a reference that follow a field.


@dataclass(frozen=True)
class RowPlace:
    """Where features are followed: by which layer, in cells of how many pixels, from which row."""

    layer: Layer
    cell: tuple[int, int]
    top: int = 0


def follow(
    x: Tensor | SlidingRows,
    field: Float[Tensor, "b s h w 4"],
    frames: int,
    steps: int,
    place: RowPlace,
) -> Float[Tensor, "b t h w c"]:
    """Still features "b 1 h2 w c" at each of `steps` times of a block, in the rows of `field`."""
    moved = displacements(field, frames)
    moved = rearrange(moved, "b (t k) h w c -> b t k h w c", t=steps).mean(2)
    moved = torch.stack([moved[..., i] / place.cell[i] for i in (0, 1)], dim=-1)
    reach = math.ceil(REACH / place.cell[0]) + TAPS
    end = place.top + field.shape[2]
    x, first = rows_around(x, place.layer, place.top - reach, end + reach)
    return warp(x[:, 0], moved, top=place.top - first).to(x.dtype)


def follow_pixels(
    frame: Tensor | SlidingRows,
    field: Float[Tensor, "b s h w 4"],
    frames: int,
    layer: Layer,
    top: int = 0,
) -> Float[Tensor, "b t h w c"]:
    """The frames of a block as the reference "b 1 h2 w c" alone gives them, in rows of `field`."""
    moved, reach = drop_small(displacements(field, frames)), int(REACH) + TAPS
    x, first = rows_around(frame, layer, top - reach, top + field.shape[2] + reach)
    return warp(x[:, 0], moved, cubic=True, top=top - first).to(x.dtype)


@dataclass(frozen=True)
class FoundFields:
    """The field that the encoder's search found, and the same at the scale of the patches."""

    coarse: Float[Tensor, "b s h w 4"]
    fine: Float[Tensor, "b s h2 w2 4"]


def follow_found(
    reference: WholeReference,
    found: FoundFields,
    frames: int,
    patch: Patch,
    cells: slice | None = None,
) -> ReferenceFeatures:
    """What joins the encoder of a reference along `found`, or its rows of some cells."""
    sides, coarse, fine = patch.patch, found.coarse, found.fine
    cells, ratio = cells or slice(0, coarse.shape[2]), fine.shape[2] // coarse.shape[2]
    rows = slice(cells.start * ratio, cells.stop * ratio)
    field, near = coarse[:, :, cells], fine[:, :, rows]
    cell = sides[1] * ratio, sides[2] * ratio
    every = enlarge_field(fine, sides[1:], rows)
    pixels = follow_pixels(reference.frame, every, frames, patch, rows.start * sides[1])
    places = RowPlace(patch, cell, cells.start), RowPlace(patch, sides[1:], rows.start)
    return ReferenceFeatures(
        coarse=follow(reference.coarse, field, frames, field.shape[1], places[0]),
        fine=follow(reference.fine, near, frames, frames // sides[0], places[1]),
        patches=block_patches(patch, pixels),
        field=field,
    )


def block_patches(
    patch: Patch, frames: Float[Tensor, "b t h w c"]
) -> Float[Tensor, "b t2 h2 w2 d"]:
    """Whole blocks of frames as the patch front folds them."""
    return patch(frames, Past(whole=True))


@dataclass(frozen=True)
class Motion:
    """The motion of one block, for the loss: what the search found, and what the tokens gave.

    `mask` says which clips have a reference (None: all).
    """

    found: BlockMotion | None
    field: Float[Tensor, "b s h2 w2 4"]
    warped: Float[Tensor, "b t h w c"]
    block: Float[Tensor, "b t h w c"]
    mask: Bool[Tensor, " b"] | None
