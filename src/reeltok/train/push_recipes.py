"""Recipes of the pushing world's tokenizers (docs/push.md): each for CPU cores and for a GPU."""

from dataclasses import replace

from reeltok.train.clips import DataConfig, Window
from reeltok.train.coordtok_recipes import PLANES
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.patches import PatchConfig
from reeltok.train.recipe import Recipe
from reeltok.train.reconstruct import LossConfig
from reeltok.train.reftok_recipes import follow_motion
from reeltok.train.run import LoopConfig

JOINS = ("fine", "coarse", "difference_out", "copy_gate")
"""What lets references into the plain network, from zero: AdamW moves it, as the last layer."""


def cached_on_gpu(data: DataConfig, *windows: Window) -> DataConfig:
    """The clips decoded on the GPU, where 640,000 frames of 64 pixels take 8 GB."""
    return replace(data, windows=windows, cache="device", cache_gb=40.0, workers=12)


def reftok_push() -> Recipe:
    """RefTok with motion and SKIP for the pushing world, 64 pixels, in hours of one CPU core."""
    return follow_motion(_plain(), "reftok_push")


def _plain() -> Recipe:
    windows = (
        Window(frames=5, size=64, batch=16, until=1_500),
        Window(frames=9, size=64, batch=12, share=0.5, since=1_500),
        Window(frames=17, size=64, batch=6, share=0.5, since=1_500),
    )
    joins = tuple(f"_injection.{name}" for name in JOINS)
    return Recipe(
        name="plain",
        model="reftok-push",
        data=DataConfig(
            windows=windows,
            holdout=0.02,
            validation=Window(frames=17, size=64, batch=24),
            cache_size=64,
        ),
        losses=LossConfig(pixel="log-mse", log_mse_floor=1e-3),
        loop=LoopConfig(
            optimizer=OptimizerConfig(
                kind="muon", lr=1e-3, betas=(0.9, 0.99), plain=("decoder.conv_out", *joins)
            ),
            schedule=ScheduleConfig(steps=6_000, warmup=100, cooldown=0.4),
            ema=0.999,
        ),
    )


def reftok_push_none() -> Recipe:
    """The twin of `reftok_push`: the same clips and steps, without a reference."""
    return _twin(reftok_push())


def reftok_push_gpu() -> Recipe:
    """`reftok_push` on one large GPU: 64 clips a step."""
    return follow_motion(_large(), "reftok_push_gpu")


def _large() -> Recipe:
    small = _plain()
    windows = (
        Window(frames=5, size=64, batch=64, until=1_000),
        Window(frames=9, size=64, batch=64, share=0.5, since=1_000),
        Window(frames=17, size=64, batch=64, share=0.5, since=1_000),
    )
    schedule = ScheduleConfig(steps=4_000, warmup=100, cooldown=0.4)
    return replace(
        small,
        data=cached_on_gpu(small.data, *windows),
        loop=replace(small.loop, schedule=schedule, save_async=True),
    )


def reftok_push_none_gpu() -> Recipe:
    """The twin of `reftok_push_gpu`."""
    return _twin(reftok_push_gpu())


def _twin(recipe: Recipe) -> Recipe:
    """The same run of the model's twin, whose parts for references and motion rest."""
    unused = replace(recipe.loop, freeze=("encoder_injection", "decoder_injection", "flow"))
    name = recipe.name.replace("push", "push_none")
    return replace(recipe, name=name, model="reftok-push-none", loop=unused)


def coordtok_push() -> Recipe:
    """CoordTok for the pushing world, 128 frames of 64 pixels, in four hours of one CPU core."""
    return Recipe(
        name="coordtok_push",
        model="coordtok-push",
        settings={"coordinates": "corner", "position": "axes"},
        data=DataConfig(
            windows=(Window(frames=128, size=64, batch=4),),
            holdout=0.02,
            validation=Window(frames=128, size=64, batch=12),
            cache_size=64,
        ),
        patches=PatchConfig(share=1 / 32, slices=16),
        loop=LoopConfig(
            optimizer=OptimizerConfig(kind="muon", lr=2e-3, betas=(0.9, 0.99), plain=PLANES),
            schedule=ScheduleConfig(steps=4_000, warmup=50, cooldown=0.4),
            ema=0.995,
            validate_every=250,
        ),
    )


def coordtok_push_gpu() -> Recipe:
    """`coordtok_push` on one large GPU: 64 clips a step."""
    small = coordtok_push()
    windows = (replace(small.data.windows[0], batch=64),)
    schedule = ScheduleConfig(steps=5_000, warmup=100, cooldown=0.4)
    return replace(
        small,
        name="coordtok_push_gpu",
        data=cached_on_gpu(small.data, *windows),
        loop=replace(small.loop, schedule=schedule, ema=0.999, validate_every=500, save_async=True),
    )
