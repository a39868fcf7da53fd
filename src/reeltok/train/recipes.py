"""Recipes: functions that return a complete training configuration, as a value to change."""

from collections.abc import Callable
from dataclasses import replace

from reeltok.train.clips import DataConfig, Window
from reeltok.train.coordtok_recipes import coordtok_cpu, coordtok_stage1, coordtok_stage2
from reeltok.train.discriminators import DiscriminatorConfig
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.push_recipes import (
    coordtok_push,
    coordtok_push_gpu,
    reftok_push,
    reftok_push_gpu,
    reftok_push_none,
    reftok_push_none_gpu,
)
from reeltok.train.recipe import Recipe, as_json, change
from reeltok.train.reconstruct import LossConfig
from reeltok.train.reftok_recipes import follow_motion, large_batches
from reeltok.train.run import LoopConfig
from reeltok.train.sibling_recipes import continuous, in_large_batches, sharper

__all__ = ["RECIPES", "Recipe", "as_json", "change"]

GROUPS = {"open": 0.45, "people": 0.15, "robot": 0.2, "animation": 0.1}
"""How often each group of clips is drawn; the rest shares 0.1. Robots are 64 % of the minutes."""

VIDTOK_LOSSES = LossConfig(
    pixel="l1",
    perceptual=1.0,
    net="vgg",
    log_variance=True,
    reduce="sum",
    terms={"kl": 1e-6},
    discriminator=DiscriminatorConfig(
        generator_loss="cross-entropy", weight=0.2, first=10_000, adaptive=True, lecam=0.005
    ),
)
"""VidTok's public code. Its discriminator starts at 20,001 of a counter that both
optimizers move."""


def vidtok_stage1() -> Recipe:
    """VidTok's first stage: 128 pixels, 3 fps, 50k steps of 16 clips, everything trained.

    Clips are scaled down to the window, as in the public code, which then takes the middle square.
    """
    return Recipe(
        name="vidtok_stage1",
        model="vidtok_kl_causal_488_4chn",
        data=DataConfig(
            windows=(Window(frames=17, size=128, batch=16),),
            fps=3.0,
            scale=(0.0, 0.0),
            flip=False,
        ),
        losses=VIDTOK_LOSSES,
        loop=LoopConfig(
            seed=23,
            optimizer=OptimizerConfig(kind="adam", lr=1e-5),
            discriminator=OptimizerConfig(kind="adam", lr=1e-5),
            schedule=ScheduleConfig(steps=50_000),
            grad_clip=20.0,
            validate_every=2000,
        ),
    )


def vidtok_stage2() -> Recipe:
    """VidTok's second stage: the decoder alone at 256 pixels, 30k steps of 8 clips.

    Set `model` to the folder of the first stage.
    """
    first = vidtok_stage1()
    return replace(
        first,
        name="vidtok_stage2",
        start="trained",
        data=replace(
            first.data,
            windows=(Window(frames=17, size=256, batch=8),),
            validation=replace(first.data.validation, size=256),
        ),
        loop=replace(first.loop, freeze=("encoder",), schedule=ScheduleConfig(steps=30_000)),
    )


def default_cpu() -> Recipe:
    """The bundled default on two CPU cores in about an hour and a half: log-MSE, then longer clips.

    A step takes a second where the processor multiplies bfloat16 in hardware (AMX).
    """
    clips = Window(frames=9, size=128, batch=8)
    return Recipe(
        name="default_cpu",
        model="default",
        data=DataConfig(
            windows=(
                replace(clips, until=1600),
                replace(clips, since=1600, share=0.3),
                Window(frames=17, size=128, batch=4, since=1600, share=0.7),
            ),
            weights=GROUPS | {"open": 0.5, "robot": 0.15},
            other=0.1,
            strides=(1, 1, 2, 3),
            scale=(0.4, 1.0),
            synthetic=0.05,
        ),
        losses=LossConfig(pixel="log-mse", l1_steps=100),
        loop=LoopConfig(
            optimizer=OptimizerConfig(
                kind="muon", lr=2e-3, betas=(0.9, 0.99), plain=("decoder.conv_out",)
            ),
            schedule=ScheduleConfig(steps=3500, warmup=50, cooldown=0.514),
            ema=0.998,
        ),
    )


