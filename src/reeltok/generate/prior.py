"""The network of masked generation: a transformer that predicts masked token ids.

    ids (or MASK) + position + frames + actions ─ class ─ blocks ─ logits of an id's factors

An id of a large vocabulary is the product of factors (groups of FSQ's digits), each with an
embedding of its own that also reads the output; one factor is BERT's tied embedding. Where the
quantizer's levels are known, an embedding is the sum of those of its levels and one of its own:
ids that differ in one level begin alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.conditions import Timing
from reeltok.generate.schedule import Sampling
from reeltok.nn.bounds import Depth, Side, Triple, Width
from reeltok.nn.linear import Linear, linear
from reeltok.nn.transformer import Block
from reeltok.tokens.digits import split_digits

WHOLE = 4096
"""Vocabularies up to this size are predicted as one factor; larger ones in factors up to FACTOR."""
FACTOR = 1024

SIZES: dict[str, dict[str, int]] = {
    "s": {"width": 384, "depth": 8, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
}
"""MAGVIT's transformers: B has 87 M parameters, L 306 M; S is ours."""


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PriorConfig:
    """Everything that shapes a prior, and what its ids are.

    `grid` is that of a clip's tokens and `timing` says which frames a step stands for; `vocabulary`
    is the product of `factors`, the least significant first, as are the quantizer's `levels`, whose
    groups the factors are (empty where they are not known). `classes` names what can be asked for.
    `actions` are numbers per token step. `reference`: pixels (h, w) of a cell of the frame that the
    clip follows (None: no such frame); `noise` is the largest standard deviation of what was added
    to that frame in training, in units of [-1, 1], and the prior is told how much it is. `start`:
    it also sees the frame that the whole video begins with, however many clips ago. `dropout`
    is the share of examples that are trained without any of these, which guidance needs. `sampling`
    is how ids are decoded where nothing else is asked.
    """

    grid: Triple
    timing: Timing
    factors: tuple[Annotated[int, Field(ge=2, le=2**24)], ...] = Field(min_length=1, max_length=62)
    levels: tuple[Annotated[int, Field(ge=2, le=2**16)], ...] = Field(default=(), max_length=62)
    width: Width = Field(default=768, ge=2)
    depth: Depth = Field(default=12, ge=1)
    heads: Width = 12
    classes: tuple[str, ...] = ()
    actions: int = Field(default=0, ge=0, le=2**16)
    reference: tuple[Side, Side] | None = None
    noise: float = Field(default=0.0, ge=0)
    start: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    clip: ClipSpec | None = None
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        if self.start and self.reference is None:
            raise ValueError(
                "start=True is for priors whose clips follow a reference frame: leave it out, or "
                "take a tokenizer with references"
            )

    @property
    def vocabulary(self) -> int:
        return math.prod(self.factors)

    @property
    def cells(self) -> int:
        return math.prod(self.grid)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a batch is generated from; None where the prior has no such condition.

    Labels count the classes, one more is "any"; actions are those of each token step; the reference
    is in [-1, 1], with noise of standard deviation `noise` (None: 0), as is `start`, the frame that
    the whole video begins with. `dropped` clips are generated from nothing.
    """

    labels: Int[Tensor, " b"] | None = None
    actions: Float[Tensor, "b s a"] | None = None
    reference: Float[Tensor, "b c 1 h w"] | None = None
    noise: Float[Tensor, " b"] | None = None
    start: Float[Tensor, "b c 1 h w"] | None = None
    dropped: Bool[Tensor, " b"] | None = None

    def without(self, count: int) -> "Conditions":
        """The same for `count` clips, all dropped."""
        return replace(self, dropped=torch.ones(count, dtype=torch.bool))


class Prior(nn.Module):
    """A pre-norm transformer over all cells of a clip's grid, each attending to all."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        width, (t, h, w) = config.width, config.grid
        self.token_embed = nn.ParameterList(torch.empty(size, width) for size in config.factors)
        self.level_embed = nn.ParameterList(torch.empty(size, width) for size in config.levels)
        self.mask = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.ParameterList(
            torch.empty(*shape, width) for shape in ((t, 1, 1), (1, h, w))
        )
        self.class_embed = nn.Parameter(torch.empty(len(config.classes) + 1, width))
        self.actions = Linear(config.actions, width) if config.actions else None
        self.reference, self.noise_embed, self.start = None, None, None
        if config.reference is not None:
            self.reference = frame_encoder(width, config.reference)
            self.noise_embed = Linear(1, width, bias=False) if config.noise else None
            self.start = frame_encoder(width, config.reference) if config.start else None
        self.blocks = nn.ModuleList(
            Block(width, config.heads, qkv_bias=True) for _ in range(config.depth)
        )
        self.head = nn.Sequential(Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.norm = nn.LayerNorm(width)
        self.biases = nn.ParameterList(torch.zeros(size) for size in config.factors)
        for name, weight in self.named_parameters():  # BERT's start
            if (weight.ndim > 1 or name == "mask") and not weight.is_meta:
                nn.init.normal_(weight, std=0.02)
        if self.start is not None:  # from zero: it can be added to a prior that was trained without
            for parameter in self.start[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        ids: Int[Tensor, "b n"],
        conditions: Conditions | None = None,
    ) -> list[Float[Tensor, "b n f"]]:
        """Logits of every value of each factor; an id of `vocabulary` is masked."""
        config, conditions, tables = self.config, conditions or Conditions(), self.tables()
        x = self.embed(ids, tables)
        x = x + (self.pos_embed[0] + self.pos_embed[1]).flatten(0, 2)
        x = x + self.cond_embed(conditions, len(ids)).to(x.dtype)
        labels = conditions.labels
        if labels is None:
            labels = torch.full((len(ids),), len(config.classes), device=ids.device)
        if conditions.dropped is not None:
            labels = labels.masked_fill(conditions.dropped.to(ids.device), len(config.classes))
        x = torch.cat([F.embedding(labels, self.class_embed)[:, None], x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.head(self.norm(x[:, 1:]))
        weights = zip(tables, self.biases, strict=True)
        return [linear(x, table, bias) for table, bias in weights]

    def tables(self) -> list[Float[Tensor, "f d"]]:
        """The embeddings of every value of each factor: its own, and those of its levels added."""
        tables, at = [], 0
        for own in self.token_embed:
            table, size = own, 1
            while self.level_embed and size < len(own):
                level = self.level_embed[at]
                split = table.view(-1, len(level), size, own.shape[1])
                table = (split + level[:, None]).view_as(own)
                at, size = at + 1, size * len(level)
            tables.append(table)
        return tables

    @torch.no_grad()
    def fit_biases(self, ids: Int[Tensor, "b n"]) -> None:
        """Begin with what is known without any condition: how often each value occurs in `ids`.

        Else the first hundreds of steps learn nothing but that, most of all where one id is common.
        """
        digits = split_digits(ids.flatten(), self.config.factors).unbind(-1)
        for bias, values in zip(self.biases, digits, strict=True):
            counts = torch.bincount(values.cpu(), minlength=len(bias)) + 1.0
            bias.copy_((counts / counts.sum()).log())

    def embed(self, ids: Int[Tensor, "b n"], tables: list[Tensor]) -> Float[Tensor, "b n d"]:
        """The sum of a token's factors, or the mask."""
        masked = ids == self.config.vocabulary
        digits = split_digits(ids.masked_fill(masked, 0), self.config.factors).unbind(-1)
        each = [F.embedding(d, table) for d, table in zip(digits, tables, strict=True)]
        return torch.where(masked[..., None], self.mask, torch.stack(each).sum(0))

    def cond_embed(self, conditions: Conditions, batch: int) -> Float[Tensor, "b n d"]:
        """Actions and frames on the cells that they belong to; nothing for dropped clips."""
        t, h, w = self.config.grid
        x = self.mask.new_zeros(batch, t, h, w, self.config.width)
        if self.actions is not None:
            actions = need(conditions.actions, "actions").to(x)
            x = x + self.actions(actions)[:, :, None, None]
        if self.reference is not None:
            frame = need(conditions.reference, "a reference frame")
            x = x + self.reference(self.whole_cells(frame).to(x)).movedim(1, -1)[:, None]
        if self.start is not None:
            frame = need(conditions.start, "the frame that the whole video begins with")
            x = x + self.start(self.whole_cells(frame).to(x)).movedim(1, -1)[:, None]
        if self.noise_embed is not None and conditions.noise is not None:
            level = conditions.noise.to(x) / self.config.noise
            x = x + self.noise_embed(level[:, None])[:, None, None, None]
        if conditions.dropped is not None:
            x = x.masked_fill(conditions.dropped.to(x.device)[:, None, None, None, None], 0.0)
        return x.flatten(1, 3)

    def whole_cells(self, frame: Float[Tensor, "b c 1 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """A frame whose border is repeated to fill the cells."""
        (_, h, w), (p, q) = self.config.grid, self.config.reference or (1, 1)
        down, right = h * p - frame.shape[3], w * q - frame.shape[4]
        return F.pad(frame[:, :, 0], (0, right, 0, down), mode="replicate")


def frame_encoder(width: int, cell: tuple[int, int]) -> nn.Sequential:
    """From a frame to features of its cells of (h, w) pixels, which see one another around."""
    patches = nn.Conv2d(3, width, cell, stride=cell)
    around = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(patches, nn.GELU(), around, nn.GELU(), nn.Conv2d(width, width, 1))


def need(given: Tensor | None, what: str) -> Tensor:
    """What was given; ValueError where it is missing and the prior was trained with it."""
    if given is None:
        raise ValueError(f"this prior generates from {what}, and none was given: give it")
    return given


def choose_factors(vocabulary: int, levels: Sequence[int] = ()) -> tuple[int, ...]:
    """Into which factors ids are split: few groups of the quantizer's levels, as even as they go.

    Up to WHOLE ids are one factor, and so is a vocabulary without levels.
    """
    if vocabulary <= WHOLE or math.prod(levels) != vocabulary:
        return (vocabulary,)
    for groups in range(2, len(levels) + 1):
        cuts = (
            (0, *inner, len(levels)) for inner in combinations(range(1, len(levels)), groups - 1)
        )
        products = [tuple(math.prod(levels[a:b]) for a, b in pairwise(cut)) for cut in cuts]
        best = min(products, key=max)
        if max(best) <= FACTOR:
            return best
    return tuple(levels)
