"""Clips and a small default that the training tests share."""

from pathlib import Path

import pytest
import torch
from small_models import DISCRETE
from small_run import make_clips
from small_siblings import NETWORKS

from reeltok import zoo
from reeltok.models.presets import PRESETS
from reeltok.models.vidtok.network import VidTok


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small clips with a manifest."""
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small network in place of the bundled default, and of what begins with it."""
    bundled = tmp_path / "weights"
    torch.manual_seed(1)
    folder = VidTok(DISCRETE, "default").save_pretrained(bundled / "default", small=True)
    monkeypatch.setattr(zoo, "BUNDLED", bundled)
    for name, config in NETWORKS.items():
        monkeypatch.setitem(PRESETS, name, ("vidtok", config))
    return folder
