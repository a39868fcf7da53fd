"""Where pictures come from: a video file, a pipe, one image or a folder of images.

A `Source` knows its size, rate, time stamps and number of pictures before the first one is asked
for (a quick pass over the packets, nothing decoded), and then gives them one by one as RGB.
"""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from reeltok.files import standard_input
from reeltok.media.colour import Colour, Pixels, ToRGB, display_of, upright_size
from reeltok.media.images import IMAGES, images_of, load_image
from reeltok.media.survey import SEEKS, Survey, take_survey
from reeltok.media.timing import Plan, Span

Size = int | tuple[int, int] | None

_NOT_VIDEO = {"tty", "bin", "xbin", "idf", "adf"}  # text that FFmpeg would draw as a terminal
_LEANING = 16  # pictures that at most are shown before a keyframe and decoded after it
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """An opened input: what is known ahead, and the pictures, to be taken once."""

    height: int
    width: int
    plan: Plan
    colour: Colour
    path: Path | None
    pictures: Generator[Pixels]
    close: Callable[[], None]


def open_source(path: str | Path, span: Span, size: Size) -> Source:
    """Open a file, a folder of images, or "-" (standard input).

    Raises FileNotFoundError, or ValueError when there is nothing to show in it.
    """
    _check_size(size)
    if str(path) == "-":
        return _open_video(_standard_input(), "standard input", None, span, size)
    path = Path(path)
    if path.is_dir():
        return _open_images(images_of(path), path, span, size)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix.lower() in IMAGES:
        return _open_images([path], path, span, size)
    # "file:" keeps a name such as "a:b.mp4" or "http://..." from being taken for an address.
    return _open_video(f"file:{path}", str(path), path, span, size)


def fit(height: int, width: int, size: Size) -> tuple[int, int]:
    """The (height, width) that `size` asks for; beside a short side, the long one is made even."""
    if size is None:
        return height, width
    if isinstance(size, tuple):
        return size
    if height == width:
        return size, size
    long = max(2, 2 * round(max(height, width) * size / min(height, width) / 2))
    return (size, long) if height < width else (long, size)


def _check_size(size: Size) -> None:
    sides = size if isinstance(size, tuple) else (size,)
    if size is not None and (len(sides) > 2 or any(side is None or side < 1 for side in sides)):
        raise ValueError(f"size is the short side or (height, width) in pixels, not {size}")


def by(height: int, width: int) -> str:
    """A size for people, height first as everywhere."""
    return f"{height}x{width}"


# --- images ---------------------------------------------------------------------------------------


def _open_images(files: list[Path], path: Path, span: Span, size: Size) -> Source:
    """Images have no time stamps: fps is their rate, given or unknown, and never resamples them."""
    if span.start and span.fps is None:
        raise ValueError(f"{path} has no time stamps: start needs fps as well")
    first = math.ceil(span.start * (span.fps or 0) - 1e-9)
    if first >= len(files):
        raise ValueError(f"{path} has {len(files)} images: start={span.start} lies past the last")
    files = files[first:][: span.frames]
    frame, display = load_image(files[0])
    height, width = upright_size(frame, display)
    target = fit(height, width, size)

    def pictures() -> Generator[Pixels]:
        for number, file in enumerate(files):
            frame, display = load_image(file)
            found = upright_size(frame, display)
            if found != (height, width):
                raise ValueError(
                    f"images of one video have one size: {file} (frame {number}) is "
                    f"{by(*found)}, the first is {by(height, width)}"
                )
            yield ToRGB(target, display)(frame)

    start = first / span.fps if span.fps else 0.0
    return Source(
        height=target[0],
        width=target[1],
        plan=Plan(repeats=np.ones(len(files), int), times=None, fps=span.fps, start=start),
        colour=Colour.of(frame),
        path=path,
        pictures=pictures(),
        close=lambda: None,
    )


# --- video ----------------------------------------------------------------------------------------


def _standard_input() -> BinaryIO:
    """Standard input as a file of ours that can be rewound: spooled to disk when it is a pipe."""
    stdin = standard_input()
    if stdin.seekable():
        return os.fdopen(os.dup(stdin.fileno()), "rb")
    spool = tempfile.TemporaryFile()  # noqa: SIM115 (the source closes it)
    shutil.copyfileobj(stdin, spool)
    spool.seek(0)
    return spool


