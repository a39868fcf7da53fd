"""Training a generator: clips to examples to latents or ids, kept, then the loop of `train`."""

import hashlib
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reeltok import reel, zoo
from reeltok.commands.generator_recipes import GeneratorRecipe
from reeltok.folder import replace_file
from reeltok.generate import flow, masked
from reeltok.generate.conditions import give_frames
from reeltok.generate.ids import Example, Examples, PriorTask, tabulate
from reeltok.generate.latents import Feed, FlowTask, Latents, measure, read_latents
from reeltok.generate.prior import Prior, PriorConfig
from reeltok.generate.sit import Clip as Window
from reeltok.generate.sit import Flow, FlowConfig
from reeltok.models.reftok import RefTok
from reeltok.tokenizer import Tokenizer
from reeltok.train.clips import Clip
from reeltok.train.data import ClipSource, resize
from reeltok.train.launch import (
    DryRun,
    begin,
    cache_folder,
    open_source,
    require_new,
    require_shares,
    try_steps,
)
from reeltok.train.loop import run_task
from reeltok.train.parallel import Place, in_turn, joined
from reeltok.train.run import Run, Task
from reeltok.video import to_unit


@dataclass(frozen=True, kw_only=True)
class Made:
    """A task that is ready, and the examples that it draws its batches from."""

    task: Task
    examples: Any


def train_generator(
    recipe: GeneratorRecipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
) -> Run:
    """Train a generator on the clips of `data`; the folder `out` is as that of any run.

    Latents or ids are computed once and kept beside the run; under torchrun by the first process of
    each machine. `OUT/tokenizer` is the tokenizer, where it was given as a folder.
    """
    out = Path(out)
    require_new(out, resume)
    with joined(device) as at:
        require_shares(recipe, at.world)
        tokenizer = zoo.load(recipe.tokenizer)
        config = describe(recipe, tokenizer)
        source = open_source(recipe, data, out, at)
        with in_turn(at):
            folder = precompute(recipe, tokenizer.to(at.device), config, source, out)
        made = make(recipe, config, folder)
        if hasattr(made.task, "to"):
            made.task.to(at.device)

        def ready() -> None:
            begin(recipe, out, at)
            if at.first and Path(recipe.tokenizer).is_dir():
                tokenizer.save_pretrained(out / "tokenizer")

        feed = feed_of(recipe, made.examples, at)
        return run_task(made.task, feed, recipe.loop, out=out, resume=resume, at=at, ready=ready)


def feed_of(recipe: GeneratorRecipe, examples: Any, at: Place) -> Feed:
    """Batches of the recipe's size, shared by all processes."""
    return Feed(
        examples,
        recipe.window.batch,
        seed=recipe.loop.seed,
        rank=at.rank,
        world=at.world,
        device=at.device,
    )


def describe(recipe: GeneratorRecipe, tokenizer: Tokenizer) -> FlowConfig | PriorConfig:
    """The generator's configuration but for what only the examples say.

    ValueError for a tokenizer that this kind of generator cannot follow, and unknown settings.
    """
    window, settings = recipe.window, dict(recipe.settings)
    size = (window.size, window.size)
    fps = recipe.data.fps
    if recipe.generator == "prior":
        frames = window.frames - int(isinstance(tokenizer, RefTok))
        return masked.describe(tokenizer, frames=frames, size=size, fps=fps, **settings)
    settings.pop("label_dropout", None)  # of classes that are not known yet
    return flow.describe(tokenizer, frames=window.frames, size=size, fps=fps, **settings)


# Clips to examples.


