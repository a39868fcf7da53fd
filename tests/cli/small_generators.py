"""Generators and their tokenizers, with random weights and so small that a video takes a moment."""

from dataclasses import replace
from pathlib import Path

import torch
from small_models import COORDTOK

from reeltok.generate import flow, masked
from reeltok.generate.prior import Prior
from reeltok.generate.sit import Flow, Statistics
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig
from reeltok.tokenizer.contract import Tokenizer

PLANES = replace(
    COORDTOK,
    size=(4, 16, 16),
    cells=(2, 4, 4),
    cell_patch=(2, 2, 2),
    decoder_patch=(1, 8, 8),
    decoder_width=16,
    decoder_depth=1,
)
BODY = replace(COMPACT, width=8, quantizer=FSQConfig(levels=(4, 4, 3), regularization=False))
NETWORK = {"width": 16, "depth": 1, "heads": 2}
SIZE = (16, 16)


def make_tokenizers() -> dict[str, Tokenizer]:
    torch.manual_seed(0)
    return {
        "planes": CoordTok(PLANES, "planes").eval(),
        "plain": VidTok(BODY, "plain").eval(),
        "leaning": RefTok(RefTokConfig(body=BODY, width=4), "leaning").eval(),
    }


def make_flow(tokenizer: Tokenizer, folder: Path, *, known: bool = True, **values) -> Path:
    """A flow in a folder, with statistics where they are `known`."""
    torch.manual_seed(0)
    config = flow.config_for(tokenizer, fps=10.0, **NETWORK, **values)
    if known:
        rows = len(config.groups)
        mean, std = ((0.0,) * config.channels,) * rows, ((1.0,) * config.channels,) * rows
        config = replace(config, statistics=Statistics(mean=mean, std=std))
    model = Flow(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return flow.save(model, folder)


def make_prior(tokenizer: Tokenizer, folder: Path, *, frames: int, **values) -> Path:
    """A prior in a folder."""
    torch.manual_seed(0)
    values = {"size": SIZE, "fps": 10.0, **NETWORK, **values}
    config = masked.config_for(tokenizer, frames=frames, **values)
    prior = Prior(config)
    with torch.no_grad():
        for name, weight in prior.named_parameters():
            weight.normal_(std=2.0 if name.startswith(("classes", "actions")) else 0.3)
    return masked.save(prior, folder)
