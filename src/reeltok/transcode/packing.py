"""The packing model of a tokenizer: what makes its ids smaller in a file, without loss."""

from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.packing.coder import can_pack
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.segments import Packer, load_packing
from reeltok.tokens.record import Tokens


def packing_for(tokenizer: Tokenizer) -> PackingModel:
    """The packing model beside the weights of `tokenizer`.

    ValueError where it is continuous, has no packing model, or one of other weights.
    """
    if tokenizer.spec.vocabulary is None:
        raise ValueError(f"{tokenizer.name} has latents, and only ids are packed: leave `pack` out")
    if tokenizer.packing is None or not tokenizer.packing.is_file():
        raise ValueError(
            f"{tokenizer.name} has no packing model: train one (`reeltok train packing_cpu`) and "
            "copy packing.safetensors beside its weights, or leave `pack` out"
        )
    model = load_packing(tokenizer.packing)
    if not is_for(model, tokenizer):
        raise ValueError(
            f"{tokenizer.packing} was trained on ids of other weights "
            f"({model.config.tokenizer[:12]}, here {tokenizer.hash()[:12]}): train one for these, "
            "or leave `pack` out"
        )
    return model


def is_for(model: PackingModel, tokenizer: Tokenizer) -> bool:
    """Whether it was trained on ids of this tokenizer."""
    return model.config.tokenizer in (tokenizer.hash(), *tokenizer.reads)


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
