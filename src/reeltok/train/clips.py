"""What a run draws from its clips: windows, how they are kept, and what a batch is."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from reeltok.configuration import FINITE
from reeltok.data.clip import Clip
from reeltok.data.lists import GROUP
from reeltok.video.decode import Damage

Share = Annotated[float, Field(ge=0, le=1)]


@config_dataclass(frozen=True, kw_only=True, config=FINITE)
class Window:
    """One kind of batch: `batch` clips of `frames` frames, `size` pixels square, drawn by `share`.

    `batch` counts clips over all processes. A window is drawn only from step `since` until `until`.
    """

    frames: int = Field(default=17, ge=1)
    size: int = Field(default=128, ge=8)
    batch: int = Field(default=8, ge=1)
    share: float = Field(default=1.0, gt=0)
    since: int = Field(default=0, ge=0)
    until: int | None = Field(default=None, ge=1)

    def __post_init__(self) -> None:
        if self.until is not None and self.until <= self.since:
            raise ValueError(
                f"since={self.since} is not before until={self.until}: the window is never drawn"
            )

    def fits(self, clip: Clip, stride: int = 1) -> bool:
        """Whether a clip has as many frames, each `stride` behind the one before, and pixels."""
        return clip.frames > (self.frames - 1) * stride and clip.short >= self.size


@config_dataclass(frozen=True, kw_only=True, config=FINITE)
class DataConfig:
    """What is drawn from the clips, and how they are kept.

    `weights` gives sampling weights to values of the manifest column `column`; `other` is shared
    by clips of all remaining values. `fps` resamples clips to that rate by time, as `video.read`
    does; without it the frame step is drawn from `strides`. `damage` is what becomes of frames that
    cannot be decoded: "refuse" the clip, "stop" before them or "skip" them. `scale` bounds the
    random down-scaling before the crop, which stops at the window's size. `holdout` is the share of
    sources kept apart; validation sees `validation.batch` of their clips. `lively` is the share of
    samples that are the liveliest of three drawn from one group: the one whose consecutive frames
    differ most (it needs a cache).
    `synthetic` is the share of samples that are one still frame, panned and zoomed, with text, and
    `pages` the share of these that lie under a page of small print.
    `cache`: "none" decodes for every sample, "disk" decodes once into files that processes share,
    "memory" and "device" decode once and hold uint8 frames there; `cache_size` bounds the short
    side and `cache_gb` the whole: the longest clips are cut until it fits. `workers`
    threads make the batches of the next `prefetch` steps.
    """

    windows: tuple[Window, ...] = Field(default=(Window(),), min_length=1)
    column: str = GROUP
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    other: float = Field(default=1.0, ge=0)
    fps: float | None = Field(default=None, gt=0)
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    damage: Damage = "refuse"
    scale: tuple[Share, Share] = (1.0, 1.0)
    flip: bool = True
    lively: float = Field(default=0.0, ge=0, le=1)
    synthetic: float = Field(default=0.0, ge=0, le=1)
    pages: float = Field(default=0.0, ge=0, le=1)
    holdout: float = Field(default=0.1, ge=0, lt=1)
    validation: Window = Window(frames=17, size=128, batch=24)
    cache: Literal["none", "disk", "memory", "device"] = "disk"
    cache_size: int = Field(default=256, ge=8)
    cache_gb: float = Field(default=8.0, gt=0)
    workers: int = Field(default=1, ge=1)
    prefetch: int = Field(default=2, ge=1)

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(
                f"data.scale={list(self.scale)} begins above its end: give the smaller scale first"
            )
        if self.pages and not self.synthetic:
            raise ValueError(
                f"data.pages={self.pages} is a share of the synthetic samples, of which there are "
                "none: set data.synthetic too"
            )


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """What a task gets: clips in [-1, 1] and where they came from."""

    x: Float[Tensor, "b c t h w"]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "ClipBatch":
        return ClipBatch(
            x=self.x.to(device, non_blocking=True), names=self.names, groups=self.groups
        )

    def __getitem__(self, rows: Int[Tensor, " n"]) -> "ClipBatch":
        chosen = rows.tolist()
        return ClipBatch(
            x=self.x[rows],
            names=tuple(self.names[row] for row in chosen),
            groups=tuple(self.groups[row] for row in chosen),
        )


class ClipError(ValueError):
    """A clip that opened does not decode where a sample needs it."""
