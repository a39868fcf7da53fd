"""Losses of a reconstruction and of a discriminator: functions, and what a step sums up.

Values are means over elements unless `reduce="sum"`, the sum over a frame's elements that VidTok's
published recipe uses. Statistics over a batch are taken over all processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.parallel import mean_over_ranks

Pixel = Literal["l1", "l2", "log-mse"]
AdversarialLoss = Literal["hinge", "non-saturating", "cross-entropy"]
LOG_MSE_FLOOR = 1e-4  # in (value range 2)^2: errors below about 46 dB earn nothing more


@dataclass(frozen=True)
class Losses:
    """One step's loss: the scalar to minimise, its named parts for the log, and what was made."""

    total: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    made: Any = None


def pixel_loss(
    x: Float[Tensor, "b c t h w"],
    y: Float[Tensor, "b c t h w"],
    kind: Pixel,
    *,
    floor: float = LOG_MSE_FLOOR,
) -> Float[Tensor, "b t"]:
    """The error of every frame: mean |x - y|, mean (x - y)^2, or log(mean (x - y)^2 + floor)."""
    error = x.float() - y.float()
    if kind == "l1":
        return error.abs().mean(dim=(1, 3, 4))
    squared = error.square().mean(dim=(1, 3, 4))
    return squared if kind == "l2" else torch.log(squared + floor)


def flicker_loss(
    x: Float[Tensor, "b c t h w"], y: Float[Tensor, "b c t h w"]
) -> Float[Tensor, "b t"]:
    """The mean |error| of every frame's difference to the one before; 0 for the first frame.

    An error that stays where it is costs nothing: what it forbids is shimmer.
    """
    error = y.float() - x.float()
    return F.pad(error.diff(dim=2).abs().mean(dim=(1, 3, 4)), (1, 0))


def discriminator_loss(
    real: Float[Tensor, "b *p"], fake: Float[Tensor, "n *q"], kind: AdversarialLoss
) -> Float[Tensor, ""]:
    """What a discriminator minimises, given its logits: hinge, else sigmoid cross-entropy."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: Float[Tensor, "b *p"], kind: AdversarialLoss) -> Float[Tensor, ""]:
    """What a generator minimises: -logit, softplus(-logit) per patch, or that of sample means.

    "cross-entropy" is VidTok's: sigmoid cross-entropy of the mean logit of a sample against 1.
    """
    if kind == "hinge":
        return -fake.mean()
    if kind == "non-saturating":
        return F.softplus(-fake).mean()
    return F.softplus(-fake.flatten(1).mean(dim=1)).mean()


class LeCAM(nn.Module):
    """Ties a discriminator to running means of its logits (Tseng et al. 2021), which are saved."""

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.real: Tensor
        self.fake: Tensor
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(
        self, real: Float[Tensor, "b *p"], fake: Float[Tensor, "b *p"]
    ) -> Float[Tensor, ""]:
        """The penalty; then the means, over all processes, move towards this batch if finite."""
        with torch.no_grad():
            for mean, logits in ((self.real, real), (self.fake, fake)):
                new = mean_over_ranks(logits.float().mean())
                mean.lerp_(torch.where(new.isfinite(), new, mean), 1 - self.decay)
        above = F.relu(real - self.fake).square().mean()
        below = F.relu(self.real - fake).square().mean()
        return above + below


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], x: Float[Tensor, "b c t h w"]
) -> Float[Tensor, ""]:
    """R1 (Mescheder et al. 2018): the mean over clips of |d logits / d x|^2 at real clips."""
    x = x.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return grad.square().flatten(1).sum(dim=1).mean()


def adaptive_weight(
    kept: Float[Tensor, ""], added: Float[Tensor, ""], weight: Tensor, *, most: float = 1e4
) -> Float[Tensor, ""]:
    """The factor with which `added` moves `weight` as much as `kept` does (Esser et al. 2021).

    Gradients are averaged over all processes before their norms are taken.
    """
    norms = []
    for loss in (kept, added):
        (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
        norms.append(mean_over_ranks(grad.detach().float()).norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, most).detach()
