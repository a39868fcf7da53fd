"""Small clips made on the spot: any codec, layout, tags and time stamps."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

Clip = Callable[..., Path]


def pattern(frames: int = 10, height: int = 32, width: int = 48) -> Tensor:
    """Smooth colours that move, no two frames alike: uint8 "t h w 3"."""
    t, y, x = torch.meshgrid(
        torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij"
    )
    return torch.stack([x * 3 + t * 6, y * 5 + t * 3, 200 - x - y - t], -1).clamp(0, 255).byte()


def clip_maker(folder: Path) -> Clip:
    """Write frames through PyAV alone, so that what is read was not written by the same code."""

    def make(
        name: str = "clip.mp4",
        frames: Tensor | None = None,
        *,
        codec: str = "libx264",
        layout: str = "yuv444p",
        stamps: Sequence[int] | None = None,
        unit: Fraction = Fraction(1, 1000),
        fps: Fraction | int = 25,
        rotation: int = 0,
        flips: dict[str, bool] | None = None,
        tags: dict[str, int] | None = None,
        options: dict[str, str] | None = None,
        matrix: int = 5,
    ) -> Path:
        frames = pattern() if frames is None else frames
        path = folder / name
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], layout
            if stamps is not None:
                stream.codec_context.time_base = unit
            for tag, value in (tags or {}).items():
                setattr(stream.codec_context, tag, value)
            if rotation or flips:
                stream.set_display_rotation(rotation, **(flips or {}))
            for number, picture in enumerate(frames.numpy()):
                source = "rgba" if picture.shape[-1] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=source)
                frame = frame.reformat(
                    format=layout,
                    dst_colorspace=matrix,
                    dst_color_range=(tags or {}).get("color_range", 1),
                )
                if stamps is not None:
                    frame.pts, frame.time_base = stamps[number], unit
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return make
