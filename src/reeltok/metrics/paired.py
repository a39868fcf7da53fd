"""What is measured of a reconstruction, frame by frame.

Metrics take videos "b c t h w", floats in [-1, 1] or uint8, the original first, and return one
value per frame, so that means can be taken over frames and clips as a protocol asks
(docs/protocols.md). What is measured between two sets of clips stands in `distances`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from reeltok.metrics.lpips import LPIPS
from reeltok.video.frames import OVERSHOOT
from reeltok.video.record import unit_frames

PSNR_EPS = 1e-8  # keeps identical frames finite: at most 80 dB
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # Wang et al. 2004
UNIFORM_WINDOW = 7  # scikit-image's default, used by TokenBench
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # (k L)^2 with k1 = .01, k2 = .03, range L = 1
MS_SSIM_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003
MS_SSIM_SIDE = (SSIM_WINDOW - 1) * 2 ** (len(MS_SSIM_SCALES) - 1)  # 160: below, no window fits

LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709
DETAIL_SHARE = 0.1  # of a frame's pixels count as edges
BOX_SIDE = 64  # pixels: smaller boxes are widened, so that LPIPS has something to look at

Videos = Float[Tensor, "b c t h w"]
PerFrame = Float[Tensor, "b t"]
R = TypeVar("R")


def unit(x: Videos) -> Videos:
    """A video in [-1, 1] as float32 in [0, 1], clamped; a copy, its frames whole in memory."""
    x = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return x.add_(1).mul_(0.5).clamp_(0, 1)


def check_pair(x: Any, y: Any) -> tuple[Videos, Videos]:
    """An original and its reconstruction as floats, in [-1, 1] but for what a decoder overshoots.

    Both may be uint8 or a `Video`. Raises ValueError unless they are of one shape, for NaN, and for
    values on another scale (see `frames`).
    """
    a, b = unit_frames(x, "the original"), unit_frames(y, "the reconstruction", OVERSHOOT)
    if a.shape != b.shape:
        raise ValueError(
            f"metrics compare two videos 'b c t h w' of one shape, "
            f"but the original is {tuple(a.shape)} and the reconstruction {tuple(b.shape)}"
        )
    return a, b


def as_bytes(x: Any) -> Videos:
    """A video in [-1, 1], clamped and rounded to the 256 levels that a file of bytes can hold."""
    return _levels(unit(unit_frames(x, slack=OVERSHOOT))) / 127.5 - 1


class Pair:
    """An original and its reconstruction in [0, 1], and what metrics share of them, made once.

    `before` is the error of the frame before the first, where this is a later part of a video.
    """

    def __init__(
        self, a: Videos, b: Videos, before: Float[Tensor, "b c 1 h w"] | None = None
    ) -> None:
        self.a, self.b, self.before = a, b, before

    @cached_property
    def error(self) -> Videos:
        """What was added to the original."""
        return self.b - self.a

    @cached_property
    def squares(self) -> Videos:
        """The squared error."""
        return self.error.square()

    @cached_property
    def levels(self) -> tuple[Videos, Videos]:
        """Both as the numbers 0 to 255 that a file of bytes holds."""
        return _levels(self.a), _levels(self.b)

    @cached_property
    def planes(self) -> Float[Tensor, "2 p h w"]:
        """Their sum and difference; see `_planes`."""
        return _planes(self.a + self.b, self.error)

    @cached_property
    def finest(self) -> tuple[Tensor, Tensor]:
        """SSIM's two maps at full size, which MS-SSIM begins with."""
        return _similarity(self.planes, GAUSSIAN)


class FrameMetric(Generic[R]):
    """A metric of two videos in [-1, 1]: it checks them and maps them to [0, 1].

    `of` is the metric of a `Pair`, for which that is done, once for several metrics.
    """

    def __init__(self, of: Callable[..., R]) -> None:
        self.of = of
        update_wrapper(self, of)

    def __call__(self, x: Any, y: Any, **how: Any) -> R:
        """The metric of an original and its reconstruction; ValueError where they do not fit."""
        x, y = check_pair(x, y)
        return self.of(Pair(unit(x), unit(y)), **how)


@FrameMetric
def psnr(pair: Pair) -> PerFrame:
    """PSNR in dB per frame of values in [0, 1] after clamping; at most 80 dB (protocols 2)."""
    return peak_decibel(pair.squares.mean(dim=(1, 3, 4)))


@FrameMetric
def psnr_bytes(pair: Pair) -> PerFrame:
    """PSNR in dB per frame after both are rounded to the 256 levels of uint8, as a file holds."""
    a, b = pair.levels
    return peak_decibel((a - b).square_().mean(dim=(1, 3, 4)) / 255**2)


def ssim_pool(height: int, width: int) -> int:
    """The side of the squares that SSIM pools frames by."""
    return max(1, round(min(height, width) / 256))


