"""`decode`: .reel files to videos, in memory that does not grow with them."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.encode import Coding, told
from reeltok.cli.files import (
    Job,
    check_apart,
    check_free,
    plan_files,
    run_plan,
    share_of,
    summarize,
)
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, note

if TYPE_CHECKING:
    from torch import Tensor

    from reeltok.tokenizer.contract import Tokenizer
    from reeltok.tokenizer.streaming import Span
    from reeltok.tokens.record import Tokens
    from reeltok.tokens.reel import Reel
    from reeltok.video.record import Video


Named = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where the tokenizer lies, if not under its own name."),
]
Start = Annotated[int | None, typer.Option(metavar="N", help="The first frame, counted from 0.")]
Stop = Annotated[
    int | None, typer.Option(metavar="N", help="The frame to end before, counted from 0.")
]
Rate = Annotated[
    float | None, typer.Option(metavar="RATE", help="Play at this rate; drops no frames.")
]
Sound = Annotated[str | None, typer.Option(metavar="FILE", help="Copy the sound of this video.")]
Suffix = Annotated[
    str | None, typer.Option(metavar=".mp4", help="What files become in a folder, one too.")
]


def decode(
    inputs: given.Inputs,
    out: Annotated[str, typer.Argument(metavar="OUT", show_default=False)],
    *,
    model: Named = None,
    weights: given.Weights = None,
    start: Start = None,
    stop: Stop = None,
    fps: Rate = None,
    lossless: given.Lossless = False,
    codec: given.Codec = None,
    crf: given.Crf = None,
    pad_even: given.PadEven = False,
    audio_from: Sound = None,
    suffix: Suffix = None,
    device: given.Device = "auto",
    dtype: given.Dtype = "fp32",
    chunk: given.Chunk = None,
    tile: given.Tile = None,
    jobs: given.Jobs = 1,
    force: given.Force = False,
) -> Report:
    """Turn .reel files back into videos.

    OUT is .mp4, .mkv, .mov, .webm, .avi, .gif, an image (one frame), a folder of PNG (no suffix) or
    - (standard output: fragmented mp4). Only the frames from --start up to --stop are read and
    decoded. Many files go into a folder; those that are there already and whole are kept.
    """
    from reeltok.data.find import find_reels

    kind = suffix or (".mkv" if lossless else ".mp4")
    plan = plan_files(inputs, out, suffix=kind, find=find_reels, folder=suffix is None)
    plan = share_of(plan)
    for job in plan.jobs if audio_from else ():
        check_apart(audio_from or "", job.target)
    check_free(plan.named_targets, force=force)
    coding = Coding(chunk=chunk, tile=tile)
    form = {"lossless": lossless, "codec": codec, "crf": crf, "pad_even": pad_even}
    form |= {"audio_from": audio_from, "fps": fps}
    if not plan.jobs:  # other processes have them
        return summarize((), done="decoded")
    models = Models(model, weights=weights, device=device, dtype=dtype)
    outcomes = run_plan(
        plan,
        lambda job, progress: decode_file(models, job, (start, stop), coding, form, progress),
        what="decoding",
        parallel=jobs,
        force=force,
        fits=lambda job: holds_video(job, (start, stop)),
    )
    if not plan.named:
        return summarize(outcomes, done="decoded")
    return Report(data=outcomes[0].record, text=told(outcomes[0].record), piped=plan.piped)


class Models:
    """The tokenizers of .reel files, each loaded once.

    A file names its tokenizer, but what is opened is what --model says or a preset of this package:
    a file of a stranger never decides that a folder or a repository is.
    """

    def __init__(self, place: str | None, **options: Any) -> None:
        self.place, self.options = place, options
        self.loaded: dict[str, Tokenizer] = {}
        self.lock = Lock()

    def of(self, reel: "Reel") -> "Tokenizer":
        """The tokenizer of a file. ValueError that says how to name it if it is not found."""
        name = self.place or reel.model
        with self.lock:
            if name not in self.loaded:
                try:
                    named = self.place is None
                    self.loaded[name] = given.open_model(name, preset=named, **self.options)
                except (ValueError, OSError) as error:
                    if self.place:
                        raise
                    raise ValueError(
                        f"{reel.source.path} was made by {name!r}: {error}; or name "
                        "its folder with --model"
                    ) from error
            return self.loaded[name]


def decode_file(
    models: Models,
    job: Job,
    span: tuple[int | None, int | None],
    coding: Coding,
    form: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Decode one .reel file to a video; what was written, in numbers."""
    from reeltok.tokenizer.streaming import frame_range
    from reeltok.tokens.reel import Reel
    from reeltok.video.record import write

    began = time.monotonic()
    with Reel(job.source) as reel:
        first, end = frame_range(reel.frames, *span)
        damaged = reel.damaged
        tokenizer = models.of(reel)
        coding.hint(tokenizer, reel.height, reel.width)
        parts = naming(job.source, play(tokenizer, reel, first, end, coding))
        written = write(counted(parts, progress, end - first), job.target, **form)
    for line in written.notes:
        note(f"{job.target}: {line}")
    seconds = time.monotonic() - began
    return {
        "input": job.source,
        "output": job.target,
        "frames": written.frames,
        "size": [written.height, written.width],
        "fps": written.fps,
        "damaged": damaged,
        "codec": written.codec,
        "seconds": seconds,
        "rate": written.frames / seconds,
    }


