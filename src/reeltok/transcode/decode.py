"""A .reel file to a video, in memory that does not grow with it."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from reeltok.files.hashes import hash_text
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.steps import (
    StepSpan,
    coded_window,
    frame_range,
    require_beginning,
    seconds_before,
)
from reeltok.tokenizer.streaming import check_pad
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel
from reeltok.transcode.encode import warn_all
from reeltok.transcode.memory import bounded, released
from reeltok.transcode.need import Workload
from reeltok.transcode.options import PLAYABLE, USUAL, Coding, OnProgress, Writing
from reeltok.video.inputs import open_input
from reeltok.video.record import Video, stream, write
from reeltok.video.remarks import comment_in
from reeltok.video.timing import moments_of


@dataclass(frozen=True, kw_only=True)
class DecodedFile:
    """What `decode_file` wrote, in how many seconds; `size` is height and width in pixels.

    `fps` in Hz. `damaged` frames of the original are not among the tokens.
    """

    source: str
    target: str
    frames: int
    size: tuple[int, int]
    fps: float | None
    damaged: int
    codec: str
    seconds: float

    @property
    def rate(self) -> float:
        """Frames per second of work."""
        return self.frames / self.seconds


def decode_file(
    tokenizer: Tokenizer,
    source: str | Path | Reel,
    target: str | Path,
    *,
    start: int | None = None,
    stop: int | None = None,
    coding: Coding = USUAL,
    writing: Writing = PLAYABLE,
    on_progress: OnProgress | None = None,
) -> DecodedFile:
    """Decode a .reel file to the video `target`; a few frames are in memory at a time.

    `source` is a path ("-": standard input) or an open file; `target` is what `video.write` takes.
    Only the frames from `start` up to `stop`, counted from 0, are read and decoded. `coding` says
    how many frames at a time, `writing` how the video is written. Notes on it are warnings.

    Raises FileNotFoundError or ValueError for what is not a .reel file, or was altered, and for
    a range that is not in it, tokens that are not the tokenizer's and videos that cannot be written
    so, OSError where nothing can be written.
    """
    if not isinstance(source, Reel):
        with Reel(source) as reel:
            return decode_file(
                tokenizer,
                reel,
                target,
                start=start,
                stop=stop,
                coding=coding,
                writing=writing,
                on_progress=on_progress,
            )
    began, name = time.monotonic(), str(source.source.path)
    first, end = frame_range(source.frames, start, stop)
    source.packing = source.packing or tokenizer.packing
    frames = decode_frames(tokenizer, source, first, end, coding=coding, codec=writing.codec)
    parts = counted(naming_source(name, frames), on_progress, end - first)
    comment = made_as(tokenizer, source, first, end, coding, writing)
    written = write(parts, target, **asdict(writing), comment=comment)
    warn_all([f"{target}: {line}" for line in written.notes])
    return DecodedFile(
        source=name,
        target=str(target),
        frames=written.frames,
        size=(written.height, written.width),
        fps=written.fps,
        damaged=source.damaged,
        codec=written.codec,
        seconds=time.monotonic() - began,
    )


def decode_frames(
    tokenizer: Tokenizer,
    reel: Reel,
    first: int,
    end: int,
    *,
    coding: Coding = USUAL,
    codec: str | None = None,
) -> Iterator[Video]:
    """Frames `first` up to `end` of a .reel file in parts.

    `start` of each part is the place of `first` in the original, in seconds. `codec` is what will
    write them, which counts for `coding.memory`. ValueError for a file of several clips, for a
    part of a clip that needs what comes before, and for tokens that are not the tokenizer's. Those
    made with pad="front" are decoded at once.
    """
    if reel.info.batch != 1:
        raise ValueError(f"{reel.source.path} holds {reel.info.batch} clips: decode it in Python")
    require_beginning(reel, tokenizer.spec)
    if reel.settings.get("pad") == "front":
        check_pad("front", chunk=coding.chunk, tile=coding.tile, memory=coding.memory)
        whole = as_video(reel.part(0, reel.grid[0]))
        yield from only_videos([tokenizer.decode(whole, start=first, stop=end)])
        return
    size = (reel.height, reel.width)
    job = Workload(work="decode", size=size, frames=end - first, codec=codec)
    bounds = bounded(tokenizer, coding, job)
    span = tokenizer.span(reel, first, end)
    parts = token_parts(tokenizer, reel, span, end, bounds.chunk)
    skip, left = first - span.before, end - first
    since = seconds_before(reel, tokenizer.spec, first)
    start = float(reel.settings.get("start", 0.0)) + since
    videos = only_videos(tokenizer.stream_decode(parts, tile=bounds.tile, inside=True))
    for video in released(videos, bounds.tile):
        here, skip = range(len(video))[skip : skip + left], max(0, skip - len(video))
        left -= len(here)
        if here:
            times, last = moments_of(video.times, video.last, here.start, here.stop)
            times = None if times is None else times - since
            kept = video.frames[here.start : here.stop]
            yield replace(video, frames=kept, times=times, last=last, start=start)


def naming_source(file: str, parts: Iterator[Video]) -> Iterator[Video]:
    """The parts as they are; an error on the way to them names the file that they come from."""
    try:
        yield from parts
    except ValueError as error:
        raise error if file in str(error) else ValueError(f"{file}: {error}") from error


def token_parts(
    tokenizer: Tokenizer, reel: Reel, span: StepSpan, end: int, chunk: int
) -> Iterator[Tokens]:
    """The tokens of a span in parts of whole groups or windows, about `chunk` frames each.

    The span's frames, up to `end`, are shared out among groups; a decoder keeps what comes early.
    Windows have their own frames, also beyond `end`.
    """
    spec = tokenizer.spec
    if not spec.independent:
        run = max(1, chunk // spec.frames_per_group) * spec.steps_per_group
        opening = run + (0 if span.early else spec.first_steps)
        cuts = [span.early, *range(span.early + opening, span.late, run), span.late]
        count = len(cuts) - 1
        frames = [span.before + (end - span.before) * i // count for i in range(count + 1)]
    else:
        window = coded_window(reel, spec)
        cuts = [*range(span.early, span.late, spec.steps(window)), span.late]
        frames = [min(reel.frames, span.before + window * i) for i in range(len(cuts))]
    for (a, b), (since, until) in zip(pairwise(cuts), pairwise(frames), strict=True):
        yield as_video(reel.part(a, b, frames=(since, until)))


def as_video(tokens: Tokens) -> Tokens:
    """The same tokens, which are decoded to a `Video` whatever had been encoded."""
    return tokens.with_(settings={**tokens.settings, "given": "video"})


def only_videos(parts: Iterable[Video | Tensor]) -> Iterator[Video]:
    """The parts as they are, which come from a video."""
    for part in parts:
        assert isinstance(part, Video)
        yield part
        del part  # before the next is made, as below


def counted(parts: Iterable[Video], on_progress: OnProgress | None, frames: int) -> Iterator[Video]:
    """The parts as they are, counted as they pass: `frames` in all."""
    done = 0
    for part in parts:
        done += len(part)
        if on_progress is not None:
            on_progress(done, frames)
        yield part
        del part


def made_as(
    tokenizer: Tokenizer, reel: Reel, first: int, end: int, coding: Coding, writing: Writing
) -> str:
    """What a video's comment says of how it was decoded: a hash of all that makes a difference."""
    sound = writing.audio_from
    if sound is not None and Path(sound).is_file():
        with closing(open_input(sound)) as taken:
            sound = taken.fingerprint()
    about = asdict(replace(writing, audio_from=sound)) | {"tile": coding.tile}
    decoder = [tokenizer.hash(), tokenizer.configuration, str(tokenizer.dtype)]
    said = json.dumps([reel.source.sha256, *decoder, first, end, about], default=str)
    return f"reeltok decode {hash_text(said, 32)}"


def is_decoded(
    tokenizer: Tokenizer,
    reel: Reel,
    target: str | Path,
    *,
    start: int | None = None,
    stop: int | None = None,
    coding: Coding = USUAL,
    writing: Writing = PLAYABLE,
) -> bool:
    """Whether `target` is a whole video that `decode_file` would make again.

    Only a file whose kind keeps a comment says how it was made. Raises FileNotFoundError where
    there is no `target`, ValueError for a range that `reel` does not have.
    """
    first, end = frame_range(reel.frames, start, stop)
    try:
        with stream(target) as video:
            whole = video.frames == end - first
        return whole and comment_in(target) == made_as(tokenizer, reel, first, end, coding, writing)
    except ValueError:  # not a video, or damaged
        return False