@FrameMetric
def ssim(pair: Pair, *, pooled: bool = False) -> PerFrame:
    """SSIM per frame: Gaussian window 11, sigma 1.5, per channel, valid padding, data range 1.

    Frames are first average-pooled by max(1, round(short side / 256)), as the metric's authors
    advise; `pooled`: they were. Raises ValueError where a side is then shorter than the window.
    """
    pool = 1 if pooled else ssim_pool(*pair.a.shape[-2:])
    if pool == 1:
        return _per_frame(_mean(pair.finest), pair)
    return _per_frame(_mean(_similarity(F.avg_pool2d(pair.planes, pool), GAUSSIAN)), pair)


@FrameMetric
def ssim_grey(pair: Pair) -> PerFrame:
    """SSIM per frame of the luma (Rec. 709)."""
    return ssim.of(Pair(_luma(pair.a), _luma(pair.b)))


def _luma(x: Videos) -> Float[Tensor, "b 1 t h w"]:
    return (x * x.new_tensor(LUMA)[None, :, None, None, None]).sum(1, keepdim=True)


@FrameMetric
def ssim_uniform(pair: Pair) -> PerFrame:
    """SSIM per frame as scikit-image computes it by default, of values rounded to bytes.

    A uniform window of 7, unbiased variances, per channel, valid padding; nothing is pooled.
    """
    a, b = (v / 255 for v in pair.levels)
    count = UNIFORM_WINDOW**2
    maps = _similarity(_planes(a + b, b - a), UNIFORM, unbias=count / (count - 1))
    return _per_frame(_mean(maps), pair)


@FrameMetric
def ms_ssim(pair: Pair) -> PerFrame | None:
    """MS-SSIM per frame (five scales), or None where the short side is not above 160 pixels."""
    if min(pair.a.shape[-2:]) <= MS_SSIM_SIDE:
        return None
    return _per_frame(_scales(pair.planes, pair.finest), pair)


@FrameMetric
def flicker(pair: Pair) -> Float[Tensor, "b s"]:
    """Mean absolute error of the t - 1 frame differences, in 255ths: shimmer, as a viewer sees it.

    A still video has none, and neither has an error that does not change over time. Where the
    frame before the first is known, there are t differences.
    """
    return 255 * pair.error.diff(dim=2, prepend=pair.before).abs_().mean(dim=(1, 3, 4))


@FrameMetric
def detail(pair: Pair, *, share: float = DETAIL_SHARE) -> PerFrame:
    """PSNR in dB over the edge regions of the original, per frame.

    Edges are the `share` of a frame's pixels with the largest Sobel magnitude of the original's
    luma (Rec. 709, borders repeated), and all that tie with the last of them.
    """
    strength = _sobel(_frames(pair.a)).flatten(1)
    count = max(1, round(share * strength.shape[1]))
    edges = strength >= _largest(strength, count)
    squares = pair.squares.mean(dim=1).flatten(0, 1).flatten(1)
    mse = (squares * edges).sum(dim=1) / edges.sum(dim=1)
    return rearrange(peak_decibel(mse), "(b t) -> b t", b=len(pair.a))


def lpips(net: LPIPS, x: Any, y: Any) -> PerFrame:
    """LPIPS per frame; say which backbone wherever it is printed."""
    x, y = check_pair(x, y)
    a, b = (_frames(v.float().clamp(-1, 1)) for v in (x, y))
    return rearrange(net.distance(a, b), "(b t) -> b t", b=len(x))


@dataclass(frozen=True, kw_only=True)
class Box:
    """A named region of a clip (text, a face, a small pattern), in pixels from the top left."""

    name: str
    left: int
    top: int
    width: int
    height: int

    def crop(self, x: Videos) -> Float[Tensor, "b c t i j"]:
        """The region of a video, widened to 64 pixels a side where the frame allows it.

        Raises ValueError where no part of the box lies inside the frame.
        """
        rows = _widen(self.top, self.height, x.shape[3])
        columns = _widen(self.left, self.width, x.shape[4])
        if rows is None or columns is None:
            raise ValueError(f"{self} lies outside frames of {x.shape[4]}x{x.shape[3]} pixels")
        return x[..., rows, columns]


