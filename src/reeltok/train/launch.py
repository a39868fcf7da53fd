"""From a recipe to a run: build the model, open the data, check both, train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reeltok.data.find import find_clips
from reeltok.files.atomic import cache_folder, sweep, write_file
from reeltok.metrics.lpips import LPIPS
from reeltok.models.coordtok.network import CoordTok
from reeltok.parallel import Rank, in_turn, init_distributed
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.build import build_model, hash_coding
from reeltok.train.checks import (
    changed_values,
    hold_out,
    never_reached,
    require_groups,
    require_kept,
    require_new,
    require_shares,
    require_sizes,
    require_strategy,
    require_windows,
    unmatched_weights,
)
from reeltok.train.data import ClipSource
from reeltok.train.frames import cut_clips, open_clips, unread_cache
from reeltok.train.loader import Loader
from reeltok.train.logbook import say
from reeltok.train.loop import last_checkpoint, run_task
from reeltok.train.patches import Patches
from reeltok.train.recipe import Planned, Recipe, as_json, require_tokenizer
from reeltok.train.reconstruct import LoadLPIPS, Reconstruct, Score
from reeltok.train.reftok import ClosedLoop
from reeltok.train.run import Run, Task
from reeltok.train.unused import without_effect

TASKS: dict[str, Callable[..., Task]] = {"reftok": ClosedLoop}
"""The tasks of families that train on more than plain reconstruction."""

MakeTask = Callable[[Tokenizer, Recipe, ClipSource | None], Task]


def train(
    recipe: Recipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
    score: Score | None = None,
    make_task: MakeTask | None = None,
) -> Run:
    """Train a recipe on the clips of `data`; log, checkpoints and models go to the folder `out`.

    `OUT/model` is the latest model, `OUT/best` the best by validation. Under torchrun all processes
    call this. `score` compares held-out clips with reconstructions, both in [-1, 1]; by default
    PSNR. `make_task` trains on something else than reconstruction. Bad input raises ValueError or
    OSError before the first step.
    """
    require_tokenizer(recipe)
    out = Path(out)
    require_new(recipe, out, resume)
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        last = last_checkpoint(out) if resume else None
        require_windows(recipe, first=last.step if last else 0)
        tokenizer = build_model(recipe)
        tokenizer.name = out.resolve().name  # its own: these weights are not the preset's
        require_strategy(recipe, tokenizer)
        if make_task is None:
            require_groups(recipe, tokenizer)
            require_sizes(recipe)
        source = open_clip_source(recipe, data, out, at)
        if recipe.data.holdout and not source.validation_clips:
            validate_on_training(source, at)
        task = (make_task or reconstruction(score))(tokenizer, recipe, source)
        if hasattr(task, "to"):
            task.to(at.device)
        steps = recipe.loop.schedule.steps
        loader = Loader(source, rank=at.rank, world=at.world, steps=steps)
        coding = hash_coding(tokenizer) if tokenizer.reads else ""

        def ready() -> None:
            if tokenizer.reads and hash_coding(tokenizer) != coding:
                tokenizer.reads = ()  # the run that goes on has trained the encoder before
            begin(recipe, out, at, tokenizer.config)

        try:
            return run_task(
                task, loader, recipe.loop, out=out, resume=resume, at=at, ready=ready, facts=source
            )
        finally:
            loader.close()


def begin(recipe: Planned, out: Path, at: Rank, network: Any = None) -> None:
    """The folder of a run, with its recipe; what a resume changes is said, and what comes too late.

    `network` is the configuration of the model that is trained.
    """
    if at.first:
        for folder in (out, out / "model", out / "best"):
            sweep(folder)
        if changed := changed_values(recipe, out):
            say(
                f"note: this resume changes the recipe of the run: {'; '.join(changed)}. "
                f"`reeltok train {out} ... --resume` keeps it"
            )
        write_file(out / "recipe.json", as_json(recipe))
        if missed := never_reached(recipe, network):
            steps = recipe.loop.schedule.steps
            say(f"note: of {steps:,} steps, {'; '.join(missed)}")
        if idle := without_effect(recipe, network):
            say(f"note: without effect: {'; '.join(idle)}")


def reconstruction(score: Score | None = None, lpips: LoadLPIPS = LPIPS) -> MakeTask:
    """How `train` makes its task: reconstruct, compare held-out clips by `score`."""

    def make(tokenizer: Tokenizer, recipe: Recipe, source: ClipSource | None) -> Task:
        held_out = source.validation if source is not None and source.validation_clips else None
        if recipe.patches is not None:
            planes = need_planes(tokenizer)
            return Patches(planes, recipe.patches, held_out=held_out, score=score, lpips=lpips)
        options: dict[str, Any] = {"held_out": held_out, "score": score, "lpips": lpips}
        if tokenizer.family == "reftok":
            options["images"] = any(window.frames == 1 for window in recipe.data.windows)
        kind = TASKS.get(tokenizer.family, Reconstruct)
        return kind(tokenizer, recipe.losses, **options)

    return make


def need_planes(tokenizer: Tokenizer) -> CoordTok:
    """A tokenizer that gives single patches back; ValueError for another."""
    if not isinstance(tokenizer, CoordTok):
        raise ValueError(
            f"patches= trains a coordtok, {tokenizer.name} is a {tokenizer.family}: set patches "
            "to null, or choose another model"
        )
    return tokenizer


def open_clip_source(recipe: Planned, data: str | Path, out: Path, at: Rank) -> ClipSource:
    """The clips of `data`, opened; what is broken or too short is said once."""
    require_kept(recipe.data)
    listed = find_clips(data, column=recipe.data.column)
    cache = cache_folder("decoded")
    with in_turn(at):  # the first process of a machine decodes, the others find its files
        opened, broken = open_clips(listed, recipe.data, cache=cache, device=at.device)
    source = ClipSource(opened, hold_out(opened, recipe.data), seed=recipe.loop.seed)
    odd = unmatched_weights(recipe, opened)
    if at.first:
        for bad in broken:
            say(f"left out: {bad.name}: {bad.reason}")
        if cut := cut_clips(opened, recipe.data):
            say(f"note: {cut}")
        if unread := unread_cache(opened, recipe.data, cache):
            say(f"note: {unread}")
        say(f"{source.summary()}, {len(broken)} broken")
        if odd:
            say(f"note: {odd}")
    return source


def validate_on_training(source: ClipSource, at: Rank) -> None:
    """Validate on the clips that are trained on, where none can be spared; that is said."""
    source.held = list(source.train)
    window = source.config.validation
    scored = bool(source.validation_clips)
    how = "the scores are of clips that are trained on" if scored else "nothing is validated"
    if at.first:
        say(
            f"note: no clip of {window.frames} frames of {window.size} pixels or more can be held "
            f"out of {len(source.train)} (data.holdout, data.validation): {how}"
        )
