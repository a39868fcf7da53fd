"""Critics: shapes, sizes and starting weights of the public code's."""

import pytest
import torch

from reeltok.train.critics import CriticConfig


def test_frame_critic_has_the_published_size() -> None:
    """64 filters, three layers, no biases before BatchNorm: summed by hand below."""
    critic = CriticConfig(kind="frames").build()
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    norms = 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in critic.parameters()) == convolutions + norms
    assert critic(torch.randn(1, 3, 2, 64, 64)).shape == (2, 1, 6, 6)
    assert critic[0].weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_clip_critic_strides() -> None:
    critic = CriticConfig(kind="clips", width=8).build()
    assert critic(torch.randn(1, 3, 9, 32, 32)).shape == (1, 1, 3, 4, 4)
    strides = [m.stride for m in critic if isinstance(m, torch.nn.Conv3d)]
    assert strides == [(2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1)]


def test_critics_can_do_without_norms() -> None:
    for kind in ("frames", "clips"):
        critic = CriticConfig(kind=kind, width=4, norm="none").build().train()
        x = torch.randn(2, 3, 5, 32, 32)
        alone = torch.cat([critic(x[:1]), critic(x[1:])])
        torch.testing.assert_close(critic(x), alone)


def test_clip_critic_stays_exact_under_autocast() -> None:
    """On a CPU, where gradients of 3-D kernels in bfloat16 are not to be trusted (layers.Conv)."""
    critic, x = CriticConfig(kind="clips", width=4).build().eval(), torch.randn(1, 3, 5, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        judged = critic(x)
    assert torch.equal(judged, critic(x))
