"""Small models in folders, small clips, and a way to run a command inside the test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok.cli.main import main
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok, VidTokConfig


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""

    def run_command(*words: object) -> Ran:
        code = main([str(word) for word in words])
        caught = capsys.readouterr()
        return Ran(code, caught.out, caught.err)

    return run_command


SMALL = {"width": 8, "multipliers": (1, 1), "blocks": (1, 1)}
SMALL_KL = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}
CONFIGS: dict[str, VidTokConfig] = {
    "discrete": replace(COMPACT, **SMALL),
    "causal": replace(VIDTOK["vidtok_kl_causal_488_4chn"], **SMALL_KL),
    "noncausal": replace(VIDTOK["vidtok_kl_noncausal_488_4chn"], **SMALL_KL),
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
    """18 frames of 32x40, without loss."""
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    reeltok.write(moving(18), path, lossless=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two clips, one of them deeper."""
    place = tmp_path / "clips"
    (place / "deep").mkdir(parents=True)
    reeltok.write(moving(5), place / "one.mp4")
    reeltok.write(moving(6), place / "deep" / "two.mp4")
    return place