def default_gpu() -> Recipe:
    """The bundled default on one large GPU in a quarter of an hour: clips of 17 frames, 128 pixels.

    The clips lie decoded in its memory (21 GB for 40 minutes of video). More threads than two would
    only keep the main one from launching kernels.
    """
    recipe = default_cpu()
    data = replace(
        recipe.data,
        windows=(Window(frames=17, size=128, batch=64),),
        validation=Window(frames=17, size=256, batch=24),
        cache="device",
        cache_gb=40.0,
        workers=2,
        synthetic=0.1,
    )
    losses = replace(recipe.losses, log_mse_floor=1e-3)
    return replace(
        recipe,
        name="default_gpu",
        data=data,
        losses=losses,
        loop=replace(
            recipe.loop,
            schedule=ScheduleConfig(steps=8_000, warmup=100, cooldown=0.4),
            ema=0.999,
            compile=("encoder", "decoder"),
            validate_every=1_000,
            minutes=3.0,
            save_async=True,
        ),
    )


def default_long() -> Recipe:
    """The bundled default trained on, on a CPU: 18,100 steps at a constant rate, then the cooldown.

    A tenth of the batches has 256 pixels. docs/log.md says how far the run has come.
    """
    recipe = default_cpu()
    windows = (
        Window(frames=9, size=128, batch=8, share=0.45),
        Window(frames=17, size=128, batch=4, share=0.45),
        Window(frames=9, size=256, batch=2, share=0.1),
    )
    return replace(
        recipe,
        name="default_long",
        start="trained",
        settings={"quantizer": {"rounding_from": 0}},
        data=replace(recipe.data, windows=windows),
        losses=replace(recipe.losses, l1_steps=0),
        loop=replace(
            recipe.loop,
            optimizer=replace(recipe.loop.optimizer, lr=1.5e-3),
            schedule=ScheduleConfig(steps=18_100, warmup=200, cooldown=0.3),
            ema=0.999,
            validate_every=250,
        ),
    )


def default() -> Recipe:
    """`default_gpu` where torch sees a GPU, else `default_cpu`."""
    import torch

    return default_gpu() if torch.cuda.is_available() else default_cpu()


def default_kl_cpu() -> Recipe:
    """The continuous `default-kl` from the trained default: windows of 17 and 33 frames.

    A step takes about four seconds of one core with AMX.
    """
    return continuous(default_cpu(), "default_kl_cpu")


def default_kl_gpu() -> Recipe:
    """`default-kl` on one large GPU, in six minutes."""
    windows = (
        Window(frames=17, size=128, batch=64, share=0.7),
        Window(frames=33, size=128, batch=32, share=0.3),
    )
    return in_large_batches(default_kl_cpu(), "default_kl_gpu", windows, steps=4_000)


def default_sharp_cpu() -> Recipe:
    """`default-sharp`, a second decoder for the default's own ids: sharper, less exact."""
    return sharper(default_cpu(), "default_sharp_cpu")


def default_sharp_gpu() -> Recipe:
    """`default-sharp` on one large GPU, in five minutes."""
    windows = (Window(frames=17, size=128, batch=64),)
    return in_large_batches(default_sharp_cpu(), "default_sharp_gpu", windows, steps=3_000)


def small() -> Recipe:
    """A quarter of the default's width at 64 pixels: a first look in minutes on a CPU."""
    recipe = default_cpu()
    return replace(
        recipe,
        name="small",
        settings={"width": 32, "quantizer": {"rounding_from": 100}},
        data=replace(
            recipe.data,
            windows=(Window(frames=9, size=64, batch=8),),
            validation=Window(frames=9, size=64, batch=12),
            cache_gb=2.0,
        ),
        losses=replace(recipe.losses, l1_steps=100),
        loop=replace(
            recipe.loop,
            schedule=ScheduleConfig(steps=600, warmup=20, cooldown=0.5),
            ema=0.99,
            validate_every=100,
            minutes=2.0,
        ),
    )


def finetune() -> Recipe:
    """The trained default, or `model`, on clips of your own: everything trained, minutes.

    Clips are scaled as far down as the default saw them: near full scale alone, what is gained
    there is lost on small views.
    """
    recipe = default_cpu()
    return replace(
        recipe,
        name="finetune",
        start="trained",
        data=replace(
            recipe.data,
            windows=(Window(frames=9, size=128, batch=2),),
            weights={},
            other=1.0,
            strides=(1, 2),
            synthetic=0.0,
            validation=Window(frames=9, size=128, batch=12),
        ),
        losses=LossConfig(pixel="log-mse"),
        loop=replace(
            recipe.loop,
            optimizer=replace(recipe.loop.optimizer, lr=2e-4),
            schedule=ScheduleConfig(steps=400, warmup=10, cooldown=0.875),
            ema=0.97,
            validate_every=100,
            minutes=2.0,
        ),
    )


