"""Networks so small that a clip takes a moment, for all tests."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from reeltok.models.coordtok.triplane import CoordTokConfig
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok, VidTokConfig

SMALL = {"width": 8, "multipliers": (1, 1), "blocks": (1, 1)}
SMALL_PUBLIC = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}
DISCRETE = replace(COMPACT, **SMALL)
CAUSAL = replace(VIDTOK["vidtok_kl_causal_488_4chn"], **SMALL_PUBLIC)
NONCAUSAL = replace(VIDTOK["vidtok_kl_noncausal_488_4chn"], **SMALL_PUBLIC)

COORDTOK = CoordTokConfig(
    size=(8, 16, 24),
    patch=(4, 8, 8),
    cells=(4, 4, 6),
    cell_patch=(2, 2, 3),
    channels=3,
    width=16,
    heads=2,
    vit_depth=1,
    depth=1,
    decoder_patch=(2, 4, 4),
    decoder_width=32,
    decoder_heads=2,
    decoder_depth=2,
)


def save_random(configs: Mapping[str, VidTokConfig], folder: Path) -> dict[str, Path]:
    """A folder for each configuration, below `folder`, with random weights."""
    torch.manual_seed(1)
    return {
        name: VidTok(config, name).eval().save_pretrained(folder / name)
        for name, config in configs.items()
    }
