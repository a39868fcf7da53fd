"""The decoder's motion: read from the tokens beside the reference, refined, and followed.

    tokens, reference ─ coarse head ─ field at the scale of the tokens ─► coarse features follow it
    fine features, reference ─ fine head ─ field at that of the patches ─► fine features and pixels

The heads end in zeros: untrained, everything stays in its place. There is no side channel: the
encoder is shown what its search found, and the tokens carry as much of it as pays.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from reeltok.models.reftok.features import ONE, InjectionShape, ReferenceFeatures
from reeltok.models.reftok.motion import BlockMotion, displacements, drop_small, enlarge_field, warp
from reeltok.models.vidtok.stages import SPACE, Patch
from reeltok.nn.bounds import Width
from reeltok.nn.layers import Conv, Norm, Residual
from reeltok.nn.past import Past
from reeltok.nn.quantizers.contract import full_precision

COARSE, FINE = 8.0, 2.0  # pixels that one unit of a head's output stands for
UNIT = 4.0  # pixels of a field that networks read as 1


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MotionConfig:
    """How a network follows motion.

    The encoder searches and is shown what it found, the decoder reads a field from the tokens by
    heads of `width` channels; `where` leaves out one side.
    """

    width: Width = 64
    where: Literal["encoder", "decoder", "both"] = "both"


class FlowHead(nn.Module):
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

    def forward(self, x: Float[Tensor, "b s h w c"]) -> Float[Tensor, "b s h w 4"]:
        y = self.conv_in(x)
        for block in self.blocks:
            y = block(y)
        y = self.norm(y)
        with full_precision(y):  # bfloat16 would round 20 pixels to eighths
            return self.unit * self.conv_out(y.to(self.conv_out.weight.dtype)).float()


class DecoderFlow(nn.Module):
    """The decoder's field, first at the scale of the tokens, then at that of the patches."""

    def __init__(
        self, shape: InjectionShape, widths: tuple[int, int], config: MotionConfig
    ) -> None:
        super().__init__()
        self.runs = shape.steps[0] // shape.steps[1]
        self.ratio = 2**shape.halvings
        inside = self.runs * (shape.fine + widths[0]) + 4
        self.coarse = FlowHead(shape.coarse + widths[1], config.width, blocks=2, unit=COARSE)
        self.fine = FlowHead(inside, config.width, blocks=1, unit=FINE)

    def begin(
        self, y: Float[Tensor, "b s h w c"], reference: ReferenceFeatures
    ) -> Float[Tensor, "b s h w 4"]:
        """The field at the scale of the tokens, from the decoder's first features `y`."""
        around = reference.coarse.expand(-1, y.shape[1], -1, -1, -1)
        return self.coarse(torch.cat([F.layer_norm(y, y.shape[-1:]), around], dim=-1))

    def refine(
        self,
        field: Float[Tensor, "b s h w 4"],
        y: Float[Tensor, "b t h2 w2 c"],
        moved: Float[Tensor, "b t h2 w2 r"],
    ) -> Float[Tensor, "b s h2 w2 4"]:
        """The field at the scale of the patches, from the features there.

        `moved` are the reference's, which follow `field` already.
        """
        field = enlarge_field(field, (self.ratio, self.ratio))
        both = torch.cat([F.layer_norm(y, y.shape[-1:]), moved.to(y.dtype)], dim=-1)
        both = rearrange(both, "b (s r) h w c -> b s h w (r c)", r=self.runs)
        return field + self.fine(torch.cat([both, (field / UNIT).to(y.dtype)], dim=-1))


# Features and pixels of a reference that follow a field.


def follow(
    x: Float[Tensor, "b 1 h w c"],
    field: Float[Tensor, "b s h w 4"],
    frames: int,
    steps: int,
    cell: tuple[int, int],
) -> Float[Tensor, "b t h w c"]:
    """Still features at each of `steps` times of a block; `cell` is theirs in pixels."""
    moved = displacements(field, frames)
    moved = rearrange(moved, "b (t k) h w c -> b t k h w c", t=steps).mean(2)
    moved = torch.stack([moved[..., i] / cell[i] for i in (0, 1)], dim=-1)
    return warp(x[:, 0], moved).to(x.dtype)


def follow_coarse(
    reference: ReferenceFeatures,
    field: Float[Tensor, "b s h w 4"],
    frames: int,
    cell: tuple[int, int],
) -> ReferenceFeatures:
    """The reference with coarse features that follow a field at the scale of the tokens."""
    moved = follow(reference.coarse, field, frames, field.shape[1], cell)
    return replace(reference, coarse=moved)


def follow_pixels(
    frame: Float[Tensor, "b h w c"],
    field: Float[Tensor, "b s h2 w2 4"],
    frames: int,
    cell: tuple[int, int],
) -> Float[Tensor, "b t h w c"]:
    """The frames of a block as the reference alone gives them; `cell` is the field's in pixels."""
    moved = drop_small(displacements(enlarge_field(field, cell), frames))
    return warp(frame, moved, cubic=True).to(frame.dtype)


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
