"""Loss values, each against a number worked out by hand."""

import math

import pytest
import torch
from torch import nn

from reeltok.train.losses import (
    LeCAM,
    adaptive_weight,
    discriminator_loss,
    flicker_loss,
    generator_loss,
    gradient_penalty,
    pixel_loss,
)


def test_pixel_losses() -> None:
    x = torch.zeros(1, 3, 2, 4, 4)
    y = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), -0.1)], dim=1)[None]
    assert pixel_loss(x, y, "l1").tolist() == [pytest.approx([0.5, 0.1])]
    assert pixel_loss(x, y, "l2").tolist() == [pytest.approx([0.25, 0.01])]
    logs = [math.log(0.25 + 1e-4), math.log(0.01 + 1e-4)]
    assert pixel_loss(x, y, "log-mse").tolist() == [pytest.approx(logs, rel=1e-4)]
    logs = [math.log(0.25 + 0.01), math.log(0.01 + 0.01)]
    assert pixel_loss(x, y, "log-mse", floor=0.01).tolist() == [pytest.approx(logs, rel=1e-4)]


def test_flicker_is_of_errors_that_change() -> None:
    x = torch.rand(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    still = flicker_loss(x, x + 0.3)
    assert still.tolist() == [pytest.approx([0.0, 0.0, 0.0], abs=1e-6)]
    shift = torch.tensor([0.0, 0.1, -0.1])[None, None, :, None, None]
    assert flicker_loss(x, x + shift).tolist() == [pytest.approx([0.0, 0.1, 0.2], rel=1e-4)]
    assert flicker_loss(x[:, :, :1], x[:, :, :1]).tolist() == [[0.0]]


def test_hinge() -> None:
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-2.0, 0.0]])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert generator_loss(fake, "hinge").item() == pytest.approx(1.0)


def test_cross_entropy_is_of_each_samples_mean_logit() -> None:
    fake = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    expected = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    assert generator_loss(fake, "cross-entropy").item() == pytest.approx(expected)
    patches = [math.log1p(math.exp(-v)) for v in (1, 3, 0, 0)]
    assert generator_loss(fake, "non-saturating").item() == pytest.approx(sum(patches) / 4)
    real = torch.tensor([[0.0]])
    soft = 0.5 * (math.log(2) + sum(math.log1p(math.exp(v)) for v in (1, 3, 0, 0)) / 4)
    assert discriminator_loss(real, fake, "non-saturating").item() == pytest.approx(soft)


def test_lecam_moves_its_means_and_penalises_crossing() -> None:
    lecam = LeCAM(decay=0.5)
    first = lecam(torch.tensor([[2.0]]), torch.tensor([[-4.0]]))
    assert (lecam.real.item(), lecam.fake.item()) == (1.0, -2.0)
    assert first.item() == pytest.approx((2 - -2) ** 2 + (1 - -4) ** 2)
    fresh = LeCAM()
    fresh.load_state_dict(lecam.state_dict())
    assert fresh.real.item() == 1.0
    for odd in (math.inf, math.nan):
        assert not lecam(torch.tensor([[odd]]), torch.tensor([[-odd]])).isfinite()
    assert (lecam.real.item(), lecam.fake.item()) == (1.0, -2.0)


def test_gradient_penalty_of_a_linear_critic() -> None:
    weight = torch.tensor([1.0, -2.0, 2.0])
    discriminator = lambda x: torch.einsum("bcthw,c->bthw", x, weight)
    x = torch.randn(2, 3, 1, 2, 2)
    assert gradient_penalty(discriminator, x).item() == pytest.approx(9 * 4)


def test_adaptive_weight_balances_gradients() -> None:
    weight = nn.Parameter(torch.ones(4))
    kept, added = (6 * weight).sum(), (2 * weight).sum()
    assert adaptive_weight(kept, added, weight).item() == pytest.approx(12 / (4 + 1e-4))
    assert adaptive_weight(kept * 1e9, added, weight).item() == 1e4
