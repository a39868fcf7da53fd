"""The continuous bottleneck: a diagonal Gaussian per cell, kept near the unit one by its KL."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.nn.bounds import Width
from reeltok.nn.quantizers.contract import (
    STRICT,
    Quantized,
    as_float,
    full_precision,
    noise_like,
    with_losses,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GaussianConfig:
    """A diagonal Gaussian per cell: the encoder gives `channels` means and log-variances."""

    kind: Literal["gaussian"] = "gaussian"
    channels: Width = 4

    @property
    def features(self) -> int:
        return 2 * self.channels

    @property
    def vocabulary(self) -> None:
        return None

    @property
    def terms(self) -> tuple[str, ...]:
        return ("kl",)

    def build(self) -> "Gaussian":
        return Gaussian(self)


class Gaussian(nn.Module):
    """Mean or sample of a diagonal Gaussian; its loss is unweighted (VidTok weighs it 1e-6)."""

    def __init__(self, config: GaussianConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        z: Float[Tensor, "b *grid features"],
        *,
        step: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        """The mean, or a draw where `sample` is given. `step` is not used."""
        with full_precision(z):
            mean, logvar = as_float(z).chunk(2, dim=-1)
            logvar = logvar.clamp(-30.0, 20.0)
            drawn = mean
            if sample is not None:
                drawn = mean + (0.5 * logvar).exp() * noise_like(mean, torch.randn, sample)
            terms = {}
            if self.training:  # summed over all but the batch, as VidTok does
                kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum() / z.shape[0]
                terms = {"kl": kl}
        return with_losses(drawn.to(z.dtype), None, terms, logvar.to(z.dtype))

    def lookup(self, ids: Int[Tensor, "b *grid"]) -> Float[Tensor, "b *grid d"]:
        raise ValueError("a Gaussian quantizer has no ids to look up; decode from latents instead")
