"""The memory that coding a file needs, estimated from sizes: of the frames and of the model.

Never from what happens to be free, so that two runs code alike. A tokenizer is asked what it
remembers of earlier frames, and how many rows wait between two strips, by passing a column of cells
through it; how much more is live at a time was measured (docs/speed.md) and is rounded up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch

from reeltok.nn.past import Past
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.strips import FrameSource, StripNetwork, Strips
from reeltok.transcode.options import LARGE, Coding
from reeltok.transcode.side_by_side import thinning
from reeltok.video.lookahead import frames_ahead
from reeltok.video.movie import codec_named

Work = Literal["encode", "decode", "reconstruct"]

GB = 10**9
PROCESS = 0.36 * GB  # Python, torch and its kernels, without weights
LAYERS = 21  # outputs of the widest layer that a strip has at a time, and the gaps between them
WAITS = 5.5  # times the rows that wait: joined with a strip's, kept anew, and the gaps
LAYERS_WHOLE, PASTS_WHOLE = 11, 2  # the same of whole frames; pasts of this run and of the last
COLUMN = 16  # rows of cells behind which no more rows come to wait
STREAMS = {"encode": 3, "decode": 3, "reconstruct": 9}
"""Bytes of RGB for a pixel of a group of frames: two groups of originals, and reconstructions."""
RGB = 3  # and of the first frame, which a stream keeps

# Bytes for a pixel of a frame.
READING, READING_LARGE = 30, 22  # what a decoder holds, and the picture in the making
COMPARING = 30  # PSNR and SSIM of a frame, in bands
WRITING, AHEAD = 58, 4.7  # what x264 holds in any case, and for each frame that it looks ahead
BEHIND = 9  # more frames that it holds so
WRITING_LARGE = 37  # with few frames
X265, X265_LARGE = 1.15, 1.8  # times as much is held by x265
FULL_COLOUR = 1.55  # times as much for odd sizes, which are written in 4:4:4


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is done with `frames` (None: many) of `size` = (height, width).

    `beside`: another video shows them beside their originals. `codec` writes them, by default x264.
    """

    work: Work
    size: tuple[int, int]
    frames: int | None = None
    beside: bool = False
    codec: str | None = None


@dataclass(frozen=True)
class Sides:
    """Bytes in the encoder and in the decoder."""

    encoder: float
    decoder: float

    def through(self, work: Work) -> tuple[float, ...]:
        """Those of the networks that frames pass through."""
        one = {"encode": (self.encoder,), "decode": (self.decoder,)}
        return one.get(work, (self.encoder, self.decoder))


@torch.no_grad()
def remembered(tokenizer: Tokenizer) -> Sides:
    """Bytes for each cell of a frame that two runs of the smallest frames leave behind."""
    spec = tokenizer.spec
    if spec.independent:
        return Sides(0, 0)
    (_, h, w), before, after = spec.factors, Past(), Past()
    for frames in (spec.first_frames, spec.frames_per_group):
        x = torch.zeros(1, 3, frames, h, w, device=tokenizer.device, dtype=tokenizer.dtype)
        z = tokenizer.encode_part(x, before, frames=frames).z
        tokenizer.decode_part(z, after, last=False)
    return Sides(*(sum(x.nbytes for x in past.kept.values()) for past in (before, after)))


