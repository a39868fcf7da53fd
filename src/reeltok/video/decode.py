"""Frames of a video and their places, and what becomes of those that cannot be decoded.

`refuse` ends with an error at the first of them, `stop` keeps what comes before it, `skip` leaves
them out and keeps the time stamps of the rest. For the last two the span is decoded once ahead, so
that number and times of the pictures are known before the first is given, as everywhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO, Literal, get_args

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import Bool

from reeltok.video.packets import SEEKS, packets_from
from reeltok.video.size import size_text
from reeltok.video.survey import Survey, take_survey
from reeltok.video.timing import FramePlan, FrameSpan

Damage = Literal["refuse", "stop", "skip"]
Reopen = Callable[[], tuple[InputContainer, VideoStream]]

_AHEAD = 32  # packets among which the earliest frame is: more than any codec reorders
_LEANING = 16  # pictures that at most are shown before a keyframe and decoded after it
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
CHOICE = "set `damage` to stop or skip"


@dataclass(frozen=True, eq=False, kw_only=True)
class Reading:
    """What is shown of a video, and its decoded frames with their places, to be taken once."""

    container: InputContainer
    stream: VideoStream
    plan: FramePlan
    frames: Iterator[tuple[int, av.VideoFrame]]
    damaged: int  # frames of the span that are left out
    notes: tuple[str, ...]


def check_damage(damage: str) -> Damage:
    """The same. ValueError for what is not a way to treat damage."""
    for known in get_args(Damage):
        if damage == known:
            return known
    raise ValueError(f"damage is {', '.join(get_args(Damage))}, not {damage!r}")


def start_reading(
    reopen: Reopen, file: str | BinaryIO, span: FrameSpan, name: str, damage: Damage
) -> Reading:
    """Survey a video and begin to decode it. ValueError for damage that is not to be borne."""
    survey = _surveyed(reopen, file, span, name, damage)
    plan, damaged, notes = survey.plan, 0, survey.notes
    if damage == "refuse":
        _refuse_cut(survey, span, name)
    else:
        good, damaged = _look_ahead(reopen, survey, span, name, damage)
        chosen = survey.chosen(good, span)
        if chosen is None:
            begin = int(np.flatnonzero(survey.plan.repeats)[0])
            rest = ", and nothing comes before it" if damage == "stop" else ", nor is any other"
            raise ValueError(_cannot(survey, begin, name, rest))
        plan = chosen
        notes = (*notes, *_told(survey, plan, damaged, name, damage))
    container, stream = _enter(reopen, survey)
    frames = _planned(container, stream, survey, plan, name, strict=damage == "refuse")
    return Reading(
        container=container,
        stream=stream,
        plan=plan,
        frames=frames,
        damaged=damaged,
        notes=notes,
    )


def _surveyed(
    reopen: Reopen, file: str | BinaryIO, span: FrameSpan, name: str, damage: Damage
) -> Survey:
    container, stream = reopen()
    seeks = bool(span.start) and container.format.name in SEEKS
    if seeks and not _begins_plainly(container, stream):
        seeks, (container, stream) = False, reopen()
    # What is left out has to be made up for: how far the packets must be known is not known.
    span = span if damage == "refuse" else replace(span, frames=None)
    survey = take_survey(container, stream, file, span, name, seeks=seeks)
    if not survey.doubtful:
        return survey
    container, stream = reopen()
    found = 0
    for frame in _frames(container, stream):
        if frame is not None and frame.pts is not None and frame.pts >= survey.settled:
            break
        found += frame is not None
    container, stream = reopen()
    return take_survey(container, stream, file, span, name, seeks=False, leading=found)


def _begins_plainly(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the first frame of a file is its first packet, at the time at which it says to begin.

    Else times after a seek would not count from the frame that they count from without one.
    """
    stamps = [
        arrival.packet.pts
        for arrival in islice(packets_from(container, stream), _AHEAD)
        if arrival.shown
    ]
    known = [stamp for stamp in stamps if stamp is not None]
    return bool(stamps) and len(known) == len(stamps) and min(known) == stream.start_time


