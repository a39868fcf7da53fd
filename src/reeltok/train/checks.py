"""What is refused or said before the first step: data, windows and counts that do not fit."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from reeltok.data.clip import Clip
from reeltok.files.parsing import read_object
from reeltok.files.text import hint, printable
from reeltok.metrics.lpips import PLANS
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.clips import DataConfig
from reeltok.train.packing_recipes import PACKINGS
from reeltok.train.recipe import Planned, Recipe, as_json
from reeltok.train.recipes import RECIPES

MARKS = ("generator", "packs", "predicts")
"""What a recipe.json says of its kind; a tokenizer's says none of them."""


def require_new(recipe: Planned, out: Path, resume: bool) -> None:
    """FileExistsError where a folder holds a run of a step or more that is not to be resumed.

    ValueError where the run that is to be resumed is of another kind of recipe.
    """
    if not resume and has_begun(out):
        raise FileExistsError(f"{out} holds a run already: resume it, or choose another folder")
    if resume and (file := out / "recipe.json").is_file():
        was, now = read_object(file), json.loads(as_json(recipe))
        if any(was.get(mark) != now.get(mark) for mark in MARKS):
            raise ValueError(
                f"{out} holds a run of {printable(was.get('name'))[:80]}, a recipe of another kind "
                f"than {recipe.name}: resume it with its own, or choose another folder"
            )


def has_begun(out: Path) -> bool:
    """Whether a folder holds a run of a step or more."""
    log = out / "log.jsonl"
    return log.is_file() and log.stat().st_size > 0


def changed_values(recipe: Planned, out: Path) -> list[str]:
    """The values that a resume takes otherwise than the run in `out` did, with both."""
    before = out / "recipe.json"
    if not has_begun(out) or not before.is_file():
        return []
    was, now = flat(read_object(before)), flat(json.loads(as_json(recipe)))
    return [
        f"{path}={json.dumps(now.get(path))} (it was {json.dumps(was.get(path))})"
        for path in dict.fromkeys([*now, *was])
        if now.get(path) != was.get(path)
    ]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested tables and lists by their dotted paths, as --set writes them."""
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = dict[str, Any]()
    for key, item in inner:
        found |= flat(item, f"{path}.{key}".lstrip("."))
    return found


def require_shares(recipe: Planned, world: int) -> None:
    """ValueError where a batch cannot be shared out equally."""
    parts = world * recipe.loop.accumulate
    for window in recipe.data.windows:
        if window.batch % parts:
            raise ValueError(
                f"a batch of {window.batch} cannot be shared by {world} processes x "
                f"{recipe.loop.accumulate} parts: set data.windows to multiples of {parts}"
            )


def require_groups(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """ValueError where a window does not fill the tokenizer's groups of frames and pixels."""
    spec = tokenizer.spec
    validation = (recipe.data.validation,) if recipe.data.holdout else ()
    for window in (*recipe.data.windows, *validation):
        whole = spec.frames(spec.steps(window.frames))
        if window.frames != whole:
            raise ValueError(
                f"a window of {window.frames} frames does not fill the groups of {recipe.model}: "
                f"choose {whole} in data.windows and data.validation"
            )
        if spec.steps(window.frames) == 0:
            raise ValueError(
                f"a window of {window.frames} frame holds only what {recipe.model} stores as a "
                f"picture: choose {spec.first_frames + spec.frames_per_group} in data.windows and "
                "data.validation"
            )
        factor = math.lcm(*spec.factors[1:])
        if window.size % factor:
            raise ValueError(
                f"a window of {window.size} pixels is not a multiple of {factor}, which "
                f"{recipe.model} needs: choose {math.ceil(window.size / factor) * factor}"
            )
        if spec.size not in (None, (window.size, window.size)):
            raise ValueError(
                f"a window of {window.size} pixels is not what {recipe.model} reads: choose "
                f"{spec.size[0]} in data.windows and data.validation"
            )


