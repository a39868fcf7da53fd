"""Where pictures come from: a video, one image or a folder of images, however it is handed over.

A `Source` knows its size, rate, time stamps and number of pictures before the first one is asked
for (a quick pass over the packets, nothing decoded), and then gives them one by one as RGB.
"""

import math
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from reeltok.video.colour import Pixels, ToRGB, display_of, upright_size
from reeltok.video.decode import Damage, check_damage, start_reading
from reeltok.video.formats import open_container
from reeltok.video.images import (
    STRICT,
    Pictures,
    folder_fingerprint,
    never_left_out,
    pictures_in,
    pictures_of,
)
from reeltok.video.inputs import Input, VideoInput, open_input
from reeltok.video.raw import Raw, check_named
from reeltok.video.remarks import remarks_on, shape_notes, sound_in
from reeltok.video.size import AnySize, Size, check_size, fit_size, pixel_aspect, size_text
from reeltok.video.tags import Colour
from reeltok.video.timing import FramePlan, FrameSpan, plan_frames

_STILLS = (b"avif", b"mif1", b"heic", b"heix")  # brands of files that hold a picture


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """An opened input: what is known ahead, and the pictures, to be taken once."""

    height: int
    width: int
    plan: FramePlan
    colour: Colour
    path: Path | None
    pictures: Generator[Pixels]
    close: Callable[[], None]
    fingerprint: Callable[[], str]  # a short hash of the input, which tells it from others
    notes: tuple[str, ...] = ()  # what the pictures do not show as it was meant, a sentence each
    shape: tuple[str, ...] = ()  # what is to be known of their shape, a sentence each
    aspect: Fraction = Fraction(1)  # width over height of a pixel
    sound: str | None = None  # the codec of its sound, which is not read
    flaws: tuple[str, ...] = ()  # what is missing of the input, or may be, a sentence each
    damaged: int = 0  # frames of the span that are left out because they cannot be decoded


def open_source(
    given: VideoInput,
    span: FrameSpan,
    size: AnySize,
    *,
    raw: str | None = None,
    damage: Damage = "refuse",
) -> Source:
    """Open what `open_input` takes, or a folder of images; `raw` is the layout of raw pictures.

    Raises FileNotFoundError, or ValueError when there is nothing to show in it.
    """
    size = check_size(size)
    check_damage(damage)
    form = None if raw is None else Raw.of(raw)
    with ExitStack() as stack:
        if isinstance(given, str | os.PathLike) and os.path.isdir(given):
            if form is not None:
                raise ValueError(f"{given} is a folder of images: raw goes with a file")
            pictures: Pictures | None = pictures_in(Path(given))
            path: Path | None = Path(given)
            fingerprint: Callable[[], str] = partial(folder_fingerprint, Path(given))
        else:
            taken = open_input(given)
            stack.callback(taken.close)
            path, fingerprint = taken.path, taken.fingerprint
            pictures = None if form else pictures_of(taken)
        if pictures:
            close = stack.pop_all().close
            pictures = pictures if damage == "refuse" else never_left_out(pictures)
            return _open_images(pictures, path, span, size, fingerprint, close)
        if form is None:
            check_named(taken)
        return _open_video(taken, form, span, size, damage, stack)


# --- images ---------------------------------------------------------------------------------------


def _open_images(
    pictures: Pictures,
    path: Path | None,
    span: FrameSpan,
    size: Size,
    fingerprint: Callable[[], str],
    close: Callable[[], None],
) -> Source:
    first = pictures.load(0)
    height, width = upright_size(first.frame, first.display)
    target = fit_size(height, width, size)
    chosen = _plan_of(pictures, span)

    def shown() -> Generator[Pixels]:
        for number in np.flatnonzero(chosen.repeats).tolist():
            picture = pictures.load(number) if number else first
            found = upright_size(picture.frame, picture.display)
            if found != (height, width):
                raise ValueError(
                    f"images of one video have one size: {picture.name} (frame {number}) is "
                    f"{size_text(*found)}, the first is {size_text(height, width)}"
                )
            pixels = ToRGB(target, picture.display, name=picture.name)(picture.frame)
            for _ in range(chosen.repeats[number]):
                yield pixels

    return Source(
        height=target[0],
        width=target[1],
        plan=chosen,
        colour=Colour.of(first.frame),
        path=path,
        pictures=shown(),
        close=close,
        fingerprint=fingerprint,
        shape=shape_notes(pictures.name, (height, width), Fraction(1), target, size),
    )


