"""A training configuration as one frozen value: read, changed by path, written as JSON.

>>> recipe = change(find_recipe("vidtok_stage1"), {"loop.schedule.steps": "1000"})
"""

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from reeltok.train.clips import DataConfig
from reeltok.train.patches import PatchConfig
from reeltok.train.reconstruct import LossConfig
from reeltok.train.run import LoopConfig

Kind = TypeVar("Kind")
"""A kind of recipe: a frozen pydantic dataclass."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """Everything a run needs but the data's place.

    `model` is a preset, or the folder of a model. Its weights are `start`: "fresh" from the seed,
    or "trained" as they are. `warm` names a model whose weights a fresh one of more parts begins
    with. `settings` replaces values of the model's configuration. `patches` trains a CoordTok on
    some of its patches, as the paper does, instead of on whole clips by `losses`.
    """

    name: str
    model: str
    start: Literal["fresh", "trained"] = "fresh"
    warm: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    losses: LossConfig = LossConfig()
    patches: PatchConfig | None = None
    loop: LoopConfig = LoopConfig()


@runtime_checkable
class Planned(Protocol):
    """What any kind of recipe says: the clips, and how the loop runs."""

    @property
    def data(self) -> DataConfig: ...
    @property
    def loop(self) -> LoopConfig: ...


def parse(tree: Mapping[str, Any], what: str, kind: type[Kind]) -> Kind:
    """A recipe from nested values; ValueError says in one sentence which value is wrong."""
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        way = [str(part) for part in first["loc"]]
        said = first["msg"]
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            said = f"{way[-1]!r} is unknown: {hint(way[-1], siblings(tree, way))}"
        raise ValueError(f"{what}: {'.'.join(way)}={first['input']!r}: {said}") from error


def siblings(tree: Any, way: list[str]) -> list[str]:
    """The other keys of the table where the path `way` ends; it may name kinds on the way."""
    for key in way[:-1]:
        tree = tree.get(key, tree) if isinstance(tree, Mapping) else tree
    return [key for key in tree if key != way[-1]] if isinstance(tree, Mapping) else []


def nearest(word: str, known: Iterable[str]) -> str | None:
    """What `word` was probably meant to be: what begins with it, else what looks much like it."""
    known = list(known)
    begun = [name for name in known if word and name.startswith(word)]
    return next(iter(begun or get_close_matches(word, known, n=1, cutoff=0.5)), None)


def hint(word: str, known: Iterable[str]) -> str:
    """What to write instead of `word`: the nearest that is known, or all there are."""
    near = nearest(word, known := list(known))
    return f"did you mean {near!r}?" if near else f"there are {', '.join(known) or 'none'}"


def unknown_recipe(name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that no recipe has."""
    near = nearest(name, known := list(known))
    asked = f"did you mean {near!r}? " if near else ""
    return ValueError(
        f"no recipe {name!r}: {asked}There are {', '.join(known)}, or give a recipe.json"
    )


def as_json(recipe: Any) -> str:
    """The whole recipe, as `find_recipe` reads it."""
    return TypeAdapter(type(recipe)).dump_json(recipe, indent=1).decode() + "\n"


FREE = ("settings", "weights", "terms")  # tables that take new keys


def change(recipe: Kind, changes: Mapping[str, str]) -> Kind:
    """The recipe with values replaced: {"loop.schedule.steps": "500", "data.windows.0.batch": "4"}.

    Values are JSON or plain text. ValueError names the nearest key for an unknown one.
    """
    tree = json.loads(as_json(recipe))
    for path, text in changes.items():
        place: Any = tree
        *way, last = path.split(".")
        for depth, key in enumerate(way):
            place = step_into(place, key, path, free=any(k in FREE for k in way[:depth]))
        require_key(place, last, path, free=any(k in FREE for k in way))
        place[int(last) if isinstance(place, list) else last] = value_of(text)
    return parse(tree, "the changed recipe", type(recipe))


def step_into(place: Any, key: str, path: str, *, free: bool) -> Any:
    """What stands under `key`; an empty table where one may be made."""
    if free and isinstance(place, dict) and not isinstance(place.get(key), dict):
        place[key] = {}
    require_key(place, key, path, free=free)
    return place[int(key)] if isinstance(place, list) else place[key]


def require_key(place: Any, key: str, path: str, *, free: bool) -> None:
    """ValueError where a recipe has no such key, with the nearest one it has."""
    keys = [str(i) for i in range(len(place))] if isinstance(place, list) else list(place or ())
    if key in keys or (free and isinstance(place, dict)):
        return
    raise ValueError(f"a recipe has no {path!r} ({key!r} is unknown): {hint(key, keys)}")


def value_of(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
