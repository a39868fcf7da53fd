"""Our tokenizers as an autoencoder of diffusers: what its pipelines ask of a `vae`, and no more.

A pipeline that was saved with one names this module, and diffusers imports none that only a file
names: import it before `from_pretrained`.
"""

import math
import warnings
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import (
    AutoencoderMixin,
    DecoderOutput,
    DiagonalGaussianDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float
from torch import Tensor

from reeltok.models.foreign.diffusers import Diffusers
from reeltok.models.foreign.network import Foreign
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import (
    diffusers_extras,
    dump_config,
    from_diffusers,
    parse_extras,
    take_extras,
)
from reeltok.tokenizer.posterior import encode_posterior
from reeltok.zoo import FAMILIES, build_described

TILE = 256  # pixels a side of a tile, where tiling is enabled


class AutoencoderReeltok(ModelMixin, AutoencoderMixin, ConfigMixin):
    """A tokenizer of this package with the methods, attributes and config of a `vae`.

    Clips are "b 3 t h w" in [-1, 1], latents "b d t h w" as the decoder takes them: pipelines
    normalise by `latents_mean` and `latents_std`. A discrete tokenizer's latents are its codes.
    `extras` is what our config.json says beside and diffusers has no name for. The other arguments
    after `scaling_factor` follow from the network; where they are given, they must agree with it.
    ValueError where they do not.
    """

    _supports_gradient_checkpointing = False
    # What pipelines of Wan, HunyuanVideo, LTX and CogVideoX look for is in `pipeline_facts`.

    @register_to_config
    def __init__(
        self,
        *,
        family: str,
        name: str,
        network: dict[str, Any],
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scaling_factor: float = 1.0,
        timestep_conditioning: bool = False,
        z_dim: int | None = None,
        latent_channels: int | None = None,
        scale_factor_temporal: int | None = None,
        scale_factor_spatial: int | None = None,
        temporal_compression_ratio: int | None = None,
        spatial_compression_ratio: int | None = None,
        block_out_channels: list[int] | None = None,
        extras: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = build_described({"family": family, "name": name, "config": network})
        facts = pipeline_facts(self.tokenizer)
        for key, value in facts.items():
            given = self.config[key]
            if given is not None and given != value:
                raise ValueError(
                    f"{name}: config.json says {key}={given}, but its network has {value}: copy "
                    "the folder again"
                )
        take_extras(self.tokenizer, parse_extras(from_diffusers(self.config), name), name)
        channels = facts["z_dim"]
        neutral = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
        self.register_to_config(**facts, **{k: v for k, v in neutral.items() if not self.config[k]})
        self.use_tiling = self.use_slicing = False
        self.tile = TILE

    def enable_tiling(self, tile: int = TILE) -> None:
        """Code frames in strips `tile` pixels high, or tiles (see `Spec.strips`)."""
        self.tile = tile
        super().enable_tiling()

    def encode(
        self, x: Float[Tensor, "b 3 t h w"], return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of a clip's latents; that of a discrete tokenizer has no spread."""
        dist = DiagonalGaussianDistribution(
            torch.cat([self._moments(part) for part in self._slices(x)]),
            deterministic=self.tokenizer.spec.vocabulary is not None,
        )
        return AutoencoderKLOutput(latent_dist=dist) if return_dict else (dist,)

    def decode(
        self,
        z: Float[Tensor, "b d t h w"],
        temb: Tensor | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> DecoderOutput | tuple[Tensor]:
        """The frames of latents. `temb` is for decoders that denoise, which none of ours does."""
        tile = self.tile if self.use_tiling else None
        parts = [self.tokenizer.decode(part, tile=tile) for part in self._slices(z)]
        sample = torch.cat([part for part in parts if isinstance(part, Tensor)])
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Float[Tensor, "b 3 t h w"],
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """A clip of any size there and back, by the mode of its latents or by a draw."""
        dist = self.encode(sample, return_dict=False)[0]
        z = dist.sample(generator) if sample_posterior else dist.mode()
        frames, height, width = sample.shape[2:]
        made = self.decode(z, return_dict=False)[0][:, :, :frames, :height, :width]
        return DecoderOutput(sample=made) if return_dict else (made,)

    @property
    def latents_mean(self) -> Float[Tensor, " d"]:
        """The mean of each channel of raw latents."""
        return torch.tensor(self.config["latents_mean"], device=self.device)

    @property
    def latents_std(self) -> Float[Tensor, " d"]:
        """The standard deviation of each channel of raw latents."""
        return torch.tensor(self.config["latents_std"], device=self.device)

    @property
    def temporal_compression_ratio(self) -> int:
        """Frames that one step of latents stands for."""
        return self.tokenizer.spec.factors[0]

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels that a side of one cell of latents stands for."""
        return self.tokenizer.spec.factors[1]

    @property
    def temperal_downsample(self) -> list[bool]:
        """For each halving of space whether time is halved too; the name is that of diffusers."""
        time, space = self.temporal_compression_ratio, self.spatial_compression_ratio
        levels, halvings = (space - 1).bit_length(), (time - 1).bit_length()
        return [False] * (levels - halvings) + [True] * halvings

    def _slices(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(1) if self.use_slicing else (x,)

    def _moments(self, x: Tensor) -> Tensor:
        """Mean and log-variance of a clip's latents in the channels, as diffusers has them."""
        tile = self.tile if self.use_tiling else None
        if self.tokenizer.spec.vocabulary is None:
            found = encode_posterior(self.tokenizer, x, tile=tile)
            return torch.cat([found.mean, found.logvar], dim=1)
        codes = self.tokenizer.encode(x, tile=tile).latents
        assert codes is not None, "a tokenizer gives codes beside ids"
        return torch.cat([codes, torch.zeros_like(codes)], dim=1)


def as_autoencoder(tokenizer: Tokenizer) -> ModelMixin:
    """What `to_diffusers` says."""
    if isinstance(tokenizer, Diffusers):
        return tokenizer.network
    check_volume(tokenizer)
    found, first = tokenizer.statistics, tokenizer.spec.first_frames
    if found is None and tokenizer.spec.vocabulary is None:
        warnings.warn(
            f"{tokenizer.name} has no statistics of its latents, so pipelines take them as they "
            "are: `reeltok statistics MODEL CLIPS` measures them",
            stacklevel=3,
        )
    if first != 1:
        warnings.warn(
            f"{tokenizer.name} is not causal: its first latent is of {first} frames, for which "
            "pipelines count one, so that they give more frames than they are asked for: give a "
            "causal tokenizer, or crop them",
            stacklevel=3,
        )
    with torch.device("meta"):  # the network of this one takes its place
        made = AutoencoderReeltok(
            family=tokenizer.family,
            name=tokenizer.name,
            network=dump_config(tokenizer.config),
            latents_mean=None if found is None else found["mean"],
            latents_std=None if found is None else found["std"],
            extras=diffusers_extras(tokenizer) or None,
        )
    made.tokenizer = tokenizer
    return made.train(tokenizer.training)


def check_volume(tokenizer: Tokenizer) -> None:
    """ValueError unless latents are a volume "d t h w" from which alone frames are made."""
    if tokenizer.loops:
        raise ValueError(
            f"{tokenizer.name} decodes as it encodes (reference frames, or refined latents), which "
            "a pipeline of diffusers does not: give a VidTok, with refine=0"
        )
    factors = tokenizer.spec.factors
    if len(tokenizer.grid_for(1, tokenizer.spec.size or factors[1:])) != 3 or isinstance(
        tokenizer, Foreign
    ):
        raise ValueError(
            f"{tokenizer.name} ({tokenizer.family}) has no latents b d t h w that diffusers could "
            "save and load again: give a VidTok"
        )
    if tokenizer.family not in FAMILIES or factors[1] != factors[2]:
        raise ValueError(
            f"{tokenizer.name} is of family {tokenizer.family!r} with cells of "
            f"{factors[1]}x{factors[2]} pixels: diffusers takes {', '.join(FAMILIES)}, and square "
            "cells"
        )


def pipeline_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What pipelines look up in the config of a `vae` and what follows from the network."""
    spec = tokenizer.spec
    time, space = spec.factors[:2]
    halvings = math.log2(space)
    # CogVideoX counts these: one more than the halvings of space.
    blocks = [spec.channels] * (int(halvings) + 1) if halvings % 1 == 0 else None
    return {
        "z_dim": spec.channels,
        "latent_channels": spec.channels,
        "scale_factor_temporal": time,
        "scale_factor_spatial": space,
        "temporal_compression_ratio": time,
        "spatial_compression_ratio": space,
        "block_out_channels": blocks,
    }
