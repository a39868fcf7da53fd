"""Configurations, of networks and of recipes: checked, and their values replaced by path.

>>> override({"loop": {"steps": 9}}, {"loop.steps": "500"}, what="a recipe")
{'loop': {'steps': 500}}
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from reeltok.files.parsing import Kind
from reeltok.files.text import hint, printable

KIND = "kind"
"""The key of a network's table that says which other keys the table has."""
FINITE = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Of every part of a recipe: it is written as JSON, which has no infinity and no NaN."""


def without_infinity(values: dict[str, Any]) -> dict[str, Any]:
    """The settings; ValueError where a number in nested tables and lists is infinite or NaN."""
    try:
        json.dumps(values, allow_nan=False, default=str)
    except ValueError as error:
        raise ValueError("a number in it is not finite") from error
    return values


RecipeSettings = Annotated[dict[str, Any], AfterValidator(without_infinity)]
"""Values of a network's configuration in a recipe."""


def parse(tree: Mapping[str, Any], what: str, kind: type[Kind]) -> Kind:
    """A configuration from nested values; ValueError says in one sentence which value is wrong."""
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        way = [str(part) for part in first["loc"]]
        said = first["msg"]
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            own = [field.name for field in fields(kind)] if is_dataclass(kind) else []
            known = {*siblings(tree, way), *(own if len(way) == 1 else ())}
            said = f"{way[-1]!r} is unknown: {hint(way[-1], sorted(known))}"
        if first["type"] == "missing":
            raise ValueError(f"{what}: {'.'.join(way)} is missing") from error
        place = ".".join(way)
        if first["type"] == "value_error":  # our own sentence
            said = said.removeprefix("Value error, ")
        whole = isinstance(first["input"], Mapping)  # a table, whose sentence names what is wrong
        shown = place if whole else f"{place}={first['input']!r}"
        found = f"{shown}: {said}" if shown else said
        raise ValueError(f"{what}: {printable(found)}") from error


def siblings(tree: Any, way: list[str]) -> list[str]:
    """The other keys of the table where the path `way` ends; it may name kinds on the way."""
    for key in way[:-1]:
        tree = tree.get(key, tree) if isinstance(tree, Mapping) else tree
    return [key for key in tree if key != way[-1]] if isinstance(tree, Mapping) else []


def override(
    tree: Mapping[str, Any],
    changes: Mapping[str, str],
    *,
    what: str,
    free: tuple[str, ...] = (),
    network: bool = False,
) -> dict[str, Any]:
    """A configuration with values replaced: {"loop.schedule.steps": "500", "windows.0.batch": "4"}.

    Values are JSON or plain text. The tables named in `free` take new keys. There, and everywhere
    in a `network`'s configuration, another `kind` replaces its table, but for what `changes` say
    of it. ValueError names the nearest key for an unknown one.
    """
    changed = deepcopy(dict(tree))
    for path, text in changes.items():
        place: Any = changed
        table, _, last = path.rpartition(".")
        way = table.split(".") if table else []
        for depth, key in enumerate(way):
            known = any(k in free for k in way[:depth])
            place = _step_into(place, key, path, what, free=known, root=tree)
        inside, value = any(k in free for k in way), parse_value(text)
        of_kind = isinstance(place, dict) and (inside or (network and KIND in place))
        if last == KIND and of_kind and place.get(KIND) != value:
            for key in [key for key in place if f"{table}.{key}" not in changes]:
                del place[key]
        told = of_kind and f"{table}.{KIND}" in changes
        _require_key(place, last, path, what, free=inside or told, root=tree)
        place[int(last) if isinstance(place, list) else last] = value
    return changed


def _step_into(place: Any, key: str, path: str, what: str, *, free: bool, root: Any) -> Any:
    """What stands under `key`; an empty table where one may be made."""
    if free and isinstance(place, dict) and not isinstance(place.get(key), dict):
        place[key] = {}
    _require_key(place, key, path, what, free=free, root=root)
    return place[int(key)] if isinstance(place, list) else place[key]


def _require_key(place: Any, key: str, path: str, what: str, *, free: bool, root: Any) -> None:
    """ValueError where a configuration has no such key, with where it is, or the nearest one."""
    inside = place if isinstance(place, dict) else ()
    keys = [str(i) for i in range(len(place))] if isinstance(place, list) else list(inside)
    if key in keys or (free and isinstance(place, dict)):
        return
    said = hint(key, keys)
    if isinstance(place, list):
        said = f"there are {len(place)}, counted from 0"
    elif elsewhere := [at for at in paths_of(root, path.rpartition(".")[2]) if at != path]:
        said = f"did you mean {' or '.join(elsewhere[:3])}?"
    raise ValueError(f"{what} has no {path!r} ({key!r} is unknown): {said}")


def paths_of(tree: Any, name: str, above: str = "") -> list[str]:
    """The dotted paths at which nested tables and lists have a key `name`."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    pairs = tree.items() if isinstance(tree, Mapping) else ()
    found = []
    for key, value in pairs:
        here = f"{above}.{key}".lstrip(".")
        found += [here] * (key == name) + paths_of(value, name, here)
    return found


def merge(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A network's configuration with the values of nested tables replaced.

    A table of another `kind` replaces the one there was.
    """
    merged = dict(tree)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            other = value.get(KIND, old.get(KIND)) != old.get(KIND)
            value = dict(value) if other else merge(old, value)
        merged[key] = value
    return merged


def parse_value(text: str) -> Any:
    """A value that was written as JSON, or as plain text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def full_path(tree: Mapping[str, Any], key: str) -> str:
    """The path of a key that is given by its path or, where it is unique, by its name alone."""
    paths = list(_leaves(tree))
    tables = {path.rpartition(".")[0] for path in paths}
    found = [path for path in paths if path.endswith(f".{key}")]
    if key in paths or key in tables or ("." in key and key.rpartition(".")[0] in tables):
        return key
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"a configuration has no {key!r}: "
        + hint(key, [*paths, *(path.rpartition(".")[2] for path in paths)])
    )


def _leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The paths of all values."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"
