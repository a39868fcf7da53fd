"""The network that says how likely every id is, given ids that were coded before it.

    ids before ─ tables ─ neighbours in space and time ─ inner ─ mix ─┬─ scores of the 1st symbol
                                                                      ├─ scores of the 2nd, given it
                                                                      └─ ...

An id is coded as a few symbols. A step of the grid is coded in two passes, like the colours of a
checkerboard: the first half from the two steps before, the second also from the first half.

A decoder must come to the very numbers that the encoder had, on any processor. So weights and
activations are integers, held in float32, and every sum stays below 2**24: it is exact in any
order. Training rounds to the same integers and passes gradients straight through.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.tokens.digits import join_digits, split_digits

ACTIVATION_BITS = 6  # an activation of 64 stands for 1
MOST = 127  # of a weight's or an activation's integer: both fit 8 bits
MOST_OFFSET = 2**15 - 1  # of what is added to a sum: 16 bits
UNIT_NATS = 2.0**-12  # of a score
EXACT = 2**24  # float32 holds all integers below it
STEPS_SEEN = 2  # of those before

Cells = tuple[tuple[int, int], ...]
SQUARE: Cells = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
PLUS: Cells = ((-1, 0), (0, -1), (0, 0), (0, 1), (1, 0))
BESIDE: Cells = ((-1, 0), (0, -1), (0, 1), (1, 0))
KNIGHT: Cells = tuple((y, x) for y in (-2, -1, 1, 2) for x in (-2, -1, 1, 2) if abs(y) != abs(x))
BEFORE: tuple[Cells, Cells] = (SQUARE, PLUS)  # the cells seen one step before, and two
WITHIN: tuple[Cells, Cells] = ((), BESIDE + KNIGHT)  # of the step itself, by the pass
MARGIN = 2  # cells: how far any of these reaches

LARGEST_SYMBOL = 64
Alphabet = Annotated[int, Field(ge=2, le=LARGEST_SYMBOL)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PackingConfig:
    """What a packing network is for, and how large it is.

    `tokenizer` is the SHA-256 of the weights whose ids it was trained on, `vocabulary` how many ids
    there are. An id is the number whose digits, of `factors` values each, are coded one after
    another, the least significant first. Where an id `skip` is named, whether it is that one is
    coded before, and if so nothing else. `features` describe an id to its neighbours.
    """

    tokenizer: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    vocabulary: Annotated[int, Field(ge=2, le=2**62)]
    digits: Annotated[tuple[Alphabet, ...], Field(min_length=1, max_length=62)]
    groups: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1, max_length=62)]
    skip: Annotated[int, Field(ge=0)] | None = None
    features: Annotated[int, Field(ge=1, le=64)] = 32
    width: Annotated[int, Field(ge=1, le=512)] = 64

    def __post_init__(self) -> None:
        if not self.vocabulary <= math.prod(self.digits) < 2**63:
            raise ValueError(
                f"digits {self.digits} make {math.prod(self.digits)} ids, not the "
                f"{self.vocabulary} of the vocabulary"
            )
        if sum(self.groups) != len(self.digits) or max(self.factors) > LARGEST_SYMBOL:
            raise ValueError(f"groups {self.groups} are none of the {len(self.digits)} digits")
        if self.skip is not None and self.skip >= self.vocabulary:
            raise ValueError(f"skip={self.skip} is not an id below {self.vocabulary}")

    @property
    def places(self) -> tuple[slice, ...]:
        """The digits of each group."""
        ends = list(accumulate(self.groups, initial=0))
        return tuple(slice(*pair) for pair in pairwise(ends))

    @property
    def factors(self) -> tuple[int, ...]:
        """How many values each group of digits has."""
        return tuple(math.prod(self.digits[place]) for place in self.places)

    @property
    def alphabets(self) -> tuple[int, ...]:
        """How many values each symbol of an id has, in the order of coding."""
        return self.factors if self.skip is None else (2, *self.factors)


class Rounded(nn.Module):
    """A module that computes with whole numbers; once `frozen`, its parameters are those."""

    frozen = False

    def whole(self, values: Tensor, bits: int, *, most: int) -> Tensor:
        """Parameters in steps of 2**-bits, whole ones, -most to most."""
        return values if self.frozen else steps(values, bits, most=most)


class Exact(Rounded):
    """A linear layer on integers; its weights count 2**-bits, sums 2**-(bits + ACTIVATION_BITS)."""

    def __init__(self, inputs: int, outputs: int, *, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=min(inputs**-0.5, 0.7 * MOST / 2**bits / 3))

    def forward(self, *parts: Float[Tensor, "n _"], beside: Tensor | None = None) -> Tensor:
        """Sums over the inputs, which may come in parts; `beside` is added, in the same unit."""
        weight = self.whole(self.weight, self.bits, most=MOST)
        weights = weight.split([x.shape[1] for x in parts], dim=1)
        sums = F.linear(parts[0], weights[0], self.offset(self.bias))
        for x, its in zip(parts[1:], weights[1:], strict=True):
            sums = torch.addmm(sums, x, its.T)
        return sums if beside is None else sums + beside

    def offset(self, values: Tensor) -> Tensor:
        """Values in the unit of the sums."""
        return self.whole(values, self.bits + ACTIVATION_BITS, most=MOST_OFFSET)

    def activate(self, sums: Tensor) -> Tensor:
        """Sums as activations, 0 to MOST."""
        scale = 2.0**-self.bits
        exact = ((sums + 2 ** (self.bits - 1)) * scale).floor_().clamp_(0, MOST)
        return straight(exact, sums * scale, 0, MOST)


def steps(values: Tensor, bits: int, *, most: int) -> Tensor:
    """Values in steps of 2**-bits, whole ones, -most to most."""
    scaled = values * 2.0**bits
    return straight(scaled.round().clamp(-most, most), scaled, -most, most)


def straight(exact: Tensor, smooth: Tensor, low: int, high: int) -> Tensor:
    """`exact`, with the gradient of `smooth` between its bounds where one is asked for."""
    if not (torch.is_grad_enabled() and smooth.requires_grad):
        return exact
    smooth = smooth.clamp(low, high)
    return smooth + (exact - smooth).detach()


class Pass(Rounded):
    """The scores of one half of the cells of a step."""

    def __init__(self, config: PackingConfig, within: Cells) -> None:
        super().__init__()
        self.within, width = within, config.width
        seen = len(within) + sum(map(len, BEFORE))
        self.inner = Exact(seen * (config.features + len(config.digits)), width, bits=8)
        self.known = nn.Parameter(torch.zeros(STEPS_SEEN + 1, width))  # by the steps before
        self.mix = Exact(width, width, bits=7)
        inputs = width + len(config.digits)
        self.ask: Any = nn.ModuleList(Exact(inputs, width, bits=7) for _ in config.alphabets)
        self.earlier: Any = nn.ModuleList(
            nn.ParameterList(torch.zeros(size, width) for _ in range(STEPS_SEEN))
            for size in config.alphabets
        )
        self.given: Any = nn.ModuleList(
            nn.ParameterList(torch.zeros(size, width) for size in config.alphabets[:number])
            for number in range(len(config.alphabets))
        )
        self.answer: Any = nn.ModuleList(Exact(width, size, bits=6) for size in config.alphabets)

    def units(self) -> dict[str, tuple[int, int]]:
        """Of each parameter, how many bits a whole one has behind the point, and the most."""
        found = {"known": (self.inner.bits + ACTIVATION_BITS, MOST_OFFSET)}
        for name, module in self.named_modules():
            if isinstance(module, Exact):
                found[f"{name}.weight"] = (module.bits, MOST)
                found[f"{name}.bias"] = (module.bits + ACTIVATION_BITS, MOST_OFFSET)
        for number in range(len(self.ask)):
            for place in range(number):
                found[f"given.{number}.{place}"] = found[f"ask.{number}.bias"]
            for place in range(len(self.earlier[number])):
                found[f"earlier.{number}.{place}"] = found[f"ask.{number}.bias"]
        return found

    def hidden(
        self, parts: Sequence[Float[Tensor, "n _"]], before: Int[Tensor, "n"] | int
    ) -> Float[Tensor, "n d"]:
        """What the neighbours of each cell say; `before` is how many steps before are known."""
        known = self.inner.offset(self.known)[before]
        return self.mix.activate(self.mix(self.inner.activate(self.inner(*parts, beside=known))))

    def scores(
        self,
        hidden: Float[Tensor, "n d"],
        same: Float[Tensor, "n k"],
        symbols: Int[Tensor, "n s"],
        earlier: Sequence[Int[Tensor, "n s"]],
        number: int,
    ) -> Float[Tensor, "n a"]:
        """Scores of symbol `number`, in units of `UNIT_NATS`.

        `symbols` are those in front of it, `same` says which of their digits are those of the step
        before (as activations), and `earlier` are the cell's symbols in the steps before.
        """
        ask = self.ask[number]
        rows = [(table, symbols[:, place]) for place, table in enumerate(self.given[number])]
        rows += [
            (t, step[:, number]) for t, step in zip(self.earlier[number], earlier, strict=False)
        ]
        told = [F.embedding(values, ask.offset(table)) for table, values in rows]
        beside = sum(told[1:], start=told[0]) if told else None
        return self.answer[number](ask.activate(ask(hidden, same, beside=beside)))


class PackingNetwork(Rounded):
    """Both passes, and the tables that describe ids to their neighbours."""

    def __init__(self, config: PackingConfig) -> None:
        super().__init__()
        self.config = config
        self.tables: Any = nn.ParameterList(
            torch.randn(size, config.features) * 0.4 + 0.4 for size in config.alphabets
        )
        self.passes: Any = nn.ModuleList(Pass(config, within) for within in WITHIN)

    def units(self) -> dict[str, tuple[int, int]]:
        """Of each parameter, how many bits a whole one has behind the point, and the most."""
        found = {f"tables.{place}": (ACTIVATION_BITS, MOST) for place in range(len(self.tables))}
        for number, part in enumerate(self.passes):
            found |= {f"passes.{number}.{name}": unit for name, unit in part.units().items()}
        return found

    def describe(
        self, symbols: Int[Tensor, "*n s"], same: Float[Tensor, "*n k"]
    ) -> Float[Tensor, "*n f"]:
        """Ids as their neighbours see them, as activations; `same` as `same_digits` gives it."""
        total = torch.zeros((), device=same.device)
        for place, table in enumerate(self.tables):
            whole = self.whole(table, ACTIVATION_BITS, most=MOST)
            total = total + F.embedding(symbols[..., place], whole)
        return torch.cat([straight(total.clamp(0, MOST), total, 0, MOST), same], dim=-1)


def same_digits(
    digits: Int[Tensor, "*n k"], before: Int[Tensor, "*n k"] | None
) -> Float[Tensor, "*n k"]:
    """Which digits are those of the step before, as activations; none where there was no step."""
    if before is None:
        return torch.zeros(digits.shape, device=digits.device)
    return (digits == before) * float(2**ACTIVATION_BITS)


def split_symbols(ids: Int[Tensor, "*n"], config: PackingConfig) -> Int[Tensor, "*n s"]:
    """The symbols of ids, in the order of coding."""
    symbols = split_digits(ids, config.factors)
    if config.skip is None:
        return symbols
    return torch.cat([(ids == config.skip).to(ids.dtype)[..., None], symbols], dim=-1)


def join_symbols(symbols: Int[Tensor, "*n s"], config: PackingConfig) -> Int[Tensor, "*n"]:
    """The ids that symbols make; the inverse of `split_symbols`."""
    return join_digits(symbols[..., -len(config.factors) :], config.factors)


def known_digits(number: int, config: PackingConfig) -> int:
    """How many digits stand in front of symbol `number`."""
    return sum(config.groups[: number - (config.skip is not None)]) if number else 0


def pad_cells(x: Float[Tensor, "b h w f"]) -> Float[Tensor, "b h2 w2 f"]:
    """Nothing around the cells of a step, as far as neighbours reach."""
    return F.pad(x, (0, 0, MARGIN, MARGIN, MARGIN, MARGIN))


def cells_of(
    half: int, shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Where the cells of one half lie in flattened maps "b h w", and in padded ones."""
    batch, height, width = shape
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)
    wide, ours = width + 2 * MARGIN, (rows + columns) % 2 == half
    inside = (rows * width + columns)[ours]
    padded = ((rows + MARGIN) * wide + columns + MARGIN)[ours]
    clips = torch.arange(batch, device=device)[:, None]
    size = (height + 2 * MARGIN) * wide
    return (clips * height * width + inside).flatten(), (clips * size + padded).flatten()


def neighbours(
    maps: Sequence[Float[Tensor, "b h w f"]], seen: Sequence[Cells], cells: Int[Tensor, "n"]
) -> list[Float[Tensor, "n _"]]:
    """What lies around each of the cells in padded maps, a row for each map in which any does."""
    found = []
    for x, places in zip(maps, seen, strict=True):
        if places:
            steps = [row * x.shape[2] + column for row, column in places]
            reach = torch.tensor(steps, device=x.device)
            rows = x.flatten(0, 2).index_select(0, (cells[:, None] + reach).flatten())
            found.append(rows.view(len(cells), len(places) * x.shape[3]))
    return found
