"""The colour of a video: the way between FFmpeg's frames and RGB.

Nothing else in the package converts between YUV and RGB. Both ways use the tagged matrix and range,
full chroma interpolation and accurate rounding, so that a clip keeps its colours on a round trip.
"""

import math
from fractions import Fraction
from functools import cache
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import Shaped, UInt8

from reeltok.video.tags import RANGES, RGB, Colour, name_code

# swscale names its matrices by other numbers than H.273 (5 is any BT.601, and 3 is reserved);
# constant luminance (10), YCgCo (8), ICtCp (14) and others are unknown to it.
_SWSCALE = {1: 1, 3: 5, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}

# FFmpeg's fast path truncates (1.2 levels too dark on average) and doubles chroma without
# interpolation (off by up to 56 levels at edges); these flags stay within 1.5 of the formula.
_EXACT = int(
    Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_SAME_SIZE = int(Interpolation.BILINEAR) | _EXACT
# swscale widens its kernel when it shrinks a picture: bicubic here is antialiased.
_RESIZE = int(Interpolation.BICUBIC) | _EXACT

Pixels = UInt8[np.ndarray, "h w 3"]
Display = tuple[int, int, int, int]  # x' = a x + c y, y' = b x + d y
UPRIGHT: Display = (1, 0, 0, 1)


def has_alpha(frame: av.VideoFrame) -> bool:
    """Whether a frame's pixel format carries transparency (a palette may)."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def packed_pixels(frame: av.VideoFrame, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """The packed 8-bit pixels of a frame without a copy."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width * channels].reshape(
        frame.height, frame.width, channels
    )


def _deep_planes(frame: av.VideoFrame) -> list[Shaped[np.ndarray, "h w"]]:
    """Red, green, blue, and alpha where there is any, of a frame of planes of 16 bits."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), "<u2").reshape(-1, plane.line_size // 2)
        planes.append(rows[: frame.height, : frame.width])
    green, blue, red, *alpha = planes
    return [red, green, blue, *alpha]


def _bytes_of_levels(frame: av.VideoFrame) -> UInt8[np.ndarray, "65536"] | None:
    """The byte for each level of 16 bits, where FFmpeg's own bytes would be wrong; else None.

    It rounds deep levels of full range half a level too high, and takes all grey for full range.
    """
    form, said = frame.format, int(frame.color_range)
    bits = min(16, form.components[0].bits)  # floating levels have 32
    if form.name.startswith("gray") and said == RANGES["limited"]:
        return _rounded_between(16 << 8, 235 << 8)
    full = form.is_rgb or form.name.startswith(("gray", "ya")) or said == RANGES["full"]
    if bits <= 8 or not full:
        return None
    return _rounded_between(0, ((1 << bits) - 1) << 16 - bits)  # it widens them by shifting


@cache
def _rounded_between(black: float, white: float) -> UInt8[np.ndarray, "65536"]:
    """The byte for each level of 16 bits, of which these two become 0 and 255."""
    share = (np.arange(1 << 16) - black) / (white - black)
    return np.floor(share.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _swscale_number(matrix: int, name: str) -> int:
    """swscale's number of a matrix. ValueError for one that it does not have."""
    if matrix not in _SWSCALE:
        raise ValueError(
            f"the colour matrix of {name} is {name_code('matrix', matrix)}, which cannot be "
            "converted: convert the video to BT.709 first (FFmpeg's zscale does)"
        )
    return _SWSCALE[matrix]


def on_black(rgba: UInt8[np.ndarray, "*t h w 4"]) -> UInt8[np.ndarray, "*t h w 3"]:
    """Pictures with transparency laid on black, rounded."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + 127) // 255).astype(np.uint8)


def upright(pixels: Pixels, display: Display) -> UInt8[np.ndarray, "turned_h turned_w 3"]:
    """Turn and mirror pixels to the nearest quarter as a display matrix asks (a view)."""
    a, b, c, d = display
    if abs(b) > abs(a):  # x' = c y, y' = b x
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:  # x' = a x, y' = d y
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def display_of(frame: av.VideoFrame) -> Display:
    """The first two rows of a frame's display matrix without its shift; upright if it has none."""
    try:
        data: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # PyAV 18 cannot list side data of a kind it does not know: angle alone
        angle = math.radians(frame.rotation)
        cos, sin = round(math.cos(angle)), round(math.sin(angle))
        return cos, -sin, sin, cos
    if data is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


