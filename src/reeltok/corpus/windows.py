"""A clip in windows: decoded in parts, scaled, cut to the middle, counted out in frames."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from reeltok.corpus.runs import DecodedRun, join_runs
from reeltok.corpus.scenes import split_scenes
from reeltok.corpus.shaping import Bucket, Shaping
from reeltok.corpus.sources import ListedClip
from reeltok.data.kinds import is_picture
from reeltok.tokenizer.spec import Spec
from reeltok.video.record import Stream
from reeltok.wording import count

PARTS = 32  # frames that are decoded at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class ClipWindow:
    """A window of a clip: its number there, its frames, and where it begins, in seconds.

    `first` is the number of its first frame in the clip. `fps` is None for a picture.
    """

    number: int
    first: int
    frames: UInt8[np.ndarray, "t h w 3"]
    start: float
    fps: float | None
    source_height: int
    source_width: int


@dataclass(frozen=True, kw_only=True)
class Short:
    """A clip that gives no window, and why."""

    reason: str


@dataclass(eq=False, kw_only=True)
class Fit:
    """How one clip fits the shaping: the size that it is decoded at, what is cut out, how long.

    `found` is the (height, width) of its picture, `target` of its windows.
    """

    shaping: Shaping
    spec: Spec
    still: bool
    found: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (0, 0)
    near: tuple[Bucket, ...] = field(default=())

    @property
    def step(self) -> int:
        """Frames of the clip from one that is taken to the next."""
        return 1 if self.still else self.shaping.step

    def choose(self, height: int, width: int) -> tuple[int, int]:
        """The size to decode at: that covers the windows of a picture of this size."""
        self.found = (height, width)
        self.target = self._bucket_size() if self.shaping.buckets else self._size()
        scale = max(self.target[0] / height, self.target[1] / width)
        covers = lambda side, least: max(least, round(side * scale))
        return covers(height, self.target[0]), covers(width, self.target[1])

    def _bucket_size(self) -> tuple[int, int]:
        """That of the bucket of the nearest shape; of several, the largest without scaling up.

        Pictures go to buckets of one frame, where there are some.
        """
        height, width = self.found
        fitting = [b for b in self.shaping.buckets if (b.frames == 1) == self.still]
        fitting = fitting or [*self.shaping.buckets]
        shape = lambda b: abs(math.log(b.width / b.height) - math.log(width / height))
        nearest = min(map(shape, fitting))
        alike = [b for b in fitting if shape(b) - nearest < 1e-9]
        small = [b for b in alike if b.height <= height and b.width <= width]
        chosen = max(small, key=_area) if small else min(alike, key=_area)
        size = (chosen.height, chosen.width)
        self.near = tuple(b for b in alike if (b.height, b.width) == size)
        return size

    def _size(self) -> tuple[int, int]:
        size, (_, fh, fw), (height, width) = self.shaping.size, self.spec.factors, self.found
        if isinstance(size, tuple) or self.spec.size is not None:
            return size if isinstance(size, tuple) else self.spec.size or (0, 0)
        scale = 1.0 if size is None else size / min(height, width)
        cells = lambda side, cell: max(1, int(side * scale + 1e-6) // cell) * cell
        return cells(height, fh), cells(width, fw)

    def middle(self, frames: Tensor) -> Tensor:
        """The middle of the frames, of the size that was chosen."""
        (height, width), (covering, wide) = self.target, frames.shape[1:3]
        top, left = (covering - height) // 2, (wide - width) // 2
        return frames[:, top : top + height, left : left + width]

    def length(self, frames: int) -> int | None:
        """Frames of a window where a scene has so many; None where it gives none."""
        shaping, spec = self.shaping, self.spec
        if frames < (shaping.shortest or 1):
            return None
        if self.still:
            return 1 if spec.window is None else None
        if shaping.buckets:
            return max((b.frames for b in self.near if 1 < b.frames <= frames), default=None)
        fixed = shaping.frames or spec.window
        if fixed:
            return fixed if fixed <= frames else None
        ends = (n for n in range(frames, 0, -1) if spec.frames(spec.steps(n)) == n)
        return next(ends, None)

    @property
    def counted(self) -> bool:
        """Whether windows have one length, however long a scene is."""
        shaping = self.shaping
        return bool((shaping.frames or self.spec.window) and not shaping.shortest)

    @property
    def wanted(self) -> str:
        """What a clip must have, for people."""
        if self.still and (self.shaping.shortest or 1) == 1:
            return f"a picture is one frame, {self.spec.name} codes {self.spec.window}"
        least = [b.frames for b in self.near if b.frames > 1] if self.near else []
        least = least or [self.shaping.frames or self.spec.window or self.spec.frames(1)]
        return (
            f"too short: windows have {count(max(min(least), self.shaping.shortest or 1), 'frame')}"
        )


def _area(bucket: Bucket) -> int:
    return bucket.height * bucket.width


def cut_windows(source: ListedClip, shaping: Shaping, spec: Spec) -> Iterator[ClipWindow | Short]:
    """The windows of a clip in their order, a few frames more than one in memory at a time.

    Whole clips, and scenes whose length decides, are in memory whole. `Short` where there is no
    window. Raises FileNotFoundError, OSError or ValueError for a clip that cannot be decoded.
    """
    clip = source.clip
    fit = Fit(shaping=shaping, spec=spec, still=is_picture(clip.member or clip.path))
    options: dict[str, Any] = {"fps": shaping.fps, "size": fit.choose, "damage": shaping.damage}
    number = 0
    with ExitStack() as stack:
        stream = stack.enter_context(clip.stream(**options))
        if fit.still and stream.frames > 1:  # an animation, or pages, whatever its name: no picture
            stream.close()
            fit.still = False
            stream = stack.enter_context(clip.stream(**options))
        stream.chunk = PARTS
        for scene in scenes_of(stream, fit):
            for run in windows_of(scene, fit, -(-stream.frames // fit.step)):
                yield ClipWindow(
                    number=number,
                    first=run.first * fit.step,
                    frames=np.ascontiguousarray(run.frames.numpy()),
                    start=seconds_at(run.first * fit.step, stream),
                    fps=None if fit.still else rate_of(run, fit.step, stream),
                    source_height=fit.found[0],
                    source_width=fit.found[1],
                )
                number += 1
                if number == shaping.most:
                    return
        if not number:
            yield Short(reason=f"it has {count(stream.frames, 'frame')}, {fit.wanted}")


def rate_of(run: DecodedRun, step: int, stream: Stream) -> float | None:
    """Frames per second of a window: where times vary the mean of its own, else the clip's."""
    if stream.times is not None and len(run.frames) > 1:
        first, last = (run.first * step, (run.first + len(run.frames) - 1) * step)
        seconds = float(stream.times[last] - stream.times[first])
        return (len(run.frames) - 1) / seconds if seconds > 0 else None
    return stream.fps / step if stream.fps else None


