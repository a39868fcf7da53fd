"""docs/training.md speaks of every recipe; tests/test_docs.py runs its code."""

from pathlib import Path

from reeltok.train.recipes import RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_every_recipe_is_described() -> None:
    page = PAGE.read_text()
    assert all(f"`{name}`" in page for name in RECIPES)