def _open_video(
    file: str | BinaryIO, name: str, path: Path | None, span: Span, size: Size
) -> Source:
    with ExitStack() as stack:
        if not isinstance(file, str):
            stack.enter_context(file)
        container, stream = _open_stream(file, name, stack)
        survey = take_survey(container, stream, file, span, name)
        if container.format.name in SEEKS:
            container.seek(survey.seek, stream=stream)
        else:
            container, stream = _open_stream(file, name, stack)
        frames = _numbered(_decode(container, stream, name), survey)
        place, first = next(frames, (0, None))
        if first is None:
            raise ValueError(f"{name} holds no frame that can be decoded")
        display = display_of(first)
        target = fit(*upright_size(first, display), size)
        close = stack.pop_all().close
    return Source(
        height=target[0],
        width=target[1],
        plan=survey.plan,
        colour=Colour.of(first),
        path=path,
        pictures=_shown(chain([(place, first)], frames), survey, ToRGB(target, display), name),
        close=close,
    )


def _open_stream(
    file: str | BinaryIO, name: str, stack: ExitStack
) -> tuple[InputContainer, VideoStream]:
    if not isinstance(file, str):
        file.seek(0)
    try:
        container = stack.enter_context(av.open(file, "r", options={"protocol_whitelist": "file"}))
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EIO:  # a Matroska header cut off
            raise OSError(f"{name} cannot be read: {error.strerror}") from error
        raise ValueError(f"{name} is not a video, or its header is cut off or damaged") from error
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams or container.format.name in _NOT_VIDEO:
        raise ValueError(f"{name} holds no video")
    # With threads across frames, FFmpeg may hand a frame out before it marks the damage in it.
    streams[0].thread_type = "SLICE"
    return container, streams[0]


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in the order of time; FFmpeg's own VP8 and VP9 decoders would leave out the alpha."""
    if stream.metadata.get("alpha_mode") != "1" or stream.codec.name not in _WITH_ALPHA:
        yield from container.decode(stream)
        return
    decoder: Any = av.CodecContext.create(_WITH_ALPHA[stream.codec.name], "r")
    for packet in container.demux(stream):
        yield from decoder.decode(packet if packet.size else None)


def _decode(container: InputContainer, stream: VideoStream, name: str) -> Iterator[av.VideoFrame]:
    """Decoded frames from here on; damage is an error that says how far it got."""
    done = 0
    size = None
    try:
        for frame in _frames(container, stream):
            if frame.is_corrupt:
                raise ValueError(f"{name} is damaged: frame {done} cannot be decoded whole")
            found = (frame.height, frame.width)
            if found != (size := size or found):
                raise ValueError(
                    f"{name} changes its frame size in mid-stream: frame {done} is {by(*found)}, "
                    f"those before it {by(*size)}; cut it there"
                )
            yield frame
            done += 1
    except av.FFmpegError as error:
        raise ValueError(f"{name} is damaged: decoding stopped at frame {done}") from error


def _numbered(
    frames: Iterator[av.VideoFrame], survey: Survey
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with their places in the survey, found by time stamp where there are any."""
    place = -1
    for frame in frames:
        place += 1
        if survey.stamped and frame.pts is not None:
            time = frame.pts * survey.tick - survey.zero
            place = max(place, int(np.searchsorted(survey.stamps, time - survey.tick / 2)))
        yield place, frame


def _shown(
    frames: Iterator[tuple[int, av.VideoFrame]], survey: Survey, to_rgb: ToRGB, name: str
) -> Generator[Pixels]:
    """The pictures of the plan, each frame converted once and shown as often as planned."""
    repeats = survey.plan.repeats
    last = int(np.flatnonzero(repeats)[-1])
    due = 0
    for place, frame in frames:
        if repeats[due:place].any() or place > last:
            raise ValueError(f"{name} is damaged: frame {due} is missing")
        if repeats[place]:
            pixels = to_rgb(frame)
            for _ in range(repeats[place]):
                yield pixels
        due = place + 1
        if due > last:
            return
    # Without time stamps, pictures that lean on what was cut away before them are counted, too.
    if survey.stamped or last - due >= _LEANING:
        raise ValueError(f"{name} is damaged: it ends at frame {due} of {last + 1}")
