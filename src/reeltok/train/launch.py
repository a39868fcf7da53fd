"""From a recipe to a run: build the model, open the data, check both, train; or try two steps."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import RootModel

from reeltok import zoo
from reeltok.data.find import find_clips
from reeltok.files import cache_folder, sweep, write_file
from reeltok.models.coordtok import CoordTok
from reeltok.text import printable
from reeltok.tokenizer import Tokenizer
from reeltok.train.clips import Batch
from reeltok.train.data import ClipSource, Loader
from reeltok.train.frames import open_clips
from reeltok.train.logbook import read_lines
from reeltok.train.loop import run_task, train_step
from reeltok.train.parallel import Place, in_turn, joined
from reeltok.train.patches import Patches
from reeltok.train.recipe import Planned, Recipe, as_json, parse
from reeltok.train.reconstruct import Reconstruct, Score
from reeltok.train.reftok import ClosedLoop
from reeltok.train.run import LoopConfig, Run, Task

TASKS: dict[str, Callable[..., Task]] = {"reftok": ClosedLoop}
"""The tasks of families that train on more than plain reconstruction."""

MakeTask = Callable[[Tokenizer, Recipe, ClipSource | None], Task]


def build(recipe: Recipe) -> Tokenizer:
    """The model of a recipe, fresh from the recipe's seed or trained.

    ValueError where trained weights do not fit `settings`.
    """
    family, config = zoo.described(recipe.model)
    kind, network = zoo.FAMILIES[family]
    before = json.loads(RootModel[kind](config).model_dump_json())
    tree = merge(before, recipe.settings)
    torch.manual_seed(recipe.loop.seed)
    settings: Any = parse(tree, f"settings of {recipe.model}", kind)
    model = network(settings, Path(recipe.model).name)
    if recipe.warm is not None:
        warm(model, zoo.load(recipe.warm))
    if recipe.start == "trained":
        trained = zoo.load(recipe.model)
        weights = trained.state_dict()
        wrong = [
            k
            for k, v in model.state_dict().items()
            if k not in weights or weights[k].shape != v.shape
        ]
        if wrong:
            raise ValueError(
                f"the weights of {recipe.model} do not fit settings={recipe.settings}: "
                f"{wrong[0]} differs; leave out what changes the network's shape"
            )
        model.load_state_dict(weights)
        rests = {"encoder", "quantizer"} <= set(recipe.loop.freeze)
        if rests and coding(tree) == coding(before):
            model.reads = (*trained.reads, trained.hash())
    return model


def coding(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration but for what only training sees of the quantizer."""
    quantizer = tree.get("quantizer") or {}
    return {**tree, "quantizer": {k: v for k, v in quantizer.items() if k != "rounding_from"}}


def warm(model: Tokenizer, trained: Tokenizer) -> None:
    """Begin with the weights of a part of `model`; ValueError where it has no such part."""
    weights, own = trained.state_dict(), model.state_dict()
    wrong = [k for k, v in weights.items() if k not in own or own[k].shape != v.shape]
    if wrong:
        raise ValueError(
            f"{model.name} cannot begin with the weights of {trained.name}: {wrong[0]} does not "
            f"fit; choose a model of the same body for warm"
        )
    model.load_state_dict(weights, strict=False)


def merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dictionary with some values replaced."""
    inner = {
        k: merge(tree[k], v) if isinstance(v, Mapping) and isinstance(tree.get(k), dict) else v
        for k, v in changes.items()
    }
    return {**tree, **inner}


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
    out = Path(out)
    require_new(out, resume)
    with joined(device) as at:
        require_shares(recipe, at.world)
        tokenizer = build(recipe)
        if make_task is None:
            require_groups(recipe, tokenizer)
        source = open_source(recipe, data, out, at)
        task = (make_task or reconstruction(score))(tokenizer, recipe, source)
        if hasattr(task, "to"):
            task.to(at.device)
        loader = Loader(source, rank=at.rank, world=at.world)
        ready = partial(begin, recipe, out, at)
        try:
            return run_task(task, loader, recipe.loop, out=out, resume=resume, at=at, ready=ready)
        finally:
            loader.close()


def require_new(out: Path, resume: bool) -> None:
    """FileExistsError where a folder holds a run of a step or more that is not to be resumed."""
    if not resume and read_lines(out / "log.jsonl"):
        raise FileExistsError(f"{out} holds a run already: resume it, or choose another folder")


def begin(recipe: Planned, out: Path, at: Place) -> None:
    """The folder of a run, with its recipe."""
    if at.first:
        for folder in (out, out / "model", out / "best"):
            sweep(folder)
        write_file(out / "recipe.json", as_json(recipe))


def reconstruction(score: Score | None = None) -> MakeTask:
    """How `train` makes its task: reconstruct, judge held-out clips by `score`."""

    def make(tokenizer: Tokenizer, recipe: Recipe, source: ClipSource | None) -> Task:
        held_out = source.validation if source is not None and source.judged else None
        if recipe.patches is not None:
            return Patches(need_planes(tokenizer), recipe.patches, held_out=held_out, score=score)
        kind = TASKS.get(tokenizer.family, Reconstruct)
        return kind(tokenizer, recipe.losses, held_out=held_out, score=score)

    return make


def need_planes(tokenizer: Tokenizer) -> CoordTok:
    """A tokenizer that gives single patches back; ValueError for another."""
    if not isinstance(tokenizer, CoordTok):
        raise ValueError(
            f"patches= trains a coordtok, {tokenizer.name} is a {tokenizer.family}: set patches "
            "to null, or choose another model"
        )
    return tokenizer


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
    judged = (recipe.data.judged,) if recipe.data.holdout else ()
    for window in (*recipe.data.windows, *judged):
        whole = spec.frames(spec.steps(window.frames))
        if window.frames != whole:
            raise ValueError(
                f"a window of {window.frames} frames does not fill the groups of {recipe.model}: "
                f"choose {whole} in data.windows and data.judged"
            )
        factor = math.lcm(*spec.factors[1:])
        if window.size % factor:
            raise ValueError(
                f"a window of {window.size} pixels is no multiple of {factor}, which "
                f"{recipe.model} needs: choose {math.ceil(window.size / factor) * factor}"
            )
        if spec.size not in (None, (window.size, window.size)):
            raise ValueError(
                f"a window of {window.size} pixels is not what {recipe.model} reads: choose "
                f"{spec.size[0]} in data.windows and data.judged"
            )


def open_source(recipe: Planned, data: str | Path, out: Path, at: Place) -> ClipSource:
    """The clips of `data`, opened; what is broken or too short is said once."""
    listed = find_clips(data, column=recipe.data.column)
    cache = cache_folder("decoded")
    with in_turn(at):  # the first process of a machine decodes, the others find its files
        opened, broken = open_clips(listed, recipe.data, cache=cache, device=at.device)
    source = ClipSource(opened, recipe.data, seed=recipe.loop.seed)
    if at.first:
        for bad in broken:
            print(f"left out: {printable(f'{bad.name}: {bad.reason}')}", file=sys.stderr)
        print(f"{source.summary()}, {len(broken)} broken", file=sys.stderr)
    return source


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What two steps showed: trained parameters, peak memory in GB, steps per second."""

    parameters: int
    memory_gb: float
    steps_per_second: float
    frames_per_second: float


def dry_run(
    recipe: Recipe, *, device: str | None = None, make_task: MakeTask | None = None
) -> DryRun:
    """Two steps of the recipe's largest batch on noise: what a run will need.

    On a CPU the memory is that of the whole process.
    """
    with joined(device) as at:
        require_shares(recipe, at.world)
        window = max(recipe.data.windows, key=lambda w: w.batch * w.frames * w.size**2)
        task = (make_task or reconstruction())(build(recipe), recipe, None)
        share = window.batch // at.world
        shape = (share, 3, window.frames, window.size, window.size)
        batch = Batch(x=torch.rand(shape) * 2 - 1, names=("",) * share, groups=("",) * share)
        return try_steps(task, batch, recipe.loop, at, frames=window.batch * window.frames)


def try_steps(task: Task, batch: Any, config: LoopConfig, at: Place, *, frames: int) -> DryRun:
    """Two steps of a task on a batch that stands for `frames` frames over all processes."""
    if hasattr(task, "to"):
        task.to(at.device)
    run = Run(task, replace(config, compile=()), at)
    batch = batch.to(at.device)
    train_step(run, batch)
    began = time.monotonic()
    train_step(run, batch)  # reads its loss, so it has ended
    seconds = time.monotonic() - began
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    return DryRun(
        parameters=trained,
        memory_gb=peak_memory_gb(at.device),
        steps_per_second=1 / seconds,
        frames_per_second=frames / seconds,
    )


def peak_memory_gb(device: torch.device) -> float:
    """The most memory so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
