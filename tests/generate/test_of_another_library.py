"""Generators on tokenizers of diffusers: a flow on a continuous one, a prior on a discrete one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_foreign import TINY
from small_priors import SMALL

import reeltok
from reeltok.generate import flow, masked
from reeltok.generate.pipeline import GenerationRequest, open_generator
from reeltok.generate.prior import Prior
from reeltok.generate.sit import Flow, Statistics
from reeltok.tokenizer.contract import Tokenizer

FSQ = {"regularizer": "fsq", "codebook_size": 64, "z_channels": 2, "double_z": False}


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Tokenizer]:
    """A tiny autoencoder of diffusers with weights of seed 0, opened by its name."""
    diffusers = pytest.importorskip("diffusers")

    def make(name: str, **more: Any) -> Tokenizer:
        torch.manual_seed(0)
        model = getattr(diffusers, name).from_config(dict(TINY[name] | more))
        model.save_pretrained(tmp_path / "theirs")
        return reeltok.load(f"diffusers:{tmp_path / 'theirs'}")

    return make


def test_a_flow_makes_latents_that_they_decode(
    opened: Callable[..., Tokenizer], tmp_path: Path
) -> None:
    tokenizer = opened("AutoencoderKLWan")
    config = flow.config_for(tokenizer, frames=5, size=(32, 32), fps=10, **SMALL)
    one = Statistics(
        mean=((0.0,) * config.channels,) * len(config.groups),
        std=((1.0,) * config.channels,) * len(config.groups),
    )
    model = Flow(replace(config, statistics=one)).eval()
    torch.manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    how = {"steps": 2, "first": 0}  # by the clip, as a pipeline draws them
    tokens = flow.generate(model, tokenizer, seed=3, **how)
    made = tokenizer.decode(tokens)
    assert made.shape == (1, 3, 5, 32, 32)
    assert made.isfinite().all()
    other = flow.generate(model, tokenizer, seed=4, **how)
    assert not torch.equal(tokenizer.decode(other), made)
    folder = flow.save(model, tmp_path / "flow" / "model")
    with pytest.raises(ValueError, match="name its folder with `tokenizer`"):
        open_generator(
            folder, GenerationRequest(), tokenizer=None, device="cpu"
        )  # a file does not decide it
    named = f"diffusers:{tmp_path / 'theirs'}"
    pipeline = open_generator(folder, GenerationRequest(steps=2), tokenizer=named, device="cpu")
    (part,) = pipeline.make(1, 3, 0, lambda share: None)
    assert torch.allclose(part, made, atol=1e-5)


def test_a_prior_makes_ids_that_they_decode(opened: Callable[..., Tokenizer]) -> None:
    tokenizer = opened("AutoencoderVidTok", **FSQ)
    config = masked.config_for(tokenizer, frames=5, size=(32, 32), **SMALL)
    torch.manual_seed(0)
    prior = Prior(config).eval()
    assert config.vocabulary == tokenizer.spec.vocabulary == 64
    tokens = masked.generate(prior, tokenizer, seed=1)
    assert 0 <= int(tokens.ids.min()) <= int(tokens.ids.max()) < 64
    assert tokenizer.decode(tokens).shape == (1, 3, 5, 32, 32)
    other = masked.generate(prior, tokenizer, seed=2)
    assert torch.equal(masked.generate(prior, tokenizer, seed=1).ids, tokens.ids)
    assert not torch.equal(other.ids, tokens.ids)


def test_each_kind_refuses_the_other(opened: Callable[..., Tokenizer]) -> None:
    with pytest.raises(ValueError, match="is continuous and a prior predicts ids"):
        masked.config_for(opened("AutoencoderKLWan"), frames=5, size=(32, 32), **SMALL)
    with pytest.raises(ValueError, match="is discrete: a flow makes continuous latents"):
        flow.config_for(opened("AutoencoderVidTok", **FSQ), frames=5, size=(32, 32), **SMALL)
