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


def damaged(path: Path, where: float, length: int = 3000) -> Path:
    """The file with a hole of zeros from a share of its length on."""
    data = bytearray(path.read_bytes())
    begin = int(len(data) * where)
    data[begin : begin + length] = bytes(min(length, len(data) - begin))
    path.write_bytes(data)
    return path


def cut(path: Path, where: float = 0.6) -> Path:
    """The file without what follows a share of its length."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * where)])
    return path


def repack(
    path: Path,
    target: Path,
    *,
    skip_groups: int = 0,
    change: Callable[[int, bytes], bytes] = lambda _, data: data,
    **options: str,
) -> Path:
    """Copy the packets into another file: without the first groups, or with changed bytes."""
    keys, first = 0, None
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as out:
        track = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            keys += packet.is_keyframe and packet.size > 0
            if packet.size and keys > skip_groups:
                first = packet.dts if first is None else first
                fresh = av.Packet(change(number, bytes(packet)))
                fresh.pts, fresh.dts = packet.pts - first, packet.dts - first
                fresh.duration, fresh.time_base = packet.duration, packet.time_base
                fresh.is_keyframe, fresh.stream = packet.is_keyframe, track
                out.mux(fresh)
    return target


def rough(frames: int = 40) -> torch.Tensor:
    """Pictures that take many bytes, so that every cut or hole falls into them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 64, 96, 3), dtype=torch.uint8, generator=generator)


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


def marked(frames: int = 60, height: int = 64, width: int = 96) -> Tensor:
    """Grey pictures that carry their number as eight bars, bit 0 on the left: uint8 "t h w 3"."""
    numbers = torch.arange(frames)[:, None] >> torch.arange(8) & 1
    bars = torch.where(numbers.bool(), 200, 40).repeat_interleave(width // 8, dim=1)
    return bars[:, None, :, None].expand(frames, height, -1, 3).byte().contiguous()


def number_of(picture: Tensor) -> int:
    """The number that a picture of `marked` carries."""
    height, width = picture.shape[:2]
    row = picture[height // 2 - 4 : height // 2 + 4].float().mean((0, 2)).reshape(8, width // 8)
    return sum(int(bar > 118) << bit for bit, bar in enumerate(row.mean(1)))


def without_packet(path: Path, lost: int) -> Path:
    """A transport stream without one of its packets of 188 bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: lost * 188] + data[(lost + 1) * 188 :])
    return path


def frame_packets(path: Path) -> list[int]:
    """The packets of a transport stream with which the frames of its video (PID 256) begin."""
    data = path.read_bytes()
    heads = [data[at : at + 3] for at in range(0, len(data), 188)]
    return [n for n, head in enumerate(heads) if head[1] & 0x5F == 0x41 and head[2] == 0]
