"""The Gaussian of a clip: its mean is what `encode` gives, its log-variance what draws have."""

import pytest
import torch
from small_foreign import TINY
from small_models import CAUSAL, DISCRETE, NONCAUSAL

from reeltok.models.foreign.diffusers import Diffusers, DiffusersConfig
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.posterior import encode_posterior
from reeltok.tokenizer.scale import Scale

CLIP = torch.rand(2, 3, 7, 20, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("config", [CAUSAL, NONCAUSAL], ids=["causal", "noncausal"])
def test_its_mean_is_the_latent_and_its_spread_that_of_draws(config) -> None:
    model = VidTok(config).eval()
    found = encode_posterior(model, CLIP)
    assert torch.equal(found.mean, model.encode(CLIP).latents)
    noise = torch.randn(found.mean.permute(0, 2, 3, 4, 1).shape, generator=seeded())
    drawn = found.mean + (found.logvar / 2).exp() * noise.permute(0, 4, 1, 2, 3)
    assert torch.allclose(drawn, model.encode(CLIP, sample=seeded()).latents, atol=1e-5)


def test_tiles_give_that_of_tiled_latents() -> None:
    model = VidTok(CAUSAL).eval()
    found = encode_posterior(model, CLIP, tile=16)
    assert torch.equal(found.mean, model.encode(CLIP, tile=16).latents)
    assert found.logvar.shape == found.mean.shape


def test_a_discrete_tokenizer_has_none() -> None:
    with pytest.raises(ValueError, match="gives no log-variance: only an encoder of Gaussians"):
        encode_posterior(VidTok(DISCRETE).eval(), CLIP)


def test_that_of_another_library_is_raw() -> None:
    """What diffusers' own class gives, whatever its tokens are normalised by."""
    pytest.importorskip("diffusers")
    model = Diffusers(DiffusersConfig(class_name="AutoencoderKLWan", arguments=TINY_WAN), "wan")
    x = CLIP[:1, :, :5, :16, :16]
    found = encode_posterior(model.eval(), x)
    with torch.no_grad():
        dist = model.network.encode(x).latent_dist
    assert torch.allclose(found.mean, dist.mean, atol=1e-5)
    assert torch.allclose(found.logvar, dist.logvar, atol=1e-5)
    assert not torch.allclose(model.encode(x).latents, dist.mean, atol=1e-2)


TINY_WAN = TINY["AutoencoderKLWan"]


@pytest.mark.parametrize(
    "scale",
    [
        Scale(),
        Scale(factor=0.5),
        Scale(factor=0.5, mean=(1.0, 2.0)),
        Scale(mean=(1.0, 2.0), std=(3.0, 4.0)),
        Scale(factor=2.0, mean=(1.0, 2.0, 3.0, 4.0), std=(1.0, 2.0, 3.0, 4.0)),
    ],
)
def test_statistics_say_what_a_scale_does(scale: Scale) -> None:
    z = torch.randn(1, 2, 2, 3, 3)
    found = scale.statistics(2)
    assert (found is None) == (scale == Scale())
    found = found or {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
    mean, std = (torch.tensor(found[name]).view(1, 2, -1, 1, 1) for name in ("mean", "std"))
    assert torch.allclose((z - mean) / std, scale.apply(z), atol=1e-6)
    assert torch.allclose(scale.undo(scale.apply(z)), z, atol=1e-6)
    spread = torch.randn(1, 2, 2, 3, 3)
    wide = (spread / 2).exp() / std
    assert torch.allclose(scale.apply_logvar(spread), 2 * wide.log(), atol=1e-5)
    assert torch.allclose(scale.undo_logvar(scale.apply_logvar(spread)), spread, atol=1e-5)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)
