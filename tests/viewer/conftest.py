"""Two small models in folders, and clips in files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from waves import waves

import reeltok
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok

SMALL = {"width": 8, "multipliers": (1, 1), "blocks": (1, 1)}
SMALL_KL = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}
CONFIGS = {
    "discrete": replace(COMPACT, **SMALL),
    "latent": replace(VIDTOK["vidtok_kl_causal_488_4chn"], **SMALL_KL),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    return {
        name: VidTok(config, name).eval().save_pretrained(folder / name)
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 frames of 48x64, without loss."""
    path = tmp_path_factory.mktemp("clips") / "waves.mkv"
    reeltok.write(waves(9), path, lossless=True)
    return path
