"""Mean and deviation of a continuous tokenizer's latents over clips.

The first step of a causal tokenizer stands for one frame, a later one for several: their latents
differ, and are measured apart too.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.nn.moments import Moments
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import ChannelStatistics, LatentStatistics
from reeltok.transcode.encode import open_video
from reeltok.transcode.options import USUAL, WHOLE, Coding, Cut, OnProgress, Watcher
from reeltok.wording import left_out, one_line


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredLatents:
    """The moments of every channel over all clips, and the names of those that are not in it.

    `first` and `later` are those of first and of later steps, where the first stands alone.
    """

    moments: Moments
    clips: int
    broken: list[str]
    first: Moments | None = None
    later: Moments | None = None

    def record(self) -> LatentStatistics:
        """Means and deviations, as config.json holds them."""
        found: LatentStatistics = {**channel_statistics(self.moments)}
        if self.first is not None and self.first.count:
            found["first"] = channel_statistics(self.first)
        if self.later is not None and self.later.count:
            found["later"] = channel_statistics(self.later)
        return found


@dataclass(frozen=True, eq=False)
class StepMoments:
    """The moments of first and of later steps; of one that does not stand alone, all are later."""

    first: Moments
    later: Moments

    @classmethod
    def none(cls, channels: int) -> "StepMoments":
        """Those of no step yet."""
        return cls(Moments.none(channels), Moments.none(channels))

    @classmethod
    def of(cls, z: Float[Tensor, "b d t ..."], first: int) -> "StepMoments":
        """Those of latents whose first `first` steps stand alone."""
        parts = (z[:, :, :first], z[:, :, first:])
        return cls(*(Moments.of(x, axis=1) for x in parts))

    def __add__(self, other: "StepMoments") -> "StepMoments":
        return StepMoments(self.first + other.first, self.later + other.later)


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
    steps, broken = StepMoments.none(tokenizer.spec.channels), list[str]()
    for clip in clips:
        on_progress = None if watcher is None else watcher.of_file()
        try:
            steps += clip_moments(tokenizer, clip, cut, coding, on_progress)
        except (ValueError, OSError) as error:
            warnings.warn(left_out(clip.name, one_line(error)), UserWarning, stacklevel=2)
            broken.append(clip.name)
        if watcher is not None:
            watcher.finish_file()
    moments = steps.first + steps.later
    if not moments.count:
        raise ValueError(f"none of {len(clips)} clips could be read: nothing was measured")
    apart = {"first": steps.first, "later": steps.later} if stands_alone(tokenizer) else {}
    return MeasuredLatents(moments=moments, clips=len(clips) - len(broken), broken=broken, **apart)


def stands_alone(tokenizer: Tokenizer) -> bool:
    """Whether the first step stands for fewer frames than a later one."""
    spec = tokenizer.spec
    return spec.causal and spec.first_frames < spec.frames_per_group


def channel_statistics(moments: Moments) -> ChannelStatistics:
    """Mean and deviation of every channel."""
    return {"mean": moments.mean.tolist(), "std": moments.std.tolist()}


def check_continuous(tokenizer: Tokenizer) -> None:
    """ValueError for a tokenizer whose latents have no statistics."""
    if tokenizer.spec.vocabulary is not None:
        raise ValueError(
            f"{tokenizer.name} is discrete ({tokenizer.spec.vocabulary} ids): only the latents of "
            "continuous models have statistics"
        )


def clip_moments(
    tokenizer: Tokenizer, clip: Clip, cut: Cut, coding: Coding, on_progress: OnProgress | None
) -> StepMoments:
    """Those of one clip; the errors are those of `Clip.stream`."""
    steps, done = StepMoments.none(tokenizer.spec.channels), 0
    alone = tokenizer.spec.first_steps if stands_alone(tokenizer) else 0
    with open_video(clip, cut) as video:
        video.chunk = coding.chunk_for(video.height, video.width)
        for part in tokenizer.stream_encode(video, window=coding.chunk, tile=coding.tile):
            steps += StepMoments.of(part.first_tensor, 0 if done else alone)
            done += part.frames
            if on_progress is not None:
                on_progress(done, video.frames)
    return steps
