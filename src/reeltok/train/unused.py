"""The settings of a recipe that change nothing in its run: a sweep over them shows nothing.

Each is told with what overrules it, where its value is neither the usual one nor that of the recipe
that the run began with.
"""

import json
from collections.abc import Iterator
from typing import Any

from reeltok.models.reftok.injection import RefTokConfig
from reeltok.train.discriminators import DiscriminatorConfig
from reeltok.train.optimizers import OptimizerConfig
from reeltok.train.patches import PatchConfig
from reeltok.train.recipe import Planned, Recipe
from reeltok.train.recipes import RECIPES
from reeltok.train.reconstruct import LossConfig

USUAL = Recipe(
    name="usual",
    model="default",
    losses=LossConfig(discriminator=DiscriminatorConfig()),
    patches=PatchConfig(),
)


def without_effect(recipe: Planned, network: Any = None) -> list[str]:
    """The settings without effect, each with the reason; `network` is the model's configuration.

    >>> without_effect(change(find_recipe("default_cpu"), {"losses.net": "alex"}))
    ['losses.net=alex (losses.perceptual=0)']
    """
    known = RECIPES.get(recipe.name, lambda: USUAL)()
    found = [
        f"{path}={_shown(value)} ({reason})"
        for path, reason in (*_idle_data(recipe), *_idle_loop(recipe), *_idle_losses(recipe))
        if (value := _at(recipe, path)) not in (_at(USUAL, path), _at(known, path))
    ]
    if not isinstance(recipe, Recipe):
        return found
    if recipe.start == "trained" and recipe.warm is not None:
        found.append(f"warm={recipe.warm} (start=trained takes the weights of {recipe.model})")
    if recipe.patches is not None:
        if recipe.losses != LossConfig():
            found.append("losses (patches has a loss of its own, patches=null takes these)")
        return found
    return found + _idle_terms(recipe.losses, network)


def _idle_data(recipe: Planned) -> Iterator[tuple[str, str]]:
    """The path of each setting of the data that others overrule, and the reason."""
    data = recipe.data
    if data.fps is not None:
        yield "data.strides", f"data.fps={data.fps:g} takes frames by their time"
    if data.cache == "none":
        yield "data.cache_size", "data.cache=none keeps no frames"
        yield "data.cache_gb", "data.cache=none keeps no frames"
    if not data.weights:
        yield "data.other", "without data.weights all clips are drawn alike"


def _idle_loop(recipe: Planned) -> Iterator[tuple[str, str]]:
    """The same of the optimizers and of the schedule."""
    loop, schedule = recipe.loop, recipe.loop.schedule
    trains_two = isinstance(recipe, Recipe) and recipe.losses.discriminator is not None
    for name in ("optimizer", "discriminator") if trains_two else ("optimizer",):
        kind = getattr(loop, name).kind
        if kind == "adam":
            yield f"loop.{name}.weight_decay", "kind=adam has none, adamw has"
        if kind != "muon":
            yield f"loop.{name}.momentum", f"kind={kind} has betas, muon has momentum"
            yield f"loop.{name}.plain", f"kind={kind} moves all parts alike, muon does not"
    if not trains_two:
        for name in OptimizerConfig.__dataclass_fields__:
            yield f"loop.discriminator.{name}", "without losses.discriminator there is none"
    if schedule.shape == "cosine":
        yield "loop.schedule.cooldown", "shape=cosine falls from the warm-up on"
    elif not schedule.cooldown:
        yield "loop.schedule.min_lr_ratio", "loop.schedule.cooldown=0: the rate does not fall"


def _idle_losses(recipe: Planned) -> Iterator[tuple[str, str]]:
    """The same of the losses of a reconstruction."""
    if not isinstance(recipe, Recipe):
        return
    if recipe.patches is not None:
        if not recipe.patches.perceptual:
            yield "patches.net", "patches.perceptual=0"
            yield "patches.weights", "patches.perceptual=0"
        return
    losses = recipe.losses
    if losses.pixel == "l1":
        yield "losses.l1_steps", "losses.pixel=l1 is L1 in every step"
    if losses.pixel != "log-mse":
        yield "losses.log_mse_floor", f"losses.pixel={losses.pixel}"
    if not losses.perceptual:
        for name in ("perceptual_first", "net", "weights"):
            yield f"losses.{name}", "losses.perceptual=0"
    if losses.discriminator is not None and not losses.discriminator.lecam:
        yield "losses.discriminator.lecam_decay", "losses.discriminator.lecam=0"


def _idle_terms(losses: LossConfig, network: Any) -> list[str]:
    """The terms that a model does not have, of those that are set."""
    follows = isinstance(network, RefTokConfig)
    quantizer = getattr(network, "quantizer", None)
    given = (*getattr(quantizer, "terms", ()), *(("motion",) if losses.motion else ()))
    found = [
        f"losses.terms.{name}={weight:g} (the model has no such loss as it is configured)"
        for name, weight in losses.terms.items()
        if name not in given and LossConfig().terms.get(name) != weight
    ]
    if not follows:
        others = {"last_frame": losses.last_frame != 1, "motion": losses.motion is not None}
        found += [f"losses.{name} (of a RefTok alone)" for name, is_set in others.items() if is_set]
    return found


def _at(recipe: Planned, path: str) -> Any:
    """The value at a dotted path; None in a recipe that has no such table."""
    place: Any = recipe
    for key in path.split("."):
        place = getattr(place, key, None)
    return place


def _shown(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)
