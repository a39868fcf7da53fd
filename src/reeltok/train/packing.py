"""Training a packing network: the ids of clips, then the loop on how many bits they take.

The recipe draws clips as those of tokenizers do. Their ids are computed once and kept in the run's
folder; a step sees one step of the grid with up to two before it, of `batch` clips.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor, nn

from reeltok import zoo
from reeltok.files.atomic import replacing
from reeltok.files.hashes import hash_text
from reeltok.files.tensors import read_tensors
from reeltok.parallel import Rank, in_turn, init_distributed
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.digits import centre_of
from reeltok.tokens.ids import narrow_ids
from reeltok.tokens.packing.expected import bits_of_clip, bits_of_step
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.packing.network import (
    LARGEST_SYMBOL,
    STEPS_SEEN,
    PackingConfig,
    PackingNetwork,
)
from reeltok.train.checks import require_new, require_shares
from reeltok.train.clips import ClipError
from reeltok.train.data import ClipSource
from reeltok.train.launch import begin, open_clip_source
from reeltok.train.logbook import say
from reeltok.train.loop import run_task
from reeltok.train.losses import Losses
from reeltok.train.packing_recipes import PackingRecipe
from reeltok.train.recipe import as_json
from reeltok.train.run import Run
from reeltok.train.trial import DryRun, tokenizer_to_try, try_steps


def train_packing(
    recipe: PackingRecipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
) -> Run:
    """Train a packing model on ids of the clips of `data`; the folder `out` is as that of any run.

    `OUT/model/packing.safetensors` is to be copied beside the weights of the tokenizer. ValueError
    for a tokenizer without ids of steps, rows and columns.
    """
    out = Path(out)
    require_new(recipe, out, resume)
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        tokenizer = zoo.load(recipe.tokenizer, code=False)
        config = packing_config(recipe, tokenizer)
        source = open_clip_source(recipe, data, out, at)
        with in_turn(at):
            ids = find_ids(recipe, tokenizer.to(at.device), source, out)
        torch.manual_seed(recipe.loop.seed)
        task = PackingTask(PackingNetwork(config), held_out=ids.held)
        task.to(at.device)
        feed = StepBatches(ids.train, recipe.data.windows[0].batch, seed=recipe.loop.seed, at=at)

        def ready() -> None:
            begin(recipe, out, at)

        return run_task(
            task, feed, recipe.loop, out=out, resume=resume, at=at, ready=ready, facts=source
        )


def packing_config(recipe: PackingRecipe, tokenizer: Tokenizer) -> PackingConfig:
    """The network for a tokenizer's ids. ValueError for one without, or of another grid."""
    vocabulary = tokenizer.spec.vocabulary
    if vocabulary is None or len(tokenizer.grid_for(17, tokenizer.spec.size or (256, 256))) != 3:
        raise ValueError(
            f"{recipe.tokenizer} has no ids of steps, rows and columns, and only such are packed: "
            "choose another tokenizer"
        )
    body = getattr(tokenizer.config, "body", tokenizer.config)
    digits = choose_digits(vocabulary, getattr(getattr(body, "quantizer", None), "levels", ()))
    skips = bool(getattr(tokenizer.config, "skip", 0))
    return PackingConfig(
        tokenizer=tokenizer.hash(),
        vocabulary=vocabulary,
        digits=digits,
        groups=choose_groups(digits),
        skip=centre_of(digits) if skips else None,
        features=recipe.features,
        width=recipe.width,
    )


def choose_digits(vocabulary: int, levels: tuple[int, ...]) -> tuple[int, ...]:
    """The digits of ids: a quantizer's levels, or as few equal ones as hold the vocabulary."""
    if levels and math.prod(levels) == vocabulary and max(levels) <= LARGEST_SYMBOL:
        return tuple(levels)
    count = next(n for n in range(1, 63) if LARGEST_SYMBOL**n >= vocabulary)
    size = next(s for s in range(2, LARGEST_SYMBOL + 1) if s**count >= vocabulary)
    return (size,) * count


def choose_groups(digits: tuple[int, ...]) -> tuple[int, ...]:
    """How many digits make a symbol: few symbols, and few values in all."""
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, ())}
    for end in range(1, len(digits) + 1):
        found = []
        for start in range(end):
            size = math.prod(digits[start:end])
            if size <= LARGEST_SYMBOL:
                count, values, groups = best[start]
                found.append((count + 1, values + size, (*groups, end - start)))
        best[end] = min(found)
    return best[len(digits)][2]


