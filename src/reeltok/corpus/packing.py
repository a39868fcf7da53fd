"""Ids of rows packed without loss: the packing model that a corpus carries, and its segments."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from reeltok.corpus.place import Place
from reeltok.files.atomic import scratch
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.packing import packing_for
from reeltok.tokens.header import SEGMENT, bits_for
from reeltok.tokens.packing.coder import UnreadableSegmentError, require_coder, unpack_segment
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.packing.segments import Packer, find_packing


@dataclass(frozen=True, eq=False, kw_only=True)
class CarriedPacking:
    """The packing model of a plan, and its file, which is copied into the corpus."""

    model: PackingModel
    file: bytes = field(repr=False)


def packing_of(tokenizer: Tokenizer, keep: str) -> CarriedPacking:
    """That of a tokenizer whose ids are kept.

    ValueError where latents are kept, where it has no packing model or one of other weights, and
    where constriction is not installed.
    """
    if keep != "ids":
        raise ValueError(f"only ids are packed, and `keep` is {keep}: leave `pack` out")
    model = packing_for(tokenizer)
    require_coder("packing ids needs constriction")
    assert tokenizer.packing is not None, "packing_for has read it"
    return CarriedPacking(model=model, file=tokenizer.packing.read_bytes())


def held_packing(place: Place, wanted: str) -> PackingModel:
    """The packing model of hash `wanted` that a corpus carries, or one that is bundled.

    ValueError where it is not to be had, or constriction is not installed.
    """
    require_coder(f"{place} is packed")
    if place.has(NAME):
        with scratch() as folder:
            path = folder / NAME
            path.write_bytes(place.read(NAME))
            model = PackingModel.load(path)
        if model.hash == wanted:
            return model
        raise ValueError(
            f"{place.where(NAME)} is another packing model ({model.hash[:12]}) than the corpus was "
            f"packed by ({wanted[:12]}): copy that of its tokenizer there"
        )
    found = find_packing(wanted)
    if found is None:
        raise ValueError(
            f"{place} was packed by a packing model ({wanted[:12]}) and has no {NAME}: copy that "
            "of its tokenizer there"
        )
    return found


def pack_row(ids: Int64[Tensor, "t h w"], model: PackingModel) -> dict[str, Any]:
    """The columns of packed ids: their bytes, and after which of them each segment ends."""
    packer = Packer(model)
    data = packer.add(ids[None]) + packer.finish()
    return {"ids_bytes": data, "ids_ends": packer.ends}


def unpack_row(
    data: bytes, shape: tuple[int, ...], ends: list[int], model: PackingModel
) -> Int64[Tensor, "t h w"]:
    """The ids of packed columns. UnreadableSegmentError where they are not those of such ids."""
    if len(shape) != 3 or [*ends] != sorted({*ends}) or ends[-1:] != [len(data)]:
        raise UnreadableSegmentError("segments end elsewhere")
    total, *cells = shape
    if len(ends) != -(-total // SEGMENT):
        raise UnreadableSegmentError("there are fewer or more segments")
    parts, bits = [], bits_for(model.config.vocabulary)
    for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        steps = min(SEGMENT, total - number * SEGMENT)
        parts.append(unpack_segment(data[begin:end], (steps, 1, *cells), model, bits))
    return torch.cat(parts)[:, 0]
