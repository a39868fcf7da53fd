"""What the packets of a video file say before any of them is decoded.

A quick pass over the span that is asked for: time stamps, where to seek, what is missing, and
whether the file ends before the end that its own structure declares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Bool, Float, Int

from reeltok.video.ending import Ending, ending_of, length_of
from reeltok.video.packets import SEEKS, declared_end, is_whole, packets_from, two_fields
from reeltok.video.timing import FramePlan, FrameSpan, plan_frames

_SLACK = 0.5  # seconds between a track's last time stamp and its end that are not damage
_REORDER = 32  # packets read past the wanted span: more than any codec reorders
_LAG = 2  # packets by which FFmpeg's mark of a hole comes before it: its parser looks ahead
_ANEW = 1.0  # seconds without a frame before a keyframe that are a new recording, not a loss
_UNSAID = "does not say where it ends: if its end was cut off, that cannot be noticed"
# Streams without a container: their rate is in the pictures, `average_rate` is FFmpeg's own 25.
_BARE = {"h264", "hevc", "vvc", "mpegvideo", "m4v", "h263", "vc1", "cavsvideo", "obu", "mjpeg"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Survey:
    """What the packets of a video stream say before anything is decoded."""

    stamps: Float[np.ndarray, " n"]  # seconds since the first frame of the file, sorted
    stamped: bool  # False: the file has no time stamps, `stamps` were counted
    doubtful: int  # frames at the beginning that may lean on what was cut away before them
    settled: int  # time stamp from which on they no longer do
    tick: float  # the unit of the stamps in seconds
    rates: tuple[float, ...]  # frames per second, as the file says
    zero: float  # seconds on the file's own clock at its first frame
    end: float | None  # seconds at which the last frame ceases to be shown, where that is said
    seek: int | None  # time stamp at which the file was entered; None: at its beginning
    torn: Bool[np.ndarray, " n"]  # frames of which a part is missing
    lost: Int[np.ndarray, " n"]  # frames that are missing after each of these
    cut: bool  # the file ends before its own end
    complete: float  # seconds before which no frame can be missing at that end
    notes: tuple[str, ...]
    plan: FramePlan

    def chosen(self, good: Bool[np.ndarray, " n"], span: FrameSpan) -> FramePlan | None:
        """What to show where only the `good` frames can be decoded; None where none is left."""
        places = np.flatnonzero(good)
        if not len(places):
            return None
        end, last = self.end, int(places[-1])
        if last + 1 < len(self.stamps):
            step = float(self.stamps[last + 1] - self.stamps[last])
            end = float(self.stamps[last]) + step / (1 + int(self.lost[last]))
        found = plan_frames(self.stamps[good], self.tick, self.rates, span, end)
        if found is None:
            return None
        repeats = np.zeros(len(self.stamps), np.int64)
        repeats[places] = found.repeats
        return replace(found, repeats=repeats)

    def name_of(self, place: int) -> str:
        """A frame for people: its number, where that is known, and its time."""
        time = float(self.stamps[place])
        number = place if self.seek is None or not self.rates else round(time * self.rates[0])
        return f"frame {number} ({time:.2f} s)"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """What one packet says of its picture; stamps and durations in ticks."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    whole: bool
    joins: bool


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What a pass over the packets found, in the order of the file."""

    entries: list[_Entry]
    ended: bool
    broken: bool = False  # FFmpeg could not go on


@dataclass(frozen=True, eq=False, kw_only=True)
class _Clock:
    """The entries in the order of time, and their time stamps in seconds on the file's clock."""

    order: Int[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    stamped: bool
    doubtful: int = 0
    settled: int = 0


def take_survey(
    container: InputContainer,
    stream: VideoStream,
    file: str | BinaryIO,
    span: FrameSpan,
    name: str,
    *,
    seeks: bool,
    leading: int | None = None,
) -> Survey:
    """Go through the packets of `span`; `container` is left somewhere behind it.

    `seeks`: the file may be entered at a keyframe. `leading`: how many of the doubtful frames at
    the beginning can be decoded, where that is known. Raises ValueError for a file without frames,
    or a span with nothing in it.
    """
    tick, rates = _tick(stream), _rates(container, stream)
    seek, found = _reach(container, stream, span, seeks)
    if not found.entries:
        raise ValueError(f"{name} holds no frames")
    clock = _clock(container, stream, found, rates, leading)
    zero = float(clock.seconds[0]) if seek is None else (stream.start_time or 0) * tick
    last = _last_end(found, clock, tick)
    ending = _ending(file, container, stream, found, last)
    stamps = clock.seconds - zero
    end = _end(last if ending == "cut" else max(last, declared_end(stream)), found, clock, zero)
    try:
        chosen = plan_frames(stamps, tick, rates, span, end)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if chosen is None:
        raise ValueError(
            _past(name, end or float(stamps[-1]) + 1 / (rates or (25,))[0], span, ending)
        )
    torn, lost = _flaws(container, found, clock, tick)
    return Survey(
        stamps=stamps,
        stamped=clock.stamped,
        doubtful=clock.doubtful if seek is None and leading is None else 0,
        settled=clock.settled,
        tick=tick,
        rates=rates,
        zero=zero,
        end=end,
        seek=seek,
        torn=torn,
        lost=lost,
        cut=ending == "cut",
        complete=_complete(found, clock, tick) - zero,
        notes=(f"{name} {_UNSAID}",) if ending == "unsaid" else (),
        plan=chosen,
    )


def _past(name: str, length: float, span: FrameSpan, ending: Ending) -> str:
    if ending == "cut":
        return f"{name} is cut off after {length:.2f} s: start={span.start} lies past that"
    return f"{name} is {length:.2f} s long: start={span.start} lies past its end"


def _complete(found: _Pass, clock: _Clock, tick: float) -> float:
    """Seconds on the file's clock before which no frame can be missing behind the last packet.

    What would come later in the file is decoded later, and shown no earlier than decoded.
    """
    decoded = [entry.dts for entry in found.entries if entry.dts is not None]
    return max(decoded) * tick if decoded and clock.stamped else float(clock.seconds[-1])


def _tick(stream: VideoStream) -> float:
    """The unit of a stream's time stamps in seconds."""
    assert stream.time_base is not None
    return float(stream.time_base)


def _rates(container: InputContainer, stream: VideoStream) -> tuple[float, ...]:
    """Frames per second as the file says, the best first."""
    said = [stream.average_rate, stream.guessed_rate]
    if container.format.name in _BARE:
        said.reverse()
    return tuple(float(rate) for rate in said if rate)


# --- the pass over the packets --------------------------------------------------------------------


def _reach(
    container: InputContainer, stream: VideoStream, span: FrameSpan, seeks: bool
) -> tuple[int | None, _Pass]:
    """Where to seek for a keyframe not later than `start`, and what `_walk` finds there.

    None: at the beginning.
    """
    origin = stream.start_time or 0
    if not seeks:
        return None, _walk(container, stream, span)
    start = origin + round(span.start / _tick(stream))
    for seconds in (0, 1, 4, 16):
        seek = start - round(seconds / _tick(stream))
        if seek <= origin:
            break
        container.seek(seek, stream=stream)
        found = _walk(container, stream, span)
        if found.entries and (first := found.entries[0].pts) is not None and first <= start:
            return seek, found
    container.seek(origin, stream=stream)
    return None, _walk(container, stream, span)


def _walk(container: InputContainer, stream: VideoStream, span: FrameSpan) -> _Pass:
    """The packets from here past the end of `span`."""
    end = span.start + (span.frames / span.fps if span.frames and span.fps else 0.0)
    late = (stream.start_time or 0) + end / _tick(stream)
    entries: list[_Entry] = []
    each, past = two_fields(stream), 0
    try:
        for arrival in packets_from(container, stream):
            packet = arrival.packet
            # avi stamps the packets in the order of the file, not of the pictures.
            stamp = packet.dts if container.format.name == "avi" else packet.pts
            if not arrival.shown:
                if entries and packet.size and stream.codec.name == "mpeg4":
                    entries[-1] = _held(entries[-1], packet, stamp)
                continue
            entry = _Entry(
                pts=stamp,
                dts=packet.dts,
                duration=packet.duration or 0,
                key=packet.is_keyframe,
                whole=is_whole(packet, stream),
                joins=arrival.joins,
            )
            if entries and _is_second_field(entries[-1], entry, each):
                both = entries[-1].duration + entry.duration
                whole = entries[-1].whole and entry.whole
                entries[-1] = replace(entries[-1], duration=both, whole=whole)
                continue
            entries.append(entry)
            past += stamp is not None and stamp >= late
            if past >= _wanted(span):
                return _Pass(entries=entries, ended=False)
    except av.FFmpegError:
        return _Pass(entries=entries, ended=True, broken=True)
    return _Pass(entries=entries, ended=True)


def _is_second_field(first: _Entry, second: _Entry, each: float) -> bool:
    """Whether two packets are the fields of one frame of `each` ticks."""
    halves = [first.duration, second.duration]
    if second.pts is not None and first.pts is not None:
        halves.append(second.pts - first.pts)
    return all(0.4 * each < half < 0.6 * each for half in halves)


def _held(entry: _Entry, packet: av.Packet, stamp: int | None) -> _Entry:
    """A picture that is shown for the time of a packet that says "as the one before", too."""
    if stamp is None or entry.pts is None or packet.is_discard:
        return entry
    until = stamp + (packet.duration or 0)
    return replace(entry, duration=max(entry.duration, until - entry.pts))


def _wanted(span: FrameSpan) -> float:
    """How many packets past the span's start, or past its end if it is resampled, are enough."""
    if span.frames is None:
        return math.inf
    return _REORDER + (1 if span.fps else span.frames)


# --- what the packets mean ------------------------------------------------------------------------


def _clock(
    container: InputContainer,
    stream: VideoStream,
    found: _Pass,
    rates: Sequence[float],
    leading: int | None,
) -> _Clock:
    """The entries in the order of time; what has no stamp at the beginning is counted back."""
    tick = _tick(stream)
    stamps = [entry.pts for entry in found.entries]
    bare = next((i for i, stamp in enumerate(stamps) if stamp is not None), len(stamps))
    later = [stamp for stamp in stamps[bare:] if stamp is not None]
    if not later or len(later) < len(stamps) - bare:
        seconds = np.arange(len(stamps)) / (rates[0] if rates else 25.0)
        return _Clock(order=np.arange(len(stamps)), seconds=seconds, stamped=False)
    order = np.argsort(np.array(later), kind="stable")
    # Short of the file's end, the last of them may still lack their neighbours.
    order = order[: len(order) if found.ended else max(1, len(order) - _REORDER + 1)]
    known = np.array(later, np.float64)[order] * tick
    step = float(np.median([entry.duration for entry in found.entries])) * tick
    before = known[0] - (step or (1 / rates[0] if rates else 0.04)) * np.arange(bare, 0, -1)
    early = 0 if bare or not found.entries[0].key else int((known < later[0] * tick).sum())
    drop = bare + early - min(bare + early, leading) if leading is not None else 0
    return _Clock(
        order=np.concatenate([np.arange(bare), bare + order])[drop:],
        seconds=np.concatenate([before, known])[drop:],
        stamped=not _in_file_order(container, stream, later),
        doubtful=bare + early,
        settled=later[0] if early else min(later),
    )


def _in_file_order(container: InputContainer, stream: VideoStream, stamps: list[int]) -> bool:
    """Whether time stamps go with the order of the file, not with that of the pictures.

    Where pictures are reordered, stamps that only rise are FFmpeg's guesses (asf, mxf).
    """
    if container.format.name == "avi":
        return True
    reordered = stream.codec_context.has_b_frames and container.format.name not in SEEKS
    return bool(reordered) and stamps == sorted(stamps)


def _flaws(
    container: InputContainer, found: _Pass, clock: _Clock, tick: float
) -> tuple[Bool[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Which frames lack a part, and how many are missing after each, in the order of time."""
    entries = found.entries
    torn, lost = np.zeros(len(entries), bool), np.zeros(len(entries), np.int64)
    for number in (number for number, entry in enumerate(entries) if not entry.whole):
        if container.format.name == "mpegts":
            _judge(entries, number, tick, torn, lost)
        else:
            torn[number] = True
    placed = np.zeros(len(clock.order), np.int64)
    for place in np.flatnonzero(lost[clock.order]):
        entry = clock.order[place]
        placed[_hole(clock, int(place), entries[entry].duration * tick)] += lost[entry]
    return torn[clock.order], placed


def _judge(
    entries: list[_Entry], number: int, tick: float, torn: np.ndarray, lost: np.ndarray
) -> None:
    """What a hole in a transport stream means, which FFmpeg marks at the packet before it.

    Where the time stamps leap nearby as well, whole frames are lost, and where another recording
    begins, nothing is; else the next frame lacks a part.
    """
    for here in range(number, min(number + _LAG + 1, len(entries) - 1)):
        entry, after = entries[here], entries[here + 1]
        gap = _gap(entry, after)
        if after.joins or (after.key and gap * entry.duration * tick > _ANEW):
            return
        if gap:
            lost[here] = gap
            return
    torn[min(number + 1, len(entries) - 1)] = True


def _gap(entry: _Entry, after: _Entry) -> int:
    """How many frames are missing between two packets that follow one another."""
    if entry.dts is None or after.dts is None or not entry.duration:
        return 0
    return max(0, round((after.dts - entry.dts) / entry.duration) - 1)


def _hole(clock: _Clock, place: int, step: float) -> int:
    """The frame nearest to `place` after which there is time for more than one."""
    wide = np.flatnonzero(np.diff(clock.seconds) > 1.5 * step)
    near = wide[np.abs(wide - place) <= _REORDER]
    return int(near[np.abs(near - place).argmin()]) if len(near) else place


# --- the end --------------------------------------------------------------------------------------


def _end(end: float, found: _Pass, clock: _Clock, zero: float) -> float | None:
    """Seconds from `zero` at which the last frame of the file ceases to be shown, if it says so."""
    return end - zero if found.ended and end > clock.seconds[-1] else None


def _last_end(found: _Pass, clock: _Clock, tick: float) -> float:
    """When the last frame ceases to be shown, by its own packet."""
    return float(clock.seconds[-1]) + found.entries[clock.order[-1]].duration * tick


def _ending(
    file: str | BinaryIO, container: InputContainer, stream: VideoStream, found: _Pass, last: float
) -> Ending:
    """How the file ends, as far as the survey saw it; `last`: where its last frame ends."""
    if not found.ended:
        return "whole"
    declared = declared_end(stream)
    indexed = stream.index_entries
    missing = len(indexed) and indexed[-1].pos + indexed[-1].size > length_of(file)
    if found.broken or last + _SLACK < declared or missing:
        return "cut"
    return ending_of(file, container.format.name)