def try_packing(recipe: PackingRecipe, *, device: str | None = None) -> DryRun:
    """A few steps on random ids: what a run needs. The tokenizer may be random."""
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        tokenizer = tokenizer_to_try(recipe.tokenizer)
        config, window = packing_config(recipe, tokenizer), recipe.data.windows[0]
        grid = tokenizer.grid_for(window.frames, (window.size, window.size))

        def noise(clips: int) -> Tensor:
            steps = min(grid[0], 1 + STEPS_SEEN)
            return torch.randint(config.vocabulary, (clips, steps, *grid[1:]))

        return try_steps(PackingTask(PackingNetwork(config)), noise, recipe.loop, at, window)


# Ids.


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Those to train on, of clips of one size, and those of held-out clips."""

    train: Int[Tensor, "n t h w"]
    held: list[Int[Tensor, "_ _ _"]]


def find_ids(recipe: PackingRecipe, tokenizer: Tokenizer, source: ClipSource, out: Path) -> Ids:
    """The ids of the recipe's clips; an interrupted run finds those that it made."""
    drawn = [(clip.place, clip.start, clip.end, clip.changed) for clip in source.frames]
    made_with = [tokenizer.hash(), tokenizer.configuration, dict(tokenizer.spec.used)]
    said = [*made_with, as_json(recipe.data), recipe.clips, recipe.loop.seed, drawn]
    path = out / f"ids-{hash_text(repr(said), 12)}.safetensors"
    if not path.is_file():
        train = torch.stack(list(encoded(tokenizer, source, recipe.clips)))
        coded = [tokenizer.encode(b.x.to(tokenizer.device)) for b in source.validation()]
        ids = {f"held.{i:04d}": one.flat()[0].view(one.grid) for i, one in enumerate(coded)}
        with replacing(path) as part:
            save_file({k: narrow_ids(v).cpu() for k, v in {"train": train, **ids}.items()}, part)
    found = read_tensors(path)
    held = [found[name].long() for name in sorted(found) if name.startswith("held.")]
    return Ids(train=found["train"].long(), held=held)


def encoded(tokenizer: Tokenizer, source: ClipSource, clips: int) -> Iterator[Tensor]:
    """The ids of so many samples; those that do not decode are left out, which is said."""
    for number in range(clips):
        try:
            x, _ = source.sample(number, 0)
        except ClipError as error:
            say(f"left out: {error}")
            continue
        ids = tokenizer.encode(x.to(tokenizer.device)).ids
        assert ids is not None, "packing_config refuses tokenizers without ids"
        yield ids[0].cpu()


@dataclass(frozen=True)
class StepBatches:
    """Batches, a function of (seed, step): a step of some clips' grids and those before it."""

    ids: Int[Tensor, "n t h w"]
    batch: int
    seed: int
    at: Rank

    def __call__(self, step: int) -> Int[Tensor, "b k h w"]:
        draw = np.random.default_rng((self.seed, step))
        last = int(draw.integers(self.ids.shape[1]))
        rows = torch.from_numpy(draw.integers(len(self.ids), size=self.batch))
        rows = rows[self.at.rank :: self.at.world]
        return self.ids[rows, max(0, last - STEPS_SEEN) : last + 1].to(self.at.device)


# The task.


class PackingTask:
    """Train a packing network to expect ids; the loss is in bits a token."""

    leaves_out = True  # what looks at earlier steps, in the first steps of a clip

    def __init__(
        self, network: PackingNetwork, *, held_out: list[Int[Tensor, "_ _ _"]] | None = None
    ) -> None:
        self.network, self.held_out = network, held_out or []

    def parameters(self) -> nn.Module:
        return self.network

    def to(self, device: torch.device | str) -> None:
        """Move the network to `device`."""
        self.network.to(device)

    def loss(
        self, batch: Int[Tensor, "b k h w"], step: int, generator: torch.Generator | None
    ) -> Losses:
        """The bits of the last of the steps, given those before it."""
        halves = bits_of_step(self.network, batch)
        terms = {f"half_{number}": bits.mean() for number, bits in enumerate(halves)}
        return Losses(torch.cat(halves).mean(), terms)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Bits a token of held-out clips."""
        if not self.held_out:
            return {}
        self.network.eval()
        means = [bits_of_clip(self.network, ids).mean().item() for ids in self.held_out]
        return {"bits": sum(means) / len(means)}

    def save(self, folder: Path) -> None:
        """Write the packing model."""
        PackingModel.of(self.network).save(folder / NAME)
