"""What a block is on its way through a RefTok: coded, decoded, and in strips."""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from reeltok.models.reftok.flow import FollowedReference, Motion
from reeltok.models.reftok.motion import BlockMotion
from reeltok.nn.quantizers import Quantized


@dataclass(frozen=True)
class CodedBlock:
    """A block on its way: its tokens (None: it has none) and the frames "b t h w c" made of it."""

    quantized: Quantized | None
    frames: Tensor
    motion: Motion | None = None


@dataclass(frozen=True)
class Decoded:
    """The frames "b t h w c" of a block, and the decoder's features of the last step; where they
    follow a motion, what followed it."""

    frames: Tensor
    features: Tensor
    followed: FollowedReference | None = None

    def motion(
        self, found: BlockMotion | None, block: Tensor, mask: Tensor | None
    ) -> Motion | None:
        """What the loss of the motion compares; None for frames that follow none."""
        if self.followed is None:
            return None
        return Motion(found, self.followed.field, self.followed.pixels, block, mask)


@dataclass(frozen=True)
class Strip:
    """Which rows of cells of a block a strip is, and which cells of all of them were skipped."""

    cells: slice
    skipped: Bool[Tensor, "b s h w"]
