"""A video to tokens and back in one pass, measured and shown beside the original."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.record import Tokens
from reeltok.transcode.clock import Clock
from reeltok.transcode.decode import counted, only_videos
from reeltok.transcode.encode import name_of, open_video, warn_all
from reeltok.transcode.memory import bounded, released, whole_groups_of
from reeltok.transcode.need import Workload
from reeltok.transcode.options import (
    PLAYABLE,
    USUAL,
    WHOLE,
    Coding,
    Cut,
    OnProgress,
    Writing,
)
from reeltok.transcode.side_by_side import (
    PICTURES,
    PairScores,
    SampledFrames,
    VideoPair,
    also_beside,
)
from reeltok.video.record import Stream, Video, write

STAGES = ("read", "encode", "decode", "compare", "write")


@dataclass(frozen=True, kw_only=True)
class ReconstructedFile:
    """What `reconstruct_file` wrote and measured.

    `size` is height and width in pixels, `fps` in Hz, `tokens` the grid of all tokens. `psnr` (dB)
    and `ssim` are means over frames, before the output's own codec; `ssim` is None where frames
    are smaller than its window. `seconds` by stage: read, encode, decode, compare, write.
    """

    source: str
    target: str
    side_by_side: str | None
    model: str
    frames: int
    size: tuple[int, int]
    fps: float | None
    damaged: int
    tokens: tuple[int, ...]
    bits_per_pixel: float
    psnr: float | None
    ssim: float | None
    seconds: dict[str, float]


def reconstruct_file(
    tokenizer: Tokenizer,
    source: str | Path | Clip,
    target: str | Path,
    *,
    side_by_side: str | Path | None = None,
    cut: Cut = WHOLE,
    coding: Coding = USUAL,
    writing: Writing = PLAYABLE,
    on_progress: OnProgress | None = None,
) -> ReconstructedFile:
    """Code a video to tokens and back into the video `target`, and compare the two, in one pass.

    `source` is whatever `video.stream` opens, or a clip that was found. `side_by_side` names a
    video of both, or a picture (.png, .jpg, .webp) of some frames. The sound is that of the
    original, where it is a file. Notes on the videos are warnings.

    Raises FileNotFoundError or ValueError for what is not a video, ValueError if it is damaged (and
    `cut` does not say to go on) or a video cannot be written so, OSError where nothing can be
    written.
    """
    clock, passed, comparison = Clock("write"), Passed(), PairScores()
    with open_video(source, cut) as video:
        bounds = bounded(tokenizer, coding, job_of(video, side_by_side, writing.codec))
        video.chunk, tile = bounds.chunk, bounds.tile
        warn_all(video.notes)
        writing = with_sound(writing, video)
        shown = SampledFrames(video.frames if names_picture(side_by_side) else 0)
        read = clock.around("read", whole_groups_of(video, tokenizer, tile))
        tokens = tokenizer.stream_encode(passed.frames(read), window=coding.chunk, tile=tile)
        tokens = passed.tokens(clock.around("encode", tokens))
        decoded = clock.around("decode", tokenizer.stream_decode(tokens, tile=tile))
        pairs = passed.pairs(released(only_videos(decoded), tile))
        pairs = watched(pairs, comparison, shown)
        pairs = clock.around("compare", pairs)
        with both_written(pairs, side_by_side) as pairs:
            parts = decoded_of(pairs, video.start)
            written = write(counted(parts, on_progress, video.frames), target, **vars(writing))
    bits_per_pixel = passed.bits / (written.frames * video.height * video.width)
    if names_picture(side_by_side):
        said = labels(tokenizer.name, bits_per_pixel, comparison.mean_psnr)
        write(shown.picture(said), str(side_by_side))
    clock.switch("done")
    warn_all([f"{target}: {line}" for line in written.notes])
    return ReconstructedFile(
        source=name_of(source),
        target=str(target),
        side_by_side=None if side_by_side is None else str(side_by_side),
        model=tokenizer.name,
        frames=written.frames,
        size=(video.height, video.width),
        fps=written.fps,
        damaged=video.damaged,
        tokens=tuple(passed.grid),
        bits_per_pixel=bits_per_pixel,
        psnr=comparison.mean_psnr,
        ssim=comparison.mean_ssim,
        seconds={stage: clock.seconds[stage] for stage in STAGES},
    )


def job_of(video: Stream, side_by_side: str | Path | None, codec: str | None) -> Workload:
    """What is done with a video's frames, as far as it says how much memory that takes."""
    beside = side_by_side is not None and not names_picture(side_by_side)
    size, frames = (video.height, video.width), video.frames
    return Workload(work="reconstruct", size=size, frames=frames, beside=beside, codec=codec)


