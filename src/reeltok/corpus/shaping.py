"""How clips become windows: rate, size, frames, cuts.

A window is a run of frames of one bucket (width, height, frames), coded as a clip of its own. The
picture is scaled until it covers the bucket and cut to its middle.
"""

import re

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from reeltok.corpus.row import bucket_name
from reeltok.tokenizer.spec import Spec


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Bucket:
    """Windows of one width and height in pixels and one number of frames."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)
    frames: int = Field(ge=1)

    @classmethod
    def of(cls, text: str) -> "Bucket":
        """448x256x17 is width x height x frames. ValueError for another text."""
        if not re.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}x[1-9]\d{0,5}", text):
            raise ValueError(
                f"{text!r} is not a bucket: give width x height x frames, as 448x256x17"
            )
        width, height, frames = map(int, text.split("x"))
        return cls(width=width, height=height, frames=frames)

    def __str__(self) -> str:
        return bucket_name(self.width, self.height, self.frames)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Shaping:
    """What is cut out of clips, in frames after `fps` (Hz) and pixels.

    Windows of `frames` begin every `stride` frames (None: one after another); without `frames` a
    window is a whole clip, up to its last whole group. `size` is (height, width), or the short
    side: then the long one keeps the picture's shape. `buckets` say size and frames instead: a
    clip goes to the one of the nearest shape, and of the most frames that it has. Clips, or
    `scenes` where a cut is found, of fewer than `shortest` frames are left out. A picture is a
    clip of one frame. Of frames every `step`-th is taken, of a clip's windows the first `most`.
    """

    frames: int | None = Field(default=None, ge=1)
    stride: int | None = Field(default=None, ge=1)
    fps: float | None = Field(default=None, gt=0)
    size: int | tuple[int, int] | None = None
    buckets: tuple[Bucket, ...] = ()
    shortest: int | None = Field(default=None, ge=1)
    scenes: bool = False
    step: int = Field(default=1, ge=1)
    most: int | None = Field(default=None, ge=1)
    damage: str = "refuse"

    def __post_init__(self) -> None:
        if self.buckets and (self.frames or self.size):
            raise ValueError(
                "buckets say frames and size themselves: leave `frames` and `size` out"
            )
        if self.stride and not (self.frames or self.buckets):
            raise ValueError(f"`stride` {self.stride} goes with windows: give `frames` as well")
        if len({*self.buckets}) < len(self.buckets):
            raise ValueError("a bucket is given twice: give each once")

    def check(self, spec: Spec) -> tuple[str, ...]:
        """Notes on windows that a tokenizer fills up. ValueError for those it does not take."""
        for bucket in self.buckets:
            self._check_size(spec, bucket.height, bucket.width)
            self._check_frames(spec, bucket.frames, strict=True)
        if self.size is not None:
            self._check_size(spec, *(self.size if isinstance(self.size, tuple) else (self.size, 0)))
        if self.frames and self._check_frames(spec, self.frames, strict=False):
            return (
                f"{self.frames} frames are not whole groups of {spec.name}: the last is filled up; "
                f"most trainers want whole ones, as {spec.frames(spec.steps(self.frames))} frames",
            )
        return ()

    @staticmethod
    def _check_frames(spec: Spec, frames: int, *, strict: bool) -> bool:
        """Whether a window ends within a group."""
        if spec.window and frames != spec.window:
            raise ValueError(f"{spec.name} codes windows of {spec.window} frames, not {frames}")
        whole = spec.frames(spec.steps(frames))
        if strict and whole != frames and frames > 1:
            below = spec.frames(spec.steps(max(1, frames - spec.frames_per_group)))
            raise ValueError(
                f"{frames} frames are not whole groups of {spec.name}: give {below} or {whole}"
            )
        return whole != frames

    @staticmethod
    def _check_size(spec: Spec, height: int, width: int) -> None:
        _, fh, fw = spec.factors
        square = (height, width or height)
        if spec.size is not None and square != spec.size:
            raise ValueError(
                f"{spec.name} codes {spec.size[0]}x{spec.size[1]} (height x width), "
                f"not {square[0]}x{square[1]}"
            )
        if width and (height % fh or width % fw):
            raise ValueError(
                f"{height}x{width} (height x width) is not whole cells of {spec.name}: give "
                f"multiples of {fh} and {fw}"
            )
