"""Nearest doubling in space or in time and the convolution behind it, in one.

In space: of three rows that the kernel sees, two are copies of one: each of the four outputs that a
pixel becomes is a 2x2 convolution of the small frames, whose weights are sums. That is 16 products
instead of 36, and the doubled frames are never made. In time: of three frames two are equal, so two
kernels of two frames take the place of one of three. The plain version is the two steps.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reeltok.devices import convolution
from reeltok.nn import winograd
from reeltok.nn.linear import is_plain

# How the kernel's three rows fall on two of the small frame, for an even and an odd row.
ROWS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def suits_doubled(x: Float[Tensor, "b t h w c"], weight: Float[Tensor, "d c k m n"]) -> bool:
    """Whether doubling and a convolution of `weight` are done in one."""
    return (
        is_plain(x)  # first: a graph that is traced shall not depend on the rest
        and weight.shape[2:] == (1, 3, 3)
        and convolution() == "winograd"
    )


def fold_doubling(weight: Float[Tensor, "d c 1 3 3"]) -> Float[Tensor, "2 2 d c 2 2"]:
    """The four kernels, by the row and the column of the output within its square."""
    rows = weight.new_tensor(ROWS)
    kernels = torch.einsum("pri,dcij,qsj->pqdcrs", rows, weight[:, :, 0], rows)
    return kernels.permute(0, 1, 2, 4, 5, 3).contiguous().permute(0, 1, 2, 5, 3, 4)


def convolve_doubled(
    x: Float[Tensor, "b t h w c"],
    kernels: Float[Tensor, "2 2 d c 2 2"],
    bias: Float[Tensor, "d"],
) -> Float[Tensor, "b t h2 w2 d"]:
    """The convolution of the doubled frames, zeros around them, by `fold_doubling`'s kernels."""
    b, t, h, w, _ = x.shape
    images = F.pad(x, (0, 0, 1, 1, 1, 1)).flatten(0, 1).permute(0, 3, 1, 2)
    y = x.new_empty(b * t, 2 * h, 2 * w, len(bias))
    for row in (0, 1):
        for column in (0, 1):
            seen = images[:, :, row : row + h + 1, column : column + w + 1]
            part = F.conv2d(seen, kernels[row, column], bias)
            y[:, row::2, column::2] = part.permute(0, 2, 3, 1)
    return y.unflatten(0, (b, t))


def fold_pairs(weight: Float[Tensor, "d c 3 3 3"]) -> Float[Tensor, "2 2 16 c d"]:
    """The kernels over two frames, by Winograd: where the first two of three are one, the last."""
    first, middle, last = weight.unbind(2)
    parts = ((first + middle, last), (first, middle + last))
    return torch.stack([winograd.transform_weight(torch.stack(part, 2)) for part in parts])


def convolve_pairs(
    x: Float[Tensor, "b n h w c"],
    kernels: Float[Tensor, "2 2 16 c d"],
    bias: Float[Tensor, "d"],
    *,
    apart: bool,
) -> Float[Tensor, "b t h w d"]:
    """The 3x3x3 convolution of doubled frames, of which `x` has one of each pair.

    What stands in front of time is in `x`: as another pair, or `apart`, a single frame there and
    another behind. Zeros around frames.
    """
    ends = (x[:, 1:], x[:, :-1]) if apart else (x, x)
    parts = [winograd.convolve(x, k, bias) for x, k in zip(ends, kernels, strict=True)]
    return torch.stack(parts[::-1] if apart else parts, dim=2).flatten(1, 2)
