"""Ids as digits of mixed radix: how a lattice's levels, or factors of a vocabulary, make an id."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def split_digits(numbers: Int[Tensor, "*n"], sizes: Sequence[int]) -> Int[Tensor, "*n k"]:
    """The digits of numbers, digit i in [0, `sizes[i]`), the least significant first."""
    device = numbers.device
    return numbers[..., None] // strides_of(sizes, device) % torch.tensor(sizes, device=device)


def join_digits(digits: Int[Tensor, "*n k"], sizes: Sequence[int]) -> Int[Tensor, "*n"]:
    """The numbers that digits make; the inverse of `split_digits`."""
    return (digits * strides_of(sizes, digits.device)).sum(-1)


def centre_of(sizes: Sequence[int]) -> int:
    """The number whose digits are all in the middle: the id of a lattice's zero code."""
    return sum(size // 2 * math.prod(sizes[:i]) for i, size in enumerate(sizes))


def strides_of(sizes: Sequence[int], device: torch.device | str = "cpu") -> Int[Tensor, " k"]:
    """What each digit counts for."""
    return torch.tensor([math.prod(sizes[:i]) for i in range(len(sizes))], device=device)
