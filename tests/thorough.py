"""What the default run leaves to `make test-all`, which sets REELTOK_ALL_EXAMPLES."""

import os
from collections.abc import Container, Iterable
from typing import Any

import pytest


def examples(few: int, many: int) -> int:
    """How many examples hypothesis tries: `few`, or `many` where time is no matter."""
    return many if os.environ.get("REELTOK_ALL_EXAMPLES") else few


def slow_but(kept: Container[Any], values: Iterable[Any]) -> list[Any]:
    """Parameters of a test, all marked slow but those that are `kept` in the default run.

    A tuple holds the values of several parameters.
    """

    def slow(value: Any) -> Any:
        several = value if isinstance(value, tuple) else (value,)
        return pytest.param(*several, marks=pytest.mark.slow)

    return [value if value in kept else slow(value) for value in values]