def _enter(reopen: Reopen, survey: Survey) -> tuple[InputContainer, VideoStream]:
    container, stream = reopen()
    if survey.seek is not None:
        container.seek(survey.seek, stream=stream)
    return container, stream


# --- frames and their places ----------------------------------------------------------------------


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame | None]:
    """Frames in the order of time, None where a packet could not be decoded.

    FFmpeg's own VP8 and VP9 decoders would leave out the alpha.
    """
    decoder: Any = stream
    if stream.metadata.get("alpha_mode") == "1" and stream.codec.name in _WITH_ALPHA:
        decoder = av.CodecContext.create(_WITH_ALPHA[stream.codec.name], "r")
    packets = packets_from(container, stream)
    while True:
        frames: list[av.VideoFrame | None]
        try:
            arrival = next(packets, None)
        except av.FFmpegError:  # nothing more can be read: as the survey found
            arrival = None
        if arrival is None:
            return
        try:
            frames = decoder.decode(arrival.packet if arrival.packet.size else None)
        except av.EOFError:
            return
        except av.FFmpegError:
            frames = [None]
        yield from frames


def _placed(
    container: InputContainer, stream: VideoStream, survey: Survey, name: str
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """Whole frames with their places in the survey, None where one is known to be missing.

    Places are found by time stamp where there are any, else by counting.
    """
    place, size = -1, None
    for frame in _frames(container, stream):
        if frame is None and survey.stamped:
            continue
        place += 1
        if frame is None or frame.is_corrupt:
            place = _place(frame, place, survey)
            yield place, None
            continue
        place = _place(frame, place, survey)
        found = (frame.height, frame.width)
        if found != (size := size or found):
            raise _ResizedError(
                f"{name} changes its frame size in mid-stream: frame {place} is "
                f"{size_text(*found)}, those before it {size_text(*size)}; cut it there"
            )
        yield place, None if survey.torn[min(place, len(survey.torn) - 1)] else frame


class _ResizedError(ValueError):
    """The pictures change their size."""


def _place(frame: av.VideoFrame | None, place: int, survey: Survey) -> int:
    if frame is None or frame.pts is None or not survey.stamped:
        return place
    time = frame.pts * survey.tick - survey.zero
    return max(place, int(np.searchsorted(survey.stamps, time - survey.tick / 2)))


def _planned(
    container: InputContainer,
    stream: VideoStream,
    survey: Survey,
    plan: FramePlan,
    name: str,
    *,
    strict: bool,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames of the plan. ValueError at the first that is missing, `strict`: or was lost."""
    repeats = plan.repeats
    first, last = np.flatnonzero(repeats)[[0, -1]].tolist()
    due = 0
    for place, frame in _placed(container, stream, survey, name):
        missing = np.flatnonzero(repeats[due:place])
        if len(missing) or place > last:
            raise ValueError(_cannot(survey, due + int(missing[0]) if len(missing) else due, name))
        if frame is None and repeats[place]:
            raise ValueError(_cannot(survey, place, name))
        if strict and place > first and (lost := survey.lost[max(first, due - 1) : place]).any():
            raise ValueError(_gone(survey, max(first, due - 1) + int(lost.argmax()), name))
        if frame is not None and repeats[place]:
            yield place, frame
        due = place + 1
        if due > last:
            return
    # Without time stamps, pictures that lean on what was cut away before them are counted, too.
    if survey.stamped or last - due >= _LEANING:
        raise ValueError(_cannot(survey, due, name))


# --- damage ---------------------------------------------------------------------------------------


def _cannot(survey: Survey, place: int, name: str, advice: str = f": {CHOICE}") -> str:
    frame = survey.name_of(min(place, len(survey.stamps) - 1))
    return f"{name}: {frame} cannot be decoded{advice}"


def _gone(survey: Survey, place: int, name: str) -> str:
    """A frame is missing after the one at `place`: it bears the number that it would have had."""
    step = (survey.stamps[place + 1] - survey.stamps[place]) / (survey.lost[place] + 1)
    time = survey.stamps[place] + step
    number = place + 1 + int(survey.lost[:place].sum())
    return f"{name}: frame {number} ({time:.2f} s) cannot be decoded: {CHOICE}"


def _refuse_cut(survey: Survey, span: FrameSpan, name: str) -> None:
    """ValueError where frames of the span may be missing behind the end of a file cut off."""
    short = span.frames is None or survey.plan.count < span.frames
    if survey.cut and (short or survey.plan.until > survey.complete):
        raise ValueError(
            f"{name} is cut off or damaged after {len(survey.stamps)} frames "
            f"({survey.stamps[-1]:.2f} s): {CHOICE}"
        )


def _look_ahead(
    reopen: Reopen, survey: Survey, span: FrameSpan, name: str, damage: Damage
) -> tuple[Bool[np.ndarray, " n"], int]:
    """Which frames of the span can be decoded, as far as it goes, and how many are left out."""
    good = np.ones(len(survey.stamps), bool)
    first = int(np.flatnonzero(survey.plan.repeats)[0])
    due, tried = first, len(good)
    try:
        for place, frame in _placed(*_enter(reopen, survey), survey, name):
            if place < first:
                continue
            good[due:place] = False
            good[min(place, len(good) - 1)] &= frame is not None
            due = place + 1
            if damage == "stop" and _flaw(good, survey, first, due) is not None:
                break
            if _is_enough(survey, good, span, first, due):
                break
        else:
            tried = len(good)
            if not survey.stamped and len(good) - due < _LEANING:  # they lean on what was cut away
                tried = due
            good[due:] = False
    except _ResizedError:
        if damage == "skip":
            raise
        good[due:] = False
    return _kept(good, survey, span, range(first, tried), damage)


def _is_enough(survey: Survey, good: np.ndarray, span: FrameSpan, first: int, due: int) -> bool:
    """Whether the frames before `due` are all that the span asks for."""
    found = np.flatnonzero(good[first:due])
    if span.frames is None or not len(found):
        return False
    if span.fps is None:
        return len(found) >= span.frames
    begins, ends = survey.stamps[first + found[0]], survey.stamps[first + found[-1]]
    return bool(ends - begins > span.frames / span.fps)


def _flaw(good: np.ndarray, survey: Survey, first: int, due: int) -> int | None:
    """The first place of the span from which on `stop` leaves all out."""
    bad = np.flatnonzero(~good[first:due])
    lost = np.flatnonzero(survey.lost[first : max(first, due - 1)])
    ends = [first + int(bad[0])] if len(bad) else []
    ends += [first + int(lost[0]) + 1] if len(lost) else []
    return min(ends, default=None)


def _kept(
    good: np.ndarray, survey: Survey, span: FrameSpan, tried: range, damage: Damage
) -> tuple[Bool[np.ndarray, " n"], int]:
    """The frames to keep, and how many could not be decoded of those that were tried."""
    if damage == "stop":
        end = _flaw(good, survey, tried.start, tried.stop)
        good[end if end is not None else len(good) :] = False
        return good, int(end is not None)
    chosen = survey.chosen(good, span)
    stop = tried.stop
    if chosen is not None and span.frames is not None and chosen.count == span.frames:
        stop = min(stop, int(np.flatnonzero(chosen.repeats)[-1]))
    wanted = slice(tried.start, stop)
    return good, int((~good[wanted]).sum() + survey.lost[wanted].sum())


def _told(
    survey: Survey, plan: FramePlan, damaged: int, name: str, damage: Damage
) -> tuple[str, ...]:
    """What was left out, for people."""
    notes = []
    if damaged and damage == "stop":
        last = survey.name_of(int(np.flatnonzero(plan.repeats)[-1]))
        notes.append(f"{name} is damaged after {last}: what comes later is left out")
    elif damaged:
        what = "1 frame" if damaged == 1 else f"{damaged} frames"
        notes.append(f"{name} is damaged: {what} that cannot be decoded left out")
    if survey.cut:
        notes.append(f"{name} is cut off after {len(survey.stamps)} frames")
    return tuple(notes)
