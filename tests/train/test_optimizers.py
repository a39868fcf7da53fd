"""Muon's matrices, what goes to AdamW, and the learning rate over a run."""

import pytest
import torch
from torch import nn

from reeltok.train.optimizers import (
    Muon,
    OptimizerConfig,
    ScheduleConfig,
    build_optimizers,
    orthogonal,
)


@pytest.mark.parametrize("shape", [(2, 8, 24), (1, 24, 8), (3, 16, 16)])
def test_orthogonal_has_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    turned = orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_muon_moves_convolutions_as_matrices() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(6, 4, 1, 3, 3))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.1).step()
    values = torch.linalg.svdvals(weight.detach().flatten(1)) / (0.1 * 0.2 * 36**0.5)
    assert ((values > 0.5) & (values < 1.3)).all()


def test_alike_matrices_move_as_if_alone() -> None:
    grads = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    together = [nn.Parameter(torch.zeros(8, 8)) for _ in grads]
    for weight, grad in zip(together, grads, strict=True):
        weight.grad = grad.clone()
    Muon(together, lr=0.1).step()
    for weight, grad in zip(together, grads, strict=True):
        alone = nn.Parameter(torch.zeros(8, 8))
        alone.grad = grad.clone()
        Muon([alone], lr=0.1).step()
        torch.testing.assert_close(weight, alone, rtol=0, atol=2e-3)


def test_muon_finds_a_minimum() -> None:
    torch.manual_seed(0)
    target, weight = torch.randn(8, 8), nn.Parameter(torch.zeros(8, 8))
    for step in range(300):
        muon = Muon([weight], lr=0.05 * (1 - step / 300)) if step == 0 else muon
        muon.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        weight.grad = weight.detach() - target
        muon.step()
    assert (weight - target).norm() < 0.2 * target.norm()


def test_parts_go_where_they_belong() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, 4))
    muon, adam = build_optimizers(
        module, OptimizerConfig(kind="muon", plain=("2.",), weight_decay=0.1)
    )
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(4, 3, 3, 3)]
    decays = {g["weight_decay"]: len(g["params"]) for g in adam.param_groups}
    assert decays == {0.1: 1, 0.0: 4}


@pytest.mark.parametrize("kind", ["muon", "adam"])
def test_a_part_that_no_parameter_has_is_refused(kind: str) -> None:
    module = nn.ModuleDict({"decoder": nn.ModuleDict({"conv_out": nn.Linear(2, 2)})})
    build_optimizers(module, OptimizerConfig(kind=kind, plain=("decoder.conv_out", "bias")))
    with pytest.raises(
        ValueError, match=r"loop.discriminator.plain names 'decoder.conv_uot'.*'decoder.conv_out'"
    ):
        build_optimizers(
            module, OptimizerConfig(kind=kind, plain=("decoder.conv_uot",)), "loop.discriminator"
        )


def test_nothing_to_train_is_said() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        build_optimizers(frozen, OptimizerConfig())


def test_rate_rises_rests_and_falls() -> None:
    plan = ScheduleConfig(steps=100, warmup=9, cooldown=0.5)
    assert plan.factor(0) == pytest.approx(0.1)
    assert plan.factor(9) == plan.factor(50) == 1.0
    assert plan.factor(75) == pytest.approx(0.5)
    assert plan.factor(100) == 0.0


def test_cosine_falls_to_the_floor() -> None:
    plan = ScheduleConfig(steps=110, warmup=10, shape="cosine", min_lr_ratio=0.1)
    assert plan.factor(60) == pytest.approx(0.55)
    assert plan.factor(110) == pytest.approx(0.1)
