"""What every quantizer gives, and the small pieces that all of them need."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass as record
from dataclasses import field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.records import register

STRICT = ConfigDict(extra="forbid")
SCORES = 2**22  # at most so many distances to codes are held at once (16 MiB in float32)


@record(frozen=True, eq=False, kw_only=True)
class Quantized:
    """What a quantizer gives: `z` for the decoder, `ids` (None if continuous), and its losses.

    `z` is "b *grid d" where a quantizer makes it, "b d t h w" where a network hands it on. Where
    it is drawn from a Gaussian, or its mean, `logvar` of the same shape is the log-variance.

    `loss` is the sum of `terms` (each already weighted): "kl", or "commitment", "entropy" and
    "codebook". In evaluation it is zero and `terms` is empty.
    """

    z: Float[Tensor, "b ..."]
    ids: Int[Tensor, "b *grid"] | None
    loss: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    logvar: Float[Tensor, "b ..."] | None = None


register(Quantized, "z", "ids", "loss", "terms", "logvar")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Regularized:
    """The losses that FSQ, LFQ and VQ share; `regularization=False` leaves both out (table 3).

    Entropy per token minus entropy of the mean token distribution, its weight falling linearly from
    `entropy_start` times `entropy` to `entropy` in `entropy_steps` optimizer steps, and commitment,
    the mean squared distance from the encoder's output to its code.
    """

    only_training: ClassVar[tuple[str, ...]] = (
        *("regularization", "entropy", "entropy_start", "entropy_steps"),
        *("temperature", "commitment"),
    )  # settings that decide no token

    regularization: bool = True
    entropy: float = 0.1
    entropy_start: float = 3.0
    entropy_steps: int = Field(default=2000, ge=0)
    temperature: float = Field(default=0.01, gt=0)
    commitment: float = 0.25

    @property
    def terms(self) -> tuple[str, ...]:
        """The losses in training, by name."""
        if not self.regularization:
            return ()
        return ("commitment", "entropy") if self.entropy else ("commitment",)

    def entropy_weight(self, step: int | None) -> float:
        """The weight at an optimizer step; None means long after the annealing."""
        if step is None or step >= self.entropy_steps:
            return self.entropy
        start = self.entropy * self.entropy_start
        return start + (self.entropy - start) * step / self.entropy_steps


def with_losses(
    z: Tensor, ids: Tensor | None, terms: dict[str, Tensor], logvar: Tensor | None = None
) -> Quantized:
    """The record, its loss the sum of the terms."""
    loss = sum(terms.values(), start=torch.zeros((), device=z.device))
    return Quantized(z=z, ids=ids, loss=loss, terms=terms, logvar=logvar)


def join_quantized(parts: Sequence[Quantized]) -> Quantized:
    """Parts that follow one another on the first axis of the grid, as one.

    Terms are means over tokens; those of a continuous quantizer are sums and stay so.
    """
    z = torch.cat([part.z for part in parts], dim=1)
    ids = [part.ids for part in parts if part.ids is not None]
    terms: dict[str, Tensor] = {}
    for part in parts:
        share = part.z.shape[1] / z.shape[1] if ids else 1.0
        for name, term in part.terms.items():
            terms[name] = terms.get(name, torch.zeros_like(term)) + share * term
    spread = [part.logvar for part in parts if part.logvar is not None]
    logvar = torch.cat(spread, dim=1) if spread else None
    return with_losses(z, torch.cat(ids, dim=1) if ids else None, terms, logvar)


def full_precision(z: Tensor) -> AbstractContextManager:
    """A region without autocast, where the device has one (`meta` has none)."""
    kind = z.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def without_cache(x: Tensor) -> AbstractContextManager:
    """A region where autocast, if it is on, keeps no casts of weights.

    Those made without gradients would be used again where gradients are wanted, and lose them.
    """
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False)


def as_float(z: Tensor) -> Tensor:
    """float32, or float64 where that came in."""
    return z if z.dtype == torch.float64 else z.float()


def noise_like(x: Tensor, draw: Any, generator: torch.Generator | None) -> Tensor:
    """Noise of x's shape, drawn where the generator lives, so that a seed fixes it anywhere."""
    device = x.device if generator is None else generator.device
    return draw(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


def clamped_entropy(shares: Tensor) -> Tensor:
    """Entropy in nats of one distribution."""
    return -(shares * shares.clamp(min=1e-5).log()).sum()  # Parity: VidTok clamps the logarithm
