"""Ids to bytes and back, a segment of steps at a time: each can be read without the others.

The first byte of a segment says what follows: its ids bit by bit as in a file that is not packed,
or the words of a range coder. The second is taken where it is shorter.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reeltok.tokens.digits import split_digits
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.network import (
    BEFORE,
    MARGIN,
    STEPS_SEEN,
    PackingConfig,
    Pass,
    cells_of,
    join_symbols,
    neighbours,
    pad_cells,
    same_digits,
    split_symbols,
)
from reeltok.tokens.payload import pack_ids, unpack_ids

PLAIN, CODED = b"\0", b"\1"
MOST_CELLS = 2**18  # of a step, with its margin; larger ones are stored plainly: memory is bounded
ROWS = 8192  # cells of a half that are coded at a time, symbol by symbol: memory is bounded

Code = Callable[[Int[Tensor, "n"] | None, Float[Tensor, "n a"]], Int[Tensor, "n"]]
"""From symbols (None: unknown) and how often each value is expected to the symbols."""


class UnreadableSegmentError(ValueError):
    """The bytes of a segment are not those of the ids that they are said to be."""


def require_coder(what: str) -> Any:
    """constriction's range coder. ValueError that begins with `what` where it is not installed."""
    try:
        import constriction
    except ImportError as error:
        raise ValueError(f"{what}: pip install 'reeltok[codec]'") from error
    return constriction.stream


def can_pack() -> bool:
    """Whether constriction is installed."""
    return find_spec("constriction") is not None


def pack_segment(ids: Int[Tensor, "t b h w"], model: PackingModel, bits: int) -> bytes:
    """The steps of a segment as bytes, plainly where packing gains nothing."""
    plain = PLAIN + pack_ids(ids.reshape(-1).cpu().numpy(), bits).tobytes()
    if not can_be_coded(ids.shape):
        return plain
    stream = require_coder("packing ids needs constriction")
    coder = stream.queue.RangeEncoder()
    family = stream.model.Categorical(perfect=False)

    def code(symbols: Tensor | None, expected: Tensor) -> Tensor:
        assert symbols is not None
        coder.encode(symbols.to(torch.int32).numpy(), family, expected.numpy())
        return symbols

    code_steps(ids.shape, model, code, ids.cpu())
    coded = CODED + coder.get_compressed().astype("<u4").tobytes()
    return min(plain, coded, key=len)


