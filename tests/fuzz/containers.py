"""Video files of eleven kinds, and pictures: made tiny by PyAV and Pillow, then damaged."""

from pathlib import Path
from random import Random
from typing import Any

import av
import mutate
import numpy as np
from PIL import Image

from reeltok.cli.info import about_video
from reeltok.video.record import read

CODECS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mjpeg",
    "flv": "flv",
    "ts": "mpeg2video",
    "ogv": "libvpx",
    "nut": "ffv1",
    "gif": "gif",
    "y4m": "wrapped_avframe",
}
FORMATS = {"y4m": "yuv4mpegpipe", "ogv": "ogg"}
LAYOUTS = {"avi": "yuvj420p", "gif": "rgb8"}
DAMAGE = ("refuse", "stop", "skip")
SPANS: tuple[dict[str, Any], ...] = (
    {},
    {"frames": 3},
    {"start": 0.25},
    {"fps": 24, "frames": 9},
    {"fps": 3, "size": 16},
)
FRAMES, SIDE = 8, 32


def pictures() -> list[np.ndarray]:
    """Frames that differ."""
    y, x = np.mgrid[:SIDE, :SIDE]
    made = [np.stack([x * 7 + 9 * t, y * 7, 200 - x - 5 * t], -1) for t in range(FRAMES)]
    return [np.clip(frame, 0, 255).astype(np.uint8) for frame in made]


def make_video(path: Path, codec: str) -> bytes:
    """A file of these frames."""
    layout = LAYOUTS.get(path.suffix[1:], "yuv420p")
    with av.open(str(path), "w", format=FORMATS.get(path.suffix[1:])) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width = stream.height = SIDE
        stream.pix_fmt = layout
        for picture in pictures():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=layout)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path.read_bytes()


def make_pictures(folder: Path) -> dict[str, bytes]:
    """A still and moving pictures."""
    first, *rest = map(Image.fromarray, pictures())
    made = {}
    for name in ("clip.png", "clip.webp", "still.jpg", "still.png"):
        moving = {"save_all": True, "append_images": rest} if name.startswith("clip") else {}
        first.save(folder / name, **moving)
        made[name] = (folder / name).read_bytes()
    return made


class Target:
    named = True
    writes = False

    def __init__(self, folder: Path) -> None:
        av.logging.set_level(av.logging.PANIC)
        self.seeds = {f"clip.{k}": make_video(folder / f"clip.{k}", c) for k, c in CODECS.items()}
        self.seeds |= make_pictures(folder)
        self.passed = False

    def make(self, draw: Random) -> dict[str, bytes]:
        name = draw.choice([*self.seeds])
        data = self.seeds[name]
        if name.endswith((".mp4", ".mov")) and draw.random() < 0.6:
            return {name: mutate.spoil_boxes(data, draw)}
        keep = draw.choice((0, 16, 64)) if draw.random() < 0.7 else 0
        return {name: data[:keep] + mutate.spoil(data[keep:], draw)}

    def run(self, folder: Path) -> None:
        (path,) = folder.iterdir()
        try:
            about_video(str(path))
            self.passed = True
            number = path.stat().st_size  # stands for a choice that belongs to the input
            read(path, damage=DAMAGE[number % 3], **SPANS[number % len(SPANS)])
        except ValueError as error:
            opened = not any(said in str(error) for said in ("not a video", "not an image"))
            self.passed = self.passed or opened
            raise
