"""Recipes of generators: a flow on a tokenizer's latents, or a prior on its ids.

The loop's values are those of `train`; what the network's mean, `generate` says.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from reeltok.configuration import FINITE, RecipeSettings, parse
from reeltok.data.lists import GROUP
from reeltok.files.parsing import read_object
from reeltok.generate import prior, sit
from reeltok.generate.conditions import CompletionTask
from reeltok.train.clips import DataConfig, Window
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.run import LoopConfig

TABLES = ("token_embed", "level_embed", "pos_embed", "class_embed")
"""Parts of a prior that are tables: AdamW moves them, Muon the matrices between."""
EMBEDDINGS = ("learned", "type_embed", "label_embed")
"""The same of a SiT."""
FOR_PRIORS: dict[str, Any] = {
    "given": 0,
    "tasks": ("predict",),
    "actions": 0,
    "mirrored": None,
    "chain": 1,
    "disturbed": 0.0,
    "noise": 0.0,
}
"""Values of a recipe that a flow has no use for, as they are where nothing is asked."""
FOR_TOKENIZERS = ("weights", "other", "scale", "lively", "synthetic", "pages")
"""Values of `data` that say how clips are drawn anew in each step."""
FOR_CLIPS = ("flip", "validation", "cache", "cache_size", "cache_gb", "workers", "prefetch")
"""Values of `data` that say how clips are kept, and made into batches; examples are coded once."""
FOLLOWS = {
    *("actions", "classes", "clip", "noise", "statistics"),
    *("frames", "size", "fps", "grid", "groups", "channels"),
    *("timing", "factors", "levels", "reference"),
}
"""Values of a generator's configuration that are no settings."""


