"""The examples of a generator: the rows of a corpus, which is built first where clips are given."""

import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reeltok.corpus.engines import Engine
from reeltok.corpus.opening import LoadedTokenizer
from reeltok.corpus.place import Place
from reeltok.corpus.plan import PLAN, Keep, WindowCoding, make_plan, read_plan
from reeltok.corpus.read import Corpus, is_corpus, read_failures
from reeltok.corpus.row import Row, tokens_of
from reeltok.corpus.run import build_corpus
from reeltok.corpus.shaping import Shaping
from reeltok.corpus.sources import ListedClip, find_sources
from reeltok.data.clip import Clip, lot_of
from reeltok.files.hashes import hash_text
from reeltok.files.text import printable
from reeltok.generate import masked
from reeltok.generate.chains import TOGETHER
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.condition_encoder import ConditionEncoder, masks_of
from reeltok.generate.conditions import padding_cells
from reeltok.generate.ids import Examples
from reeltok.generate.latents import Latents
from reeltok.generate.own_corpus import (
    class_column,
    other_windows,
    require_column,
    require_own_examples,
)
from reeltok.generate.prior import PriorConfig
from reeltok.generate.recipes import GeneratorRecipe
from reeltok.generate.sit import FlowConfig
from reeltok.parallel import Rank, rank_and_world
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.checks import require_groups_named
from reeltok.train.logbook import say
from reeltok.video.record import Video
from reeltok.wording import count

SAY_AFTER = 10.0  # seconds
MADE = "corpus"  # in the folder of a run: the corpus of its clips
ShowClips = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Opens a display for so many clips; inside, what it gives is told how many more are coded."""


# ---------------------------------------------------------------- the corpus


def open_examples(
    recipe: GeneratorRecipe,
    tokenizer: Tokenizer,
    config: FlowConfig | PriorConfig | None,
    data: str | Path,
    out: Path,
    at: Rank,
    *,
    resume: bool = False,
    show: ShowClips | None = None,
) -> Corpus:
    """The corpus at `data`, or that of its clips, which is built in `out`/corpus.

    What is there of it stays. `show` displays how far the coding is. ValueError where a corpus is
    of another tokenizer, or holds other examples than were asked for.
    """
    if is_corpus(data):
        return open_corpus(recipe, tokenizer, config, data, at)
    place = Place(out / MADE)
    keep: Keep = "ids" if isinstance(config, PriorConfig) else "latents"
    begun = read_plan(place)["build"] if resume and place.has(PLAN) else {}
    batch = begun.get("batch", batch_for(recipe, at))  # as on the device where it was begun
    plan = make_plan(
        named_sources(recipe, data),
        tokenizer,
        shaping=shaping_of(recipe),
        coding=WindowCoding(keep=keep, dtype="float32", batch=batch),
        column=recipe.column,
        beside=beside_of(recipe, config),
    )
    if not resume and place.has(PLAN) and read_plan(place) != plan.record:
        shutil.rmtree(out / MADE)  # of a run that never began
    held, engine = LoadedTokenizer(tokenizer=tokenizer), Engine(device=str(at.device), jobs=1)
    with show(len(plan.sources)) if show is not None else nullcontext() as on_clips:
        built = build_corpus(plan, place, held, engine=engine, share=(0, 1), on_clips=on_clips)
    if at.first and built.stale:
        newer = [name for names in built.stale.values() for name in names]
        some = f"{count(len(newer), 'clip')}, such as {printable(newer[0])}"
        say(f"note: {some}, changed after being coded: delete {place} to code all again")
    return Corpus(place)


def open_corpus(
    recipe: GeneratorRecipe,
    tokenizer: Tokenizer,
    config: FlowConfig | PriorConfig | None,
    data: str | Path,
    at: Rank,
) -> Corpus:
    """The corpus at `data`, whose examples are those of the recipe; ValueError for others.

    Its windows are taken as they are where the recipe of that name says others and nobody asked
    for them, which is said; so is a corpus whose latents are refined.
    """
    corpus = Corpus(data)
    corpus.require_own(tokenizer)
    require_own_examples(corpus, recipe, config)
    require_column(corpus, recipe.data.column)
    for said in other_windows(corpus, recipe):
        if at.first:
            say(f"note: {said}")
    if at.first and (steps := corpus.tokenizer.get("used", {}).get("refine")):
        say(f"note: {data} was built with refine={steps}: frames that are given are not refined")
    return corpus


def named_sources(recipe: GeneratorRecipe, data: str | Path) -> list[ListedClip]:
    """The clips of the recipe's groups."""
    sources = find_sources(data, column=recipe.column)
    require_groups_named(recipe.groups, [source.group for source in sources])
    return [s for s in sources if not recipe.groups or s.group in recipe.groups]