def require_strategy(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """ValueError where a model cannot be spread over processes as asked."""
    if recipe.loop.strategy == "fsdp2" and tokenizer.family == "reftok":
        raise ValueError(
            f"loop.strategy=fsdp2 cannot spread {recipe.model}, a reftok, whose parts are called "
            "one by one: train with loop.strategy=ddp"
        )


def require_sizes(recipe: Recipe) -> None:
    """ValueError where frames are too small for the discriminator or for LPIPS in training."""
    losses = recipe.losses
    if recipe.patches is not None:
        return
    for window in recipe.data.windows:
        side = PLANS[losses.net].smallest if losses.perceptual else 0
        if window.size < side:
            raise ValueError(
                f"a window of {window.size} pixels is too small for LPIPS({losses.net}): choose "
                f"{side} or more in data.windows, or losses.perceptual=0"
            )
        if losses.discriminator is not None and not losses.discriminator.fits(window):
            raise ValueError(
                f"a window of {window.frames} frames of {window.size} pixels is too small for the "
                f"discriminator: choose a larger one in data.windows, or fewer "
                f"losses.discriminator.layers ({losses.discriminator.layers})"
            )


def require_kept(config: DataConfig) -> None:
    """ValueError where the frames that are kept are smaller than those of a window."""
    size = max(window.size for window in config.windows)
    if config.cache != "none" and size > config.cache_size:
        raise ValueError(
            f"a window of {size} pixels is larger than the frames that data.cache="
            f"{config.cache} keeps, whose short side is at most {config.cache_size}: set "
            f"data.cache_size={size} or more, or data.cache=none"
        )


def require_windows(recipe: Planned, *, first: int = 0) -> None:
    """ValueError where a step, from `first` on, has no window to draw from."""
    windows, steps = recipe.data.windows, recipe.loop.schedule.steps
    for step in sorted({first, *(w.until for w in windows if w.until is not None)}):
        covered = any(w.since <= step and (w.until is None or step < w.until) for w in windows)
        if first <= step < steps and not covered:
            raise ValueError(
                f"no entry of data.windows covers step {step} of {steps}: change their since and "
                f"until, or loop.schedule.steps"
            )


def never_reached(recipe: Planned, network: Any = None) -> list[str]:
    """The counts of a recipe that its run is too short for, each with what follows from it.

    `network` is the configuration of the model that is trained.
    """
    schedule, steps = recipe.loop.schedule, recipe.loop.schedule.steps
    found = []
    if schedule.rise < schedule.warmup:
        found.append(f"loop.schedule.warmup={schedule.warmup} is cut to {schedule.rise}")
    for number, window in enumerate(recipe.data.windows):
        if window.since >= steps:
            found.append(f"data.windows.{number} (since={window.since}) is never drawn")
    late = chain(late_losses(recipe), late_quantizer(network))
    return found + [f"{path}={count}: {effect}" for path, count, effect in late if count >= steps]


def late_losses(recipe: Planned) -> Iterator[tuple[str, int, str]]:
    """The path of each count of the losses in use, its value, and what a shorter run misses."""
    if not isinstance(recipe, Recipe) or recipe.patches is not None:
        return
    losses = recipe.losses
    if losses.pixel != "l1":
        yield "losses.l1_steps", losses.l1_steps, f"{losses.pixel} is never minimised"
    if losses.perceptual:
        yield "losses.perceptual_first", losses.perceptual_first, "LPIPS never joins"
    if losses.discriminator is not None:
        yield (
            "losses.discriminator.first",
            losses.discriminator.first,
            "the discriminator never joins",
        )


def late_quantizer(network: Any) -> Iterator[tuple[str, int, str]]:
    """The same of the quantizer in a model's configuration."""
    quantizer = getattr(network, "quantizer", None)
    if count := getattr(quantizer, "rounding_from", 0):
        yield "rounding_from of the quantizer", count, "codes are never rounded in training"
    if quantizer is not None and getattr(quantizer, "regularization", False) and quantizer.entropy:
        effect = "the entropy loss does not come to its weight"
        yield "entropy_steps of the quantizer", quantizer.entropy_steps, effect


def hold_out(clips: Iterable[Clip], config: DataConfig) -> DataConfig:
    """The same data, with a share that holds out a clip where a few sources can be spared.

    A share of few sources may be none: then the first by their hash go, up to a quarter of them. It
    may be all that can be trained on: then none goes.
    """
    clips = list(clips)
    fitting = [clip for clip in clips if any(window.fits(clip) for window in config.windows)]
    if fitting and all(clip.held_out(config.holdout) for clip in fitting):
        return replace(config, holdout=0.0)
    long = [clip for clip in clips if config.validation.fits(clip)]
    if not config.holdout or not long or any(c.held_out(config.holdout) for c in long):
        return config
    share = math.nextafter(min(clip.lot for clip in long), 1)
    spared = {clip.source for clip in clips if clip.held_out(share)}
    rest = any(not clip.held_out(share) for clip in fitting)
    if not rest or 4 * len(spared) > len({clip.source for clip in clips}):
        return config
    return replace(config, holdout=share)


def unmatched_weights(recipe: Planned, clips: Iterable[Clip]) -> str | None:
    """What is odd where `data.weights` names groups that no clip is of.

    ValueError instead, unless they are the weights that the recipe came with.
    """
    groups = {clip.group for clip in clips}
    unknown = sorted(set(recipe.data.weights) - groups)
    named = sorted(groups - {""})
    if not unknown:
        return None
    found = f"data.weights names {', '.join(unknown)}, but no clip is of such a group"
    recipes: dict[str, Callable[[], Planned]] = {**RECIPES, **PACKINGS}
    given = recipes.get(recipe.name)
    if given is not None and given().data.weights == recipe.data.weights:
        return f"{found}; there are {', '.join(named)}" if named else None
    near = hint(unknown[0], named) if named else "the clips have no groups (data.column names them)"
    raise ValueError(f"{found}: {near}")


def require_groups_named(groups: Iterable[str], there: Iterable[str]) -> None:
    """ValueError where `groups` names one that is not among those of the clips."""
    known = sorted({*there} - {""})
    for group in groups:
        if group not in known:
            raise ValueError(
                f"groups names {group!r}, but no clip belongs to it: {hint(group, known)}"
            )