@dataclass(frozen=True, kw_only=True, config=FINITE)
class GeneratorRecipe:
    """Everything a generator's run needs but the data's place.

    `tokenizer` is a preset or a folder. `settings` are values of the generator's configuration.
    `warm` names a generator, bundled or a folder, whose weights one of the same shape begins with.
    The clips are cut into examples of `data.windows.0` (frames, size, batch), `every` so many
    frames (None: one after another), at most `most` of a clip; only `groups` of them, where some
    are named. `classes`: groups are classes, that can be asked for. A prior learns to go on from
    `given` frames; a RefTok's reference is the first of them. Of several `tasks` each example
    draws one ("interpolate": the last frame is given too; "inpaint" and "outpaint": a box in the
    middle is hidden, or is all that is given). `actions` numbers after each frame, read from
    CLIP.actions.npy beside CLIP.mp4, tell a prior what was done. A RefTok's prior learns from
    `chain` examples in a row that follow decoded frames (chains.py), of which a share `disturbed`
    is decoded with errors; `noise` (up to so much, in [-1, 1]) is added to a fifth of the
    references. `mirrored`: each example also left to right, with these numbers of its actions
    negated.
    """

    name: str
    generator: Literal["flow", "prior"]
    tokenizer: str
    warm: str | None = None
    settings: RecipeSettings = Field(default_factory=dict)
    groups: tuple[str, ...] = ()
    classes: bool = False
    given: int = Field(default=0, ge=0)
    tasks: tuple[CompletionTask, ...] = Field(default=("predict",), min_length=1)
    actions: int = Field(default=0, ge=0)
    chain: int = Field(default=1, ge=1)
    disturbed: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0)
    mirrored: tuple[int, ...] | None = None
    every: int | None = Field(default=None, ge=1)
    most: int | None = Field(default=None, ge=1)
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig(best="score")

    def __post_init__(self) -> None:
        if len(self.data.windows) != 1:
            raise ValueError(f"data.windows has {len(self.data.windows)} entries: give one")
        if self.window.since or self.window.until is not None:
            raise ValueError("a generator draws its one window in every step: no since, no until")
        asked = [name for name, usual in FOR_PRIORS.items() if getattr(self, name) != usual]
        if self.generator == "flow" and asked:
            said = f"{asked[0]}={getattr(self, asked[0])}"
            raise ValueError(f"{said} is for priors, this is a flow: leave it out")
        self._require_effect()
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
        if self.actions and self.data.damage == "skip":
            raise ValueError(
                "actions are those after each frame, data.damage='skip' leaves frames out: set "
                "data.damage='stop' or 'refuse'"
            )
        if self.mirrored and not 0 <= min(self.mirrored) <= max(self.mirrored) < self.actions:
            raise ValueError(
                f"mirrored={self.mirrored} names numbers of an action, which has {self.actions}: "
                "count from 0"
            )

    def _require_effect(self) -> None:
        """ValueError for values that would change nothing."""
        if follows := sorted(FOLLOWS & self.settings.keys()):
            raise ValueError(
                f"settings.{follows[0]} follows from the tokenizer, the clips and the recipe's own "
                "values: leave it out"
            )
        shown = self.given + ("interpolate" in self.tasks)
        if self.generator == "prior" and shown >= self.window.frames:
            last = " and the last one" if shown > self.given else ""
            raise ValueError(
                f"given={self.given}{last} of data.windows.0.frames={self.window.frames} leaves no "
                "frame to learn: give fewer, or longer windows"
            )
        if self.chain == 1 and self.disturbed:
            raise ValueError(
                f"disturbed={self.disturbed} is for chains, whose examples follow one another: "
                "set disturbed=0, or chain=2 or more"
            )
        if self.chain > 1 and (self.given > 1 or self.tasks != ("predict",)):
            said = f"given={self.given}" if self.given > 1 else f"tasks={self.tasks}"
            raise ValueError(
                f"{said} was asked, but the examples of a chain follow one frame alone: set chain=1"
            )
        usual = DataConfig()
        for name in FOR_TOKENIZERS:
            if (found := getattr(self.data, name)) != getattr(usual, name):
                raise ValueError(
                    f"data.{name}={found} is for tokenizers, whose clips are drawn anew in each "
                    "step: leave it out"
                )
        if idle := idle_keys(as_tree(self.data)):
            found = getattr(self.data, idle[0])
            raise ValueError(
                f"data.{idle[0]}={found} changes nothing in a generator, whose examples are coded "
                "once: leave it out"
            )
        if len(self.data.strides) > 1:
            raise ValueError(
                f"data.strides={self.data.strides} has several values, but the clips of a "
                "generator are cut once: give one"
            )

    @property
    def frames(self) -> int:
        """Frames of a clip that an example, or a chain of them, is made of."""
        return 1 + self.chain * (self.window.frames - 1)

    @property
    def window(self) -> Window:
        """Frames and pixels of an example, and examples of a batch over all processes."""
        return self.data.windows[0]

    @property
    def column(self) -> str | None:
        """The column of classes; None for the usual one, which clips may lack."""
        return None if self.data.column == GROUP else self.data.column


def idle_keys(data: Mapping[str, Any]) -> list[str]:
    """The keys of `data`, in JSON's own kinds, whose values are set and change no generator."""
    usual = as_tree(DataConfig())
    return [name for name in FOR_CLIPS if data.get(name, usual[name]) != usual[name]]


def as_tree(data: DataConfig) -> dict[str, Any]:
    """The values in JSON's own kinds."""
    return json.loads(json.dumps(asdict(data)))


def read_generator(path: Path) -> GeneratorRecipe:
    """The recipe of a generator in a recipe.json.

    What changes nothing, which those of earlier versions hold, is left out with a note.
    """
    tree = read_object(path)
    data = tree.get("data")
    if isinstance(data, dict) and (idle := idle_keys(data)):
        said = f"{path} sets data.{', data.'.join(idle)}, which changes nothing: it is left out"
        warnings.warn(said, stacklevel=2)
        tree["data"] = {key: value for key, value in data.items() if key not in idle}
    return parse(tree, str(path), GeneratorRecipe)