@torch.no_grad()
def waiting(tokenizer: Tokenizer, work: Work) -> float:
    """Bytes for a column of pixels of a frame in each run that wait between two strips."""
    assert isinstance(tokenizer, StripNetwork)
    spec, strips = tokenizer.spec, [Strips(cells=COLUMN, pasts={}) for _ in range(2)]
    (_, h, w), window = spec.factors, spec.window_for(spec.frames_per_group)
    runs = [(spec.first_frames, spec.first_steps), (spec.frames_per_group, spec.steps_per_group)]
    nothing = torch.zeros((), device=tokenizer.device, dtype=tokenizer.dtype)
    for frames, steps in [(window, spec.steps(window))] if window else runs:
        if work != "decode":
            x = nothing.expand(1, 3, frames, h * COLUMN, w)
            tokenizer.encode_strips(FrameSource(x, lambda rows: rows, h), strips[0], frames=frames)
        if work != "encode":
            z = nothing.expand(1, spec.channels, steps, COLUMN, 1)
            for _ in tokenizer.decode_strips(z, strips[1], last=False):
                pass
    return max(each.waited for each in strips) / (w * (window or spec.frames_per_group))


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that coding frames of `height` x `width` pixels needs, `frames` at a time.

    `weights` once, the rest for each file: `codecs` for reading and writing, `comparing` pictures
    while the network rests, `pasts` for what it remembers, `held` what strips have of whole frames,
    `streams` and `layer` for a pixel of each frame at a time, on its way and as the widest layer's
    values. `find_waits` gives those of a
    column of pixels of such a frame that wait between strips, the lowest of which have `cell`
    pixels.
    """

    weights: float
    codecs: float
    streams: float
    comparing: float
    layer: float
    pasts: float
    held: float
    find_waits: Callable[[], float]
    frames: int
    height: int
    width: int
    cell: int

    @property
    def process(self) -> float:
        """Once, whatever is coded."""
        return PROCESS + self.weights

    @cached_property
    def waits(self) -> float:
        """Found out when they are needed first: small frames are not cut."""
        return self.find_waits()

    @property
    def unbounded(self) -> float:
        """With whole frames."""
        network = LAYERS_WHOLE * self.layer * self.frames * self.width * self.height
        return self._beside(network) + PASTS_WHOLE * self.pasts

    def within(self, pixels: int) -> float:
        """With strips of `pixels` whose pasts lie in a file."""
        high = min(pixels, self.height)
        column = WAITS * self.waits + LAYERS * self.layer * high
        strips = self._beside(column * self.frames * self.width + self.held)
        return min(self.unbounded, strips)

    def _beside(self, network: float) -> float:
        streams = self.streams * self.frames * self.height * self.width
        return self.process + self.codecs + streams + max(network, self.comparing)

    @property
    def least(self) -> float:
        """With the lowest strips."""
        return self.within(self.cell)


def memory_need(tokenizer: Tokenizer, coding: Coding, job: Workload) -> Need:
    """What coding a file needs."""
    spec, (height, width), chunk = tokenizer.spec, job.size, coding.chunk_for(*job.size)
    pixels, cells, work = height * width, math.ceil(height / spec.factors[1]), job.work
    group = spec.window_for(coding.chunk or 16) or max(chunk, spec.frames_per_group)
    shown = 2 / thinning(pixels) ** 2 if job.beside else 0.0  # frames of the other video in one
    codecs = pixels * RGB + reading(pixels) * (work != "decode")
    codecs += writing(pixels, job) * (work != "encode") * full_colour(job.size)
    return Need(
        weights=sum(each.nbytes for each in tokenizer.state_dict().values()),
        codecs=codecs + writing(pixels * shown, replace(job, codec=None)),
        streams=STREAMS[work],
        comparing=pixels * max(COMPARING, RGB * shown * group) * (work == "reconstruct"),
        layer=spec.widest * tokenizer.dtype.itemsize,
        pasts=cells * math.ceil(width / spec.factors[2]) * sum(remembered(tokenizer).through(work)),
        held=spec.held * tokenizer.dtype.itemsize * pixels,
        find_waits=lambda: waiting(tokenizer, work),
        frames=group,
        height=height,
        width=width,
        cell=spec.factors[1],
    )


def reading(pixels: int) -> float:
    """Bytes that a decoder holds of a video."""
    return pixels * (READING_LARGE if pixels > LARGE else READING)


def writing(pixels: float, job: Workload) -> float:
    """Bytes that an encoder holds of a job's video, whose frames have so many pixels."""
    x265 = job.codec is not None and codec_named(job.codec) == "hevc"
    if pixels > LARGE:
        return pixels * WRITING_LARGE * (X265_LARGE if x265 else 1)
    held = frames_ahead(pixels) + BEHIND if pixels else 0
    held = held if job.frames is None else min(job.frames, held)
    return pixels * (WRITING + AHEAD * held) * (X265 if x265 else 1)


def full_colour(size: tuple[int, int]) -> float:
    """How many times as much x264 holds of frames of a size because of their colours."""
    return FULL_COLOUR if size[0] % 2 or size[1] % 2 else 1.0
