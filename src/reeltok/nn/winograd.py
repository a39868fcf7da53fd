"""3x3 convolutions by Winograd's minimal filtering: 16 products a 2x2 square of outputs, not 36.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1, F(2x2, 3x3):
Y = A' [(G w G') * (B' x B)] A. Sums over channels and over a kernel's frames are products of
matrices in between. The plain version is torch's own convolution; they differ by rounding.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reeltok.devices import convolution, matmul
from reeltok.nn.linear import is_plain

TILES = 128  # squares at a time: what belongs to them stays in the processor's cache
LEAST_WIDTH = {1: 256, 3: 96}  # channels from which it pays, by the frames of the kernel
LEAST_PIXELS = 256  # of a frame
SAMPLES = 4096  # values of a weight that are compared
G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


def suits(
    x: Float[Tensor, "b t h w c"],
    weight: Tensor,
    stride: tuple[int, int, int],
    padding: tuple[int, int],
) -> bool:
    """Whether a convolution of `weight` "d c t 3 3" is faster so: by its shape and the machine."""
    width = LEAST_WIDTH.get(weight.shape[2])
    return (
        is_plain(x)  # first: a graph that is traced shall not depend on sizes
        and width is not None
        and min(weight.shape[:2]) >= width
        and weight.shape[3:] == (3, 3)
        and stride[1:] == (1, 1)
        and padding == (1, 1)
        and x.shape[2] * x.shape[3] >= LEAST_PIXELS
        and convolution() == "winograd"
    )


class Transformed:
    """The transformed weight of a layer, made anew where weight or transform are others.

    Changes in place are seen by the weight's version; those through `weight.data`, which torch does
    not count, in the sum of all its bits and in some of its values. Copies hold nothing. What is
    kept is replaced as a whole, so that threads may share a layer.
    """

    def __init__(self) -> None:
        self.kept: tuple[Tensor, Tensor, tuple[Any, ...]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Transformed, ()

    def of(
        self,
        weight: Float[Tensor, "d c t 3 3"],
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """What `transform` (by default Winograd's) makes of `weight`."""
        version = None if weight.is_inference() else weight._version
        way = (version, matmul(), transform)
        bits = weight.detach().view(torch.int32)
        total = bits.sum(dtype=torch.int32)  # wraps: a checksum
        seen = torch.cat([total[None], bits.flatten()[:: max(1, bits.numel() // SAMPLES)]])
        kept = self.kept
        if kept is None or kept[2] != way or not torch.equal(kept[1], seen):
            kept = (transform or transform_weight)(weight.detach()), seen, way
            self.kept = kept
        return kept[0]


def transform_weight(weight: Float[Tensor, "d c t 3 3"]) -> Float[Tensor, "t 16 c d"]:
    """G w G' of every pair of channels, for each frame of the kernel; the columns first.

    It lies in memory as the products of the machine read it.
    """
    basis = torch.tensor(G, dtype=torch.float64)
    both = torch.einsum("ri,sj->srij", basis, basis).reshape(16, 9).to(weight)
    if matmul() == "onednn":  # rows of outputs
        return transform_weight_of(weight, both).transpose(2, 3)
    return transform_weight_of(weight.transpose(0, 1), both)


def transform_weight_of(weight: Tensor, both: Float[Tensor, "16 9"]) -> Float[Tensor, "t 16 a b"]:
    a, b, t = weight.shape[:3]
    whole = weight.new_empty(t, 16, a, b)
    for i in range(t):
        torch.mm(both, weight[:, :, i].reshape(a * b, 9).T, out=whole[i].view(16, a * b))
    return whole


def convolve(
    x: Float[Tensor, "b t h w c"],
    weight: Float[Tensor, "k 16 c d"],
    bias: Float[Tensor, "d"],
    stride: int = 1,
    *,
    above: int = 1,
) -> Float[Tensor, "b t2 h2 w d"]:
    """The convolution whose weight was transformed; zeros around frames, nothing around time.

    With `above=0` there are no zeros above and below, and two rows less.
    """
    (b, t, h, w, c), kernel = x.shape, len(weight)
    h -= 2 - 2 * above
    rows, columns = (h + 1) // 2, (w + 1) // 2
    y = x.new_empty(b, (t - kernel) // stride + 1, h, w, weight.shape[3])
    some = max(1, min(rows, TILES // columns))
    slab = x.new_zeros(2 * some + 2, 2 * columns + 2, c)
    for clip in range(b):
        for first in range(0, rows, some):
            count = min(some, rows - first)
            seen: deque[Tensor] = deque(maxlen=kernel)
            for frame in range(t):
                fill_slab(slab, x[clip, frame], 2 * first - above)
                seen.append(transform_input(slab[: 2 * count + 2]))
                step, rest = divmod(frame + 1 - kernel, stride)
                if step >= 0 and not rest:
                    out = y[clip, step, 2 * first : 2 * (first + count)]
                    transform_output(products(seen, weight), bias, out, columns)
    return y


def fill_slab(slab: Float[Tensor, "r s c"], frame: Float[Tensor, "h w c"], top: int) -> None:
    """Rows `top`.. of a frame into `slab`, behind one column of zeros; zeros below its end."""
    (h, w, _), r = frame.shape, len(slab)
    low, high = max(0, top), min(h, top + r)
    slab[low - top : high - top, 1 : w + 1] = frame[low:high]
    slab[: low - top] = 0
    slab[max(0, high - top) :] = 0


def transform_input(x: Float[Tensor, "r s c"]) -> Float[Tensor, "16 n c"]:
    """B' x B of overlapping 4x4 squares, the columns' index first."""
    r, s, c = x.shape
    half = x.new_empty(4, r // 2 - 1, s, c)
    differences([x[i : r - 2 + i : 2] for i in range(4)], half)
    v = x.new_empty(4, *half.shape[:2], s // 2 - 1, c)
    differences([half[:, :, i : s - 2 + i : 2] for i in range(4)], v)
    return v.view(16, -1, c)


def differences(parts: list[Tensor], out: Tensor) -> None:
    """B' along one axis: a - c, b + c, c - b, b - d."""
    a, b, c, d = parts
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])


def products(seen: "deque[Tensor]", weight: Float[Tensor, "k 16 c d"]) -> Float[Tensor, "16 n d"]:
    """Sums over the channels of all frames under the kernel."""
    if matmul() == "onednn":
        product, whole = torch.ops.mkldnn._linear_pointwise, torch.empty(0)
        for i, x in enumerate(seen):
            rows = weight[i].transpose(1, 2)
            parts = torch.stack([product(x[j], rows[j], None, "none", [], "") for j in range(16)])
            whole = whole.add_(parts) if i else parts
        return whole
    whole = torch.bmm(seen[0], weight[0])
    for x, w in zip(list(seen)[1:], weight[1:], strict=True):
        whole.baddbmm_(x, w)
    return whole


def transform_output(
    m: Float[Tensor, "16 n d"],
    bias: Float[Tensor, "d"],
    out: Float[Tensor, "h w d"],
    columns: int,
) -> None:
    """A' m A plus the bias, into `out`; what lies beyond its edges is dropped."""
    _, w, d = out.shape
    m = m.view(4, 4, -1, columns, d)  # by column, by row
    half = m.new_empty(4, m.shape[2], columns, 2, d)
    sums(m, (half[..., 0, :], half[..., 1, :]))
    half = half.flatten(2, 3)[:, :, :w]
    half[1] += bias  # which the sums of both rows hold once
    upper, lower = out[::2], out[1::2]
    torch.add(half[0], half[1], out=upper)
    upper += half[2]
    short = half[:, : len(lower)]
    torch.sub(short[1], short[2], out=lower)
    lower -= short[3]


def sums(m: Float[Tensor, "4 k n s d"], out: tuple[Tensor, Tensor]) -> None:
    """A' along the first axis: a + b + c, b - c - d."""
    torch.add(m[0], m[1], out=out[0])
    out[0].add_(m[2])
    torch.sub(m[1], m[2], out=out[1])
    out[1].sub_(m[3])
