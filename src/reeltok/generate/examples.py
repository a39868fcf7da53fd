"""The examples of a generator: clips to pieces, to latents or ids, kept on disk."""

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.files.atomic import cache_folder, write_file
from reeltok.files.hashes import hash_text
from reeltok.generate.chains import tabulate_chains
from reeltok.generate.conditions import give, read_actions
from reeltok.generate.ids import Example, tabulate
from reeltok.generate.prior import PriorConfig
from reeltok.generate.recipes import GeneratorRecipe
from reeltok.generate.sit import FlowConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens import reel
from reeltok.train.data import ClipSource, resize_square
from reeltok.video.record import to_unit


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What an example is made of: a name, its clip and where it begins there, and its frames."""

    name: str
    clip: Clip
    start: int
    x: Float[Tensor, "1 c t h w"]


def pieces_of(recipe: GeneratorRecipe, source: ClipSource, clips: list[Clip]) -> Iterator[Piece]:
    """The middle squares of the clips, in their order."""
    window = recipe.window
    for number, clip in enumerate(clips):
        if recipe.groups and clip.group not in recipe.groups:
            continue
        stride = source.strides[0]
        span, side = (recipe.frames - 1) * stride + 1, clip.short
        if side < window.size:
            continue
        square = ((clip.height - side) // 2, (clip.width - side) // 2, side)
        starts = range(0, clip.frames - span + 1, recipe.every or span)
        for start in starts[: recipe.most]:
            cut = source.frames[clip].cut(slice(start, start + span, stride), square)
            x, name = resize_square(to_unit(cut), window.size), f"{number:05d}-{start:06d}"
            yield Piece(name=name, clip=clip, start=start, x=x)


def actions_of(piece: Piece, each: int) -> Float[Tensor, "1 n a"] | None:
    """The `each` numbers after every frame of a piece. OSError or ValueError for a bad file."""
    if not each:
        return None
    path = piece.clip.path.with_suffix(".actions.npy")
    if piece.clip.member or not path.is_file():
        raise FileNotFoundError(
            f"there are no actions for {piece.clip.name}: write {each} numbers after each frame to "
            f"{path.name} beside it, or set actions=0"
        )
    actions = read_actions(path)
    count = piece.x.shape[2] - 1
    found = actions[:, piece.start : piece.start + count]
    if found.shape[1:] != (count, each):
        raise ValueError(
            f"{path} has {actions.shape[1]} rows of {actions.shape[2]} numbers: frames "
            f"{piece.start} to {piece.start + count} of the clip need {count} of {each}"
        )
    return found


def rate_of(source: ClipSource, clips: list[Clip]) -> float | None:
    """The usual rate of the examples, in frames per second."""
    rates = [clip.fps / source.strides[0] for clip in clips if clip.fps]
    return round(statistics.median_low(rates), 3) if rates else None


def precompute(
    recipe: GeneratorRecipe,
    tokenizer: Tokenizer,
    config: FlowConfig | PriorConfig,
    source: ClipSource,
    out: Path,
) -> Path:
    """The folder of the examples' latents or ids, made unless it is there and whole.

    It lies in the cache, under a name that all it depends on decides. What was made
    before an interruption is not made again.
    """
    folder = cache_folder("examples", f"{tokenizer.name}-{key_of(recipe, tokenizer, source)}")
    if (folder / "made.json").is_file():
        return folder
    parts = {"train": source.train, "held": source.held}
    counts = {}
    for name, clips in parts.items():
        pieces = pieces_of(recipe, source, clips)
        if isinstance(config, FlowConfig):
            counts[name] = keep_latents(tokenizer, pieces, folder / name)
        else:
            labels = class_names(recipe, source)
            counts[name] = keep_ids(recipe, tokenizer, config, labels, pieces, folder, name)
        print(f"{name}: {counts[name]} examples in tokens", file=sys.stderr)
    if not counts["train"]:
        raise ValueError(
            f"no clip to train on has {recipe.frames} frames of {recipe.window.size} pixels "
            f"in groups {', '.join(recipe.groups) or 'of any name'}: lower data.windows.0"
        )
    names, fps = class_names(recipe, source), rate_of(source, source.train)
    record = {"examples": counts, "fps": fps, "classes": names}
    write_file(folder / "made.json", json.dumps(record))
    return folder


def key_of(recipe: GeneratorRecipe, tokenizer: Tokenizer, source: ClipSource) -> str:
    """Sixteen digits that stand for everything that the examples depend on."""
    data, window = recipe.data, recipe.window
    said: dict[str, Any] = {"tokenizer": tokenizer.hash(), "kind": recipe.generator}
    said |= {"window": (window.frames, window.size), "every": recipe.every, "most": recipe.most}
    said |= {"groups": recipe.groups, "classes": recipe.classes, "given": recipe.given}
    said |= {"tasks": recipe.tasks, "actions": recipe.actions}
    said |= {"fps": data.fps, "strides": data.strides, "cache": (data.cache, data.cache_size)}
    said |= {"damage": data.damage, "chain": (recipe.chain, recipe.disturbed)}
    said |= {"mirrored": recipe.mirrored}
    clips = {"train": source.train, "held": source.held}
    said["clips"] = {name: [marks(clip) for clip in part] for name, part in clips.items()}
    return hash_text(json.dumps(said, default=str), 16)


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
def keep_latents(tokenizer: Tokenizer, pieces: Iterator[Piece], folder: Path) -> int:
    """One .reel file for each example, in a folder for its group; how many there are."""
    count = 0
    for piece in pieces:
        path = folder / (piece.clip.group or "any") / f"{piece.name}.reel"
        count += 1
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            reel.save(tokenizer.encode(piece.x.to(tokenizer.device)), path)
    return count


def keep_ids(
    recipe: GeneratorRecipe,
    tokenizer: Tokenizer,
    config: PriorConfig,
    classes: list[str],
    pieces: Iterator[Piece],
    folder: Path,
    name: str,
) -> int:
    """One file of all examples' ids; how many there are."""
    examples = examples_of(recipe, tokenizer, classes, pieces)
    first = next(examples, None)
    if first is None:
        return 0
    clips = chain([first], examples)
    if recipe.chain > 1:
        links, disturbed = recipe.chain, recipe.disturbed
        found = tabulate_chains(tokenizer, config, clips, links=links, disturbed=disturbed)
    else:
        found = tabulate(tokenizer, config, clips, given=masks_of(recipe, config))
    folder.mkdir(parents=True, exist_ok=True)
    found.save(folder / f"{name}.safetensors")
    return len(found)


