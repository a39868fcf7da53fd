"""Foreign state dicts to ours and back, as rename tables; our models never bend to their names.

Public layouts: VidTok's `.ckpt` and diffusers' `AutoencoderVidTok` (the same keys), CoordTok's.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reeltok.files.checkpoints import load_weights, unwrapped_name
from reeltok.models.convert_arguments import vidtok_config
from reeltok.models.convert_coordtok import (
    coordtok_config,
    coordtok_from_public,
    coordtok_name,
    coordtok_to_public,
)
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.vidtok.network import VidTok, VidTokConfig
from reeltok.nn.quantizers import FSQConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import build_empty


def from_public(
    family: str, state_dict: Mapping[str, Tensor], arguments: Mapping[str, Any]
) -> Tokenizer:
    """A tokenizer from a public state dict and the public constructor's `arguments`.

    ValueError where a key or an argument is missing, a key has another shape, an argument is
    unknown, or the family is.
    """
    if family == "vidtok":
        return vidtok_from_public(state_dict, vidtok_config(arguments))
    if family == "coordtok":
        return coordtok_from_public(state_dict, coordtok_config(arguments))
    raise ValueError(f"no public layout is known for {family!r}: there are {', '.join(MARKS)}")


def from_weights(
    family: str, state_dict: Mapping[str, Tensor], config: Any, name: str, *, source: str
) -> Tokenizer:
    """A tokenizer of `config` from a public state dict. ValueError as for `from_public`.

    A CoordTok pads short clips as the public code does, whatever `config` says: it was trained so.
    """
    if family == "coordtok":
        config = replace(config, padding="public")
    read: dict[str, Callable[..., Tokenizer]]
    read = {"vidtok": vidtok_from_public, "coordtok": coordtok_from_public}
    return read[family](state_dict, config, name, source=source)


def to_public(model: Tokenizer) -> dict[str, Tensor]:
    """The public state dict of a model. ValueError where the public code cannot hold it."""
    if isinstance(model, VidTok):
        return vidtok_to_public(model)
    if isinstance(model, CoordTok):
        return coordtok_to_public(model)
    raise no_layout(model)


def public_names(model: Tokenizer) -> set[str]:
    """The public names of a model's weights. ValueError for a family without a public layout."""
    if isinstance(model, VidTok):
        return {vidtok_name(ours, model.config) for ours in model.state_dict()}
    if isinstance(model, CoordTok):
        return {coordtok_name(ours) for ours in model.state_dict()}
    raise no_layout(model)


def no_layout(model: Tokenizer) -> ValueError:
    """What is said of a model whose family has no public layout."""
    return ValueError(f"{model.name} has no public layout: {', '.join(MARKS)} have one")


def is_public(family: str, keys: Iterable[str]) -> bool:
    """Whether a state dict with these keys is in `family`'s public layout."""
    return family in MARKS and any(MARKS[family] in unwrapped_name(key) for key in keys)


MARKS = {"vidtok": "encoder.down.", "coordtok": "weight_tokens_xy"}
"""A key that only the public layout of a family has."""


def vidtok_from_public(
    state_dict: Mapping[str, Tensor],
    config: VidTokConfig,
    name: str = "vidtok",
    *,
    source: str = "the checkpoint",
) -> VidTok:
    """A VidTok of `config` with a public state dict's weights, without `loss.*` and the like."""
    require_public_levels(config, name)
    model = build_empty(lambda: VidTok(config, name), name)
    theirs = {ours: vidtok_name(ours, config) for ours in model.state_dict()}
    load_weights(
        model,
        state_dict,
        what=source,
        name=theirs.__getitem__,
        shape=lambda ours, tensor: vidtok_shape(theirs[ours], tensor),
        advice="give the checkpoint's own preset, or change it by `changes`",
        parts=("encoder", "decoder"),
    )
    return model.eval()


def vidtok_names(config: VidTokConfig) -> dict[str, str]:
    """Our parameter names -> the public ones, for every parameter of `config`'s network."""
    with torch.device("meta"):
        names = VidTok(config).state_dict()
    return {name: vidtok_name(name, config) for name in names}