def upright_size(frame: av.VideoFrame, display: Display) -> tuple[int, int]:
    """Height and width in pixels once the frame is turned."""
    a, b, _, _ = display
    return (frame.width, frame.height) if abs(b) > abs(a) else (frame.height, frame.width)


class ToRGB:
    """Decoded frames to upright RGB pixels of one size (height, width), or of their own.

    `display` is the display matrix to apply instead of each frame's; `sharp` as in `FromRGB`; the
    video is called `name` in errors.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        display: Display | None = None,
        *,
        sharp: bool = False,
        name: str = "the video",
    ) -> None:
        self.size = size
        self.name = name
        self.display = display
        self._same_size = _RESIZE if sharp else _SAME_SIZE
        self._scale = VideoReformatter()
        self._resize = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """Pixels "h w 3" in [0, 255]; they may share the memory of a frame of FFmpeg's."""
        display = self.display or display_of(frame)
        height, width = self.size or upright_size(frame, display)
        if abs(display[1]) > abs(display[0]):
            height, width = width, height
        if has_alpha(frame):
            # Laid on black before the resize: afterwards the hidden colours would bleed in.
            flat = on_black(self._pixels(frame, 4, frame.height, frame.width))
            solid = av.VideoFrame.from_ndarray(flat, format="rgb24")
            solid = self._resize.reformat(solid, width=width, height=height, interpolation=_RESIZE)
            return upright(packed_pixels(solid, 3), display)
        return upright(self._pixels(frame, 3, height, width), display)

    def _pixels(
        self, frame: av.VideoFrame, channels: int, height: int, width: int
    ) -> UInt8[np.ndarray, "h w c"]:
        """RGB, or RGB and alpha, of this size."""
        levels = _bytes_of_levels(frame)
        if levels is None:
            layout = "rgba" if channels == 4 else "rgb24"
            return packed_pixels(self._convert(frame, layout, height, width), channels)
        layout = "gbrap16le" if channels == 4 else "gbrp16le"  # rgb48le loses green from 4:2:0
        deep = self._convert(frame, layout, height, width)
        return np.stack([levels[plane] for plane in _deep_planes(deep)], -1)

    def _convert(self, frame: av.VideoFrame, layout: str, height: int, width: int) -> av.VideoFrame:
        same = (height, width) == (frame.height, frame.width)
        matrix = None
        if not frame.format.is_rgb and not frame.format.has_palette:
            matrix = Colour.of(frame).matrix_for(frame.height)
        return self._scale.reformat(
            frame,
            width=width,
            height=height,
            format=layout,
            src_colorspace=matrix and _swscale_number(matrix, self.name),
            interpolation=self._same_size if same else _RESIZE,
            threads=1,  # the decoder's threads run ahead meanwhile
        )


class FromRGB:
    """RGB pixels to frames of a pixel format, tagged and converted by `colour`.

    `sharp` halves chroma by a bicubic filter, FFmpeg's own choice, and not by a bilinear one.
    """

    def __init__(self, layout: str, colour: Colour, *, sharp: bool = False) -> None:
        self.layout = layout
        self._same_size = _RESIZE if sharp else _SAME_SIZE
        self.colour = colour if av.VideoFormat(layout).is_rgb else colour.as_yuv()
        self._scale = VideoReformatter()

    def __call__(self, pixels: Pixels, pts: int, time_base: Fraction) -> av.VideoFrame:
        """One frame of height and width of `pixels`, stamped `pts` in `time_base` seconds."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self.layout != "rgb24":
            frame = self._convert(frame)
        frame.pts, frame.time_base = pts, time_base
        return frame

    def _convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        if av.VideoFormat(self.layout).is_rgb:
            return self._scale.reformat(
                frame, format=self.layout, interpolation=self._same_size, threads=1
            )
        matrix = self.colour.matrix_for(frame.height)
        frame = self._scale.reformat(
            frame,
            format=self.layout,
            dst_colorspace=_swscale_number(matrix, "the video"),
            dst_color_range=RANGES[self.colour.range or "limited"],
            interpolation=self._same_size,
            threads=1,
        )
        self.tag(frame)
        return frame

    def tag(self, target: av.VideoFrame | av.VideoCodecContext) -> None:
        """Write the tags on a frame or an encoder; an RGB layout is tagged as RGB."""
        rgb = av.VideoFormat(self.layout).is_rgb
        target.colorspace = RGB if rgb else self.colour.matrix
        target.color_primaries = self.colour.primaries
        target.color_trc = self.colour.transfer
        target.color_range = RANGES["full"] if rgb else RANGES.get(self.colour.range or "", 0)
