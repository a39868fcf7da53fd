"""Small models in folders, small clips, and a way to run a command inside the test."""

from collections.abc import Callable
from pathlib import Path

import pytest
from moving_clips import moving
from ran import Ran
from small_models import CAUSAL, DISCRETE, NONCAUSAL, save_random

import reeltok
from reeltok.cli.main import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""

    def run_command(*words: object) -> Ran:
        code = main([str(word) for word in words])
        caught = capsys.readouterr()
        return Ran(code, caught.out, caught.err)

    return run_command


CONFIGS = {"discrete": DISCRETE, "causal": CAUSAL, "noncausal": NONCAUSAL}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models with random weights."""
    return save_random(CONFIGS, tmp_path_factory.mktemp("models"))


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