def batch_for(recipe: GeneratorRecipe, at: Rank) -> int:
    """Windows that are coded at a time: on an accelerator as many as take a few gigabytes."""
    if at.device.type == "cpu":
        return 8
    pixels = recipe.frames * recipe.window.size**2
    return max(8, min(TOGETHER, 2**25 // pixels))


def shaping_of(recipe: GeneratorRecipe) -> Shaping:
    """The recipe's windows."""
    window, data = recipe.window, recipe.data
    return Shaping(
        frames=recipe.frames,
        stride=recipe.every or recipe.frames,
        size=(window.size, window.size),
        fps=data.fps,
        step=1 if data.fps else data.strides[0],
        most=recipe.most,
        damage=data.damage,
    )


def beside_of(
    recipe: GeneratorRecipe, config: FlowConfig | PriorConfig | None
) -> ConditionEncoder | None:
    """What is made beside the tokens of each window."""
    if not isinstance(config, PriorConfig):
        return None
    encoder = ConditionEncoder(recipe=recipe, config=config)
    return encoder if encoder.needed else None


# ---------------------------------------------------------------- rows to examples


@dataclass(frozen=True, eq=False, kw_only=True)
class ExampleRows(Sequence[Row]):
    """Rows of a corpus by their numbers, with the groups they count to; read when asked for."""

    corpus: Corpus
    numbers: list[int]
    groups: list[str]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        return replace(self.corpus[self.numbers[number]], group=self.groups[number])


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """The rows to train on and those held out (in short: `judged`), their classes, their rate."""

    train: Sequence[Row]
    held: Sequence[Row]
    classes: tuple[str, ...] = ()
    fps: float | None = None
    judged: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many examples are trained on and how many held out, as a log begins with."""
        return {"train_size": len(self.train), "held_out_size": len(self.held)}


def split_rows(recipe: GeneratorRecipe, corpus: Corpus) -> Split:
    """The rows that are examples, by what is held out. ValueError where none is to train on.

    Their groups are what `data.column` of a corpus says, or those that it was built with.
    """
    window, rows = recipe.window, list[tuple[int, dict[str, Any]]]()
    groups, column = set(), class_column(corpus, recipe.data.column) or "group"
    names = {"frames", "height", "width", "origin", "fps", column}
    size = (recipe.frames, window.size, window.size)
    for number, row in enumerate(corpus.columns(*sorted(names))):
        row["group"] = row[column] or ""
        groups.add(row["group"])
        fits = size == (row["frames"], row["height"], row["width"])
        if fits and (not recipe.groups or row["group"] in recipe.groups):
            rows.append((number, row))
    require_groups_named(recipe.groups, groups)
    share = holdout_share([row["origin"] for _, row in rows], recipe.data.holdout)
    train = [each for each in rows if lot_of(each[1]["origin"]) >= share]
    if not train:
        found = ", ".join(corpus.manifest["buckets"]) or "no windows"
        raise ValueError(
            f"none of {corpus.manifest['clips']} training clips has {recipe.frames} frames of "
            f"{window.size} pixels ({corpus.place} holds {found}): set "
            "data.windows.0.frames and size to what it holds, or lower data.holdout"
        )
    held = [each for each in rows if lot_of(each[1]["origin"]) < share]
    rates = [row["fps"] for _, row in train if row["fps"]]
    chosen = [
        ExampleRows(
            corpus=corpus,
            numbers=[number for number, _ in some],
            groups=[row["group"] for _, row in some],
        )
        for some in (train, held)
    ]
    return Split(
        train=chosen[0],
        held=chosen[1],
        classes=class_names(recipe, chosen[0].groups),
        fps=round(statistics.median_low(rates), 3) if rates else None,
        judged=hash_text(repr((*size, [row["origin"] for _, row in held])), 16),
    )


def holdout_share(origins: Iterable[str], share: float) -> float:
    """The share of origins that is held out: never all, of few so large that one is, of four."""
    lots = sorted({lot_of(origin) for origin in origins})
    if lots and lots[-1] < share:
        return 0.0
    if not share or not lots or lots[0] < share:
        return share
    return math.nextafter(lots[0], 1) if len(lots) >= 4 else share


def class_names(recipe: GeneratorRecipe, groups: Iterable[str]) -> tuple[str, ...]:
    """The classes: the groups of the clips to train on, in order of their names."""
    chosen = sorted({*groups})
    if recipe.classes and len(chosen) < 2:
        raise ValueError(
            f"classes=true needs two groups of clips, there are {', '.join(chosen) or 'none'}: put "
            "the clips into folders, or name their column by data.column"
        )
    return tuple(chosen) if recipe.classes else ()


def labelled(rows: Iterable[Row], classes: tuple[str, ...]) -> Iterator[tuple[Row, Tensor]]:
    """The rows of these classes, with their labels "1"; all of them, and 0, without classes."""
    for row in rows:
        if not classes or row.group in classes:
            yield row, torch.tensor([classes.index(row.group) if classes else 0])


def laid_out(parts: Iterable[dict[str, Tensor]], most: int) -> dict[str, Tensor]:
    """The parts one after another by name, `most` of the first one's size or fewer.

    They are filled into tensors that are made once; no parts give no tensors.
    """
    held, done = dict[str, Tensor](), 0
    for part in parts:
        if not held:
            held = {name: x.new_empty((most * len(x), *x.shape[1:])) for name, x in part.items()}
        size = len(part["labels"])
        for name, whole in held.items():
            assert part[name].shape == (size, *whole.shape[1:]), f"{name} of one size"
            whole[done : done + size] = part[name]
        done += size
    return {name: whole[:done] for name, whole in held.items()}


def latents_of(
    rows: Sequence[Row], split: Split, corpus: Corpus, tokenizer: Tokenizer, clip: ClipSpec
) -> Latents | None:
    """The latents of rows, as a flow is trained on them; None for none, or of no class of its own.

    ValueError for rows that keep ids.
    """

    def parts() -> Iterator[dict[str, Tensor]]:
        for row, label in labelled(rows, split.classes):
            latents = tokens_of(row, corpus.tokenizer, tokenizer.scale).latents
            if latents is None:
                raise ValueError(
                    f"{corpus.place} keeps ids, a flow is trained on latents: build with `keep` "
                    "latents"
                )
            if tuple(latents.shape[2:]) != clip.grid:
                raise ValueError(
                    f"{row.id} has latents of {tuple(latents.shape[2:])}, the flow's are "
                    f"{clip.grid}"
                )
            yield {"values": latents.flatten(2), "labels": label}

    found = laid_out(parts(), len(rows))
    corpus.close()  # row groups that it holds
    return Latents(**found, classes=split.classes) if found else None


def ids_of(
    rows: Sequence[Row],
    split: Split,
    corpus: Corpus,
    tokenizer: Tokenizer,
    recipe: GeneratorRecipe,
    config: PriorConfig,
) -> Examples | None:
    """The ids of rows, with their conditions; None for none, or of no class of its own.

    What the corpus does not hold beside its ids is made of the frames that they stand for.
    ValueError where that cannot be.
    """
    encoder = ConditionEncoder(recipe=recipe, config=config)

    def parts() -> Iterator[dict[str, Tensor]]:
        for row, label in labelled(saying_how_far(rows, "examples are made"), split.classes):
            if row.ids is None:
                raise ValueError(
                    f"{corpus.place} keeps latents, a prior is trained on ids: build with `keep` "
                    "ids"
                )
            beside = dict(row.beside) or {"ids": row.ids.flatten()[None]}
            if encoder.needed and not row.beside:
                beside = encode_conditions(row, encoder, corpus, tokenizer)
            yield beside | {"labels": label.expand(len(beside["ids"]))}

    fields = laid_out(parts(), len(rows))
    corpus.close()  # row groups that it holds
    if not fields:
        return None
    spec = masked.following(tokenizer).spec
    empty = [padding_cells(m, spec, config.grid).flatten() for m in masks_of(recipe, config)]
    return Examples(padding=torch.stack(empty) if empty else None, **fields)


def saying_how_far(rows: Sequence[Row], what: str) -> Iterator[Row]:
    """The rows one after another; where they take long, how many are done, on standard error."""
    said = time.monotonic()
    for number, row in enumerate(rows):
        if time.monotonic() - said > SAY_AFTER and rank_and_world()[0] == 0:
            said = time.monotonic()
            say(f"{number:,} of {len(rows):,} {what}")
        yield row


@torch.no_grad()
def encode_conditions(
    row: Row, encoder: ConditionEncoder, corpus: Corpus, tokenizer: Tokenizer
) -> dict[str, Tensor]:
    """The conditions of a row whose frames are not at hand: of those that its ids stand for."""
    if encoder.recipe.actions or encoder.config.reference is not None:
        what = "actions" if encoder.recipe.actions else "reference frames"
        raise ValueError(
            f"{corpus.place} has no {what}, and this prior is conditioned on them: train it on the "
            "clips"
        )
    video = tokenizer.decode(tokens_of(row, corpus.tokenizer, tokenizer.scale))
    assert isinstance(video, Video)
    x = video.tensor(device=tokenizer.device)
    source = ListedClip(clip=Clip(path=Path(row.source), name=row.source))
    return encoder(tokenizer, x, [source], [0])[0]


def say_examples(corpus: Corpus, split: Split, at: Rank, *, decoded: bool = False) -> None:
    """How many examples there are, and which clips gave none, on standard error."""
    if not at.first:
        return
    for row in read_failures(corpus.place):
        said = printable(f"{row['source']}: {row['reason']}")
        say(f"left out: {said}")
    say(f"{len(split.train)} examples to train on, {len(split.held)} held out")
    if decoded:
        say(
            f"note: {corpus.place} holds no condition videos: they are made of decoded frames, "
            "which takes a while; training on the clips themselves makes them of the originals"
        )


def with_clip(config: Any, recipe: GeneratorRecipe, split: Split) -> Any:
    """The configuration with the rate of the examples."""
    return replace(config, clip=replace(config.clip, fps=recipe.data.fps or split.fps))
