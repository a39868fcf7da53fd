"""The loss of a RefTok's motion: near what the search found, then whatever gives the block best.

Reconstruction alone teaches motion slowly: a wrong field only makes the copies useless.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.configuration import FINITE
from reeltok.models.reftok.flow import Motion
from reeltok.models.reftok.motion import BlockMotion, displacements, searched_frames

EVERYWHERE, MOST = 0.2, 5.0  # weights of end points: of cells that do not move, and of any cell


@dataclass(frozen=True, kw_only=True, config=FINITE)
class MotionLoss:
    """What a field is trained on beside the reconstruction; it falls linearly to 0 at `until`.

    `endpoint` times the distance in pixels to the search's displacements, each cell weighted by
    what its motion saves; `warped` times the mean absolute difference of the block from the
    reference along the field; `smooth` times the field's mean change from cell to cell, in pixels.
    """

    until: int = Field(default=1000, ge=1)
    endpoint: float = Field(default=0.1, ge=0)
    warped: float = Field(default=3.0, ge=0)
    smooth: float = Field(default=0.01, ge=0)

    def factor(self, step: int) -> float:
        return max(0.0, 1 - step / self.until)


def motion_loss(motions: Sequence[Motion], config: MotionLoss) -> Float[Tensor, ""]:
    """The mean over blocks, of clips that have a reference."""
    return torch.stack([block_loss(motion, config) for motion in motions]).mean()


def block_loss(motion: Motion, config: MotionLoss) -> Float[Tensor, ""]:
    """The loss of one block's motion."""
    field, frames = motion.field, motion.block.shape[1]
    apart = (motion.warped - motion.block.float()).square() + 1e-6
    last = displacements(field, frames)[:, -1:]
    each = config.warped * apart.sqrt().mean((1, 2, 3, 4)) + config.smooth * roughness(last)
    if motion.found is not None:
        each = each + config.endpoint * endpoint_error(field, motion.found, frames)
    if motion.mask is None:
        return each.mean()
    return (each * motion.mask).sum() / motion.mask.sum().clamp(min=1)


def endpoint_error(
    field: Float[Tensor, "b s h w 4"], found: BlockMotion, frames: int
) -> Float[Tensor, " b"]:
    """How far the field's cells end from where the search found them, in pixels, weighted."""
    b, s = field.shape[:2]
    size = (found.moved.shape[2], found.moved.shape[3])
    cells = F.adaptive_avg_pool2d(rearrange(field, "b s h w k -> (b s) k h w"), size)
    moved = displacements(rearrange(cells, "(b s) k h w -> b s h w k", b=b, s=s), frames)
    moved = searched_frames(moved, s)
    far = ((moved - found.moved).square().sum(-1) + 0.01).sqrt()
    weight = found.saved / found.saved.mean().clamp(min=1e-6)
    return (far * (weight.clamp(max=MOST) + EVERYWHERE)).mean((1, 2, 3))


def roughness(moved: Float[Tensor, "b t h w 2"]) -> Float[Tensor, " b"]:
    """The mean absolute difference of neighbouring cells."""
    down, right = moved.diff(dim=2).abs(), moved.diff(dim=3).abs()
    return down.sum((1, 2, 3, 4)) / moved[0].numel() + right.sum((1, 2, 3, 4)) / moved[0].numel()
