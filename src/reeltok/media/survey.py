"""What the packets of a video file say before any of them is decoded.

A quick pass over the span that is asked for: time stamps, where to seek, and whether the file ends
before the end that its own structure declares.
"""

import io
import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Float

from reeltok.media.timing import Plan, Span, plan

SEEKS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # these go to a keyframe and back exactly
_SLACK = 0.5  # seconds between a track's last time stamp and its end that are no damage
_REORDER = 32  # packets read past the wanted span: more than any codec reorders


@dataclass(frozen=True, eq=False, kw_only=True)
class Survey:
    """What the packets of a video stream say before anything is decoded."""

    stamps: Float[np.ndarray, " n"]  # seconds since the first frame of the file, sorted
    stamped: bool  # False: the file has no time stamps, `stamps` were counted
    tick: float  # the unit of the stamps in seconds
    zero: float  # seconds on the file's own clock at its first frame
    seek: int  # time stamp to go to before decoding
    plan: Plan


def take_survey(
    container: InputContainer, stream: VideoStream, file: str | BinaryIO, span: Span, name: str
) -> Survey:
    """Go through the packets of `span`; `container` is left somewhere behind it.

    Raises ValueError for a file that is cut off or damaged, and for a span with nothing in it.
    """
    tick = _tick(stream)
    zero = (stream.start_time or 0) * tick
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    seek, stamps, ended = _reach(container, stream, span, name)
    last = max((stamp for stamp in stamps if stamp is not None), default=0) * tick
    if ended and _cut_off(file, container, stream, last):
        raise ValueError(f"{name} is cut off or damaged after {len(stamps)} frames")
    if not stamps:
        raise ValueError(f"{name} holds no frames")
    # avi stamps the packets in the order of the file, not of the pictures.
    stamped = None not in stamps and container.format.name != "avi"
    if None in stamps:
        seconds = np.arange(len(stamps)) / (rates[0] if rates else 25.0)
    else:
        # Short of the file's end, the last of them may still lack their neighbours.
        known = len(stamps) if ended else len(stamps) - _REORDER + 1
        seconds = np.sort(np.array(stamps, np.float64))[:known] * tick - zero
    chosen = plan(seconds, tick, rates, span)
    if chosen is None:
        length = seconds[-1] + (1 / rates[0] if rates else 0)
        raise ValueError(f"{name} is {length:.2f} s long: start={span.start} lies past its end")
    return Survey(
        stamps=seconds,
        stamped=stamped,
        tick=tick,
        zero=zero,
        seek=seek,
        plan=chosen,
    )


def _tick(stream: VideoStream) -> float:
    """The unit of a stream's time stamps in seconds."""
    assert stream.time_base is not None
    return float(stream.time_base)


def _reach(
    container: InputContainer, stream: VideoStream, span: Span, name: str
) -> tuple[int, list[int | None], bool]:
    """Where to seek for a keyframe not later than `start`, and what `_stamps` finds there."""
    origin = stream.start_time or 0
    start = origin + round(span.start / _tick(stream))
    if span.start and container.format.name in SEEKS:
        for seconds in (0, 1, 4, 16):
            seek = start - round(seconds / _tick(stream))
            if seek <= origin:
                break
            container.seek(seek, stream=stream)
            stamps, ended = _stamps(container, stream, span, name)
            if stamps and stamps[0] is not None and stamps[0] <= start:
                return seek, stamps, ended
        container.seek(origin, stream=stream)
    return origin, *_stamps(container, stream, span, name)


def _wanted(span: Span) -> float:
    """How many packets past the span's start, or past its end if it is resampled, are enough."""
    if span.frames is None:
        return math.inf
    return _REORDER + (1 if span.fps else span.frames)


def _stamps(
    container: InputContainer, stream: VideoStream, span: Span, name: str
) -> tuple[list[int | None], bool]:
    """The stamps of the packets from here past the end of `span`; whether the file ended first."""
    end = span.start + (span.frames / span.fps if span.frames and span.fps else 0.0)
    late = (stream.start_time or 0) + end / _tick(stream)
    found: list[int | None] = []
    past = 0
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:  # the end, a repeat in avi; cut by an edit
                continue
            if packet.is_corrupt:
                raise ValueError(f"{name} is cut off or damaged after {len(found)} frames")
            if stream.codec.name == "vp8" and not bytes(packet)[0] & 0x10:  # is not to be shown
                continue
            stamp = packet.dts if container.format.name == "avi" else packet.pts
            found.append(stamp)
            past += stamp is not None and stamp >= late
            if past >= _wanted(span):
                return found, False
    except av.FFmpegError as error:
        raise ValueError(f"{name} is damaged after {len(found)} frames") from error
    return found, True


def _cut_off(
    file: str | BinaryIO, container: InputContainer, stream: VideoStream, last: float
) -> bool:
    """Whether a file ends before the end that its own structure declares; `last`: its last time."""
    kind = container.format.name
    with ExitStack() as stack:
        if isinstance(file, str):
            file = stack.enter_context(open(file.removeprefix("file:"), "rb"))
        length = file.seek(0, io.SEEK_END)
        if kind == "gif":
            file.seek(max(0, length - 64))
            return not file.read().rstrip(b"\0").endswith(b";")
        if kind == "matroska,webm":
            file.seek(0)
            whole = _matroska_length(file.read(4096)) <= length
            return not whole or last + _SLACK < _declared_end(stream)
    entries = stream.index_entries
    return bool(len(entries)) and entries[-1].pos + entries[-1].size > length


def _declared_end(stream: VideoStream) -> float:
    """Seconds at which a Matroska track says that it ends, or 0."""
    said = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    hours, minutes, seconds = map(float, said.groups()) if said else (0.0, 0.0, 0.0)
    return 3600 * hours + 60 * minutes + seconds


def _matroska_length(head: bytes) -> int:
    """The length in bytes that the first two EBML elements (header, Segment) declare, or 0."""
    at = 0
    for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        if not head.startswith(identifier, at) or at + 12 > len(head):
            return 0
        width = 9 - head[at + 4].bit_length()
        value = int.from_bytes(head[at + 4 : at + 4 + width]) & ((1 << 7 * width) - 1)
        at += 4 + width + value
        if value == (1 << 7 * width) - 1:  # all ones: a live stream of unknown length
            return 0
    return at
