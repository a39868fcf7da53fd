"""PSNR and SSIM of large frames a band of rows at a time: the same values in less memory.

SSIM looks at frames that are pooled to a short side of about 256 pixels: they are pooled in bands.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.metrics.paired import Pair, peak_decibel, ssim, ssim_pool, unit
from reeltok.video.frames import to_unit

BAND = 2**18  # pixels of a band at least


@dataclass(frozen=True)
class BandScores:
    """PSNR (dB) and SSIM of each frame."""

    psnr: Float[Tensor, " t"]
    ssim: Float[Tensor, " t"]


def measure_bands(
    x: UInt8[Tensor, "t h w c"], y: UInt8[Tensor, "t h w c"], *, band: int = BAND
) -> BandScores:
    """Those of frames `y` against `x`; a band has `band` pixels or some more."""
    t, h, w, c = x.shape
    pool = ssim_pool(h, w)
    rows = pool * -(-band // (pool * w))
    squares = torch.zeros(t, dtype=torch.float64)
    small: list[tuple[Tensor, Tensor]] = []
    for top in range(0, h, rows):
        here = slice(top, top + rows)
        pair = Pair(*(unit(to_unit(frames[:, here])) for frames in (x, y)))
        squares += pair.squares.sum(dim=(1, 3, 4))[0]
        if min(rows, h - top) >= pool:
            small.append((pool_squares(pair.a, pool), pool_squares(pair.b, pool)))
    shrunk = Pair(*(torch.cat(side, dim=3) for side in zip(*small, strict=True)))
    return BandScores(
        psnr=peak_decibel(squares.float() / (h * w * c)), ssim=ssim.of(shrunk, pooled=True)[0]
    )


def pool_squares(x: Float[Tensor, "b c t h w"], pool: int) -> Float[Tensor, "b c t h2 w2"]:
    """Means over squares of `pool` pixels."""
    return F.avg_pool2d(x.flatten(0, 2)[:, None], pool)[:, 0].unflatten(0, x.shape[:3])