def seconds_at(frame: int, stream: Stream) -> float:
    """Where a frame of a clip is shown in its file, in seconds."""
    if stream.times is not None:
        return round(stream.start + float(stream.times[frame]), 9)
    return round(stream.start + (frame / stream.fps if stream.fps else 0.0), 9)


def scenes_of(stream: Stream, fit: Fit) -> Iterator[Iterator[DecodedRun]]:
    """The parts of a clip between its cuts; all of it, where none are looked for."""

    def runs() -> Iterator[DecodedRun]:
        seen, step = 0, fit.step
        for part in stream:
            some = fit.middle(part.frames)[-seen % step :: step]
            yield DecodedRun(some, -(-seen // step))
            seen += len(part)

    if not fit.shaping.scenes or fit.still:
        yield runs()
        return
    yield from split_scenes(runs())


def windows_of(runs: Iterator[DecodedRun], fit: Fit, most: int) -> Iterator[DecodedRun]:
    """The windows of one scene; of a clip that is one scene, `most` is its length."""
    scenes = fit.shaping.scenes and not fit.still
    if scenes and not fit.counted:  # their length decides, and is not known ahead
        held = [*runs]
        runs, most = iter(held), sum(map(len, held))
    length = fit.length(most)
    if length is None:
        return
    stride, skip, ahead = fit.shaping.stride or length, 0, list[DecodedRun]()
    whole = not (fit.counted or fit.shaping.buckets or fit.shaping.frames or fit.still)
    for run in runs:
        skip, run = max(0, skip - len(run)), run[skip:]
        ahead += [run] if len(run) else []
        while sum(map(len, ahead)) >= length:
            run = join_runs(ahead)
            yield run[:length]
            if whole:
                return
            skip = max(0, stride - len(run))
            ahead = [run[stride:]] if stride < len(run) else []
