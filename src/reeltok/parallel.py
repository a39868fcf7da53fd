"""One process or many: joining a torchrun group, and what its processes hold together.

Every function here also works without a group, as its only process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from reeltok.devices import pick_device


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Which process this is, of how many, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[Rank]:
    """The place of this process; inside a torchrun job, a member of its group until the end."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = str(pick_device(name))
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        rank, world = rank_and_world()
        yield Rank(device=torch.device(name), rank=rank, world=world)
        return
    if name.startswith("cuda"):
        torch.cuda.set_device(name)
    dist.init_process_group("cpu:gloo,cuda:nccl" if name.startswith("cuda") else "gloo")
    try:
        yield Rank(device=torch.device(name), rank=dist.get_rank(), world=dist.get_world_size())
    finally:
        dist.destroy_process_group()


@contextmanager
def in_turn(place: Rank) -> Iterator[None]:
    """The first process of each machine goes in, then the others."""
    waits = place.world > 1 and os.environ.get("LOCAL_RANK", str(place.rank)) != "0"
    if waits:
        dist.barrier()
    yield
    if place.world > 1 and not waits:
        dist.barrier()


@contextmanager
def gloo_group() -> Iterator[None]:
    """Inside, the processes that torchrun started form a group for what lies in main memory."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo")  # what is gathered lies in main memory
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank_and_world() -> tuple[int, int]:
    """(rank, processes) under torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(mine: Any) -> list[Any]:
    """What every process holds, the same on each."""
    if not dist.is_initialized():
        return [mine]
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, mine)
    return held


class MeanOverRanks(torch.autograd.Function):
    """The mean over processes. Every process then holds the same loss, so gradients sum back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_ranks(x.clone()) / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_ranks(grad.clone()) / dist.get_world_size()


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of x over all processes, with gradients; x itself where there is one process."""
    return MeanOverRanks.apply(x) if dist.is_initialized() else x


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over all processes, in place, without gradients."""
    if dist.is_initialized():
        sent = x.cuda() if dist.get_backend() == "nccl" else x  # NCCL takes no CPU tensors
        dist.all_reduce(sent)
        x.copy_(sent)
    return x


def any_rank(place: Rank, *flags: bool) -> list[bool]:
    """Flags that are up on any process."""
    if place.world == 1:
        return list(flags)
    both = torch.tensor([float(flag) for flag in flags], device=place.device)
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in both.tolist()]


def averaged(place: Rank, numbers: dict[str, float]) -> dict[str, float]:
    """Numbers of the same names on every process, meaned over the processes."""
    if place.world == 1:
        return numbers
    values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=place.device)
    dist.all_reduce(values)
    return dict(zip(numbers, (values / place.world).tolist(), strict=True))


def from_first(x: Tensor) -> Tensor:
    """The first process's `x`, on every process, in place."""
    if dist.is_initialized():
        dist.broadcast(x, 0)
    return x
