"""Recipes of generators: a value that would change nothing is refused."""

import re

import pytest

from reeltok.generate.recipes import GENERATORS
from reeltok.train.recipe import change

DRAWN = "is for tokenizers, whose clips are drawn anew in each step: leave it out"


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("sit_cpu", "tasks", '["inpaint"]', "tasks=('inpaint',) is for priors, this is a flow"),
        ("sit_cpu", "disturbed", "0.5", "disturbed=0.5 is for priors, this is a flow"),
        ("sit_cpu", "noise", "0.5", "noise=0.5 is for priors, this is a flow"),
        ("sit_cpu", "mirrored", "[]", "mirrored=() is for priors, this is a flow"),
        ("prior_cpu", "disturbed", "0.5", "set disturbed=0, or chain=2 or more"),
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
    ],
)
def test_values_without_effect_are_refused(name: str, key: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        change(GENERATORS[name](), {key: value})
