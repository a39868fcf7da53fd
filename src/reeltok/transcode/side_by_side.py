"""Original and reconstruction held against each other: numbers, a picture, a video."""

import math
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from reeltok.metrics import paired as metrics
from reeltok.metrics.bands import measure_bands
from reeltok.video.movie import MovieShape
from reeltok.video.record import Video
from reeltok.video.sink import open_sink

VideoPair = tuple[Video, Video]
Picture = UInt8[np.ndarray, "h w 3"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SHOWN = 4  # frames in a picture
GAP = 6  # pixels between what stands side by side
MARGIN = 22  # pixels above a row of frames, for its label
PAPER, INK = 255, (60, 60, 60)
PIXELS = 16 * 256 * 256  # measured at once
LARGE = 1920 * 1200  # pixels of a frame; larger ones are shown side by side at a part of the size


class PairScores:
    """PSNR (dB) and SSIM of pairs of videos, gathered frame by frame."""

    def __init__(self) -> None:
        self.psnr: list[float] = []
        self.ssim: list[float] = []

    def add(self, original: Video, decoded: Video) -> None:
        """Measure all frames of a pair; SSIM only where its window of 11 pixels fits."""
        fits = min(original.height, original.width) >= metrics.SSIM_WINDOW
        if fits and original.height * original.width > PIXELS:
            for x, y in zip(original.frames.split(1), decoded.frames.split(1), strict=True):
                found = measure_bands(x, y)
                self.psnr += found.psnr.tolist()
                self.ssim += found.ssim.tolist()
            return
        step = max(1, PIXELS // (original.height * original.width))
        for start in range(0, len(original), step):
            x, y = (v[start : start + step] for v in (original, decoded))
            pair = metrics.Pair(*map(metrics.unit, metrics.check_pair(x, y)))
            self.psnr += metrics.psnr.of(pair)[0].tolist()
            if fits:
                self.ssim += metrics.ssim.of(pair)[0].tolist()

    @property
    def mean_psnr(self) -> float | None:
        """The mean over frames in dB; None where there were none."""
        return sum(self.psnr) / len(self.psnr) if self.psnr else None

    @property
    def mean_ssim(self) -> float | None:
        """The mean over frames; None where none was large enough."""
        return sum(self.ssim) / len(self.ssim) if self.ssim else None

    def record(self) -> dict[str, float | None]:
        """Both means, by name."""
        return {"psnr": self.mean_psnr, "ssim": self.mean_ssim}


class SampledFrames:
    """A few frames of a clip of `frames`, kept for a picture."""

    def __init__(self, frames: int) -> None:
        count = min(SHOWN, frames)
        self.wanted = {(2 * i + 1) * frames // (2 * count) for i in range(count)}
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.passed = 0

    def add(self, original: Video, decoded: Video) -> None:
        """Keep those frames of a pair that are wanted."""
        for i in range(len(original)):
            if self.passed + i in self.wanted:
                self.pairs.append((original.frames[i].clone(), decoded.frames[i].clone()))
        self.passed += len(original)

    @property
    def rows(self) -> list[list[Tensor]]:
        """The originals, then the reconstructions."""
        return [[pair[side] for pair in self.pairs] for side in (0, 1)]

    def picture(self, labels: Sequence[str]) -> Picture:
        """Originals above, reconstructions below, each row with its label."""
        return picture(self.rows, labels)


def picture(rows: Sequence[Sequence[Tensor]], labels: Sequence[str]) -> Picture:
    """Rows of frames of one size under one another, each with its label."""
    parts = []
    for frames, label in zip(rows, labels, strict=True):
        row = with_gaps([np.asarray(frame) for frame in frames], axis=1)
        parts += [label_strip(label, row.shape[1]), row]
    return np.pad(np.concatenate(parts), ((0, GAP), (GAP, GAP), (0, 0)), constant_values=PAPER)


def alongside(original: Iterator[Video], decoded: Iterator[Video]) -> Iterator[VideoPair]:
    """Each decoded part with the original frames that it stands for."""
    waiting: list[Tensor] = []
    for part in decoded:
        while sum(map(len, waiting)) < len(part):
            waiting.append(next(original).frames)
        frames = torch.cat(waiting)
        waiting = [frames[len(part) :]]
        yield Video.of(frames[: len(part)], like=part), part


def with_gaps(pictures: Sequence[Picture], axis: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Pictures of one size after one another, with a gap between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, PAPER, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis)


def label_strip(text: str, width: int) -> Picture:
    """A line of text on paper."""
    strip = Image.new("RGB", (width, MARGIN), (PAPER,) * 3)
    ImageDraw.Draw(strip).text((0, 4), text, fill=INK, font=ImageFont.load_default(size=13))
    return np.asarray(strip)


def thinning(pixels: int) -> int:
    """Every how manieth row and column of frames of `pixels` is shown side by side."""
    return 1 if pixels <= LARGE else math.ceil(math.sqrt(2 * pixels / LARGE))


def together(original: Video, decoded: Video) -> UInt8[np.ndarray, "t h w 3"]:
    """Each frame of both: beside one another, or where frames are wide, above one another.

    Where a frame has more than LARGE pixels, both take no more: every so many rows and columns.
    """
    wide = original.width > 1.2 * original.height
    every = thinning(original.height * original.width)
    sides = (video.frames[:, ::every, ::every].numpy() for video in (original, decoded))
    return np.stack([with_gaps(pair, axis=0 if wide else 1) for pair in zip(*sides, strict=True)])


def also_beside(pairs: Iterator[VideoPair], path: str | Path) -> Generator[VideoPair]:
    """The pairs as they are; on the way both are written together to the video `path`."""
    with open_sink(path, pad_even=True) as sink:
        for number, (original, decoded) in enumerate(pairs):
            frames, varying = together(original, decoded), decoded.times is not None
            if number == 0:
                height, width = frames.shape[1:3]
                colour, fps = decoded.colour, decoded.fps
                sink.begin(
                    MovieShape(
                        height=height,
                        width=width,
                        fps=fps,
                        varying=varying,
                        colour=colour,
                        start=0,
                        aspect=decoded.aspect,
                    )
                )
            for frame, (time, seconds) in zip(frames, decoded.moments(), strict=True):
                sink.add(frame, time, seconds)
            yield original, decoded
            del original, decoded  # before the next are made
