"""CoordTok's public SiT to ours and back: a rename table, shapes, and what the shapes tell."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.configuration import parse
from reeltok.files.checkpoints import export_weights, find_part, load_weights, rename
from reeltok.generate.sit import SIZES, Flow, FlowConfig, plane_groups
from reeltok.nn.bounds import Depth, Side, Width
from reeltok.tokenizer.folder import build_empty

NAMES = (
    (r"^fixed\.", "pos_embed_"),
    (r"^learned\.", "pos_embed_"),
    (r"^patch_embed\.(\w+)\.linear\.", r"x_embedder_\1.proj."),
    (r"^time_embed\.", "t_embedder.mlp."),
    (r"^label_embed\.", "y_embedder.embedding_table."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"^(blocks\.\d+\.mlp)\.0\.", r"\1.fc1."),
    (r"^(blocks\.\d+\.mlp)\.2\.", r"\1.fc2."),
    (r"\.modulation\.", ".adaLN_modulation.1."),
    (r"^final_layer\.", "final_layer_"),
)
"""Ours -> the public SiT fork's, applied one after another."""


def sit_name(ours: str) -> str:
    """The public name of one parameter."""
    return rename(ours, NAMES)


def sit_shape(ours: str, tensor: Tensor, config: FlowConfig) -> tuple[int, ...]:
    """The public shape of one parameter: tables have a batch, patches are read by convolutions."""
    if ours == "type_embed" or ours.startswith(("fixed.", "learned.")):
        return (1, *tensor.shape)
    if ours.startswith("patch_embed.") and ours.endswith(".weight"):
        group = next(group for group in config.groups if group.name == ours.split(".")[1])
        return (len(tensor), config.channels, *group.patch)
    return tuple(tensor.shape)


def public_arguments(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The public constructor's arguments that a state dict's shapes tell.

    The number of heads shows in no shape: it is that of SiT's size, or else heads are 64 wide.
    ValueError for a state dict of another network.
    """
    wanted = (
        "x_embedder_xy.proj.weight",
        "pos_embed_xy",
        "pos_embed_t",
        "final_layer_xy.linear.bias",
        "y_embedder.embedding_table.weight",
    )
    part = find_part(state_dict, wanted, means=True)
    weights = {} if part is None else part.tensors
    for name in wanted:
        if name not in weights:
            raise ValueError(f"the checkpoint has no {name}: it is not a public SiT of CoordTok's")
    width, channels, patch, _ = weights[wanted[0]].shape
    across = math.isqrt(weights["pos_embed_xy"].shape[1])
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    named = {(size["width"], size["depth"]): size["heads"] for size in SIZES.values()}
    return {
        "input_size": (weights["pos_embed_t"].shape[1] // across * patch, across * patch),
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": width,
        "depth": depth,
        "num_heads": named.get((width, depth), max(1, width // 64)),
        "num_classes": len(weights["y_embedder.embedding_table.weight"]),
        "learn_sigma": len(weights[wanted[3]]) == 2 * channels * patch * patch,
    }


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SiTArguments:
    """The public SiT's arguments; `input_size` are cells along time and along a side."""

    input_size: tuple[Side, Side]
    patch_size: Side = 2
    in_channels: Width = 8
    hidden_size: Width
    depth: Depth
    num_heads: Width
    mlp_ratio: float = Field(default=4.0, gt=0)
    class_dropout_prob: float = Field(default=0.0, ge=0, le=1)
    num_classes: Width = 1
    learn_sigma: bool = True


def generator_from_public(state_dict: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Flow:
    """A generator from CoordTok's public SiT: a state dict and its constructor's arguments.

    The clip and the latents' statistics are not in it: `replace` them in `model.config`. ValueError
    for a key that is missing or has another shape, and for an argument that is unknown or of
    another type.
    """
    given = parse(dict(arguments), "the arguments of SiT", SiTArguments)
    t, side = given.input_size
    classes = tuple(str(i) for i in range(given.num_classes)) if given.num_classes > 1 else ()
    config = FlowConfig(
        groups=plane_groups(
            {"xy": (side, side), "yt": (t, side), "xt": (t, side)}, patch=given.patch_size
        ),
        channels=given.in_channels,
        width=given.hidden_size,
        depth=given.depth,
        heads=given.num_heads,
        mlp_ratio=given.mlp_ratio,
        classes=classes,
        label_dropout=given.class_dropout_prob if classes else 0.0,
        double_heads=given.learn_sigma,
    )
    model = build_empty(lambda: Flow(config), "the checkpoint")
    load_weights(
        model,
        state_dict,
        what="the checkpoint",
        name=sit_name,
        shape=lambda ours, tensor: sit_shape(ours, tensor, config),
        advice="give the checkpoint's own arguments",
        means=True,
    )
    return model.eval()


def generator_to_public(model: Flow) -> dict[str, Tensor]:
    """The public state dict of a generator of three planes. ValueError where it has `rope`."""
    if model.config.rope:
        raise ValueError(
            "CoordTok's public SiT has no rotary position embedding, and this generator does: "
            "train one with settings.rope=false"
        )
    return export_weights(
        model,
        name=sit_name,
        shape=lambda ours, tensor: sit_shape(ours, tensor, model.config),
    )