def adapt_decoder() -> Recipe:
    """As `finetune`, but the encoder rests: the ids of every video stay what they were."""
    recipe = finetune()
    frozen = replace(recipe.loop, freeze=("encoder", "quantizer"))
    return replace(recipe, name="adapt_decoder", loop=frozen)


def reftok_cpu() -> Recipe:
    """The bundled RefTok from the trained default: closed loop over 1, then 2 and 4 blocks.

    A step takes one and a half to two and a half seconds of one core with AMX.
    """
    recipe = default_cpu()
    windows = (
        Window(frames=5, size=128, batch=8, until=150),
        Window(frames=9, size=128, batch=6, share=0.6, since=150),
        Window(frames=17, size=128, batch=3, share=0.4, since=150),
    )
    joins = (
        "_injection.fine",
        "_injection.coarse",
        "_injection.difference_out",
        "_injection.copy_gate",
    )  # with inject="attend", "cross_attention.out" too
    optimizer = replace(recipe.loop.optimizer, lr=4e-4, plain=("decoder.conv_out", *joins))
    schedule = ScheduleConfig(steps=2_000, warmup=50, cooldown=0.7)
    return replace(
        recipe,
        name="reftok_cpu",
        model="reftok-default",
        warm="default",
        settings={},
        data=replace(recipe.data, windows=windows),
        losses=LossConfig(pixel="log-mse"),
        loop=replace(recipe.loop, optimizer=optimizer, schedule=schedule, ema=0.995),
    )


def reftok_none_cpu() -> Recipe:
    """The twin of `reftok_cpu`: the same start, clips and steps, without a reference."""
    return without_reference(reftok_cpu(), "reftok_none_cpu", "reftok-none")


def reftok_gpu() -> Recipe:
    """A RefTok that follows motion and skips, on one large GPU from the trained default."""
    return follow_motion(large_batches(reftok_cpu(), steps=2_400), "reftok_gpu")


def reftok_none_gpu() -> Recipe:
    """The twin of `reftok_gpu`: the same start, clips and steps, without a reference."""
    return without_reference(reftok_gpu(), "reftok_none_gpu", "reftok-none")


def without_reference(recipe: Recipe, name: str, model: str) -> Recipe:
    """The same run of a model's twin, whose parts for references rest."""
    unused = ("encoder_injection", "decoder_injection", *(["flow"] if recipe.settings else []))
    loop = replace(recipe.loop, freeze=unused)
    return replace(recipe, name=name, model=model, loop=loop)


def reftok_robot() -> Recipe:
    """A small RefTok for robot video of 64 pixels, from fresh weights: half an hour of one core."""
    recipe = reftok_cpu()
    windows = tuple(replace(w, size=64, batch=2 * w.batch) for w in recipe.data.windows)
    validation = Window(frames=17, size=64, batch=24)
    robots = replace(
        recipe.data,
        windows=windows,
        validation=validation,
        weights={"robot": 1.0},
        other=0.0,
        synthetic=0.0,
    )
    schedule = ScheduleConfig(steps=1_500, warmup=100, cooldown=0.3)
    optimizer = replace(recipe.loop.optimizer, lr=1e-3)
    return replace(
        recipe,
        name="reftok_robot",
        model="reftok-robot",
        warm=None,
        data=robots,
        loop=replace(recipe.loop, optimizer=optimizer, schedule=schedule, ema=0.999),
    )


def reftok_robot_none() -> Recipe:
    """The twin of `reftok_robot`: the same clips and steps, without a reference."""
    return without_reference(reftok_robot(), "reftok_robot_none", "reftok-robot-none")


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        default,
        default_cpu,
        default_gpu,
        default_long,
        default_kl_cpu,
        default_kl_gpu,
        default_sharp_cpu,
        default_sharp_gpu,
        small,
        finetune,
        adapt_decoder,
        reftok_cpu,
        reftok_none_cpu,
        reftok_gpu,
        reftok_none_gpu,
        reftok_robot,
        reftok_robot_none,
        vidtok_stage1,
        vidtok_stage2,
        coordtok_cpu,
        coordtok_stage1,
        coordtok_stage2,
        reftok_push,
        reftok_push_none,
        reftok_push_gpu,
        reftok_push_none_gpu,
        coordtok_push,
        coordtok_push_gpu,
    )
}
