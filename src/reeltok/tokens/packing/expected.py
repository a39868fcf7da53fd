"""How many bits ids take by a packing network, without packing them: for training, and to choose.

Rounding to bytes apart, these are the bits that `coder.walk` comes to.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reeltok.tokens.digits import split_digits, strides_of
from reeltok.tokens.packing.network import (
    BEFORE,
    STEPS_SEEN,
    UNIT_NATS,
    PackingNetwork,
    cells_of,
    known_digits,
    neighbours,
    pad_cells,
    same_digits,
    split_symbols,
)


@dataclass(frozen=True)
class SymbolScores:
    """How likely every value of one symbol is in some cells of a step.

    `cells` are their places in the flattened step, `scores` in nats, `values` what the symbols are;
    of a skipped id none but the first symbol is `coded`.
    """

    number: int
    cells: Int[Tensor, "n"]
    scores: Float[Tensor, "n a"]
    values: Int[Tensor, "n"]
    coded: Bool[Tensor, "n"]

    def bits(self) -> Float[Tensor, "n"]:
        """Those of the values."""
        taken = F.cross_entropy(self.scores, self.values, reduction="none") / math.log(2)
        return taken * self.coded


def score_symbols(network: PackingNetwork, ids: Int[Tensor, "b k h w"]) -> Iterator[SymbolScores]:
    """The symbols of the last of the steps, one half of the cells after the other."""
    config, steps = network.config, ids.flip(1).unbind(1)  # the last one first
    symbols = [split_symbols(step, config) for step in steps]
    digits = [split_digits(step, config.digits) for step in steps]
    same = [same_digits(*pair) for pair in zip(digits, [*digits[1:], None], strict=True)]
    maps = [pad_cells(network.describe(*pair)) for pair in zip(symbols, same, strict=True)]
    maps += [torch.zeros_like(maps[0])] * (1 + STEPS_SEEN - len(maps))
    place = torch.arange(len(config.digits), device=ids.device)
    for half, part in enumerate(network.passes):
        inside, padded = cells_of(half, steps[0].shape, ids.device)
        around = neighbours([*maps[1:], maps[0]], [*BEFORE, part.within], padded)
        hidden = part.hidden(around, len(steps) - 1)
        mine, *earlier = (step.flatten(0, 2)[inside] for step in symbols)
        alike, always = same[0].flatten(0, 2)[inside], torch.ones_like(inside, dtype=torch.bool)
        for number in range(len(config.alphabets)):
            known = place < known_digits(number, config)
            scores = part.scores(hidden, alike * known, mine, earlier, number) * UNIT_NATS
            coded = always if number == 0 or config.skip is None else mine[:, 0] == 0
            yield SymbolScores(number, inside, scores, mine[:, number], coded)


def bits_of_step(network: PackingNetwork, ids: Int[Tensor, "b k h w"]) -> list[Float[Tensor, "_"]]:
    """The bits of each id of the last step, half by half, as `coder.walk` codes them."""
    found: list[Tensor] = []
    for symbol in score_symbols(network, ids):
        if symbol.number == 0:
            found.append(symbol.bits())
        else:
            found[-1] = found[-1] + symbol.bits()
    return found


def bits_of_clip(network: PackingNetwork, ids: Int[Tensor, "t h w"]) -> Float[Tensor, "n"]:
    """The bits of every token of a clip, with rounded weights."""
    found = []
    for step in range(len(ids)):
        found += bits_of_step(network, ids[None, max(0, step - STEPS_SEEN) : step + 1])
    return torch.cat(found)


def bits_between(
    network: PackingNetwork,
    ids: Int[Tensor, "b k h w"],
    places: Float[Tensor, "b h w n"],
) -> Float[Tensor, "b h w"]:
    """The bits of each id of the last step, with a gradient for `places`.

    A place is where a channel lies among the levels of its digit; rounded, it is the digit. Between
    two levels next to each other bits are taken to change linearly, all other digits held. That
    later ids are expected by these is left out.
    """
    config, shape = network.config, places.shape
    at, digits = places.flatten(0, 2), split_digits(ids[:, -1].flatten(), config.digits)
    most = torch.tensor(config.digits, device=ids.device) - 2
    low = torch.where(at > digits, digits, digits - 1).clamp(min=0).minimum(most)
    bits, slopes = at.new_zeros(len(at)), torch.zeros_like(at)
    with torch.no_grad():
        for symbol in score_symbols(network, ids):
            bits.index_add_(0, symbol.cells, symbol.bits())
            group = symbol.number - (config.skip is not None)
            if group < 0:
                continue
            place, nats = config.places[group], symbol.scores.log_softmax(-1)
            own, under = digits[symbol.cells, place], low[symbol.cells, place]
            strides = strides_of(config.digits[place], ids.device)
            lower = symbol.values[:, None] + (under - own) * strides
            change = nats.gather(1, lower) - nats.gather(1, lower + strides)
            slopes[symbol.cells, place] = change * symbol.coded[:, None] / math.log(2)
    return (bits + ((at - at.detach()) * slopes).sum(-1)).view(shape[:-1])
