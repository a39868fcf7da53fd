"""Clips that the training tests share."""

from pathlib import Path

import pytest
from small_run import make_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small clips with a manifest."""
    return make_clips(tmp_path_factory.mktemp("clips"))
