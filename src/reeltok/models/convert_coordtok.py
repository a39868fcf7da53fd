"""CoordTok's public state dict to ours and back: a rename table, and the shapes on the other side.

Public checkpoints carry the prefix `module.`; those of the second stage also hold the weights of
their LPIPS loss. Neither is read.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.configuration import parse
from reeltok.files.checkpoints import export_weights, load_weights, rename
from reeltok.files.parsing import first_error
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.coordtok.triplane import CoordTokConfig
from reeltok.nn.bounds import Depth, Side, Triple, Width
from reeltok.tokenizer.folder import build_empty

NAMES = (
    (r"^encoder\.planes\.", "weight_tokens_"),
    (r"^encoder\.memory_pos_embed$", "encoder.cross_pos_emb"),
    (r"^encoder\.cls_token$", "encoder.encoder.cls_token"),
    (r"^encoder\.pos_embed$", "encoder.encoder.pos_emb"),
    (r"^encoder\.patch_embed\.", "encoder.encoder.patch_embed.proj."),
    (r"^encoder\.vit_norm\.", "encoder.encoder.norm."),
    (r"^encoder\.vit\.", "encoder.encoder.layers."),
    (r"^encoder\.queries\.(\w+)\.", r"encoder.patch_embeds_\1.proj."),
    (r"^encoder\.heads\.", "encoder.projectors_"),
    (r"^encoder\.query_norm\.", "encoder.transformer.norm."),
    (r"^encoder\.query_transformer\.(\d+)\.mlp_norm\.", r"encoder.transformer.layers.\1.norm3."),
    (r"^encoder\.query_transformer\.(\d+)\.mlp\.2\.", r"encoder.transformer.layers.\1.mlp.3."),
    (r"^encoder\.query_transformer\.(\d+)\.mlp\.0\.", r"encoder.transformer.layers.\1.mlp.0."),
    (r"^encoder\.query_transformer\.", "encoder.transformer.layers."),
    (r"\.cross_norm\.", ".norm1."),
    (r"\.self_norm\.", ".norm2."),
    (r"\.cross\.", ".cross_attn."),
    (r"\.self_attention\.", ".self_attn."),
    (r"_attn\.qkv\.weight$", "_attn.in_proj_weight"),
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"^decoder\.features\.", "decoder.transformer.patch_embed."),
    (r"^decoder\.pos_embed\.tables\.0$", "decoder.transformer.pos_embed"),
    (r"^decoder\.blocks\.", "decoder.transformer.layers."),
    (r"^decoder\.norm\.", "decoder.transformer.norm."),
    (r"^decoder\.pixels\.", "decoder.projector."),
    (r"\.attention_norm\.", ".norm1."),
    (r"(layers\.\d+)\.mlp_norm\.", r"\1.norm2."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.qkv\.", ".attn.qkv."),
    (r"(\.encoder\.layers\.\d+|^decoder\.transformer\.layers\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"(\.encoder\.layers\.\d+|^decoder\.transformer\.layers\.\d+)\.mlp\.2\.", r"\1.mlp.fc2."),
)
"""Ours -> theirs, applied one after another."""

SQUARE = ("patch", "cells", "cell_patch", "decoder_patch")
"""Of these the public constructor takes one number for rows and columns; of `size` it takes two."""


def coordtok_name(ours: str) -> str:
    """The public name of one parameter."""
    return rename(ours, NAMES)


def coordtok_shape(ours: str, tensor: Tensor, config: CoordTokConfig) -> tuple[int, ...]:
    """The public shape of one parameter: patches are read by convolutions, tables have a batch."""
    if ours == "encoder.patch_embed.weight":
        return (len(tensor), 3, *config.patch)
    if ours.startswith("encoder.queries.") and ours.endswith(".weight"):
        axes = config.planes[ours.split(".")[2]]
        return (len(tensor), config.channels, *(config.cell_patch[axis] for axis in axes))
    if ours.startswith("encoder.planes.") or ours == "decoder.pos_embed.tables.0":
        return (1, *tensor.shape)
    return tuple(tensor.shape)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CoordTokArguments:
    """The public constructor's arguments; triples are (time, row, column).

    Defaults: the released checkpoint's, which are not those of the public class. `lpips_loss_scale`
    is of training alone.
    """

    video_shape: Triple = (128, 128, 128)
    enc_embed_dim: Width = 1024
    enc_num_layers: Depth = 24
    enc_num_heads: Width = 16
    enc_patch_size_xy: Side = 16
    enc_patch_size_t: Side = 8
    enc_patch_type: Literal["transformer"] = "transformer"
    enc_patch_num_layers: Depth = 8
    latent_resolution_xy: Side = 16
    latent_resolution_t: Side = 32
    latent_n_features: Width = 8
    latent_patch_size_xy: Side = 8
    latent_patch_size_t: Side = 16
    dec_embed_dim: Width = 1024
    dec_num_layers: Depth = 24
    dec_num_heads: Width = 16
    dec_patch_size_xy: Side = 8
    dec_patch_size_t: Side = 1
    lpips_loss_scale: float = 0.0


def coordtok_config(arguments: Mapping[str, Any]) -> CoordTokConfig:
    """The configuration that the public constructor's arguments describe, padding included.

    ValueError for an argument that it does not have, of another type, or that fits no other.
    """
    given = parse(dict(arguments), "the arguments of CoordTok", CoordTokArguments)
    try:
        return CoordTokConfig(
            size=given.video_shape,
            patch=_triple(given.enc_patch_size_t, given.enc_patch_size_xy),
            cells=_triple(given.latent_resolution_t, given.latent_resolution_xy),
            cell_patch=_triple(given.latent_patch_size_t, given.latent_patch_size_xy),
            channels=given.latent_n_features,
            width=given.enc_embed_dim,
            heads=given.enc_num_heads,
            vit_depth=given.enc_patch_num_layers,
            depth=given.enc_num_layers,
            decoder_patch=_triple(given.dec_patch_size_t, given.dec_patch_size_xy),
            decoder_width=given.dec_embed_dim,
            decoder_heads=given.dec_num_heads,
            decoder_depth=given.dec_num_layers,
            padding="public",
        )
    except ValueError as error:
        raise ValueError(f"the arguments of CoordTok: {first_error(error)}") from error


def _triple(t: int, xy: int) -> tuple[int, int, int]:
    return t, xy, xy


def coordtok_from_public(
    state_dict: Mapping[str, Tensor],
    config: CoordTokConfig,
    name: str = "coordtok",
    *,
    source: str = "the checkpoint",
) -> CoordTok:
    """A CoordTok with public weights. ValueError for a key that is missing or has another shape."""
    model = build_empty(lambda: CoordTok(config, name), name)
    load_weights(
        model,
        state_dict,
        what=source,
        name=coordtok_name,
        shape=lambda ours, tensor: coordtok_shape(ours, tensor, config),
        advice="give the arguments or the preset of the checkpoint, or change them by `changes`",
        parts=("encoder", "decoder.transformer"),
    )
    return model.eval()


def coordtok_to_public(model: CoordTok) -> dict[str, Tensor]:
    """The public state dict of a model that the public code can hold.

    ValueError for what it cannot: a quantizer, further content planes, other positions and
    coordinates, pooled voxels, patches that are not square. Warns of another padding, which changes
    clips that are shorter than the window, and of slices: the public code decodes a window in one
    call.
    """
    config = model.config
    parts = config.quantizer, config.content_planes, config.pool_skip
    if parts != (None, 1, False) or (config.position, config.coordinates) != ("table", "corner"):
        raise ValueError(
            f"{model.name} has no public layout: that has one content plane, a table of positions, "
            "coordinates from corner to corner, no pooled voxels and no quantizer"
        )
    triples = {name: getattr(config, name) for name in SQUARE}
    if oblong := [f"{name}={value}" for name, value in triples.items() if value[1] != value[2]]:
        raise ValueError(
            f"{model.name} has no public layout: that has one number for rows and columns, found "
            f"{', '.join(oblong)}"
        )
    if config.padding != "public":
        warnings.warn(
            f"{model.name} pads clips that are shorter than {config.size[0]} frames otherwise than "
            "the public code, which will encode them differently",
            stacklevel=3,
        )
    if config.slices != 1:
        warnings.warn(
            f"{model.name} decodes a window in {config.slices} parts, the public code in one, "
            "which makes other frames of the same tokens",
            stacklevel=3,
        )
    return export_weights(
        model,
        name=coordtok_name,
        shape=lambda ours, tensor: coordtok_shape(ours, tensor, config),
    )
