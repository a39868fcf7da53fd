"""The model that a recipe begins with: fresh, trained, or warmed up by another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reeltok import zoo
from reeltok.configuration import merge, parse
from reeltok.files.checkpoints import load_weights
from reeltok.nn.quantizers import GaussianConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import dump_config, hash_weights
from reeltok.train.parallel import whole_of
from reeltok.train.recipe import Recipe

HUSHED = -8.0  # a deviation of 0.018


def build_model(recipe: Recipe) -> Tokenizer:
    """The model of a recipe, fresh from the recipe's seed or trained.

    ValueError where trained weights do not fit `settings`.
    """
    family, config = zoo.described(recipe.model)
    if family == "diffusers":
        raise ValueError(f"{recipe.model} is of diffusers: train it there, or name a model of ours")
    kind, network = zoo.FAMILIES[family]
    before = dump_config(config)
    start = round_from_start(before) if recipe.start == "trained" else before
    tree = merge(start, recipe.settings)
    torch.manual_seed(recipe.loop.seed)
    settings: Any = parse(tree, f"settings of {recipe.model}", kind)
    model = network(settings, Path(recipe.model).name)
    if recipe.warm is not None:
        warm(model, zoo.load(recipe.warm, code=False))
    if recipe.start == "trained":
        trained = zoo.load(recipe.model, code=False)
        load_weights(
            model,
            trained.state_dict(),
            what=f"the model {recipe.model}",
            advice=f"leave out of settings={recipe.settings} what changes the network's shape",
        )
        rests = {"encoder", "quantizer"} <= set(recipe.loop.freeze) and not model.loops
        if rests and round_from_start(tree) == round_from_start(before):
            model.reads = (*trained.reads, trained.hash())
    return model


def hash_coding(model: Tokenizer) -> str:
    """The hash of the weights that decide which ids or latents a clip has."""
    parts = ("encoder.", "quantizer.")
    weights = {k: whole_of(v) for k, v in model.state_dict().items() if k.startswith(parts)}
    return hash_weights(weights)


def round_from_start(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose codes are rounded from the first step: its weights are trained."""
    found = dict(tree)
    for name in ("body", "quantizer"):
        if isinstance(inner := tree.get(name), Mapping):
            found[name] = round_from_start(inner)
    return found | ({"rounding_from": 0} if "rounding_from" in tree else {})


def warm(model: Tokenizer, trained: Tokenizer) -> None:
    """Begin with the weights of a part of `model`; ValueError where it has no such part.

    Where the two differ in their quantizer alone, the layers next to it stay fresh.
    """
    weights, own = trained.state_dict(), model.state_dict()
    wrong = [k for k, v in weights.items() if k not in own or own[k].shape != v.shape]
    if wrong and not differs_in_quantizer(model, trained):
        raise ValueError(
            f"{model.name} cannot begin with the weights of {trained.name}: {wrong[0]} does not "
            f"fit; choose a model of the same body for warm"
        )
    fresh = {name.rpartition(".")[0] for name in wrong}  # a layer is fresh with its bias
    kept = {k: v for k, v in weights.items() if k.rpartition(".")[0] not in fresh}
    model.load_state_dict(kept, strict=False)
    quantizer = getattr(model.config, "quantizer", None)
    if isinstance(quantizer, GaussianConfig):
        for layer in fresh:
            hush(model.get_submodule(layer), quantizer)


@torch.no_grad()
def hush(layer: nn.Module, quantizer: GaussianConfig) -> None:
    """Begin with little noise, where `layer` gives the log-variances.

    A fresh one gives 1 where the means are hundredths: all that the trained layers say is lost.
    """
    bias = layer.bias
    if isinstance(bias, Tensor) and len(bias) == quantizer.features:
        bias[quantizer.channels :] = HUSHED


def differs_in_quantizer(model: Tokenizer, trained: Tokenizer) -> bool:
    """Whether two models are of one family and configuration but for the quantizer."""
    if model.family != trained.family:
        return False
    ours, theirs = dump_config(model.config), dump_config(trained.config)
    return "quantizer" in ours and ours | {"quantizer": None} == theirs | {"quantizer": None}
