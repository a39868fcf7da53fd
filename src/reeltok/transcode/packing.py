"""The packing model of a tokenizer: what makes its ids smaller in a file, without loss."""

from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.packing import is_for
from reeltok.tokens.packing.coder import can_pack
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.segments import Packer, load_packing
from reeltok.tokens.record import Tokens


def found_packing(tokenizer: Tokenizer) -> PackingModel | None:
    """The packing model for ids of `tokenizer`, where there is one and constriction is installed.

    ValueError where its file is damaged.
    """
    if tokenizer.packing is None or tokenizer.spec.vocabulary is None or not can_pack():
        return None
    model = load_packing(tokenizer.packing)
    return model if is_for(model, tokenizer) else None


def packed_bits(tokenizer: Tokenizer, tokens: Tokens) -> int | None:
    """Bits that a file holds these tokens and their references in, packed; None without a model."""
    model = found_packing(tokenizer)
    if model is None or tokens.ids is None:
        return None
    packer = Packer(model)
    size = len(packer.add(tokens.ids)) + len(packer.finish())
    return 8 * size + tokens.reference_bits
