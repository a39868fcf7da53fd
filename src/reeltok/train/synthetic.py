"""Clips made from one still: a camera that pans and zooms over it, and now and then some text.

Real clips seldom show steady motion or sharp letters; a few of these among them teach both.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.train.clips import Window
from reeltok.video.record import to_unit

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def moving_still(
    still: UInt8[Tensor, "1 h w 3"], window: Window, rng: np.random.Generator
) -> Float[Tensor, "1 c t s s"]:
    """`window.frames` views of a still in [-1, 1], from one random square to another."""
    if rng.random() < 0.5:
        still = written_on(still, rng)
    height, width = still.shape[1:3]
    begin, end = (_square(height, width, window.size, rng) for _ in range(2))
    part = torch.linspace(0, 1, window.frames)[:, None]
    squares = begin + (end - begin) * part  # t x (centre x, centre y, half side), in pixels
    theta = torch.zeros(window.frames, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = 2 * squares[:, 2] / width, 2 * squares[:, 2] / height
    theta[:, 0, 2] = 2 * squares[:, 0] / width - 1
    theta[:, 1, 2] = 2 * squares[:, 1] / height - 1
    shape = [window.frames, 3, window.size, window.size]
    grid = F.affine_grid(theta, shape, align_corners=False)
    picture = to_unit(still)[:, :, 0].expand(window.frames, -1, -1, -1)
    views = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    return views.transpose(0, 1)[None].clamp(-1, 1)


def _square(height: int, width: int, size: int, rng: np.random.Generator) -> Float[Tensor, "3"]:
    """A random square, as centre and half side; at most 1.5 times `size` wide, for sharpness."""
    short = min(height, width)
    side = rng.uniform(0.6 * min(size, short), min(1.5 * size, short))
    centre = [rng.uniform(side / 2, length - side / 2) for length in (width, height)]
    return torch.tensor([*centre, side / 2], dtype=torch.float32)


def written_on(
    still: UInt8[Tensor, "1 h w 3"], rng: np.random.Generator
) -> UInt8[Tensor, "1 h w 3"]:
    """The still with a few random words in random colours."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(still[0].numpy())
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.integers(1, 5)):
        word = "".join(rng.choice(list(LETTERS), rng.integers(3, 12)))
        place = (rng.uniform(0, 0.8 * picture.width), rng.uniform(0, 0.9 * picture.height))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        pen.text(place, word, fill=colour, font=font(int(rng.integers(10, 40))))
    return torch.from_numpy(np.array(picture))[None]


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """Pillow's own font, so that every machine draws the same letters."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
