"""The code in docs/training.md runs as it stands."""

import re
from pathlib import Path

import pytest

from reeltok.train.recipes import RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_task_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1]
    exec(compile(code, str(PAGE), "exec"), {})
    assert (tmp_path / "runs" / "line" / "log.jsonl").is_file()


def test_every_recipe_is_described() -> None:
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in RECIPES)