def sit_cpu() -> GeneratorRecipe:
    """A small SiT on the compact CoordTok's planes, 128 frames at once, on two CPU cores."""
    return GeneratorRecipe(
        name="sit_cpu",
        generator="flow",
        tokenizer="coordtok-default",
        settings={"width": 192, "depth": 6, "heads": 6, "patch": 2},
        every=32,
        data=DataConfig(windows=(Window(frames=128, size=64, batch=8),)),
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
        data=replace(small.data, windows=(Window(frames=128, size=128, batch=64),)),
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
        data=DataConfig(windows=(Window(frames=16, size=64, batch=16),)),
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
        data=replace(small.data, windows=(Window(frames=16, size=64, batch=256),)),
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


def prior_push() -> GeneratorRecipe:
    """A prior of the pushing world: the next four frames from one and four actions; five hours.

    Set `tokenizer` to the folder of a run of `reftok_push`.
    """
    return GeneratorRecipe(
        name="prior_push",
        generator="prior",
        tokenizer="reftok-push",
        settings={
            **{"width": 224, "depth": 6, "heads": 4, "dropout": 0.1, "start": True},
            "sampling": {"steps": 4, "guidance": 1.5, "token_temperature": 0.5},
        },
        given=1,
        actions=4,
        chain=16,
        disturbed=0.25,
        noise=0.1,
        mirrored=(0,),
        every=64,
        data=DataConfig(windows=(Window(frames=5, size=64, batch=64),), holdout=0.02),
        loop=LoopConfig(
            optimizer=OptimizerConfig(
                kind="muon", lr=2e-3, betas=(0.9, 0.96), weight_decay=0.045, plain=TABLES
            ),
            schedule=ScheduleConfig(steps=10_000, warmup=50, cooldown=0.4),
            ema=0.998,
            best="score",
        ),
    )


def prior_push_none() -> GeneratorRecipe:
    """The twin of `prior_push` on plain ids: the same examples, network, frames seen and steps.

    Set `tokenizer` to the folder of a run of `reftok_push_none`.
    """
    return replace(prior_push(), name="prior_push_none", tokenizer="reftok-push-none")


def prior_push_gpu() -> GeneratorRecipe:
    """`prior_push` on one large GPU: 1,024 examples a step."""
    small = prior_push()
    schedule = ScheduleConfig(steps=8_000, warmup=500, shape="cosine")
    optimizer = replace(small.loop.optimizer, lr=1e-3)
    return replace(
        small,
        name="prior_push_gpu",
        data=replace(small.data, windows=(Window(frames=5, size=64, batch=1024),)),
        loop=replace(small.loop, optimizer=optimizer, schedule=schedule, save_async=True),
    )


def sit_push() -> GeneratorRecipe:
    """A SiT of the pushing world: 128 frames at once, by the number of objects; in an hour."""
    small = sit_cpu()
    return replace(
        small,
        name="sit_push",
        tokenizer="coordtok-push",
        settings={
            "width": 160,
            "depth": 6,
            "heads": 5,
            "patch": 2,
            "rope": True,
            "label_dropout": 0.1,
        },
        classes=True,
        every=16,
        data=replace(small.data, holdout=0.02),
        loop=replace(
            small.loop,
            optimizer=OptimizerConfig(kind="muon", lr=6e-3, betas=(0.9, 0.96), plain=EMBEDDINGS),
            schedule=ScheduleConfig(steps=8_000, warmup=200, cooldown=0.4),
        ),
    )


def sit_push_gpu() -> GeneratorRecipe:
    """`sit_push` on one large GPU: 256 examples a step."""
    small = sit_push()
    return replace(
        small,
        name="sit_push_gpu",
        data=replace(small.data, windows=(Window(frames=128, size=64, batch=256),)),
        loop=replace(
            small.loop,
            optimizer=replace(small.loop.optimizer, lr=4e-3),
            schedule=ScheduleConfig(steps=12_000, warmup=500, cooldown=0.4),
            ema=0.9995,
            validate_every=1_000,
            save_async=True,
        ),
    )


GENERATORS: dict[str, Callable[[], GeneratorRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        *(sit_cpu, sit_b, sit_l, prior_cpu, prior_b, prior_l),
        *(prior_push, prior_push_none, prior_push_gpu, sit_push, sit_push_gpu),
    )
}
