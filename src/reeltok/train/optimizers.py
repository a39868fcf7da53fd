"""Optimizers and the learning rate: AdamW (or Adam), and Muon for the matrices inside a network.

Muon (K. Jordan et al. 2024): momentum whose matrix is replaced by the nearest orthogonal one.
A convolution counts as the matrix `out x (in t h w)`. Updates are scaled to the size that AdamW's
have (Liu et al. 2025, "Muon is scalable for LLM training": 0.2 sqrt(larger side)), so that one
learning rate serves both.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from reeltok.configuration import FINITE
from reeltok.devices import multiplies
from reeltok.files.text import hint
from reeltok.train.parallel import whole_of

NEWTON_SCHULZ = (
    3.4445,
    -4.7750,
    2.0315,
)  # quintic of Jordan et al.: steep at 0, near 1 after 5 steps


Momentum = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True, config=FINITE)
class OptimizerConfig:
    """Which optimizer, its learning rate and weight decay.

    `plain` names parts that Muon leaves to AdamW.
    """

    kind: Literal["adam", "adamw", "muon"] = "adamw"
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: Momentum = 0.95
    plain: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, config=FINITE)
class ScheduleConfig:
    """The learning rate over `steps` steps: linear warm-up, then constant, then linear cooldown.

    The cooldown, to `min_lr_ratio` times `lr`, takes the share `cooldown` of the steps at their
    end. `shape="cosine"` falls there from the warm-up on instead. `warmup` is in steps, and takes
    at most half of them: however short the run, it reaches `lr`.
    """

    steps: int = Field(default=10_000, ge=1)
    warmup: int = Field(default=0, ge=0)
    shape: Literal["constant", "cosine"] = "constant"
    cooldown: float = Field(default=0.0, ge=0, le=1)
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)

    @property
    def rise(self) -> int:
        """The steps of the warm-up: `warmup`, or as many as fit."""
        return min(self.warmup, self.steps // 2)

    def factor(self, step: int) -> float:
        """What step `step` (from 0) multiplies `lr` with."""
        risen = min(1.0, (step + 1) / (self.rise + 1))
        if self.shape == "cosine":
            done = min(1.0, max(0.0, step - self.rise) / max(1, self.steps - self.rise))
            return risen * (
                self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done))
            )
        fall = min(self.cooldown * self.steps, self.steps - self.rise)
        left = min(1.0, max(0, self.steps - step) / fall) if fall else 1.0
        return risen * (self.min_lr_ratio + (1 - self.min_lr_ratio) * left)


def orthogonal(matrices: Float[Tensor, "n r c"], *, steps: int = 5) -> Float[Tensor, "n r c"]:
    """The nearest orthogonal matrices by Newton-Schulz: singular values 0.7 to 1.2.

    In bfloat16, or in float32 where the processor lacks it.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if multiplies(torch.bfloat16, matrices.device) else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        x = polynomial @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(Optimizer):
    """Muon with Nesterov momentum, decoupled weight decay; matrices of one shape are one batch."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.shape].append(weight)
            for weights in alike.values():
                self._move(weights, **{k: group[k] for k in ("lr", "momentum", "weight_decay")})

    def _move(self, weights: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        grads = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        speeds = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(speeds, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, speeds, momentum)
        turned = orthogonal(torch.stack([whole_of(g).flatten(1) for g in ahead]))
        scale = 0.2 * math.sqrt(max(turned.shape[1:]))
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        for weight, update in zip(weights, turned, strict=True):
            weight.add_(_like(update.reshape(weight.shape), weight), alpha=-lr * scale)


def _like(x: Tensor, model: Tensor) -> Tensor:
    """`x` spread over processes as `model` is."""
    if not isinstance(model, DTensor):
        return x
    return distribute_tensor(x, model.device_mesh, model.placements, src_data_rank=None)


def build_optimizers(
    module: nn.Module, config: OptimizerConfig, setting: str = "loop.optimizer"
) -> list[Optimizer]:
    """Optimizers for all parameters that are not frozen; weight decay spares biases and norms.

    ValueError where none is left, or where `plain` names none.
    """
    require_matches(module, config.plain, f"{setting}.plain")
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise ValueError("nothing to train: every parameter is frozen; check loop.freeze")
    inner = [
        (name, p)
        for name, p in trained
        if config.kind == "muon" and p.ndim >= 2 and not any(part in name for part in config.plain)
    ]
    chosen = {name for name, _ in inner}
    rest = [(name, p) for name, p in trained if name not in chosen]
    optimizers: list[Optimizer] = []
    if inner:
        matrices = [p for _, p in inner]
        optimizers.append(
            Muon(matrices, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        )
    if rest:
        optimizers.append(_adam([p for _, p in rest], config))
    return optimizers


def require_matches(module: nn.Module, parts: Iterable[str], setting: str) -> None:
    """ValueError where a part of a name is in no parameter's name."""
    names = [name for name, _ in module.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            raise ValueError(
                f"{setting} names {part!r}, which no parameter's name has in it: "
                f"{hint(part, first_two_levels(names))}"
            )


def first_two_levels(names: Iterable[str]) -> list[str]:
    """What the names of parameters begin with, two levels deep: for people to choose from."""
    found = {".".join(name.removeprefix("tokenizer.").split(".")[:2]) for name in names}
    return sorted(found)


def _adam(parameters: list[Tensor], config: OptimizerConfig) -> Optimizer:
    if config.kind == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_lr(optimizers: list[Optimizer], lr: float) -> None:
    """Give every group the learning rate of this step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
