"""Weights in few bits: the rows of matrices as small integers, each with its scale.

docs/decisions/0006 says what that costs.
"""

from collections.abc import Mapping
from math import prod
from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from reeltok.tokens.payload import pack_ids, unpack_ids

Bits = Literal[6, 8]
SCALE = ".row-scale"  # behind a tensor's name: its rows' scales
SHAPE = ".row-shape"  # and, where several numbers share bytes, its shape
SHORT = ~0xFFF  # keeps 12 significant bits of a float32: 127 times such a number is exact


def pack_rows(weights: Mapping[str, Tensor], bits: Bits = 8) -> dict[str, Tensor]:
    """Matrices as integers beside a float32 scale for each row, the output channel; vectors as is.

    Of 8 bits as int8 in the matrix's shape, of 6 in a uint8 vector without gaps. What was packed
    once is packed again without loss: a row's largest step is 127 (31), and its scale is so short
    that so many times it, divided again, is the same.
    """
    packed = dict(weights)
    for name, tensor in weights.items():
        if tensor.ndim > 1 and tensor.is_floating_point():
            steps, packed[name + SCALE] = round_rows(tensor.detach().float().flatten(1), bits)
            if bits == 8:
                packed[name] = steps.view(tensor.shape)
            else:
                whole = steps.flatten().numpy().astype("int64") + 2 ** (bits - 1)
                packed[name] = torch.from_numpy(pack_ids(whole, bits))
                packed[name + SHAPE] = torch.tensor(tensor.shape)
    return packed


def round_rows(
    rows: Float[Tensor, "n m"], bits: Bits
) -> tuple[Int8[Tensor, "n m"], Float[Tensor, "n"]]:
    """The nearest multiples of each row's scale, and the scales."""
    most = 2 ** (bits - 1) - 1
    scale = (rows.abs().amax(1) / most).clamp(min=torch.finfo(torch.float32).tiny)
    scale = (scale.view(torch.int32) & SHORT).view(torch.float32)
    return (rows / scale[:, None]).round().clamp(-most, most).to(torch.int8), scale


def unpack_rows(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as float32 where `pack_rows` packed them; all others as they are."""
    plain = {name: x for name, x in weights.items() if not name.endswith((SCALE, SHAPE))}
    for name, tensor in plain.items():
        if name + SHAPE in weights:
            shape = weights[name + SHAPE].tolist()
            steps = unpack_ids(tensor.cpu().numpy(), 6, prod(shape)) - 32
            tensor = torch.from_numpy(steps).view(shape)
        if name + SCALE in weights:
            rows = tensor.float().flatten(1) * weights[name + SCALE].float()[:, None]
            plain[name] = rows.view(tensor.shape)
    return plain