def with_sound(writing: Writing, video: Stream) -> Writing:
    """`writing` with the sound of the video's own file; a warning where that is not kept."""
    if not video.sound or writing.audio_from is not None:
        return writing
    if video.source is None:
        warn_all(["the sound of a pipe or an address is not copied: name a file to keep it"])
    return replace(writing, audio_from=video.source)


class Passed:
    """What went through a chain: originals that wait for their reconstructions, and token bits."""

    def __init__(self) -> None:
        self.waiting: list[Tensor] = []
        self.grid: list[int] = []
        self.bits = 0

    def frames(self, parts: Iterable[Video]) -> Iterator[Video]:
        """The parts as they are, their frames kept as they pass."""
        for part in parts:
            self.waiting.append(part.frames)
            yield part
            del part  # before the next comes

    def tokens(self, parts: Iterable[Tokens]) -> Iterator[Tokens]:
        """The parts as they are, their bits counted as they pass."""
        for part in parts:
            self.bits += math.prod(part.grid) * part.bits + part.reference_bits
            self.grid = [(self.grid or [0])[0] + part.grid[0], *part.grid[1:]]
            yield part

    def pairs(self, decoded: Iterable[Video]) -> Iterator[VideoPair]:
        """Originals with their reconstructions."""
        for video in decoded:
            yield self.original_of(video), video
            del video  # before the next is made

    def original_of(self, decoded: Video) -> Video:
        """The original frames of the next reconstruction."""
        parts, missing = [], len(decoded)
        while missing:
            first = self.waiting.pop(0)
            parts.append(first[:missing])
            if len(first) > missing:
                self.waiting.insert(0, first[missing:])
            missing -= len(parts[-1])
        return replace(decoded, frames=parts[0] if len(parts) == 1 else torch.cat(parts))


def names_picture(path: str | Path | None) -> bool:
    """Whether a name is a picture's."""
    return path is not None and Path(path).suffix.lower() in PICTURES


@contextmanager
def both_written(
    pairs: Iterator[VideoPair], path: str | Path | None
) -> Iterator[Iterator[VideoPair]]:
    """The pairs as they are; on the way written together to `path`, where that is a video.

    It is closed here: after an error it must not wait to be collected.
    """
    with ExitStack() as stack:
        if path is not None and not names_picture(path):
            pairs = stack.enter_context(closing(also_beside(pairs, path)))
        yield pairs


def watched(pairs: Iterator[VideoPair], *watchers: Any) -> Iterator[VideoPair]:
    """The pairs as they are, each shown to the watchers."""
    for original, decoded in pairs:
        for watcher in watchers:
            watcher.add(original, decoded)
        yield original, decoded
        del original, decoded  # before the next are made


def decoded_of(pairs: Iterator[VideoPair], start: float) -> Iterator[Video]:
    """The reconstructions alone, which begin at `start` seconds."""
    for _, decoded in pairs:
        yield replace(decoded, start=start)
        del _, decoded


def labels(model: str, bits_per_pixel: float, psnr: float | None) -> tuple[str, str]:
    """What stands over the rows of a picture."""
    quality = "" if psnr is None else f", PSNR {psnr:.1f} dB"
    return "original", f"{model}: {bits_per_pixel:.4f} bits per pixel{quality}"
