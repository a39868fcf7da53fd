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

PROSE = "eeeeeettttaaaaooooiiinnnsssrrrhhllddccuummffppggwwyybbvkxjqz"
"""Letters about as often as in English."""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def moving_still(
    still: UInt8[Tensor, "1 h w 3"],
    window: Window,
    rng: np.random.Generator,
    *,
    pages: float = 0.0,
) -> Float[Tensor, "1 c t s s"]:
    """`window.frames` views of a still in [-1, 1], from one random square to another.

    A share `pages` lies under a printed page, half of the others have words on them.
    """
    if pages and rng.random() < pages:
        still = under_page(still, rng)
    elif rng.random() < 0.5:
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


def under_page(
    still: UInt8[Tensor, "1 h w 3"], rng: np.random.Generator
) -> UInt8[Tensor, "1 h w 3"]:
    """The still under a page of small print, turned a little; one in four is light on dark."""
    from PIL import Image

    picture = Image.fromarray(still[0].numpy())
    width, height = (int(side * rng.uniform(0.6, 1.2)) for side in picture.size)
    page = Image.new("RGBA", (width, height))
    dark, light = (tinted(int(rng.integers(*ends)), rng) for ends in ((10, 80), (180, 246)))
    paper, ink = (dark, light) if rng.random() < 0.25 else (light, dark)
    page.paste(paper, (0, 0, width, height))
    print_on(page, ink, rng)
    page = page.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, expand=True)
    rooms = [whole - side for whole, side in zip(picture.size, page.size, strict=True)]
    left, top = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in rooms)
    picture.paste(page, (left, top), page)
    return torch.from_numpy(np.array(picture))[None]


def tinted(grey: int, rng: np.random.Generator) -> tuple[int, ...]:
    """A colour near a grey."""
    return tuple(int(v) for v in np.clip(grey + rng.integers(-20, 21, 3), 0, 255))


def print_on(page: Any, ink: tuple[int, ...], rng: np.random.Generator) -> None:
    """Paragraphs of random words in small print from top to bottom, some with a heading."""
    from PIL import ImageDraw

    pen, margin, y = ImageDraw.Draw(page), rng.uniform(2, 16), rng.uniform(2, 16)
    while y < page.height:
        size, lines = int(rng.integers(9, 19)), int(rng.integers(2, 9))
        if rng.random() < 0.3:
            size, lines = 2 * size, 1
        for _ in range(lines):
            lengths = rng.integers(1, 10, max(1, round(page.width / (3 * size))))
            words = ["".join(rng.choice(list(PROSE), length)) for length in lengths]
            words[0] = words[0].capitalize() if rng.random() < 0.4 else words[0]
            pen.text((margin, y), " ".join(words), fill=ink, font=font(size))
            y += size * 1.35
        y += rng.uniform(2, 12)


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """Pillow's own font, so that every machine draws the same letters."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
