"""Recipes of generators: a value that would change nothing is refused."""

import json
import re
from pathlib import Path

import pytest

from reeltok.generate.recipes import GENERATORS
from reeltok.recipes import find_recipe
from reeltok.train.recipe import as_json, change

DRAWN = "is for tokenizers, whose clips are drawn anew in each step: leave it out"

CODED = "changes nothing in a generator, whose examples are coded once: leave it out"


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("sit_cpu", "tasks", '["inpaint"]', "tasks=('inpaint',) is for priors, this is a flow"),
        ("sit_cpu", "disturbed", "0.5", "disturbed=0.5 is for priors, this is a flow"),
        ("sit_cpu", "noise", "0.5", "noise=0.5 is for priors, this is a flow"),
        ("sit_cpu", "mirrored", "[]", "mirrored=() is for priors, this is a flow"),
        ("prior_cpu", "disturbed", "0.5", "set disturbed=0, or chain=2 or more"),
        (
            "prior_cpu",
            "given",
            "16",
            "given=16 of data.windows.0.frames=16 leaves no frame to learn",
        ),
        ("prior_push", "given", "5", "given=5 of data.windows.0.frames=5 leaves no frame to learn"),
        ("prior_push", "tasks", '["inpaint"]', "tasks=('inpaint',) was asked, but the examples of"),
        ("prior_push", "given", "3", "given=3 was asked, but the examples of a chain follow one"),
        ("prior_push", "mirrored", "[-1]", "mirrored=(-1,) names numbers of an action"),
        ("prior_push", "mirrored", "[4]", "mirrored=(4,) names numbers of an action"),
        ("prior_cpu", "settings.actions", "4", "settings.actions follows from the tokenizer"),
        ("prior_cpu", "settings.noise", "0.1", "settings.noise follows from the tokenizer"),
        ("sit_cpu", "settings.classes", '["a", "b"]', "settings.classes follows from"),
        ("prior_cpu", "data.strides", "[1, 2]", "has several values, but the clips of a generator"),
        ("sit_cpu", "data.weights", '{"a": 1}', DRAWN),
        ("sit_cpu", "data.other", "2", DRAWN),
        ("prior_cpu", "data.scale", "[0.5, 1]", DRAWN),
        ("prior_cpu", "data.lively", "0.5", DRAWN),
        ("prior_cpu", "data.synthetic", "0.5", DRAWN),
        ("prior_cpu", "data.flip", "false", f"data.flip=False {CODED}"),
        ("sit_cpu", "data.validation.frames", "33", "data.validation=Window(frames=33, "),
        ("prior_cpu", "data.cache", "none", f"data.cache=none {CODED}"),
        ("sit_cpu", "data.cache_size", "96", f"data.cache_size=96 {CODED}"),
        ("prior_push", "data.cache_gb", "1", f"data.cache_gb=1.0 {CODED}"),
        ("sit_push", "data.workers", "3", f"data.workers=3 {CODED}"),
        ("prior_cpu", "data.prefetch", "9", f"data.prefetch=9 {CODED}"),
    ],
)
def test_values_without_effect_are_refused(name: str, key: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        change(GENERATORS[name](), {key: value})


def test_frames_are_left_to_interpolate() -> None:
    both = GENERATORS["prior_cpu"]()
    fewer = change(both, {"given": "14", "tasks": '["interpolate"]'})
    assert fewer.given == 14
    said = "given=15 and the last one of data.windows.0.frames=16 leaves no frame to learn"
    with pytest.raises(ValueError, match=re.escape(said)):
        change(both, {"given": "15", "tasks": '["predict", "interpolate"]'})
    assert change(both, {"given": "15"}).given == 15


def test_what_an_earlier_run_kept_without_effect_is_left_out(tmp_path: Path) -> None:
    recipe = GENERATORS["sit_cpu"]()
    tree = json.loads(as_json(recipe))
    tree["data"] |= {"cache_size": 96, "workers": 12}
    (tmp_path / "recipe.json").write_text(json.dumps(tree))
    said = r"sets data\.cache_size, data\.workers, which changes nothing: it is left out"
    with pytest.warns(UserWarning, match=said):
        assert find_recipe(tmp_path) == recipe