def _widen(start: int, length: int, limit: int) -> slice | None:
    if length <= 0 or start >= limit or start + length <= 0:
        return None
    first, last = max(0, start), min(limit, start + length)
    missing = max(0, BOX_SIDE - (last - first))
    first = max(0, min(first - missing // 2, limit - max(BOX_SIDE, last - first)))
    return slice(first, min(limit, max(last, first + BOX_SIDE)))


def _levels(a: Videos) -> Videos:
    """A video in [0, 1] as the numbers 0 to 255 that a file of bytes holds."""
    return (a * 255).round_()


def peak_decibel(mse: Tensor) -> Tensor:
    """PSNR of mean squared errors of values in [0, 1]; at most 80 dB."""
    return -10 * torch.log10(mse + PSNR_EPS)


def _largest(x: Float[Tensor, "n m"], count: int) -> Float[Tensor, "n 1"]:
    """The `count`-th largest value of each row; on a CPU NumPy finds it eight times as fast."""
    if x.device.type != "cpu":
        return x.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    return torch.from_numpy(np.partition(x.numpy(), -count, axis=1)[:, -count, None])


def _sobel(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The gradient magnitude of the luma of frames in [0, 1], by sums of shifted pictures."""
    weights = x.new_tensor(LUMA if x.shape[1] == 3 else [1 / x.shape[1]] * x.shape[1])
    luma = torch.einsum("nchw,c->nhw", x, weights)
    wide = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    across, down = wide[..., 2:] - wide[..., :-2], wide[:, 2:] - wide[:, :-2]
    right = (across[:, :-2] + across[:, 2:]).add_(across[:, 1:-1], alpha=2)
    below = (down[..., :-2] + down[..., 2:]).add_(down[..., 1:-1], alpha=2)
    return right.square_().add_(below.square_()).sqrt_()


def _planes(total: Videos, difference: Videos) -> Float[Tensor, "2 p h w"]:
    """a + b and b - a, each frame of each channel a plane for itself, p = b c t of them.

    With these two SSIM filters four maps, not five. On a CPU planes lie side by side in memory.
    """
    form = torch.channels_last if total.device.type == "cpu" else torch.contiguous_format
    pair = torch.stack([v.flatten(0, 2) for v in (total, difference)])
    return pair.contiguous(memory_format=form)


def _similarity(
    pair: Float[Tensor, "2 p h w"], taps: tuple[float, ...], *, unbias: float = 1.0
) -> tuple[Float[Tensor, "p i j"], Float[Tensor, "p i j"]]:
    """SSIM's luminance and contrast-structure maps of the planes of two videos in [0, 1]."""
    if min(pair.shape[-2:]) < len(taps):
        raise ValueError(
            f"SSIM needs frames of at least {len(taps)}x{len(taps)} pixels, "
            f"but these are {tuple(pair.shape[-2:])}"
        )
    means = _filter(pair, taps).square_()
    variances = _filter(pair.square(), taps).sub_(means)
    variances = variances if unbias == 1 else variances.mul_(unbias)
    return _likeness(means, SSIM_C1), _likeness(variances, SSIM_C2)


def _likeness(both: Float[Tensor, "2 p i j"], c: float) -> Float[Tensor, "p i j"]:
    """(2 x y + c) / (x^2 + y^2 + c), from the squares of x + y and x - y, which it needs twice."""
    plus, minus = both
    # In place, since fresh memory costs a CPU more than the sums that are written to it.
    return (plus - minus).add_(2 * c).div_(plus.add_(minus).add_(2 * c))


def _scales(pair: Float[Tensor, "2 p h w"], finest: tuple[Tensor, Tensor]) -> Float[Tensor, " p"]:
    """MS-SSIM of planes whose luminance and structure at the finest scale are known."""
    total = _mean(finest[1:]).clamp(min=0) ** MS_SSIM_SCALES[0]
    for weight in MS_SSIM_SCALES[1:]:
        pair = F.avg_pool2d(pair, 2, padding=[side % 2 for side in pair.shape[-2:]])
        maps = _similarity(pair, GAUSSIAN)
        last = weight == MS_SSIM_SCALES[-1]
        total = total * _mean(maps if last else maps[1:]).clamp(min=0) ** weight
    return total


def _mean(maps: tuple[Float[Tensor, "p i j"], ...]) -> Float[Tensor, " p"]:
    """The mean over each plane of one map, or of the product of two."""
    return (maps[0] * maps[1] if len(maps) == 2 else maps[0]).mean(dim=(1, 2))


def _per_frame(values: Float[Tensor, " p"], pair: Pair) -> PerFrame:
    """The mean over the channels of each frame."""
    return values.view(pair.a.shape[:3]).mean(dim=1)


def _filter(x: Float[Tensor, "n p h w"], taps: tuple[float, ...]) -> Float[Tensor, "n p i j"]:
    """A separable window over valid positions only.

    On a CPU as a convolution of each plane for itself: that is twice as fast as the sums of shifted
    pictures that it equals, where planes lie side by side.
    """
    if x.device.type != "cpu":
        return _filter_by_sums(x, taps)
    kernel = x.new_tensor(taps)
    for shape in ((-1, 1), (1, -1)):
        weight = kernel.view(1, 1, *shape).expand(x.shape[1], 1, -1, -1)
        x = F.conv2d(x, weight, groups=x.shape[1])
    return x


def _filter_by_sums(
    x: Float[Tensor, "n p h w"], taps: tuple[float, ...]
) -> Float[Tensor, "n p i j"]:
    """The same as sums of shifted pictures."""
    for dim in (-2, -1):
        size = x.shape[dim] - len(taps) + 1
        total = torch.zeros_like(x.narrow(dim, 0, size))
        for i, tap in enumerate(taps):
            total = total.add_(x.narrow(dim, i, size), alpha=tap)
        x = total
    return x


def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    taps = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return tuple(tap / sum(taps) for tap in taps)


GAUSSIAN = _gaussian(SSIM_WINDOW, SSIM_SIGMA)
UNIFORM = (1 / UNIFORM_WINDOW,) * UNIFORM_WINDOW


def _frames(x: Videos) -> Float[Tensor, "n c h w"]:
    return rearrange(x, "b c t h w -> (b t) c h w")
