"""VidTok of diffusers, the oracle of ours, so small that a clip takes a moment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import reeltok
from reeltok.tokenizer.contract import Tokenizer


def pair_of(arguments: Mapping[str, Any], folder: Path) -> tuple[Any, Tokenizer]:
    """diffusers' model with weights that all matter, and ours of the same folder."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.AutoencoderVidTok(**{"ch": 8, **arguments}).eval()
    for name, parameter in theirs.named_parameters():
        if "mix_factor" in name:
            nn.init.normal_(parameter, 0.5, 0.7)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
        else:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    theirs.save_pretrained(folder)
    return theirs, reeltok.load(folder)
