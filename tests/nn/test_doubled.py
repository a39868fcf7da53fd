"""Doubling and the convolution behind it, done in one, are the two steps but for rounding."""

from dataclasses import replace

import pytest
import torch

from reeltok import devices
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.stages import Up, double_space
from reeltok.nn import doubled
from reeltok.nn.past import Past, name_layers


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """A list that grows by a 1 with every call of a function of `doubled`."""
    taken, convolve = [0], getattr(doubled, name)
    monkeypatch.setattr(doubled, name, lambda *a, **k: (taken.append(1), convolve(*a, **k))[1])
    return taken


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (8, 8)])
def test_one_step_is_the_two(size: tuple[int, int]) -> None:
    x, bias = torch.randn(2, 3, *size, 12), torch.randn(10)
    weight = torch.randn(10, 12, 1, 3, 3) / 108**0.5
    found = doubled.convolve_doubled(x, doubled.fold_doubling(weight), bias)
    wide = double_space(x).permute(0, 4, 1, 2, 3)
    plain = torch.nn.functional.conv3d(wide, weight, bias, padding=(0, 1, 1))
    torch.testing.assert_close(found, plain.permute(0, 2, 3, 4, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1"])
def test_a_stage_doubles_the_same_way_whole_and_streamed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    up, x = Up(8, 8, time=True, config=replace(VIDTOK[name], width=8)), torch.randn(1, 4, 5, 6, 8)
    name_layers(up, "up")
    taken = count_calls(monkeypatch, "convolve_doubled")

    def run() -> torch.Tensor:
        past = Past()
        return torch.cat([up(x), up(x[:, :1], past), up(x[:, 1:], past)], dim=1)

    with torch.no_grad():
        monkeypatch.setenv(devices.CONVOLUTION, "direct")
        plain = run()
        assert sum(taken) == 0
        monkeypatch.setenv(devices.CONVOLUTION, "winograd")
        torch.testing.assert_close(run(), plain, rtol=1e-5, atol=1e-5)
        assert sum(taken) == 3
        up.space.weight[0, 0, 0, 0, 0] += 1  # a changed weight is seen
        assert not torch.allclose(run(), plain)
    up(x).sum().backward()
    assert up.space.weight.grad is not None
    assert sum(taken) == 6


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_frame_of_each_pair_stands_for_both(apart: bool, count: int) -> None:
    frames, bias = torch.randn(2, count, 5, 6, 12), torch.randn(10)
    weight = torch.randn(10, 12, 3, 3, 3) / 324**0.5
    one = torch.zeros(2, 1, 5, 6, 12)
    pairs, front, back = frames.repeat_interleave(2, 1), [one] * (1 if apart else 2), [one] * apart
    whole = torch.cat([*front, pairs, *back], dim=1)
    plain = torch.nn.functional.conv3d(
        whole.permute(0, 4, 1, 2, 3), weight, bias, padding=(0, 1, 1)
    )
    seen = torch.cat([one, frames, *back], dim=1)
    found = doubled.convolve_pairs(seen, doubled.fold_pairs(weight), bias, apart=apart)
    assert found.shape[1] == 2 * count
    torch.testing.assert_close(found, plain.permute(0, 2, 3, 4, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "vidtok_kl_noncausal_488_4chn"])
def test_a_stage_doubles_time_the_same_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    up = Up(96, 96, time=True, config=replace(VIDTOK[name], width=96))
    x = torch.randn(1, 5, 8, 8, 96)
    name_layers(up, "up")
    taken = count_calls(monkeypatch, "convolve_pairs")
    parts = [x] if name.endswith("noncausal_488_4chn") else [x, x[:, :2], x[:, 2:3], x[:, 3:]]

    def run() -> torch.Tensor:
        past = Past()
        return torch.cat([up(parts[0]), *(up(part, past) for part in parts[1:])], dim=1)

    with torch.no_grad():
        monkeypatch.setenv(devices.CONVOLUTION, "direct")
        plain = run()
        assert sum(taken) == 0
        monkeypatch.setenv(devices.CONVOLUTION, "winograd")
        torch.testing.assert_close(run(), plain, rtol=1e-5, atol=1e-5)
        assert sum(taken) == len(parts)
    up(x).sum().backward()
    assert sum(taken) == len(parts)
