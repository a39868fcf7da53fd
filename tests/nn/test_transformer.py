"""Attention in training: plain products where they are faster, equal to the fused kernel."""

import pytest
import torch
import torch.nn.functional as F

from reeltok.nn.transformer import SHORT, attend, trains_short


@pytest.mark.parametrize("keys", [5, 33])
def test_plain_products_are_the_fused_kernel_s(keys: int) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, n, 48, generator=rng) for n in (5, keys, keys)]
    plain = [x.bfloat16().requires_grad_() for x in tensors]
    assert trains_short(plain[0], plain[1])
    made = attend(*plain, 3)
    exact = [x.detach().float().requires_grad_() for x in plain]
    heads = [x.unflatten(-1, (3, -1)).transpose(1, 2) for x in exact]
    wanted = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    assert torch.allclose(made.float(), wanted, atol=2e-2)
    made.float().square().sum().backward()
    wanted.square().sum().backward()
    for x, y in zip(plain, exact, strict=True):
        assert torch.allclose(x.grad.float(), y.grad, atol=0.05 * y.grad.abs().max().item())


def test_everything_else_takes_the_fused_kernel() -> None:
    short, long = torch.zeros(1, 2, SHORT, 8), torch.zeros(1, 2, SHORT + 1, 8)
    trained = short.bfloat16().requires_grad_()
    assert trains_short(trained, short)
    assert not trains_short(trained, long)
    assert not trains_short(short.bfloat16(), short)
    assert not trains_short(short.clone().requires_grad_(), short)
