"""The packing model of a tokenizer: what makes its ids smaller in a file, without loss."""

from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.segments import load_packing


def packing_for(tokenizer: Tokenizer) -> PackingModel:
    """The packing model beside the weights of `tokenizer`.

    ValueError where it is continuous, has no packing model, or one of other weights.
    """
    if tokenizer.spec.vocabulary is None:
        raise ValueError(f"{tokenizer.name} has latents, and only ids are packed: leave --pack out")
    if tokenizer.packing is None or not tokenizer.packing.is_file():
        raise ValueError(
            f"{tokenizer.name} has no packing model: train one (`reeltok train packing_cpu`) and "
            "copy packing.safetensors beside its weights, or leave --pack out"
        )
    model = load_packing(tokenizer.packing)
    if model.config.tokenizer not in (tokenizer.hash(), *tokenizer.reads):
        raise ValueError(
            f"{tokenizer.packing} was trained on ids of other weights "
            f"({model.config.tokenizer[:12]}, here {tokenizer.hash()[:12]}): train one for these, "
            "or leave --pack out"
        )
    return model
