"""Discriminators: shapes, sizes and starting weights of the public code's."""

import pytest
import torch

from reeltok.train.discriminators import DiscriminatorConfig


def test_frame_discriminator_has_the_published_size() -> None:
    """64 filters, three layers, no biases before BatchNorm: summed by hand below."""
    discriminator = DiscriminatorConfig(kind="frames").build()
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    norms = 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in discriminator.parameters()) == convolutions + norms
    assert discriminator(torch.randn(1, 3, 2, 64, 64)).shape == (2, 1, 6, 6)
    assert discriminator[0].weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_clip_discriminator_strides() -> None:
    discriminator = DiscriminatorConfig(kind="clips", width=8).build()
    assert discriminator(torch.randn(1, 3, 9, 32, 32)).shape == (1, 1, 3, 4, 4)
    strides = [m.stride for m in discriminator if isinstance(m, torch.nn.Conv3d)]
    assert strides == [(2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1)]


def test_discriminator_can_do_without_norms() -> None:
    for kind in ("frames", "clips"):
        discriminator = DiscriminatorConfig(kind=kind, width=4, norm="none").build().train()
        x = torch.randn(2, 3, 5, 32, 32)
        alone = torch.cat([discriminator(x[:1]), discriminator(x[1:])])
        torch.testing.assert_close(discriminator(x), alone)


def test_clip_discriminator_stays_exact_under_autocast() -> None:
    """On a CPU, where gradients of 3-D kernels in bfloat16 are not to be trusted (layers.Conv)."""
    discriminator, x = (
        DiscriminatorConfig(kind="clips", width=4).build().eval(),
        torch.randn(1, 3, 5, 32, 32),
    )
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = discriminator(x)
    assert torch.equal(under_autocast, discriminator(x))
