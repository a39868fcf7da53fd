"""RefTok's recipes for a GPU, made of those for a CPU: motion, SKIP, larger batches."""

from dataclasses import replace
from typing import Any

from reeltok.train.clips import Window
from reeltok.train.motion import MotionLoss
from reeltok.train.optimizers import ScheduleConfig
from reeltok.train.recipe import Recipe
from reeltok.train.sibling_recipes import in_large_batches

MOTION: dict[str, Any] = {"motion": {}, "skip": 1.0}
"""What lets a RefTok's references follow motion, and its tokens say SKIP."""
ENDS = ("_injection.moved_in", "_injection.field_out", "flow.coarse.conv_out", "flow.fine.conv_out")
"""Its layers that start at zero: AdamW moves them."""


def follow_motion(recipe: Recipe, name: str, *, until: float = 0.5) -> Recipe:
    """The same run of a network that follows motion and skips.

    Its motion has a loss of its own for the share `until` of the steps.
    """
    loop = recipe.loop
    motion = MotionLoss(until=round(until * loop.schedule.steps))
    plain = (*loop.optimizer.plain, *ENDS)
    return replace(
        recipe,
        name=name,
        settings=recipe.settings | MOTION,
        losses=replace(recipe.losses, motion=motion, last_frame=1.5),
        loop=replace(loop, optimizer=replace(loop.optimizer, plain=plain)),
    )


def large_batches(recipe: Recipe, *, steps: int) -> Recipe:
    """The same run on one large GPU: one block, then mostly two, then four; clips in its memory."""
    early, late = round(0.2 * steps), round(0.7 * steps)
    windows = (
        Window(frames=5, size=128, batch=64, until=early),
        Window(frames=9, size=128, batch=48, share=0.7, since=early, until=late),
        Window(frames=17, size=128, batch=32, share=0.3, since=early, until=late),
        Window(frames=17, size=128, batch=32, since=late),
    )
    recipe = in_large_batches(recipe, recipe.name, windows, steps)
    loop = replace(
        recipe.loop,
        optimizer=replace(recipe.loop.optimizer, lr=1e-3),
        schedule=ScheduleConfig(steps=steps, warmup=50, cooldown=0.6),
        ema=0.998,
        validate_every=max(1, steps // 4),
    )
    losses = replace(recipe.losses, log_mse_floor=1e-3)
    return replace(recipe, losses=losses, loop=loop)
