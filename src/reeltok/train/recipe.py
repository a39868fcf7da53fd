"""A training configuration as one frozen value: read, changed by path, written as JSON.

>>> recipe = change(find_recipe("vidtok_stage1"), {"loop.schedule.steps": "1000"})
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from reeltok.configuration import FINITE, RecipeSettings, override, parse
from reeltok.files.parsing import Kind
from reeltok.files.text import nearest
from reeltok.train.clips import DataConfig
from reeltok.train.patches import PatchConfig
from reeltok.train.reconstruct import LossConfig
from reeltok.train.renames import key_in_words, new_key
from reeltok.train.run import LoopConfig


@dataclass(frozen=True, kw_only=True, config=FINITE)
class Recipe:
    """Everything a run needs but the data's place.

    `model` is a preset, or the folder of a model. Its weights are `start`: "fresh" from the seed,
    or "trained" as they are; then no noise stands for rounding at first. `warm` names a model whose
    weights a fresh one of more parts begins with. `settings` replaces values of the model's
    configuration. `patches` trains a CoordTok on some of its patches, as the paper does, instead
    of on whole clips by `losses`.
    """

    name: str
    model: str
    start: Literal["fresh", "trained"] = "fresh"
    warm: str | None = None
    settings: RecipeSettings = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    losses: LossConfig = LossConfig()
    patches: PatchConfig | None = None
    loop: LoopConfig = LoopConfig()


@runtime_checkable
class Planned(Protocol):
    """What any kind of recipe says: its name, the clips, and how the loop runs."""

    @property
    def name(self) -> str: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def loop(self) -> LoopConfig: ...


def require_tokenizer(recipe: Any) -> None:
    """ValueError for a recipe that is not a tokenizer's."""
    if not isinstance(recipe, Recipe):
        name = getattr(recipe, "name", recipe)
        raise ValueError(
            f"{name!r} is not the recipe of a tokenizer: `reeltok train` takes those of generators"
        )


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

    Values are JSON or plain text; another `kind` of quantizer replaces its table in `settings`.
    ValueError names the nearest key for an unknown one, and the new one for an old one.
    """
    for path in changes:
        if new_key(path) is not None:
            raise ValueError(f"a recipe has no {path!r}: {key_in_words(path)}")
    tree = json.loads(as_json(recipe))
    changed = override(tree, changes, what="a recipe", free=FREE)
    return parse(changed, "the changed recipe", type(recipe))
