"""FSQ's loss `even`: the divergence from independent channels that use every level equally."""

import math

import pytest
import torch

from reeltok.nn.quantizers import FSQConfig
from reeltok.nn.quantizers.lattice import EVEN_SPREAD, unevenness

LEVELS = (16, 4, 2)


def usage(z: torch.Tensor) -> float:
    """Perplexity of the ids as a share of the codebook."""
    found = FSQConfig(levels=LEVELS).build().eval()(z).ids.flatten()
    shares = torch.bincount(found, minlength=math.prod(LEVELS)) / len(found)
    entropy = -(shares * shares.clamp_min(1e-9).log()).sum()
    return float(entropy.exp()) / math.prod(LEVELS)


def test_it_is_the_divergence_of_two_normal_distributions() -> None:
    mean, spread = 0.5, 2.0
    x = EVEN_SPREAD * (mean + spread * torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    expected = (mean**2 + spread**2 - 1 - math.log(spread**2)) / 2
    assert unevenness(x).item() == pytest.approx(expected, abs=1e-5)


def test_channels_that_repeat_one_another_are_uneven() -> None:
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)) * EVEN_SPREAD
    assert unevenness(torch.cat([x, x], dim=1)) > 3
    assert unevenness(torch.cat([x, x.roll(1, 0)], dim=1)) < 0.01


def test_values_it_calls_even_use_all_levels_alike() -> None:
    flat = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.atanh(flat * 0.9999)
    assert unevenness(x) < 0.01
    shift = FSQConfig(levels=LEVELS).build().range(x)[2]
    assert usage((x - shift)[None]) > 0.9  # the outermost levels are half as wide


def test_descending_it_wakes_idle_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator)
    source = torch.randn(1, 4000, 3, generator=generator) @ mix * 0.1
    turn = torch.eye(3).requires_grad_()
    quantizer = FSQConfig(levels=LEVELS, regularization=False, even=1.0).build()
    before = usage(source)
    optimizer = torch.optim.Adam([turn], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = quantizer(source @ turn).loss
        loss.backward()
        optimizer.step()
    assert before < 0.2
    assert usage((source @ turn).detach()) > 0.6


def test_it_costs_nothing_unless_asked_for() -> None:
    z = torch.randn(1, 10, 3)
    assert "even" not in FSQConfig(levels=LEVELS).build()(z).terms
    assert FSQConfig(levels=LEVELS, even=0.1).build().eval()(z).terms == {}