def unpack_segment(
    data: bytes, shape: tuple[int, ...], model: PackingModel, bits: int
) -> Int[Tensor, "t b h w"]:
    """The ids of a segment. UnreadableSegmentError where its bytes are none."""
    kind, body = data[:1], data[1:]
    count = math.prod(shape)
    if kind == PLAIN and len(body) == -(-count * bits // 8):
        flat = unpack_ids(np.frombuffer(body, dtype=np.uint8), bits, count)
        return torch.from_numpy(flat).reshape(shape)
    if kind != CODED or len(body) % 4 or not can_be_coded(shape):
        raise UnreadableSegmentError("a segment is of another kind or length")
    stream = require_coder("unpacking ids needs constriction")
    coder = stream.queue.RangeDecoder(np.frombuffer(body, dtype="<u4").astype(np.uint32))
    family = stream.model.Categorical(perfect=False)

    def code(symbols: Tensor | None, expected: Tensor) -> Tensor:
        try:
            return torch.from_numpy(coder.decode(family, expected.numpy())).long()
        except AssertionError as error:  # constriction's word for bytes that it cannot have written
            raise UnreadableSegmentError("a segment is of other ids") from error

    ids = code_steps(shape, model, code)
    if not coder.maybe_exhausted():
        raise UnreadableSegmentError("a segment is longer than its ids")
    return ids


def can_be_coded(shape: tuple[int, ...]) -> bool:
    """Whether the maps of such steps "t b h w" are small enough to be held."""
    batch, height, width = shape[1:]
    held = batch * (height + 2 * MARGIN) * (width + 2 * MARGIN)
    return math.prod(shape) > 0 and held <= MOST_CELLS


@dataclass(frozen=True, kw_only=True)
class Step:
    """The ids of all cells of a step, and how they read: as symbols and as digits."""

    ids: Int[Tensor, "n"]
    symbols: Int[Tensor, "n s"]
    digits: Int[Tensor, "n k"]

    @classmethod
    def of(cls, ids: Int[Tensor, "n"], config: PackingConfig) -> "Step":
        return cls(
            ids=ids, symbols=split_symbols(ids, config), digits=split_digits(ids, config.digits)
        )

    def take(self, cells: Int[Tensor, "m"]) -> "Step":
        """Some of the cells."""
        return Step(ids=self.ids[cells], symbols=self.symbols[cells], digits=self.digits[cells])


@torch.inference_mode()
def code_steps(
    shape: tuple[int, ...], model: PackingModel, code: Code, ids: Tensor | None = None
) -> Int[Tensor, "t b h w"]:
    """Code the ids of a segment in their order; without `ids` those that `code` gives."""
    found = torch.empty(shape, dtype=torch.int64, device="cpu")
    config, before = model.config, list[Step]()
    blank = torch.zeros(*shape[1:], config.features + len(config.digits), device="cpu")
    maps = [pad_cells(blank)] * STEPS_SEEN
    with torch.autocast("cpu", enabled=False):
        for number in range(shape[0]):
            known = None if ids is None else Step.of(ids[number].flatten(), config)
            coded, now = code_step(model, code, maps, before, known)
            found[number] = coded.view(shape[1:])
            before = [Step.of(coded, config), *before][:STEPS_SEEN]
            maps = [now, *maps][:STEPS_SEEN]
    return found


def code_step(
    model: PackingModel,
    code: Code,
    maps: list[Float[Tensor, "b h2 w2 f"]],
    before: list[Step],
    known: Step | None,
) -> tuple[Int[Tensor, "n"], Float[Tensor, "b h2 w2 f"]]:
    """The ids of one step, and its map for later ones; `maps` and `before` are of those before."""
    network, now = model.network, torch.zeros_like(maps[0])
    batch, height, width = now.shape[:3]
    shape = (batch, height - 2 * MARGIN, width - 2 * MARGIN)
    ids = torch.empty(math.prod(shape), dtype=torch.int64, device="cpu")
    for half, part in enumerate(network.passes):
        around = [*BEFORE, part.within]
        inside, padded = (cells.split(ROWS) for cells in cells_of(half, shape))
        for here, place in zip(inside, padded, strict=True):
            hidden = part.hidden(neighbours([*maps, now], around, place), len(before))
            wanted = None if known is None else known.take(here)
            earlier = [step.take(here) for step in before]
            symbols, same = code_cells(model, part, code, hidden, earlier, wanted)
            now.flatten(0, 2)[place] = network.describe(symbols, same)
            ids[here] = join_symbols(symbols, model.config)
    if int(ids.max()) >= model.config.vocabulary:
        raise UnreadableSegmentError("an id is outside the vocabulary")
    return ids, now


def code_cells(
    model: PackingModel,
    part: Pass,
    code: Code,
    hidden: Float[Tensor, "n d"],
    before: list[Step],
    known: Step | None,
) -> tuple[Int[Tensor, "n s"], Float[Tensor, "n k"]]:
    """The symbols of some cells, one after another, and which digits are those of the step before.

    Where an id can be skipped, that is asked first, and of those that are no more is coded.
    """
    config, count = model.config, len(hidden)
    symbols = torch.zeros(count, len(config.alphabets), dtype=torch.int64, device="cpu")
    same = torch.zeros(count, len(config.digits), device="cpu")
    earlier = [step.symbols for step in before]
    places: list[slice | None] = [*([None] if config.skip is not None else []), *config.places]
    left: Any = slice(None)  # the cells that are not skipped
    for number, place in enumerate(places):
        some = [step[left] for step in earlier]
        if len(symbols[left]) == 0:
            break
        scores = part.scores(hidden[left], same[left], symbols[left], some, number)
        wanted = None if known is None else known.symbols[left, number]
        symbols[left, number] = code(wanted, model.frequencies(scores))
        if place is None:
            skipped = symbols[:, 0] == 1
            symbols[skipped] = split_symbols(torch.tensor(config.skip, device="cpu"), config)
            left = (~skipped).nonzero()[:, 0]
        elif before:
            digits = split_digits(symbols[left, number], config.digits[place])
            same[left, place] = same_digits(digits, before[0].digits[left][:, place])
    if before and config.skip is not None:
        skipped = symbols[:, 0] == 1
        digits = split_digits(join_symbols(symbols[skipped], config), config.digits)
        same[skipped] = same_digits(digits, before[0].digits[skipped])
    return symbols, same
