"""Recipes of networks that predict pixels: what is trained beside a prior, to compare it with."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reeltok.configuration import FINITE, RecipeSettings
from reeltok.train.clips import DataConfig, Window
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.run import LoopConfig


@dataclass(frozen=True, kw_only=True, config=FINITE)
class PixelRecipe:
    """Everything the run of a frame predictor needs but the data's place.

    Each window's first frame is given, the others are rolled out from it by the `actions` numbers
    after each frame in CLIP.actions.npy beside CLIP.mp4, and compared by the loss `pixel`. Where a
    clip is mirrored (data.flip), the numbers `mirrored` of its actions are negated. `settings` are
    values of the network's configuration.
    """

    name: str
    predicts: Literal["pixels"] = "pixels"
    settings: RecipeSettings = Field(default_factory=dict)
    actions: int = Field(default=4, ge=1)
    mirrored: tuple[int, ...] = (0,)
    pixel: Literal["l1", "l2"] = "l2"
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig(best="changing")

    def __post_init__(self) -> None:
        sizes = {window.size for window in (*self.data.windows, self.data.validation)}
        if len(sizes) > 1:
            raise ValueError(
                f"a frame predictor is of one size, data.windows and data.validation have "
                f"{', '.join(map(str, sorted(sizes)))}: give one"
            )
        if min(w.frames for w in (*self.data.windows, self.data.validation)) < 2:
            raise ValueError("a window of 1 frame holds nothing to predict: give 2 or more")
        odd = {"strides": (1,), "fps": None, "synthetic": 0.0}
        for name, wanted in odd.items():
            if (found := getattr(self.data, name)) != wanted:
                raise ValueError(
                    f"actions are those after each frame of a clip, data.{name}={found} makes "
                    f"other frames: leave it out"
                )
        if self.data.damage == "skip":
            raise ValueError(
                "actions are those after each frame, data.damage='skip' leaves frames out: set "
                "data.damage='stop' or 'refuse'"
            )
        if self.mirrored and not 0 <= min(self.mirrored) <= max(self.mirrored) < self.actions:
            raise ValueError(
                f"mirrored={self.mirrored} names numbers of an action, which has {self.actions}: "
                "count from 0"
            )

    @property
    def size(self) -> int:
        """Pixels of a frame's side."""
        return self.data.windows[0].size


def pixel_push() -> PixelRecipe:
    """A deterministic predictor of the pushing world's pixels, 45 minutes of one CPU core."""
    return PixelRecipe(
        name="pixel_push",
        data=DataConfig(
            windows=(
                Window(frames=5, size=64, batch=16, until=400),
                Window(frames=16, size=64, batch=8, since=400),
            ),
            holdout=0.02,
            validation=Window(frames=16, size=64, batch=24),
            cache_size=64,
        ),
        loop=LoopConfig(
            optimizer=OptimizerConfig(
                kind="muon", lr=1e-3, betas=(0.9, 0.99), plain=("conv_out", "act", "acts")
            ),
            schedule=ScheduleConfig(steps=2_000, warmup=50, cooldown=0.4),
            ema=0.99,
            validate_every=200,
            best="changing",
        ),
    )


PIXELS: dict[str, Callable[[], PixelRecipe]] = {"pixel_push": pixel_push}
