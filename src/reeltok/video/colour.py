"""The colour of a video: the way between FFmpeg's frames and RGB.

Nothing else in the package converts between YUV and RGB. Both ways use the tagged matrix and range,
full chroma interpolation and accurate rounding, so that a clip keeps its colours on a round trip.
"""

import math
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

from reeltok.video.tags import RANGES, RGB, Colour

# swscale names its matrices by other numbers than H.273 (5 is any BT.601); constant luminance
# (10), YCgCo (8) and ICtCp (14) are unknown to it and end in an error.
_SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}

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

    `display` is the display matrix to apply instead of each frame's; `sharp` as in `FromRGB`.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        display: Display | None = None,
        *,
        sharp: bool = False,
    ) -> None:
        self.size = size
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
            flat = on_black(
                packed_pixels(self._convert(frame, "rgba", frame.height, frame.width), 4)
            )
            solid = av.VideoFrame.from_ndarray(flat, format="rgb24")
            solid = self._resize.reformat(solid, width=width, height=height, interpolation=_RESIZE)
        else:
            solid = self._convert(frame, "rgb24", height, width)
        return upright(packed_pixels(solid, 3), display)

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
            src_colorspace=matrix and _SWSCALE.get(matrix, matrix),
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
            dst_colorspace=_SWSCALE.get(matrix, matrix),
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
