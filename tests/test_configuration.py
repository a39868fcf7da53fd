"""Values replaced by path: one rule for recipes, networks in recipes, and converted models."""

import pytest

from reeltok.configuration import full_path, merge, override
from reeltok.conversion import change_config
from reeltok.models.presets import PRESETS
from reeltok.nn.quantizers.gaussian import GaussianConfig
from reeltok.recipes import find_recipe
from reeltok.train import change
from reeltok.train.build import build_model

TREE = {"a": {"b": [{"c": 1}], "kind": "x", "q": {"kind": "fsq", "levels": [4], "even": 0.1}}}


def test_values_are_replaced_by_their_paths() -> None:
    found = override(TREE, {"a.b.0.c": "[2]", "a.kind": "y"}, what="a thing")
    assert found["a"] == {**TREE["a"], "b": [{"c": [2]}], "kind": "y"}
    assert TREE["a"]["b"] == [{"c": 1}]


@pytest.mark.parametrize("swap", [False, True])
def test_another_kind_replaces_its_table(swap: bool) -> None:
    changes = {"a.q.bits": "9", "a.q.kind": "lfq"}
    changes = dict(reversed(changes.items())) if swap else changes
    found = override(TREE, changes, what="a thing", network=True)
    assert found["a"]["q"] == {"kind": "lfq", "bits": 9}
    same = override(TREE, {"a.q.kind": "fsq", "a.q.even": "0"}, what="a thing", network=True)
    assert same["a"]["q"] == {"kind": "fsq", "levels": [4], "even": 0}


def test_merged_tables_of_another_kind_are_replaced() -> None:
    assert merge(TREE, {"a": {"q": {"kind": "lfq"}}})["a"]["q"] == {"kind": "lfq"}
    assert merge(TREE, {"a": {"q": {"levels": [2]}}})["a"]["q"]["even"] == 0.1
    assert merge({"q": None}, {"q": {"kind": "fsq"}}) == {"q": {"kind": "fsq"}}


@pytest.mark.parametrize("path", ["a.z", "a.b.1", "a.b.x", "z", "a.kind.c", "a.b.0.c.d"])
def test_an_unknown_path_is_one_sentence(path: str) -> None:
    with pytest.raises(ValueError, match=f"a thing has no '{path}'") as error:
        override(TREE, {path: "1"}, what="a thing")
    assert "\n" not in str(error.value)


def test_names_alone_where_they_are_unique() -> None:
    assert full_path(TREE, "levels") == "a.q.levels"
    assert full_path(TREE, "a.q.bits") == "a.q.bits"
    for name in ("kind", "level"):
        with pytest.raises(ValueError, match=f"has no '{name}'"):
            full_path(TREE, name)


GAUSSIAN = '{"kind": "gaussian", "channels": 6}'


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("small", {"settings.quantizer": GAUSSIAN}),
        ("small", {"settings.quantizer.channels": "6", "settings.quantizer.kind": "gaussian"}),
        ("default_cpu", {"settings.quantizer": GAUSSIAN}),
        ("reftok_cpu", {"settings.body.quantizer": GAUSSIAN, "warm": "null"}),
        ("reftok_robot", {"settings.body.quantizer.kind": "gaussian"}),
        ("reftok_robot", {"settings.body": f'{{"quantizer": {GAUSSIAN}}}'}),
    ],
)
def test_recipes_take_another_quantizer(name: str, changes: dict[str, str]) -> None:
    config = build_model(change(find_recipe(name), changes)).config
    assert isinstance(config.quantizer, GaussianConfig)
    assert config.quantizer.channels in (4, 6)


def test_an_optimizer_of_another_kind_keeps_its_rate() -> None:
    recipe = change(find_recipe("small"), {"loop.optimizer.kind": "adam"})
    assert recipe.loop.optimizer.lr == find_recipe("small").loop.optimizer.lr


def test_a_converted_model_takes_another_quantizer() -> None:
    _, config = PRESETS["default"]
    found = change_config(config, {"kind": "gaussian", "quantizer.channels": "8"})
    assert found.quantizer == GaussianConfig(channels=8)


def test_a_key_that_stands_elsewhere_is_pointed_to() -> None:
    tree = {"loop": {"schedule": {"steps": 6}, "every": 1}, "windows": [{"batch": 2}, {"batch": 1}]}
    for path, said in {
        "steps": r"has no 'steps' \('steps' is unknown\): did you mean loop.schedule.steps\?",
        "schedule.steps": r"\('schedule' is unknown\): did you mean loop.schedule.steps\?",
        "loop.batch": r"did you mean windows.0.batch or windows.1.batch\?",
        "windows.2.batch": r"\('2' is unknown\): there are 2, counted from 0",
        "loop.evry": r"did you mean 'every'\?",
    }.items():
        with pytest.raises(ValueError, match=said):
            override(tree, {path: "3"}, what="a recipe")


def test_what_a_whole_table_is_refused_for_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="mirrored") as found:
        change(find_recipe("sit_push"), {"mirrored": "[]"})
    assert str(found.value) == (
        "the changed recipe: mirrored=() is for priors, this is a flow: leave it out"
    )
    with pytest.raises(ValueError, match="schedule") as found:
        change(find_recipe("small"), {"loop.schedule.warmup": "-1"})
    assert str(found.value).startswith("the changed recipe: loop.schedule.warmup=-1: ")
