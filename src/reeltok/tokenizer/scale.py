"""The scale of latents: a decoder's own, and that of the tokens where a tokenizer normalises."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a latent is shifted and scaled by: (z - mean) * factor / std, as its config says.

    `mean` and `std` have a number for each channel, or one for each channel and step.
    """

    factor: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def apply(self, z: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b d *grid"]:
        """Normalised latents of a clip."""
        z = z - self._per_channel(self.mean, z) if self.mean else z
        z = z * self.factor if self.factor != 1 else z
        return z / self._per_channel(self.std, z) if self.std else z

    def undo(self, z: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b d *grid"]:
        """The latents that the decoder takes."""
        z = z * self._per_channel(self.std, z) if self.std else z
        z = z / self.factor if self.factor != 1 else z
        return z + self._per_channel(self.mean, z) if self.mean else z

    def apply_logvar(self, logvar: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b d *grid"]:
        """The log-variance of normalised latents."""
        return logvar + 2 * self._log_gain(logvar)

    def undo_logvar(self, logvar: Float[Tensor, "b d *grid"]) -> Float[Tensor, "b d *grid"]:
        """The log-variance of the latents that the decoder takes."""
        return logvar - 2 * self._log_gain(logvar)

    def _log_gain(self, like: Tensor) -> Tensor | float:
        gain = math.log(self.factor)
        return gain - self._per_channel(self.std, like).log() if self.std else gain

    def statistics(self, channels: int) -> dict[str, list[float]] | None:
        """Mean and standard deviation with which `(z - mean) / std` is `apply`; None: none.

        One number for each channel, or for each channel and step, as `mean` and `std` have.
        """
        if self == Scale():
            return None
        count = max(len(self.mean), len(self.std), channels)
        mean, std = self.mean or (0.0,) * count, self.std or (1.0,) * count
        return {"mean": list(mean), "std": [value / self.factor for value in std]}

    @staticmethod
    def _per_channel(values: tuple[float, ...], z: Tensor) -> Tensor:
        """Values for each channel and step; the last step's go on where a clip is longer."""
        table = z.new_tensor(values).view(1, z.shape[1], -1, 1, 1)
        steps = torch.arange(z.shape[2], device=z.device).clamp(max=table.shape[2] - 1)
        return table[:, :, steps]

    @property
    def record(self) -> dict[str, Any]:
        """What tokens say of it; nothing where latents are as the encoder gives them."""
        found: dict[str, Any] = {"scaling_factor": self.factor} if self.factor != 1 else {}
        found |= {"latents_mean": list(self.mean)} if self.mean else {}
        return found | ({"latents_std": list(self.std)} if self.std else {})
