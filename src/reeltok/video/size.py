"""How large pictures are: the size that is asked for, and the shape of their pixels.

Heights come first everywhere.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, SupportsFloat

from reeltok.video.colour import Display

Choose = Callable[[int, int], tuple[int, int]]  # (height, width) of the video to that of frames
Size = int | tuple[int, int] | Choose | None
AnySize = SupportsFloat | Sequence[SupportsFloat] | Choose | None  # as people give it

SQUARE = Fraction(1)  # the aspect of a pixel
_ALIKE = 0.01  # a share of a side by which a shape may change unsaid
_FLATTEST = 8  # ratios beyond this are taken for damage
_NOT_TAKEN = {"gif", "apng", "mjpeg"}  # browsers, too, show their pixels as they are


def size_text(height: int, width: int) -> str:
    """A size for people, height first as everywhere."""
    return f"{height}x{width}"


def ratio_text(ratio: Fraction) -> str:
    """A ratio for people and files: 16:11."""
    return f"{ratio.numerator}:{ratio.denominator}"


def check_size(size: Any) -> Size:
    """The size that is asked for in whole pixels; ValueError for what is none."""
    if size is None or callable(size):
        return size
    pair = isinstance(size, tuple | list)
    sides = [_whole(side) for side in (size if pair else [size])]
    if len(sides) != 1 + pair or None in sides:
        raise ValueError(f"size is the short side or (height, width) in pixels, not {size!r}")
    return (sides[0], sides[1]) if pair else sides[0]  # type: ignore[return-value]


def _whole(side: Any) -> int | None:
    """A side of 64 or 64.0 pixels as 64; None for what is not a number of pixels."""
    if isinstance(side, str | bytes | bool) or not isinstance(side, SupportsFloat):
        return None
    value = float(side)
    return int(value) if value.is_integer() and value >= 1 else None


def fit_size(height: int, width: int, size: Size, aspect: Fraction = SQUARE) -> tuple[int, int]:
    """The (height, width) that `size` asks for; beside a short side, the long one is made even.

    A function is asked with the height and width of the picture in square pixels.
    """
    if size is None:
        return height, width
    if callable(size):
        chosen = check_size(size(height, max(1, round(width * aspect))))
        if not isinstance(chosen, tuple):
            raise ValueError(f"size gave {chosen} for a picture: have it give (height, width)")
        return chosen
    if isinstance(size, tuple):
        return size
    if height == width:
        return size, size
    long = max(2, 2 * round(max(height, width) * size / min(height, width) / 2))
    return (size, long) if height < width else (long, size)


def distorts(height: int, width: int, aspect: Fraction, target: tuple[int, int]) -> bool:
    """Whether frames scaled to `target`, of square pixels, look other than they were meant to."""
    change = float(target[0] * width * aspect / (target[1] * height))
    return abs(change - 1) > _ALIKE + 2 / min(target)


def pixel_aspect(stream: Any, display: Display) -> Fraction:
    """Width over height of a pixel once the frame is turned; 1 where nothing sensible is said."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    named = {*stream.container.format.name.split(","), stream.codec_context.name}
    if named & _NOT_TAKEN or not 1 / _FLATTEST <= ratio <= _FLATTEST:
        return Fraction(1)
    return 1 / ratio if abs(display[1]) > abs(display[0]) else ratio
