"""What the blocks of a clip are made of, to look at: skipped cells, and the decoder's motion."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.models.reftok.motion import displacements, enlarge_field
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import choose_references
from reeltok.models.reftok.skip import skipped_cells
from reeltok.nn.past import Past

STRONG = 16.0  # pixels of motion that are shown in full colour
DIM = 0.25  # of their light that skipped cells keep


@dataclass(frozen=True)
class TracedBlock:
    """One block: its frames in [-1, 1], its skipped cells, and how far (pixels) frames moved.

    `moved` is None where the network follows no motion, or the block has no reference.
    """

    frames: Float[Tensor, "t h w c"]
    skipped: Bool[Tensor, "s h2 w2"]
    moved: Float[Tensor, "t h3 w3 2"] | None


@torch.no_grad()
def trace_blocks(model: RefTok, x: Float[Tensor, "1 c t h w"]) -> list[TracedBlock]:
    """The blocks of a clip in [-1, 1] of whole blocks and cells, as the encoder makes them.

    What has no reference, the first frame among it, skips nothing and did not move.
    """
    rows, at, blocks = x.permute(0, 2, 3, 4, 1).contiguous(), 0, []
    known = choose_references(model.config, x, 0, None, None).options["references"]
    for coded in model.run(rows, Past(), known):
        frames, motion, moved = coded.frames[0], coded.motion, None
        skipped = torch.zeros(1, 1, 1, dtype=torch.bool, device=x.device)
        if coded.quantized is not None and at and at not in known:
            skipped = skipped_cells(coded.quantized.z)[0]
            moved = None if motion is None else displacements(motion.field, len(frames))[0]
        blocks.append(TracedBlock(frames, skipped, moved))
        at += len(frames)
    return blocks


def shown(block: TracedBlock) -> Float[Tensor, "t h w c"]:
    """Frames whose skipped cells are dim, under the colours of their motion."""
    frames = dim_cells(block.frames.clamp(-1, 1), block.skipped)
    return frames if block.moved is None else colour_motion(frames, block.moved)


def dim_cells(
    frames: Float[Tensor, "t h w c"], cells: Bool[Tensor, "s h2 w2"]
) -> Float[Tensor, "t h w c"]:
    """Frames in [-1, 1] with a quarter of their light in some cells."""
    dim = cells[..., None]
    for axis, (size, count) in enumerate(zip(frames.shape, cells.shape, strict=False)):
        dim = dim.repeat_interleave(max(1, size // count), dim=axis)
    return torch.where(dim, DIM * (frames + 1) - 1, frames)


def colour_motion(
    frames: Float[Tensor, "t h w c"], moved: Float[Tensor, "t h2 w2 2"]
) -> Float[Tensor, "t h w c"]:
    """Frames under colours: hue is the direction of motion, strength its length up to 16 pixels."""
    ratio = frames.shape[1] // moved.shape[1], frames.shape[2] // moved.shape[2]
    moved = enlarge_field(moved[None], ratio)[0]
    strength = (moved.norm(dim=-1, keepdim=True) / STRONG).clamp(max=1)
    return torch.lerp(frames.float(), hues(moved), strength)


def hues(moved: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 3"]:
    """The directions (rows, columns) of motion as bright colours in [-1, 1]."""
    turn = torch.atan2(moved[..., 0], moved[..., 1])[..., None] / (2 * torch.pi)
    thirds = torch.tensor(
        [0.0, 2 / 3, 1 / 3], device=moved.device
    )  # red to the right, then green, then blue
    distance = ((turn + thirds) % 1 * 6 - 3).abs() - 1
    return distance.clamp(0, 1) * 2 - 1
