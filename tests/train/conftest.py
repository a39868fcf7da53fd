"""Clips that the training tests share."""

from pathlib import Path

import pytest
from small_run import make_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small clips with a manifest."""
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path_factory.getbasetemp() / "decoded"))
