"""What every test shares: where reference data lies, one thread's worth of determinism, seeds."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).parent.parent
settings.register_profile("still", deadline=None, derandomize=True, database=None)
settings.load_profile("still")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data (REELTOK_SHARED, default ../shared), or a skip that says why."""
    folder = Path(os.environ.get("REELTOK_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set REELTOK_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def gpu() -> torch.device:
    """A CUDA device, or a skip; REQUIRE_GPU=1 makes its absence a failure."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail("REQUIRE_GPU=1, but torch sees no CUDA device")
    pytest.skip("needs a CUDA device")