def examples_of(
    recipe: GeneratorRecipe, tokenizer: Tokenizer, classes: list[str], pieces: Iterator[Piece]
) -> Iterator[Example]:
    """Pieces with their actions and classes; each also mirrored, where the recipe asks for it."""
    for piece in pieces:
        if classes and piece.clip.group not in classes:
            continue
        label = classes.index(piece.clip.group) if classes else 0
        x, actions = piece.x.to(tokenizer.device), actions_of(piece, recipe.actions)
        yield Example(x=x, actions=actions, label=label)
        if recipe.mirrored is not None:
            if actions is not None:
                actions = actions.clone()
                actions[:, :, list(recipe.mirrored)] *= -1
            yield Example(x=x.flip(4), actions=actions, label=label)


def masks_of(recipe: GeneratorRecipe, config: PriorConfig) -> list[Bool[Tensor, "t h w"]]:
    """What is given of an example in each of the recipe's tasks; nothing where it is always none.

    A RefTok's reference is given anyway, and is none of the example's frames.
    """
    clip, first = config.clip, max(0, recipe.given - int(config.reference is not None))
    assert clip is not None, "masked.config_for says what the ids stand for"
    if recipe.tasks == ("predict",) and not first:
        return []
    size = (clip.height, clip.width)
    return [give(task, clip.frames, size, first=first) for task in recipe.tasks]