def _plan_of(pictures: Pictures, span: FrameSpan) -> FramePlan:
    """What is shown of pictures; without times, fps is their rate and never resamples them."""
    if pictures.stamps is not None:
        chosen = plan_frames(pictures.stamps, 0.001, [], span, pictures.end)
        if chosen is None:
            raise ValueError(
                f"{pictures.name} is {pictures.end:.2f} s long: start={span.start} lies past that"
            )
        return chosen
    if span.start and span.fps is None:
        raise ValueError(f"{pictures.name} has no time stamps: start needs fps as well")
    first = math.ceil(span.start * (span.fps or 0) - 1e-9)
    if first >= pictures.count:
        raise ValueError(
            f"{pictures.name} has {pictures.count} images: start={span.start} lies past the last"
        )
    repeats = np.zeros(pictures.count, int)
    repeats[first:][: span.frames] = 1
    start = first / span.fps if span.fps else 0.0
    return FramePlan(repeats=repeats, times=None, fps=span.fps, start=start)


# --- video ----------------------------------------------------------------------------------------


def _open_video(
    taken: Input, raw: Raw | None, span: FrameSpan, size: Size, damage: Damage, stack: ExitStack
) -> Source:
    """The first video stream; `stack` holds what is open already, and is emptied."""
    name = taken.name

    def reopen() -> tuple[InputContainer, VideoStream]:
        return _open_stream(taken, raw, stack)

    reading = start_reading(reopen, taken.file, span, name, damage)
    place, first = next(reading.frames, (0, None))
    if first is None:
        raise ValueError(f"{name} holds no frame that can be decoded")
    display = display_of(first)
    stored = upright_size(first, display)
    aspect = pixel_aspect(reading.stream, display)
    target = fit_size(*stored, size, aspect)
    frames = chain([(place, first)], reading.frames)
    rated = reading.plan.count > 1 or not _is_picture(reading.container, taken)
    return Source(
        height=target[0],
        width=target[1],
        plan=reading.plan if rated else replace(reading.plan, fps=span.fps),
        colour=Colour.of(first),
        path=taken.path,
        pictures=_shown(frames, reading.plan, ToRGB(target, display, name=name)),
        flaws=reading.notes,
        damaged=reading.damaged,
        notes=remarks_on(first, reading.stream, name),
        shape=shape_notes(name, stored, aspect, target, size),
        aspect=Fraction(1) if isinstance(size, tuple) or callable(size) else aspect,
        sound=sound_in(reading.container),
        close=stack.pop_all().close,
        fingerprint=taken.fingerprint,
    )


def _is_picture(container: InputContainer, taken: Input) -> bool:
    """Whether FFmpeg reads a picture as a video, with a rate that is its own invention."""
    return container.format.name.endswith("_pipe") or taken.head()[8:12] in _STILLS


def _open_stream(
    taken: Input, raw: Raw | None, stack: ExitStack
) -> tuple[InputContainer, VideoStream]:
    opened = raw.open(taken) if raw else open_container(taken.file, taken.name)
    container = stack.enter_context(opened)
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise ValueError(f"{taken.name} holds no video")
    # An animated AVIF has its first picture as a stream of its own, before the frames.
    moving = (s for s in streams if s.frames > 1)
    stream = next(moving, streams[0]) if streams[0].frames == 1 else streams[0]
    if stream.disposition & av.stream.Disposition.dependent:
        raise ValueError(f"{taken.name} is a picture in tiles: convert it to PNG or JPEG")
    if getattr(stream, "codec_context", None) is None:
        raise ValueError(f"{taken.name} holds video of a codec that is not known: convert it first")
    # With threads across frames, FFmpeg may hand a frame out before it marks the damage in it.
    stream.thread_type = "SLICE"
    if stream.codec.name in ("mjpeg", "png", "apng"):
        stream.codec_context.options = STRICT
    return container, stream


def _shown(
    frames: Iterator[tuple[int, av.VideoFrame]], plan: FramePlan, to_rgb: ToRGB
) -> Generator[Pixels]:
    """The pictures of the plan, each frame converted once and shown as often as planned."""
    for place, frame in frames:
        pixels = to_rgb(frame)
        for _ in range(plan.repeats[place]):
            yield pixels
