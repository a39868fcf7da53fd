"""Recipes of generators: a flow on a tokenizer's latents, or a prior on its ids.

The loop's values are those of `train`; what the network's mean, `generate` says.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from reeltok.generate import prior, sit
from reeltok.generate.conditions import Given
from reeltok.train.clips import DataConfig, Window
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.run import LoopConfig


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class GeneratorRecipe:
    """Everything a generator's run needs but the data's place.

    `tokenizer` is a preset or a folder. `settings` are values of the generator's configuration. The
    clips are cut into examples of `data.windows.0` (frames, size, batch), `every` so many frames
    (None: one after another), at most `most` of a clip; only `groups` of them, where some are
    named. `classes`: groups are classes, that can be asked for. A prior learns to go on from
    `given` frames; a RefTok's reference is the first of them. Of several `tasks` each example
    draws one ("interpolate": the last frame is given too; "inpaint" and "outpaint": a box in the
    middle is hidden, or is all that is given). `actions` numbers after each frame, read from
    CLIP.actions.npy beside CLIP.mp4, tell a prior what was done.
    """

    name: str
    generator: Literal["flow", "prior"]
    tokenizer: str
    settings: dict[str, Any] = Field(default_factory=dict)
    groups: tuple[str, ...] = ()
    classes: bool = False
    given: int = Field(default=0, ge=0)
    tasks: tuple[Given, ...] = Field(default=("predict",), min_length=1)
    actions: int = Field(default=0, ge=0)
    every: int | None = Field(default=None, ge=1)
    most: int | None = Field(default=None, ge=1)
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig(best="score")

    def __post_init__(self) -> None:
        if len(self.data.windows) != 1:
            raise ValueError(f"data.windows has {len(self.data.windows)} entries: give one")
        if self.window.since or self.window.until is not None:
            raise ValueError("a generator draws its one window in every step: no since, no until")
        asked = {"given": self.given, "actions": self.actions, "tasks": self.tasks[1:]}
        wrong = [f"{name}={getattr(self, name)}" for name, value in asked.items() if value]
        if self.generator == "flow" and wrong:
            raise ValueError(f"{wrong[0]} is for priors, this is a flow: leave it out")
        if self.actions and self.data.strides != (1,):
            raise ValueError(
                f"actions are those after each frame, data.strides={self.data.strides} leaves "
                f"frames out: set data.strides=[1]"
            )
        if self.actions and self.data.fps is not None:
            raise ValueError(
                f"actions are those after each frame, data.fps={self.data.fps} makes other frames: "
                f"leave it out"
            )

    @property
    def window(self) -> Window:
        """Frames and pixels of an example, and examples of a batch over all processes."""
        return self.data.windows[0]


def sit_cpu() -> GeneratorRecipe:
    """A small SiT on the compact CoordTok's planes, 128 frames at once, on two CPU cores."""
    return GeneratorRecipe(
        name="sit_cpu",
        generator="flow",
        tokenizer="coordtok-default",
        settings={"width": 192, "depth": 6, "heads": 6, "patch": 2},
        every=32,
        data=DataConfig(windows=(Window(frames=128, size=64, batch=8),), cache_size=96),
        loop=LoopConfig(
            optimizer=OptimizerConfig(lr=4e-4),
            schedule=ScheduleConfig(steps=2_000, warmup=100, cooldown=0.4),
            ema=0.999,
            best="score",
        ),
    )


def sit_b() -> GeneratorRecipe:
    """SiT-B/2 as CoordTok trains its SiT-L/2: 600k steps of 64 clips, AdamW 1e-4, mean weights."""
    small = sit_cpu()
    return replace(
        small,
        name="sit_b",
        tokenizer="coordtok_l_1280",
        settings={**sit.SIZES["b"], "patch": 2},
        data=replace(
            small.data,
            windows=(Window(frames=128, size=128, batch=64),),
            cache_size=128,
            cache_gb=64.0,
        ),
        loop=LoopConfig(
            optimizer=OptimizerConfig(lr=1e-4),
            schedule=ScheduleConfig(steps=600_000),
            precision="fp32",
            grad_clip=None,
            ema=0.9999,
            best="score",
            validate_every=5_000,
        ),
    )


def sit_l() -> GeneratorRecipe:
    """CoordTok-SiT-L/2, the published generator of 128 frames."""
    return replace(sit_b(), name="sit_l", settings={**sit.SIZES["l"], "patch": 2})


def prior_cpu() -> GeneratorRecipe:
    """A small prior that goes on from one frame to 16, at 64 pixels, on two CPU cores.

    Set `tokenizer` to the folder of any discrete tokenizer, such as a run of `reftok_robot`.
    """
    return GeneratorRecipe(
        name="prior_cpu",
        generator="prior",
        tokenizer="default",
        settings={"width": 256, "depth": 6, "heads": 8},
        given=1,
        data=DataConfig(windows=(Window(frames=16, size=64, batch=16),), cache_size=96),
        loop=LoopConfig(
            optimizer=OptimizerConfig(lr=5e-4, betas=(0.9, 0.96), weight_decay=0.045),
            schedule=ScheduleConfig(steps=1_200, warmup=200, shape="cosine"),
            ema=0.999,
            best="score",
        ),
    )


def prior_b() -> GeneratorRecipe:
    """MAGVIT-B's transformer (87 M): Adam .9/.96, weight decay .045. Steps and `lr` are ours."""
    small = prior_cpu()
    return replace(
        small,
        name="prior_b",
        settings={**prior.SIZES["b"]},
        data=replace(small.data, windows=(Window(frames=16, size=64, batch=256),), cache_gb=64.0),
        loop=replace(
            small.loop,
            optimizer=replace(small.loop.optimizer, lr=1e-4),
            schedule=ScheduleConfig(steps=200_000, warmup=5_000, shape="cosine"),
            validate_every=5_000,
        ),
    )


def prior_l() -> GeneratorRecipe:
    """MAGVIT-L's transformer (306 M), as `prior_b`."""
    return replace(prior_b(), name="prior_l", settings={**prior.SIZES["l"]})


GENERATORS: dict[str, Callable[[], GeneratorRecipe]] = {
    recipe.__name__: recipe for recipe in (sit_cpu, sit_b, sit_l, prior_cpu, prior_b, prior_l)
}
