"""What every test shares: where reference data lies, one thread's worth of determinism, seeds."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
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
def types_unchecked() -> Iterator[None]:
    """Without checks of types: torch.compile and torch.export cannot trace them, and what people
    hand over may be anything; the library's own sentences are tested then.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What tests cache goes with them, and shares itself among them; no weights but the shared."""
    monkeypatch.delenv("REELTOK_WEIGHTS", raising=False)
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def gpu() -> torch.device:
    """A CUDA device, or a skip; REQUIRE_GPU=1 makes its absence a failure."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail("REQUIRE_GPU=1, but torch sees no CUDA device")
    pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium (REELTOK_CHROMIUM, or the one of the system) driven by playwright, or a skip."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    path = os.environ.get("REELTOK_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(path).exists():
        pytest.skip(f"no browser at {path}: apt-get install chromium, or set REELTOK_CHROMIUM")
    with driver.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
