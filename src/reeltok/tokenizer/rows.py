"""Weights in few bits: the rows of matrices as small integers, each with its scale.

docs/decisions/0006 says what that costs.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from reeltok.files.checkpoints import read_checkpoint
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


def read_packed(path: str | Path) -> dict[str, Tensor]:
    """The weights of a file or folder, unpacked. ValueError, with its name, where it is damaged."""
    weights = read_checkpoint(path)
    try:
        return unpack_rows(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def unpack_rows(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as float32 where `pack_rows` packed them; all others as they are.

    ValueError where rows, scales and shapes are not of one matrix.
    """
    plain = {name: x for name, x in weights.items() if not name.endswith((SCALE, SHAPE))}
    for name, tensor in plain.items():
        if name + SHAPE in weights:
            tensor = unpack_shape(name, tensor, weights[name + SHAPE].flatten().tolist())
        if name + SCALE in weights:
            scale = weights[name + SCALE].float()
            if tensor.ndim < 2 or scale.shape != tensor.shape[:1]:
                raise ValueError(
                    f"the rows of {name!r} have {scale.numel():,} scales for a matrix of "
                    f"{tuple(tensor.shape)}: the file is damaged, get it again"
                )
            plain[name] = (tensor.float().flatten(1) * scale[:, None]).view(tensor.shape)
    return plain


def unpack_shape(name: str, packed: Tensor, shape: list[int]) -> Tensor:
    """The integers of a matrix of `shape` that lie in 6 bits each."""
    count = prod(shape)
    known = min(shape, default=0) > 0 and packed.dtype == torch.uint8 and packed.ndim == 1
    if not known or packed.numel() != -(-count * 6 // 8):
        raise ValueError(
            f"the rows of {name!r} are {packed.numel():,} bytes, which is no matrix of "
            f"{tuple(shape)} in 6 bits: the file is damaged, get it again"
        )
    return torch.from_numpy(unpack_ids(packed.cpu().numpy(), 6, count) - 32).view(shape)
