"""Two small models in folders, and clips in files."""

from pathlib import Path

import pytest
from small_models import CAUSAL, DISCRETE, save_random
from waves import waves

import reeltok

CONFIGS = {"discrete": DISCRETE, "latent": CAUSAL}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models with random weights."""
    return save_random(CONFIGS, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 frames of 48x64, without loss."""
    path = tmp_path_factory.mktemp("clips") / "waves.mkv"
    reeltok.write(waves(9), path, lossless=True)
    return path
