"""The fixture that makes small clips."""

from pathlib import Path

import pytest
from small_clips import Clip, clip_maker


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """A function that writes a clip into this test's folder and gives its path."""
    return clip_maker(tmp_path)
