"""The packing model of a tokenizer: what expects its ids, and makes them smaller in a file."""

from reeltok.tokenizer.inputs import Coder
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.segments import load_packing


def packing_for(tokenizer: Coder, option: str = "pack") -> PackingModel:
    """The packing model beside the weights of `tokenizer`, which `option` asks for.

    ValueError where it is continuous, has no packing model, or one of other weights.
    """
    if tokenizer.spec.vocabulary is None:
        raise ValueError(
            f"{tokenizer.name} has latents, and only ids are packed: leave `{option}` out"
        )
    if tokenizer.packing is None or not tokenizer.packing.is_file():
        raise ValueError(
            f"{tokenizer.name} has no packing model: train one (`reeltok train packing_cpu`) and "
            f"copy packing.safetensors beside its weights, or leave `{option}` out"
        )
    model = load_packing(tokenizer.packing)
    if not is_for(model, tokenizer):
        raise ValueError(
            f"{tokenizer.packing} was trained on ids of other weights "
            f"({model.config.tokenizer[:12]}, here {tokenizer.hash()[:12]}): train one for these, "
            f"or leave `{option}` out"
        )
    return model


def is_for(model: PackingModel, tokenizer: Coder) -> bool:
    """Whether it was trained on ids of this tokenizer."""
    return model.config.tokenizer in (tokenizer.hash(), *tokenizer.reads)