def examples_of(
    recipe: GeneratorRecipe, source: ClipSource, clips: list[Clip]
) -> Iterator[tuple[str, Clip, Tensor]]:
    """A name, the clip and the frames "1 c t h w" of every example: middle squares, in order."""
    window = recipe.window
    for number, clip in enumerate(clips):
        if recipe.groups and clip.group not in recipe.groups:
            continue
        stride = source.strides(clip)[0]
        span, side = (window.frames - 1) * stride + 1, clip.short
        if side < window.size:
            continue
        square = ((clip.height - side) // 2, (clip.width - side) // 2, side)
        starts = range(0, clip.frames - span + 1, recipe.every or span)
        for start in starts[: recipe.most]:
            cut = source.frames[clip].cut(slice(start, start + span, stride), square)
            yield f"{number:05d}-{start:06d}", clip, resize(to_unit(cut), window.size)


def rate_of(source: ClipSource, clips: list[Clip]) -> float | None:
    """The usual rate of the examples, in frames per second."""
    rates = [clip.fps / source.strides(clip)[0] for clip in clips if clip.fps]
    return round(statistics.median_low(rates), 3) if rates else None


def precompute(
    recipe: GeneratorRecipe,
    tokenizer: Tokenizer,
    config: FlowConfig | PriorConfig,
    source: ClipSource,
    out: Path,
) -> Path:
    """The folder of the examples' latents or ids, made unless it is there and whole.

    It lies beside the decoded clips, under a name that all it depends on decides. What was made
    before an interruption is not made again.
    """
    folder = (
        cache_folder(out) / "examples" / f"{tokenizer.name}-{key_of(recipe, tokenizer, source)}"
    )
    if (folder / "made.json").is_file():
        return folder
    parts = {"train": source.train, "held": source.held}
    counts = {}
    for name, clips in parts.items():
        examples = examples_of(recipe, source, clips)
        if isinstance(config, FlowConfig):
            counts[name] = keep_latents(tokenizer, examples, folder / name)
        else:
            labels = class_names(recipe, source)
            counts[name] = keep_ids(recipe, tokenizer, config, labels, examples, folder, name)
        print(f"{name}: {counts[name]} examples in tokens", file=sys.stderr)
    if not counts["train"]:
        raise ValueError(
            f"no clip to train on has {recipe.window.frames} frames of {recipe.window.size} pixels "
            f"in groups {', '.join(recipe.groups) or 'of any name'}: lower data.windows.0"
        )
    names, fps = class_names(recipe, source), rate_of(source, source.train)
    record = {"examples": counts, "fps": fps, "classes": names}
    replace_file(folder / "made.json", lambda beside: beside.write_text(json.dumps(record)))
    return folder


def key_of(recipe: GeneratorRecipe, tokenizer: Tokenizer, source: ClipSource) -> str:
    """Sixteen digits that stand for everything that the examples depend on."""
    data, window = recipe.data, recipe.window
    said: dict[str, Any] = {"tokenizer": tokenizer.hash(), "kind": recipe.generator}
    said |= {"window": (window.frames, window.size), "every": recipe.every, "most": recipe.most}
    said |= {"groups": recipe.groups, "classes": recipe.classes, "given": recipe.given}
    said |= {"fps": data.fps, "strides": data.strides, "cache": (data.cache, data.cache_size)}
    said["settings"] = recipe.settings if recipe.generator == "prior" else {}
    clips = {"train": source.train, "held": source.held}
    said["clips"] = {name: [marks(clip) for clip in part] for name, part in clips.items()}
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]


def marks(clip: Clip) -> tuple[Any, ...]:
    """What tells one clip from another."""
    stat = clip.path.stat()
    return (str(clip.path), clip.member, stat.st_size, stat.st_mtime_ns, clip.group, clip.frames)


def class_names(recipe: GeneratorRecipe, source: ClipSource) -> list[str]:
    """The classes: the groups of the clips to train on, in order of their names."""
    named = {clip.group for clip in source.train}
    chosen = sorted(named & set(recipe.groups) if recipe.groups else named)
    if recipe.classes and len(chosen) < 2:
        raise ValueError(
            f"classes=true needs two groups of clips, there are {', '.join(chosen) or 'none'}: put "
            "the clips into folders, or name their column by data.column"
        )
    return chosen if recipe.classes else []


@torch.no_grad()
def keep_latents(
    tokenizer: Tokenizer, examples: Iterator[tuple[str, Clip, Tensor]], folder: Path
) -> int:
    """One .reel file for each example, in a folder for its group; how many there are."""
    count = 0
    for name, clip, x in examples:
        path = folder / (clip.group or "any") / f"{name}.reel"
        count += 1
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            reel.save(tokenizer.encode(x.to(tokenizer.device)), path)
    return count


