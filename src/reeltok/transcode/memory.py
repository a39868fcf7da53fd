"""How coding a file stays within a budget of memory: in strips, and with a file for what waits."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reeltok.allocator import release_freed, return_frames
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.tiling import TileLike, Tiling, check_tile
from reeltok.transcode.need import GB, Need, Workload, memory_need
from reeltok.transcode.options import Coding
from reeltok.video.record import Stream, Video

BESIDE, LEAST = 0.75 * GB, 1 * GB  # the usual budget: beside the weights, and at least
SMALL = 256 * 256  # pixels of a frame that the usual budget never cuts
LOWEST = 16  # pixels of a strip that the usual budget allows in any case
LOW, MOST = 32, 1.5 * GB  # and where that takes no more than MOST
GAPS = 1.25  # times as much is taken for pasts that stay in memory
HIGHEST = 64  # pixels of a strip: higher ones are hardly faster


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How frames are coded within a budget: `chunk` at a time, in strips or tiles (None: whole)."""

    chunk: int
    tile: TileLike


def bounded(tokenizer: Tokenizer, coding: Coding, job: Workload) -> Bounds:
    """How the frames of a job are coded within `coding.memory`.

    Fewer at a time first, where that changes nothing, then in strips: a note says so, and freed
    frames go back to the system. ValueError for less than the frames need, for a tokenizer whose
    memory cannot be bounded, and for a tile that is none.
    """
    size = job.size
    spec, chunk = tokenizer.spec, coding.chunk_for(*size)
    strips = spec.strips if job.work == "decode" else tokenizer.encodes_in_strips
    check_tile(coding.tile, replace(spec, strips=strips))
    if not strips or tokenizer.device.type != "cpu":
        coding.check_unbounded(tokenizer, *size)
        return Bounds(chunk=chunk, tile=coding.tile)
    fixed = coding.chunk is not None or spec.independent  # where another number changes tokens
    fewest = chunk if fixed else min(chunk, spec.frames_per_group)
    first = replace(coding, chunk=fewest)
    need = memory_need(tokenizer, first, job)
    budget = usual_budget(need, size) if coding.memory is None else coding.memory * GB
    own = need.process + (budget - need.process) / (coding.jobs if coding.memory else 1)
    for count in halved(chunk, fewest) if coding.tile is None else ():
        if replace(need, frames=max(count, need.frames)).unbounded <= own:
            return Bounds(chunk=count, tile=None)
    if coding.memory is None:
        own = budget = max(budget, strips_budget(need))
    elif budget < need.least:
        raise ValueError(
            f"`memory={coding.memory:g}` GB is too little for frames of {size[0]}x{size[1]} by "
            f"{tokenizer.name}: give {math.ceil(need.least / GB * 100) / 100:g} or more"
        )
    return Bounds(chunk=fewest, tile=strips_within(need, size, coding, budget, own))


def strips_within(
    need: Need, size: tuple[int, int], coding: Coding, budget: float, own: float
) -> Tiling:
    """Strips as high as a file's `own` part of a budget allows, with a note.

    ValueError where those that were asked for do not fit.
    """
    pixels = coding.tile or strip_height(need, own)
    free = own - need.within(pixels)
    if free < 0 and coding.memory and coding.tile:
        raise ValueError(
            f"`tile={pixels}` does not fit into `memory={coding.memory:g}` GB with frames of "
            f"{size[0]}x{size[1]}: give a lower `tile`, or leave it out"
        )
    room = max(0, int(free / GAPS))
    within = budget if free >= 0 and (coding.memory or not coding.tile) else None
    note_strips(size, pixels, within, need.pasts - room)
    return_frames()
    return Tiling(pixels=pixels, room=room)


def halved(chunk: int, fewest: int) -> Iterator[int]:
    """Ever fewer frames at a time."""
    while chunk > fewest:
        yield chunk
        chunk = max(fewest, chunk // 2)
    yield fewest


def usual_budget(need: Need, size: tuple[int, int]) -> float:
    """The model and BESIDE, at least LEAST, and what a group of frames of SMALL pixels needs."""
    small = (need.unbounded - need.process) * min(1.0, SMALL / (size[0] * size[1]))
    return max(need.weights + BESIDE, LEAST, need.process + small)


def strips_budget(need: Need) -> float:
    """What the usual budget allows strips in any case."""
    return max(need.within(max(LOWEST, need.cell)), min(MOST, need.within(LOW)))


def strip_height(need: Need, budget: float) -> int:
    """Pixels of the highest strips that fit into a budget, a few cells at most."""
    cells = max(1, HIGHEST // need.cell)
    while cells > 1 and need.within(cells * need.cell) > budget:
        cells -= 1
    return cells * need.cell


def note_strips(size: tuple[int, int], pixels: int, budget: float | None, waiting: float) -> None:
    """Note that frames are coded in strips, and within which budget (None: those asked for)."""
    within = "" if budget is None else f" to stay within {budget / GB:.2f} GB (`memory`)"
    rest = "" if waiting <= 0 else f", and {waiting / GB:.1f} GB wait in a temporary file"
    warnings.warn(
        f"frames of {size[0]}x{size[1]} are coded in strips of {pixels} pixels{within}{rest}",
        stacklevel=4,
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
