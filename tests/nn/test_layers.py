"""Layers: what runs another way on some processors must be the same convolution."""

import pytest
import torch

from reeltok.nn.layers import Conv


@pytest.mark.parametrize("frames", [3, 4, 5, 8])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_a_kernel_folded_over_time_is_the_3d_one(frames: int, stride: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    conv = Conv(5, 7, (3, 3, 3), stride=stride).double()
    padding = (0, 0) if stride[1] > 1 else (1, 1)
    x = torch.randn(2, frames, 9, 9, 5, dtype=torch.double, requires_grad=True)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 1, 0, 1)) if stride[1] > 1 else x
    whole, folded = conv.convolve(x), conv.fold_time(padded, padding)
    torch.testing.assert_close(folded, whole)
    values = [x, conv.weight, conv.bias]
    wanted = torch.autograd.grad(whole.square().sum(), values)
    torch.testing.assert_close(torch.autograd.grad(folded.square().sum(), values), wanted)


@pytest.mark.parametrize("frames", [3, 4, 5])
def test_gradients_in_bfloat16_are_those_of_float32(frames: int) -> None:
    """A 3-D kernel's were NaN or far off in these shapes, on processors with AMX."""
    torch.manual_seed(0)
    conv, x = Conv(96, 128, (3, 3, 3)), torch.randn(2, frames, 32, 32, 96)
    y = conv.convolve(x)
    values, against = (conv.weight, conv.bias), torch.randn_like(y)
    wanted = torch.autograd.grad(y, values, against)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv.convolve(x)
    found = torch.autograd.grad(y, values, against.bfloat16())
    for ours, exact in zip(found, wanted, strict=True):
        assert (ours - exact).norm() < 0.01 * exact.norm()
