"""How coding a file stays within a budget of memory: in strips, and with a file for what waits.

The peak of a process is estimated from sizes alone, never from what happens to be free, so that two
runs code alike. The constants were measured (docs/speed.md) and are rounded up.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from reeltok.allocator import release_freed, return_frames
from reeltok.nn.past import Past
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.tiling import TileLike, Tiling
from reeltok.transcode.options import Coding
from reeltok.video.record import Stream, Video

Work = Literal["encode", "decode", "reconstruct"]

GB = 10**9
BESIDE, LEAST = 0.75 * GB, 1 * GB  # the usual budget: beside the weights, and at least
PROCESS = 0.47 * GB  # Python, torch and its kernels
READING, WRITING = 24, 50  # bytes for each pixel of a frame: of codecs and their pictures
LOOKING, LARGE = 120, 1920 * 1200  # bytes beside on frames of up to LARGE pixels: x264 looks ahead
LAYERS = 16  # outputs of the widest layer, and the gaps between them
WAITING = 2  # rows of cells that a strip has beside its own
SMALL = 256 * 256  # pixels of a frame that the usual budget never cuts
LOWEST = 2  # rows of cells of a strip that the usual budget allows in any case
HIGHEST = 64  # pixels of a strip: higher ones are hardly faster


@dataclass(frozen=True)
class Remembered:
    """Bytes that encoder and decoder remember of earlier frames for each cell of a frame."""

    encoder: float
    decoder: float


@torch.no_grad()
def remembered(tokenizer: Tokenizer) -> Remembered:
    """What two runs of the smallest frames leave behind."""
    spec = tokenizer.spec
    if spec.independent:
        return Remembered(0, 0)
    (_, h, w), before, after = spec.factors, Past(), Past()
    for frames in (spec.first_frames, spec.frames_per_group):
        x = torch.zeros(1, 3, frames, h, w, device=tokenizer.device, dtype=tokenizer.dtype)
        z = tokenizer.encode_part(x, before, frames=frames).z
        tokenizer.decode_part(z, after, last=False)
    kept = (sum(x.nbytes for x in past.kept.values()) for past in (before, after))
    return Remembered(*kept)


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that coding frames of a size needs: `process` once, the rest for each file.

    `frames` are pictures and codecs, `row` what the network computes with for a row of pixels and
    `whole` for all, `pasts` what it remembers, `cell` the pixels of the lowest strip.
    """

    process: float
    frames: float
    row: float
    pasts: float
    height: int
    cell: int

    @property
    def unbounded(self) -> float:
        """With whole frames."""
        return self.process + self.frames + self.row * self.height + self.pasts

    def within(self, pixels: int) -> float:
        """With strips of `pixels` whose pasts lie in a file."""
        high = min(self.height, pixels + WAITING * self.cell)
        share = min(1.0, pixels / self.height)
        return self.process + self.frames + self.row * high + self.pasts * share

    @property
    def least(self) -> float:
        """With the lowest strips."""
        return self.within(self.cell)


