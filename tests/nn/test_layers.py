"""Layers: what runs another way on some processors must be the same convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import profile

from reeltok.models.vidtok.stages import fold, unfold
from reeltok.nn import layers
from reeltok.nn.layers import Conv, Edge, Norm, Residual
from reeltok.nn.past import Past, name_layers


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


@pytest.mark.parametrize("edge", ["both", "past-zeros", "past-first"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("norms", [1, 2])
def test_frames_in_front_are_written_where_their_room_is(
    edge: Edge, streamed: bool, norms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients nothing is copied for them: the same as with the copies."""
    block = Residual(6, 8, (3, 1, 1), edge=edge, norms=norms)
    nn.init.normal_(block.convs[1].weight)
    name_layers(block, "block")
    x = torch.randn(2, 5, 4, 3, 6)
    pieces = [(0, 1), (1, 3), (3, 5)] if streamed and edge != "both" else [(0, 5)]
    found = {}
    for way in ("copied", "in place"):
        if way == "copied":
            monkeypatch.setattr(Conv, "room", 0)
        past = Past() if len(pieces) > 1 else None
        with torch.no_grad():
            found[way] = torch.cat([block(x[:, a:b].clone(), past) for a, b in pieces], dim=1)
        monkeypatch.undo()
    torch.testing.assert_close(found["copied"], found["in place"], rtol=1e-6, atol=1e-6)
    with torch.enable_grad():
        torch.testing.assert_close(block(x), block(x).detach(), rtol=0, atol=0)
        assert all(conv.room == 0 for conv in block.convs)
    with torch.no_grad():
        assert [conv.room for conv in block.convs] == ([0, 0] if edge == "both" else [2, 2])


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2), (2, 1, 3)])
def test_channels_move_whole_where_no_gradient_is_asked(patch: tuple[int, int, int]) -> None:
    size = math.prod(patch)
    narrow, wide = Conv(5 * size, 7, (1, 1, 1)), Conv(5, 7 * size, (1, 1, 1))
    x = torch.randn(2, *(2 * side for side in patch), 5, dtype=torch.double)
    for conv, way in ((narrow.double(), fold), (wide.double(), unfold)):
        plain = way(conv, x, patch)
        assert plain.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(way(conv, x, patch), plain.detach())


@pytest.mark.parametrize("stride", [1, 2])
def test_narrow_outputs_are_summed_over_the_kernel_s_frames(stride: int) -> None:
    """Without gradients, on a CPU, in float32: the same as the convolution that torch has."""
    conv, x = Conv(64, 9, (3, 3, 3), stride=(stride, 1, 1)), torch.randn(2, 5, 6, 7, 64)
    with torch.no_grad():
        found = conv.convolve(x)
        torch.testing.assert_close(conv.sum_time(x, (1, 1)), found, rtol=0, atol=0)
    torch.testing.assert_close(found, conv.convolve(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 8, 8), (4, 3, 57), (6, 32, 32)])
def test_small_frames_do_not_take_torch_s_slow_convolution(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    conv, x = Conv(64, 64, (3, 3, 3)), torch.randn(1, 64, *size)
    wanted = F.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))
    with torch.no_grad(), profile() as found:
        y = conv.convolve(x.permute(0, 2, 3, 4, 1))
    torch.testing.assert_close(y.permute(0, 4, 1, 2, 3), wanted, rtol=0, atol=2e-5)
    assert not [event.name for event in found.events() if "slow" in event.name]


@pytest.mark.parametrize("room", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_silu_are_the_same_in_parts(
    room: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some positions after the other, the last part shorter, but for rounding."""
    norm = Norm(6).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, kept = torch.randn(2, 3, 5, 7, 6).to(dtype), [0]
    in_parts = Norm.in_parts
    monkeypatch.setattr(Norm, "in_parts", lambda *a: (kept.append(1), in_parts(*a))[1])
    with torch.no_grad():
        whole = norm(x, room)
        monkeypatch.setattr(layers, "PART", 100)
        parts = norm(x, room)
    assert sum(kept) == 1
    assert parts.shape == whole.shape == (2, 3 + room, 5, 7, 6)
    torch.testing.assert_close(parts[:, room:], whole[:, room:], rtol=1e-6, atol=1e-6)
    assert norm(x).requires_grad
    assert sum(kept) == 1
