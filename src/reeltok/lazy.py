"""Names of a package that are fetched when first used (PEP 562), so that importing it is quick."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def fetch_from(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names live in these modules of it.

    It raises AttributeError, with the names there are, for any other.
    """

    def fetch(name: str) -> Any:
        if name not in homes:
            known = ", ".join(homes)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {known}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return fetch