def memory_need(tokenizer: Tokenizer, size: tuple[int, int], coding: Coding, work: Work) -> Need:
    """What frames of `size` = (height, width) need."""
    spec, (height, width), bytes_each = tokenizer.spec, size, tokenizer.dtype.itemsize
    chunk = coding.chunk_for(height, width)
    frames = spec.window_for(coding.chunk or 16) or max(chunk, spec.frames_per_group)
    weights = sum(each.nbytes for each in tokenizer.state_dict().values())
    kept, pixels = remembered(tokenizer), height * width
    cells = math.ceil(height / spec.factors[1]) * math.ceil(width / spec.factors[2])
    look = LOOKING if pixels <= LARGE else 0
    each = {
        "encode": (READING, 4),
        "decode": (WRITING + look / 3, 4),
        "reconstruct": (READING + WRITING + look, 16),
    }
    codecs, copies = each[work]
    sides = {"encode": kept.encoder, "decode": kept.decoder}
    both = kept.encoder + kept.decoder
    return Need(
        process=PROCESS + weights,
        frames=pixels * (codecs + copies * frames),
        row=LAYERS * spec.widest * bytes_each * frames * width,
        pasts=cells * sides.get(work, both),
        height=height,
        cell=spec.factors[1],
    )


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How frames are coded within a budget: `chunk` at a time, in strips or tiles (None: whole)."""

    chunk: int
    tile: TileLike


def bounded(tokenizer: Tokenizer, size: tuple[int, int], coding: Coding, work: Work) -> Bounds:
    """How frames of `size` = (height, width) are coded within `coding.memory`.

    Fewer at a time first, where that changes nothing, then in strips: a note says so, and freed
    frames go back to the system. ValueError for less than the frames need, and for a tokenizer
    whose memory cannot be bounded.
    """
    spec, chunk = tokenizer.spec, coding.chunk_for(*size)
    if not spec.strips or tokenizer.device.type != "cpu":
        coding.check_unbounded(tokenizer, *size)
        return Bounds(chunk=chunk, tile=coding.tile)
    fixed = coding.chunk is not None or spec.independent  # where another number changes tokens
    fewest = chunk if fixed else min(chunk, spec.frames_per_group)
    need = memory_need(tokenizer, size, replace(coding, chunk=fewest), work)
    budget = usual_budget(need, size) if coding.memory is None else coding.memory * GB
    if budget < need.least:
        raise ValueError(
            f"`memory={coding.memory:g}` GB is too little for frames of {size[0]}x{size[1]} by "
            f"{tokenizer.name}: give {math.ceil(need.least / GB * 100) / 100:g} or more"
        )
    own = need.process + (budget - need.process) / (coding.jobs if coding.memory else 1)
    for frames in halved(chunk, fewest) if coding.tile is None else ():
        if memory_need(tokenizer, size, replace(coding, chunk=frames), work).unbounded <= own:
            return Bounds(chunk=frames, tile=None)
    pixels = coding.tile or strip_height(need, own)
    free = own - need.within(pixels)
    if free < 0 and coding.memory and coding.tile:
        raise ValueError(
            f"`tile={pixels}` does not fit into `memory={coding.memory:g}` GB with frames of "
            f"{size[0]}x{size[1]}: give a lower `tile`, or leave it out"
        )
    room = max(0, int(free))
    note_strips(size, pixels, budget if free >= 0 else None, need.pasts - room)
    return_frames()
    return Bounds(chunk=fewest, tile=Tiling(pixels=pixels, room=room))


def halved(chunk: int, fewest: int) -> Iterator[int]:
    """Ever fewer frames at a time."""
    while chunk > fewest:
        yield chunk
        chunk = max(fewest, chunk // 2)
    yield fewest


def usual_budget(need: Need, size: tuple[int, int]) -> float:
    """The model and BESIDE, at least LEAST, and what a group of frames of SMALL pixels needs."""
    small = (need.unbounded - need.process) * min(1.0, SMALL / (size[0] * size[1]))
    model = need.process - PROCESS
    return max(model + BESIDE, LEAST, need.process + small, need.within(LOWEST * need.cell))


def strip_height(need: Need, budget: float) -> int:
    """Pixels of the highest strips that fit into a budget, a few cells at most."""
    pixels = need.cell * max(1, HIGHEST // need.cell)
    while pixels > need.cell and need.within(pixels) > budget:
        pixels = need.cell * max(1, pixels // need.cell // 2)
    return pixels


def note_strips(size: tuple[int, int], pixels: int, budget: float | None, waiting: float) -> None:
    """Note that frames are coded in strips, and within which budget (None: those asked for)."""
    within = "" if budget is None else f" to stay within {budget / GB:.2f} GB (`memory`)"
    rest = "" if waiting <= 0 else f", and {waiting / GB:.1f} GB wait in a temporary file"
    warnings.warn(
        f"frames of {size[0]}x{size[1]} are coded in strips of {pixels} pixels{within}{rest}",
        stacklevel=3,
    )


def released(parts: Iterator[Video], tile: TileLike) -> Iterator[Video]:
    """The parts as they are; in strips, what the network freed on the way to each goes back.

    Else it would stay beside what compares and writes frames, and that beside the network.
    """
    for part in parts:
        if isinstance(tile, Tiling):
            release_freed()
        yield part
        del part  # before the next is made
        if isinstance(tile, Tiling):
            release_freed()


def whole_groups_of(video: Stream, tokenizer: Tokenizer, tile: TileLike) -> Iterator[Video]:
    """The parts of a video; in strips each is one group, so that nothing has to be joined."""
    if not isinstance(tile, Tiling) or tokenizer.spec.independent:
        yield from video
        return
    spec = tokenizer.spec
    video.chunk = spec.first_frames
    for part in video:
        yield part
        del part  # before the next is read
        video.chunk = spec.frames_per_group
