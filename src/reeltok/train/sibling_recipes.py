"""Recipes of models that begin with the trained default: from the default's recipe to theirs."""

from dataclasses import replace

from reeltok.train.clips import Window
from reeltok.train.discriminators import DiscriminatorConfig
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.recipe import Recipe
from reeltok.train.reconstruct import LossConfig

KL_WEIGHT = 1e-7
"""Of the divergence summed over a clip: some 0.01 beside a log-MSE of about -6."""

RESTS = (
    *("encoder", "quantizer", "decoder.conv_in"),
    *("decoder.levels.0.0", "decoder.levels.0.1"),
)
"""What a second decoder shares with the default: all but its last block at the scale of tokens and
what follows, which are 2.66 M of 9.24 M weights."""


def continuous(default: Recipe, name: str) -> Recipe:
    """The default's network around a Gaussian bottleneck, from the default's weights.

    All windows are long from the first step on, and more of them move, or hold small print, than in
    the default's own recipe: trained on 9 frames the same network lost 2.3 dB where a camera moves.
    """
    optimizer = replace(default.loop.optimizer, lr=1.5e-3)
    windows = (
        Window(frames=17, size=128, batch=4, share=0.7),
        Window(frames=33, size=128, batch=2, share=0.3),
    )
    return replace(
        default,
        name=name,
        model="default-kl",
        warm="default",
        data=replace(default.data, windows=windows, lively=0.5, synthetic=0.4, pages=0.5),
        losses=LossConfig(pixel="log-mse", log_mse_floor=3e-4, terms={"kl": KL_WEIGHT}),
        loop=replace(
            default.loop,
            optimizer=optimizer,
            schedule=ScheduleConfig(steps=6_000, warmup=100, cooldown=0.6),
            ema=0.998,
        ),
    )


def sharper(default: Recipe, name: str) -> Recipe:
    """A second decoder for the default's own ids: LPIPS first, a discriminator last.

    Only the layers outside `RESTS` are trained, so that only those have to be stored.
    """
    discriminator = DiscriminatorConfig(
        generator_loss="hinge", weight=0.1, first=2_000, adaptive=True, lecam=0.005
    )
    optimizer = replace(default.loop.optimizer, lr=5e-4)
    return replace(
        default,
        name=name,
        start="trained",
        data=replace(default.data, windows=(Window(frames=9, size=128, batch=4),)),
        losses=LossConfig(
            pixel="log-mse",
            perceptual=12.0,
            net="squeeze",
            flicker=10.0,
            discriminator=discriminator,
        ),
        loop=replace(
            default.loop,
            freeze=RESTS,
            optimizer=optimizer,
            discriminator=OptimizerConfig(kind="adam", lr=2e-4, betas=(0.5, 0.9)),
            schedule=ScheduleConfig(steps=3_000, warmup=50, cooldown=0.5),
            ema=0.998,
            best="-lpips_alex",
        ),
    )


def in_large_batches(recipe: Recipe, name: str, windows: tuple[Window, ...], steps: int) -> Recipe:
    """The same run in large batches of clips that lie decoded in the GPU's memory.

    Nothing is compiled: so few steps gain no more than the minutes that compiling takes. No sample
    is the liveliest of three: each comparison would wait for the device.
    """
    data = replace(recipe.data, windows=windows, cache="device", cache_gb=40.0, workers=2)
    data = replace(data, lively=0.0)
    loop = replace(
        recipe.loop,
        schedule=replace(recipe.loop.schedule, steps=steps),
        minutes=3.0,
        save_async=True,
    )
    return replace(recipe, name=name, data=data, loop=loop)
