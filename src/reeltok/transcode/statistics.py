"""Mean and deviation of a continuous tokenizer's latents over clips."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from reeltok.data.clip import Clip
from reeltok.nn.moments import Moments
from reeltok.tokenizer.contract import Tokenizer
from reeltok.transcode.encode import open_source
from reeltok.transcode.options import USUAL, WHOLE, Coding, Cut, OnProgress, Watcher
from reeltok.wording import left_out, one_line


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredLatents:
    """The moments of every channel over all clips, and the names of those that are not in it."""

    moments: Moments
    clips: int
    broken: list[str]


def measure_latents(
    tokenizer: Tokenizer,
    clips: Sequence[Clip],
    *,
    cut: Cut = WHOLE,
    coding: Coding = USUAL,
    watcher: Watcher | None = None,
) -> MeasuredLatents:
    """Encode all clips and gather the moments of their latents, exact over all of them.

    A clip that cannot be read to its end is warned of, counted, and absent from the moments.
    ValueError for a discrete tokenizer, and where no clip could be read.
    """
    check_continuous(tokenizer)
    moments, broken = Moments.none(tokenizer.spec.channels), []
    for clip in clips:
        on_progress = None if watcher is None else watcher.of_file()
        try:
            moments += moments_of(tokenizer, clip, cut, coding, on_progress)
        except (ValueError, OSError) as error:
            warnings.warn(left_out(clip.name, one_line(error)), UserWarning, stacklevel=2)
            broken.append(clip.name)
        if watcher is not None:
            watcher.finish_file()
    if not moments.count:
        raise ValueError(f"none of {len(clips)} clips could be read: nothing was measured")
    return MeasuredLatents(moments=moments, clips=len(clips) - len(broken), broken=broken)


def check_continuous(tokenizer: Tokenizer) -> None:
    """ValueError for a tokenizer whose latents have no statistics."""
    if tokenizer.spec.vocabulary is not None:
        raise ValueError(
            f"{tokenizer.name} is discrete ({tokenizer.spec.vocabulary} ids): only the latents of "
            "continuous models have statistics"
        )


def moments_of(
    tokenizer: Tokenizer, clip: Clip, cut: Cut, coding: Coding, on_progress: OnProgress | None
) -> Moments:
    """Those of one clip; the errors are those of `Clip.stream`."""
    moments, done = Moments.none(tokenizer.spec.channels), 0
    with open_source(clip, cut) as video:
        video.chunk = coding.chunk_for(video.height, video.width)
        for part in tokenizer.stream_encode(video, window=coding.chunk, tile=coding.tile):
            moments += Moments.of(part.first_tensor, axis=1)
            done += part.frames
            if on_progress is not None:
                on_progress(done, video.frames)
    return moments
