"""Spreading a module's training over the processes of a torchrun group (`reeltok.parallel`).

"ddp" gives every process the whole model (torch's DistributedDataParallel); "fsdp2" gives each a
part of every parameter (torch's fully_shard). Either way a step's loss runs through `LossModule`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

Strategy = Literal["ddp", "fsdp2"]


class LossModule(nn.Module):
    """A module whose forward is a step's loss, so that its parameters are seen by DDP and FSDP2."""

    def __init__(self, inside: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.inside, self.loss = inside, loss

    def forward(self, *inputs: Any) -> Any:
        return self.loss(*inputs)


def wrap_loss(
    inside: nn.Module, loss: Callable[..., Any], strategy: Strategy, *, leaves_out: bool = False
) -> nn.Module:
    """`loss` as a module whose gradients are averaged over all processes.

    `leaves_out`: a step may give some parameters no gradient.
    """
    module = LossModule(inside, loss)
    if not dist.is_initialized():
        return module
    if strategy == "ddp":
        return DistributedDataParallel(module, find_unused_parameters=leaves_out)
    return shard(module)


def shard(module: LossModule) -> nn.Module:
    """FSDP2: each child of a module list apart, then the rest."""
    for name, weight in module.named_parameters():
        if weight.ndim == 0:
            raise ValueError(f"fsdp2 cannot spread the number {name}: train with loop.strategy=ddp")
    for unit in units(module):
        if any(p.requires_grad for p in unit.parameters()):
            fully_shard(unit)
    fully_shard(module)
    return module


def units(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand in a module list, at any depth."""
    for child in module.children():
        listed = isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList)
        if listed:
            yield child
        else:
            yield from units(child)


def no_sync(module: nn.Module, last: bool) -> AbstractContextManager:
    """Leave gradients on their process until the last part of an accumulated batch."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    return nullcontext()


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Inside, every parameter that FSDP2 spread is whole on every process."""
    parts = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


@contextmanager
def full_parameters(module: nn.Module) -> Iterator[None]:
    """Inside, parameters that FSDP2 spread are plain tensors, to be written; no forward pass."""
    spread_out: list[tuple[nn.Module, str, nn.Parameter]] = []
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if isinstance(weight, DTensor):
                spread_out.append((part, name, weight))
                full = nn.Parameter(whole_of(weight.detach()), weight.requires_grad)
                part.register_parameter(name, full)
    try:
        yield
    finally:
        for part, name, weight in spread_out:
            part.register_parameter(name, weight)


def total_norm(grads: list[Tensor]) -> Tensor:
    """The norm of all gradients together, spread or whole."""
    return whole_of(torch.nn.utils.get_total_norm(grads))


def whole_of(x: Tensor) -> Tensor:
    """All of a tensor that FSDP2 spread over processes."""
    return x.full_tensor() if isinstance(x, DTensor) else x
