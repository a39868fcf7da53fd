"""Convolutions with fewer products are the plain ones but for rounding."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reeltok import devices
from reeltok.nn import winograd
from reeltok.nn.layers import Conv
from reeltok.nn.past import Past, name_layers

WAYS = ["mkl", "onednn"] if devices.has_onednn() else ["mkl"]


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Winograd's way on any processor; the list gets a number each time it is taken."""
    monkeypatch.setenv(devices.CONVOLUTION, "winograd")
    taken: list[int] = []
    convolve = winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda *a, **k: (taken.append(1), convolve(*a, **k))[1]
    )
    return taken


def plain(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, (stride, 1, 1), (0, 1, 1))
    return y.permute(0, 2, 3, 4, 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(2, 2), (7, 9), (1, 6), (6, 1), (30, 31), (3, 300)])
@pytest.mark.parametrize("times", [(1, 1, 1), (3, 1, 1), (5, 3, 1), (7, 3, 2)])
def test_it_is_the_plain_convolution(
    way: str,
    size: tuple[int, int],
    times: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames, kernel, stride = times
    monkeypatch.setenv(devices.MATMUL, way)
    x, bias = torch.randn(2, frames, *size, 12), torch.randn(10)
    weight = torch.randn(10, 12, kernel, 3, 3) / (12 * 9 * kernel) ** 0.5
    found = winograd.convolve(x, winograd.transform_weight(weight), bias, stride)
    torch.testing.assert_close(found, plain(x, weight, bias, stride), rtol=1e-5, atol=1e-5)


def test_it_rounds_no_worse_than_the_plain_one() -> None:
    x, weight, bias = torch.randn(1, 3, 16, 16, 256), torch.randn(64, 256, 3, 3, 3), torch.zeros(64)
    exact = plain(x.double(), weight.double(), bias.double(), 1)
    ours = winograd.convolve(x, winograd.transform_weight(weight), bias)
    errors = [(found - exact).abs().max() for found in (ours, plain(x, weight, bias, 1))]
    assert errors[0] < 2 * errors[1]


FRAMES = torch.randn(1, 3, 16, 16, 96, generator=torch.Generator().manual_seed(0))


def both_ways(conv: Conv, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    monkeypatch.setenv(devices.CONVOLUTION, "direct")
    direct = conv(x)
    monkeypatch.setenv(devices.CONVOLUTION, "winograd")
    return conv(x), direct


@pytest.mark.parametrize("change", ["copy_", "data", "load", "new"])
def test_a_changed_weight_is_seen(
    change: str, taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    conv, other = Conv(96, 96, (3, 3, 3)), Conv(96, 96, (3, 3, 3))
    with torch.no_grad():
        torch.testing.assert_close(*both_ways(conv, FRAMES, monkeypatch), rtol=1e-5, atol=1e-5)
        assert taken == [1]
        if change == "copy_":
            conv.weight[5, 4, 2, 1, 0] = 3.0
        elif change == "data":
            conv.weight.data.copy_(other.weight.data)
        elif change == "load":
            conv.load_state_dict(other.state_dict())
        else:
            conv.weight = other.weight
        torch.testing.assert_close(*both_ways(conv, FRAMES, monkeypatch), rtol=1e-5, atol=1e-5)
    assert taken == [1, 1]


def test_one_value_that_changes_uncounted_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Conv(96, 96, (3, 3, 3))
    with torch.no_grad():
        before = conv(FRAMES)
        conv.weight.data[5, 7, 1, 1, 1] += 3.0
        assert not torch.equal(conv(FRAMES), before)
        torch.testing.assert_close(*both_ways(conv, FRAMES, monkeypatch), rtol=1e-5, atol=1e-5)


def test_a_weight_is_transformed_once_and_saved_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Conv(96, 96, (3, 3, 3))
    with torch.no_grad():
        conv(FRAMES)
        kept = conv.transformed.kept
        conv(FRAMES)
    assert conv.transformed.kept is kept is not None
    assert set(conv.state_dict()) == {"weight", "bias"}
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert other.transformed.kept is None
    with torch.inference_mode():
        made = Conv(96, 96, (3, 3, 3))
        torch.testing.assert_close(*both_ways(made, FRAMES, monkeypatch), rtol=1e-5, atol=1e-5)


def test_training_and_other_types_take_the_plain_one(taken: list[int]) -> None:
    conv = Conv(96, 96, (3, 3, 3))
    conv(FRAMES).sum().backward()
    assert conv.weight.grad is not None
    narrow = Conv(95, 96, (3, 3, 3))
    with torch.no_grad():
        conv(FRAMES[:, :, :8])  # small frames
        narrow(FRAMES[..., :95])
        Conv(96, 96, (3, 3, 3), stride=(1, 2, 2))(FRAMES)
        Conv(128, 128, (1, 3, 3))(FRAMES.repeat(1, 1, 1, 1, 2)[..., :128])
        conv.double()(FRAMES.double())
        conv.bfloat16()(FRAMES.bfloat16())
    assert not taken


def test_a_stream_is_the_whole_clip(taken: list[int]) -> None:
    conv = Conv(96, 96, (3, 3, 3))
    name_layers(conv, "conv")
    past = Past()
    with torch.no_grad():
        whole = conv(FRAMES)
        parts = [conv(FRAMES[:, i : i + 1], past) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-6)
    assert len(taken) == 4


@pytest.mark.parametrize(
    ("wide", "way"), [("AVX512", "winograd"), ("AVX2", "winograd"), ("DEFAULT", "direct")]
)
def test_the_rule_looks_at_the_instructions(
    wide: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(devices.CONVOLUTION)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: wide)
    assert devices.convolution() == devices.describe_machine()["convolution"] == way
    monkeypatch.setenv(devices.CONVOLUTION, "fft")
    with pytest.raises(ValueError, match="REELTOK_CONVOLUTION=fft is not known: give direct or"):
        devices.convolution()


def test_a_thread_computes_directly_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.CONVOLUTION, "winograd")
    first, second = devices.direct_convolutions(), devices.direct_convolutions()
    with first:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(devices.convolution).result() == "winograd"
        with second:
            assert devices.convolution() == "direct"
        assert devices.convolution() == "direct"
    assert devices.convolution() == "winograd"


def test_rows_that_have_their_neighbours_need_no_zeros(taken: list[int]) -> None:
    x, weight, bias = torch.randn(1, 3, 21, 30, 12), torch.randn(10, 12, 3, 3, 3), torch.randn(10)
    transformed = winograd.transform_weight(weight / 18)
    whole = winograd.convolve(x, transformed, bias)
    found = winograd.convolve(x, transformed, bias, above=0)
    torch.testing.assert_close(found, whole[:, :, 1:-1], rtol=1e-5, atol=1e-5)