def vidtok_name(ours: str, config: VidTokConfig) -> str:
    """The public name of one parameter. Causal 1-D and 3-D convolutions sit in a ".conv"."""
    side, place, rest = ours.split(".", 2)
    inner = "conv." if config.causal else ""
    layer = ".norm" if config.groups is None else ""
    ends = {
        "conv_in": f"conv_in.{inner}",
        "conv_out": f"conv_out.{inner}",
        "norm": f"norm_out{layer}.",
    }
    if place in ends:
        return f"{side}.{ends[place]}{rest}".replace("..", ".")
    if place == "middle":
        number, rest = rest.split(".", 1)
        part = ("block_1", "attn_1", "block_2")[int(number)]
        return f"{side}.mid.{part}.{_block_name(rest, inner, layer)}"
    row, column, part, rest = rest.split(".", 3)
    level = int(row) if side == "encoder" else len(config.multipliers) - 1 - int(row)
    way, sampler = ("down", "downsample") if side == "encoder" else ("up", "upsample")
    if int(column) < config.blocks[level] + (side == "decoder"):
        axis, inner = ("", "") if part == "0" else ("_temporal", inner)
        block = _block_name(rest, inner, layer)
        return f"{side}.{way}{axis}.{level}.block.{column}.{block}"
    if rest.startswith("space"):
        return f"{side}.{way}.{level}.{sampler}.conv.{rest.removeprefix('space.')}"
    rest = rest.replace("mix", "mix_factor").replace("time.", f"conv.{inner}")
    return f"{side}.{way}_temporal.{level}.{sampler}.{rest}"


def _block_name(rest: str, inner: str, layer: str) -> str:
    """A name inside a residual or attention block."""
    rest = re.sub(r"^norms\.(\d)", lambda m: f"norm{int(m[1]) + 1}{layer}", rest)
    rest = re.sub(r"^convs\.(\d)\.", lambda m: f"conv{int(m[1]) + 1}.{inner}", rest)
    rest = re.sub(r"^(query|key|value)\.", lambda m: f"{m[1][0]}.{inner}", rest)
    rest = re.sub(r"^out\.", f"proj_out.{inner}", rest)
    rest = re.sub(r"^norm\.", f"norm{layer}.", rest)
    return re.sub(r"^shortcut\.", "nin_shortcut.", rest)


def vidtok_to_public(model: VidTok) -> dict[str, Tensor]:
    """The public state dict of a published VidTok configuration, in the public shapes."""
    config = model.config
    parts = config.block, config.sampler, config.middle, config.patch
    if parts != ("separable", "blend", "full", (1, 1, 1)):
        raise ValueError(f"{model.name} has no public layout: only the published blocks have one")
    kind, groups, blocks = config.quantizer.kind, config.groups, config.blocks
    if kind not in ("gaussian", "fsq") or groups not in (None, 32) or len({*blocks}) > 1:
        raise ValueError(
            f"{model.name} has no public layout: that has a Gaussian or FSQ, layer norm or 32 "
            f"groups, and as many blocks in each level, found {kind!r}, groups={groups} and "
            f"blocks={blocks}"
        )
    require_public_levels(config, model.name)
    if config.upsampling == "trilinear" and config.edge != "past-first":
        raise ValueError(
            f"{model.name} has no public layout: only the second release (edge='past-first') "
            f"interpolates, found upsampling='trilinear' and edge={config.edge!r}"
        )
    names, weights = vidtok_names(config), model.state_dict()
    return {
        theirs: weights[ours].reshape(vidtok_shape(theirs, weights[ours]))
        for ours, theirs in names.items()
    }


def require_public_levels(config: VidTokConfig, name: str) -> None:
    """ValueError for channels of two levels, which the public code rounds at another place."""
    if isinstance(config.quantizer, FSQConfig) and 2 in config.quantizer.levels:
        raise ValueError(
            f"{name} has no public layout: channels of two levels change at 0 here and at -3.8 "
            f"there, found levels={config.quantizer.levels}"
        )


def vidtok_shape(name: str, weight: Tensor) -> tuple[int, ...]:
    """Public 2-D convolutions have no time axis, 1-D ones no space axes; ours have all three."""
    shape = tuple(weight.shape)
    if len(shape) != 5 or ".mid." in name or "conv_in" in name or "conv_out" in name:
        return shape
    if "_temporal" not in name:
        return shape[:2] + shape[3:]
    return shape[:3] if ".block." in name else shape
