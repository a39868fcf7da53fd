"""Recipes of packing models: what makes the ids of a tokenizer smaller in a file."""

from collections.abc import Callable

from pydantic import Field
from pydantic.dataclasses import dataclass

from reeltok.configuration import FINITE
from reeltok.train.clips import DataConfig, Window
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.run import LoopConfig


@dataclass(frozen=True, kw_only=True, config=FINITE)
class PackingRecipe:
    """Everything a packing model's run needs but the data's place.

    `tokenizer` is a preset or a folder, whose ids are to be packed. `clips` of the first window of
    `data` are encoded, and `batch` of them drawn for each step. `features` and `width` are those of
    the network.
    """

    name: str
    packs: bool = True
    tokenizer: str
    clips: int = Field(default=1000, ge=1)
    features: int = Field(default=32, ge=1, le=64)
    width: int = Field(default=64, ge=1, le=512)
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig(best="-bits")

    def __post_init__(self) -> None:
        if len(self.data.windows) != 1:
            raise ValueError(f"data.windows has {len(self.data.windows)} entries: give one")
        if self.loop.strategy == "fsdp2":
            raise ValueError(
                "loop.strategy=fsdp2 cannot spread a packing model, whose weights are read one by "
                "one: train with loop.strategy=ddp"
            )


def packing_cpu() -> PackingRecipe:
    """A packing model for the ids of a tokenizer, on one core in minutes."""
    return PackingRecipe(
        name="packing_cpu",
        tokenizer="default",
        data=DataConfig(
            windows=(Window(frames=33, size=128, batch=16),),
            weights={"open": 0.45, "people": 0.15, "robot": 0.2, "animation": 0.1},
            other=0.1,
            strides=(1, 1, 2),
            scale=(0.5, 1.0),
            validation=Window(frames=17, size=256, batch=12),
            cache="none",
        ),
        loop=LoopConfig(
            optimizer=OptimizerConfig(lr=3e-3, betas=(0.9, 0.99)),
            schedule=ScheduleConfig(steps=2_000, warmup=50, cooldown=0.6),
            precision="fp32",
            validate_every=500,
            best="-bits",
        ),
    )


PACKINGS: dict[str, Callable[[], PackingRecipe]] = {"packing_cpu": packing_cpu}