def keep_ids(
    recipe: GeneratorRecipe,
    tokenizer: Tokenizer,
    config: PriorConfig,
    classes: list[str],
    examples: Iterator[tuple[str, Clip, Tensor]],
    folder: Path,
    name: str,
) -> int:
    """One file of all examples' ids; how many there are."""
    labelled = (
        Example(x=x.to(tokenizer.device), label=classes.index(clip.group) if classes else 0)
        for _, clip, x in examples
        if not classes or clip.group in classes
    )
    first = next(labelled, None)
    if first is None:
        return 0
    clip = masked.pick_clip(config, tokenizer)
    shown = recipe.given - int(config.reference is not None)  # the reference is given anyway
    given = None
    if shown > 0:
        given = give_frames(clip.frames, (clip.height, clip.width), first=shown)
    found = tabulate(tokenizer, config, chain_first(first, labelled), given=given)
    folder.mkdir(parents=True, exist_ok=True)
    found.save(folder / f"{name}.safetensors")
    return len(found)


def chain_first(first: Example, rest: Iterator[Example]) -> Iterator[Example]:
    """All examples, the first of which was taken already."""
    yield first
    yield from rest


# Examples to a task.


def make(recipe: GeneratorRecipe, config: FlowConfig | PriorConfig, folder: Path) -> Made:
    """The generator with fresh weights, and its examples."""
    record = json.loads((folder / "made.json").read_text())
    assert config.clip is not None
    clip = replace(config.clip, fps=recipe.data.fps or record["fps"])
    config = replace(config, clip=clip)
    torch.manual_seed(recipe.loop.seed)
    if isinstance(config, FlowConfig):
        return make_flow(recipe, config, clip, folder, classed=bool(record["classes"]))
    prior = Prior(replace(config, classes=tuple(record["classes"])))
    held = folder / "held.safetensors"
    held_out = Examples.load(held) if held.is_file() else None
    task = PriorTask(prior, held_out=held_out, batch=recipe.window.batch)
    return Made(task=task, examples=Examples.load(folder / "train.safetensors"))


def make_flow(
    recipe: GeneratorRecipe, config: FlowConfig, window: Window, folder: Path, *, classed: bool
) -> Made:
    """A flow with the statistics of its latents, which may be of several classes."""
    class_of = (lambda path: path.parent.name) if classed else None
    latents = read_latents(folder / "train", window, class_of=class_of)
    config = replace(
        config,
        classes=latents.classes,
        statistics=measure(latents, config),
        label_dropout=recipe.settings.get("label_dropout", 0.0),
    )
    held_out = None
    if (folder / "held").is_dir():
        found = read_latents(folder / "held", window, class_of=class_of)
        held_out = relabelled(found, latents)
    task = FlowTask(Flow(config), held_out=held_out, batch=recipe.window.batch)
    return Made(task=task, examples=latents)


def relabelled(held: Latents, trained: Latents) -> Latents | None:
    """Held-out latents with the labels of those trained on; of other classes there is nothing."""
    if not trained.classes:
        return held
    known = [i for i, n in enumerate(held.labels.tolist()) if held.classes[n] in trained.classes]
    if not known:
        return None
    part = held.take(torch.tensor(known))
    names = [trained.classes.index(held.classes[n]) for n in part.labels.tolist()]
    return replace(part, labels=torch.tensor(names), classes=trained.classes)


# Trying it.


def try_generator(recipe: GeneratorRecipe, *, device: str | None = None) -> DryRun:
    """Two steps of a generator on noise: what a run will need. The tokenizer may be random."""
    with joined(device) as at:
        require_shares(recipe, at.world)
        try:
            tokenizer = zoo.load(recipe.tokenizer)
        except FileNotFoundError:
            tokenizer = zoo.load(recipe.tokenizer, weights="random")
        config = describe(recipe, tokenizer)
        share = recipe.window.batch // at.world
        torch.manual_seed(recipe.loop.seed)
        if isinstance(config, PriorConfig):
            task: Task = PriorTask(Prior(config))
            batch: Any = noise_ids(config, share)
        else:
            shape = (share, config.channels, config.cells)
            batch = Latents(torch.randn(shape), torch.zeros(share, dtype=torch.long))
            task = FlowTask(Flow(replace(config, statistics=measure(batch, config))))
        frames = recipe.window.batch * recipe.window.frames
        return try_steps(task, batch, recipe.loop, at, frames=frames)


def noise_ids(config: PriorConfig, count: int) -> Examples:
    """Random ids in the form of a prior's examples."""
    references = None
    if config.reference is not None and config.clip is not None:
        shape = (count, config.clip.height, config.clip.width, 3)
        references = torch.zeros(shape, dtype=torch.uint8)
    ids = torch.randint(config.vocabulary, (count, config.cells))
    return Examples(ids=ids, labels=torch.zeros(count, dtype=torch.long), references=references)
