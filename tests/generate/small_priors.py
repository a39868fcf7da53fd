"""Tokenizers and priors so small that a clip takes a moment; clips of noise."""

from dataclasses import replace

import torch
from torch import Tensor

from reeltok.generate import masked
from reeltok.generate.prior import Prior
from reeltok.models.presets import COMPACT
from reeltok.nn.quantizers import FSQConfig

BODY = replace(COMPACT, width=8, quantizer=FSQConfig(levels=(4, 4, 3), regularization=False))
SMALL = {"width": 16, "depth": 2, "heads": 2}
SIZE = (16, 24)


def prior_for(tokenizer, frames: int, **values) -> Prior:
    torch.manual_seed(0)
    config = masked.config_for(tokenizer, frames=frames, size=SIZE, **SMALL, **values)
    prior = Prior(config).eval()
    with torch.no_grad():
        for name, weight in prior.named_parameters():
            weight.normal_(std=2.0 if name.startswith(("class_embed", "actions")) else 0.3)
    return prior


def clip(frames: int, batch: int = 1, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, *SIZE, generator=generator) * 2 - 1
