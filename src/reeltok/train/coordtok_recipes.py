"""CoordTok's recipes: the paper's two stages, and a compact one for two CPU cores.

What a step asks for is `patches` (patches.py: random patches or random frames, and their share);
what a coordinate means, and what a patch knows of its place, is `settings`.
"""

from dataclasses import replace

from reeltok.train.clips import DataConfig, Window
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.patches import STAGE_1, STAGE_2, PatchConfig
from reeltok.train.recipe import Recipe
from reeltok.train.run import LoopConfig

PLANES = ("planes", "pos_embed", "cls_token", "pixels")
"""Parts of a CoordTok that are tables or ends: AdamW moves them, Muon the matrices between."""


def coordtok_stage1() -> Recipe:
    """CoordTok's first stage: 1,024 random patches of 128 frames of 128 pixels, l2, 1M steps.

    256 clips a step, of the whole frame at their own rate. The public code decays biases and norms
    too, and takes the centre of a frame where this takes a random square.
    """
    return Recipe(
        name="coordtok_stage1",
        model="coordtok_l_1280",
        settings={"coordinates": "corner", "position": "table"},
        data=DataConfig(
            windows=(Window(frames=128, size=128, batch=256),),
            scale=(0.0, 0.0),
            flip=False,
            validation=Window(frames=128, size=128, batch=32),
            cache_size=128,
            cache_gb=64.0,
        ),
        patches=replace(STAGE_1, slices=32),
        loop=LoopConfig(
            optimizer=OptimizerConfig(lr=1e-4, weight_decay=1e-3),
            schedule=ScheduleConfig(steps=1_000_000),
            precision="fp16",
            grad_clip=None,
            validate_every=1000,
        ),
    )


def coordtok_stage2() -> Recipe:
    """CoordTok's second stage: l2 and LPIPS on 16 whole random frames, 50k steps more.

    Set `model` to the folder of the first stage.
    """
    first = coordtok_stage1()
    schedule = ScheduleConfig(steps=50_000)
    return replace(
        first,
        name="coordtok_stage2",
        start="trained",
        settings={},
        patches=replace(STAGE_2, slices=32),
        loop=replace(first.loop, schedule=schedule),
    )


def coordtok_cpu() -> Recipe:
    """A compact CoordTok, 128 frames of 64 pixels, in half an hour of one CPU core."""
    return Recipe(
        name="coordtok_cpu",
        model="coordtok-default",
        settings={"coordinates": "corner", "position": "axes"},
        data=DataConfig(
            windows=(Window(frames=128, size=64, batch=8),),
            scale=(0.0, 0.75),
            validation=Window(frames=128, size=64, batch=12),
            cache_size=96,
        ),
        patches=PatchConfig(share=1 / 32, short=0.05, slices=16),
        loop=LoopConfig(
            optimizer=OptimizerConfig(kind="muon", lr=2e-3, betas=(0.9, 0.99), plain=PLANES),
            schedule=ScheduleConfig(steps=1_150, warmup=50, cooldown=0.417),
            ema=0.995,
            validate_every=250,
        ),
    )