def play(
    tokenizer: "Tokenizer", reel: "Reel", first: int, end: int, coding: Coding
) -> Iterator["Video"]:
    """Frames `first` up to `end` in parts; their `start` is the place in the original."""
    from reeltok.video.timing import moments_of

    if reel.info.batch != 1:
        raise ValueError(f"{reel.source.path} holds {reel.info.batch} clips: decode it in Python")
    span = tokenizer.span(reel, first, end)
    parts = groups(tokenizer, reel, span, end, coding.chunk_for(reel.height, reel.width))
    skip, zero = first - span.before, 0.0 if reel.times is None else float(reel.times[first])
    start = float(reel.settings.get("start", 0.0))
    start += first / (reel.fps or 1.0) if reel.times is None else zero
    left = end - first
    for video in only_videos(tokenizer.stream_decode(parts, tile=coding.tile)):
        here, skip = range(len(video))[skip : skip + left], max(0, skip - len(video))
        left -= len(here)
        if here:
            times, last = moments_of(video.times, video.last, here.start, here.stop)
            times = None if times is None else times - zero
            kept = video.frames[here.start : here.stop]
            yield replace(video, frames=kept, times=times, last=last, start=start)


def naming(file: str, parts: Iterator["Video"]) -> Iterator["Video"]:
    """The parts as they are; an error on the way to them names the file that they come from."""
    try:
        yield from parts
    except ValueError as error:
        raise error if file in str(error) else ValueError(f"{file}: {error}") from error


def groups(
    tokenizer: "Tokenizer", reel: "Reel", span: "Span", end: int, chunk: int
) -> Iterator["Tokens"]:
    """The tokens of a span in parts of whole groups or windows, about `chunk` frames each.

    The span's frames, up to `end`, are shared out among groups; a decoder keeps what comes early.
    Windows have their own frames, also beyond `end`.
    """
    from reeltok.tokenizer.streaming import coded_window

    spec = tokenizer.spec
    if spec.causal:
        run = max(1, chunk // spec.group) * spec.group_steps
        opening = run + (0 if span.early else spec.first_steps)
        cuts = [span.early, *range(span.early + opening, span.late, run), span.late]
        count = len(cuts) - 1
        frames = [span.before + (end - span.before) * i // count for i in range(count + 1)]
    else:
        window = coded_window(reel, spec)
        cuts = [*range(span.early, span.late, spec.steps(window)), span.late]
        frames = [min(reel.frames, span.before + window * i) for i in range(len(cuts))]
    for (a, b), (since, until) in zip(pairwise(cuts), pairwise(frames), strict=True):
        part = reel.part(a, b, frames=(since, until))
        yield part.with_(settings={**part.settings, "given": "video"})


def only_videos(parts: "Iterable[Video | Tensor]") -> "Iterator[Video]":
    """The parts as they are, which come from a video."""
    from reeltok.video.record import Video

    for part in parts:
        assert isinstance(part, Video)
        yield part


def counted(parts: Iterator["Video"], progress: Progress, frames: int) -> Iterator["Video"]:
    """The parts as they are, counted as they pass."""
    for part in parts:
        progress.advance(len(part), of=frames)
        yield part


def holds_video(job: Job, span: tuple[int | None, int | None]) -> bool:
    """Whether the target is a video of the frames and size that decoding would make."""
    from reeltok.tokenizer.streaming import frame_range
    from reeltok.tokens.reel import Reel
    from reeltok.video.record import stream

    if job.older:
        return False
    with Reel(job.source) as reel:
        first, end = frame_range(reel.frames, *span)
        try:
            with stream(job.target) as video:
                found = (video.frames, video.height, video.width)
        except ValueError:  # not a video, or damaged
            return False
        return found == (end - first, reel.height, reel.width)
