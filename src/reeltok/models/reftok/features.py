"""Features of reference frames, and the shape of the places where they join a network."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.models.vidtok.stages import SPACE
from reeltok.nn.layers import Conv, Norm, Residual
from reeltok.nn.past import Past
from reeltok.nn.rows import SlidingRows

ONE = (1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class InjectionShape:
    """The shape of the place where references join a network.

    `fine` and `coarse` are the widths there, `steps` = (fine, coarse) time steps of a block; space
    is halved `halvings` times between them. `patch` are the channels of the patch front, `carried`
    those of the features carried over.
    """

    fine: int
    coarse: int
    steps: tuple[int, int]
    halvings: int
    patch: int
    carried: int


@dataclass(frozen=True)
class WholeReference:
    """What was read from the references of a block: the first one's pixels, and features.

    Tensors "b 1 h w c", each at its scale, or in strips rows of such.
    """

    frame: Tensor | SlidingRows
    fine: Tensor | SlidingRows
    coarse: Tensor | SlidingRows


@dataclass(frozen=True)
class ReferenceFeatures:
    """What joins a network of the references: features, and the first one's patches.

    They stand still, one time step for a whole block, or follow a motion: then they have the steps
    of the block, and `field` is the motion in pixels that the encoder found. In strips they have
    rows that others do not have by now.
    """

    fine: Float[Tensor, "b t h w r"]
    coarse: Float[Tensor, "b s h2 w2 r2"]
    patches: Float[Tensor, "b t h3 w d"]
    field: Float[Tensor, "b s h2 w2 4"] | None = None


class ReferenceEncoder(nn.Module):
    """Features of still frames at the fine scale and, halved down, at the coarse one; normed."""

    def __init__(self, channels_in: int, width: int, halvings: int) -> None:
        super().__init__()
        widths = [min(2, 2**i) * width for i in range(halvings + 1)]
        self.conv_in = Conv(channels_in, width, SPACE)
        self.fine = Residual(width, width, SPACE, edge="past-first")
        self.down = nn.ModuleList(Conv(a, b, SPACE, stride=(1, 2, 2)) for a, b in pairwise(widths))
        self.coarse = Residual(widths[-1], widths[-1], SPACE, edge="past-first")
        self.norms = nn.ModuleList(Norm(end, act=False) for end in (width, widths[-1]))
        self.widths = width, widths[-1]

    def forward(
        self, x: Float[Tensor, "b 1 h w c"], past: Past | None = None
    ) -> tuple[Tensor, Tensor]:
        fine = self.fine(self.conv_in(x, past), past)
        coarse = fine
        for down in self.down:
            coarse = down(coarse, past)
        return self.norms[0](fine), self.norms[1](self.coarse(coarse, past))


class Broadcast(nn.Module):
    """Still features onto the time steps of a block: a 1x1 convolution for each, from zero."""

    def __init__(self, channels_in: int, channels_out: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = Conv(channels_in, steps * channels_out, ONE, zero=True)

    def forward(self, x: Float[Tensor, "b s h w r"], steps: int) -> Float[Tensor, "b t h w c"]:
        """The first `steps` time steps: a block's, or the only one of a first frame.

        Features that move have a time step for each.
        """
        if x.shape[1] == self.steps > 1:
            weights = self.conv.weight.flatten(1).unflatten(0, (self.steps, -1)).unbind()
            biases = self.conv.bias.unflatten(0, (self.steps, -1)).unbind()
            each = zip(x.unbind(1), weights, biases, strict=True)
            return torch.stack([F.linear(*step) for step in each], dim=1)
        y = self.conv(x)
        return rearrange(y, "b 1 h w (t c) -> b t h w c", t=self.steps)[:, :steps]
