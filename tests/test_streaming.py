"""What tokens say of themselves is checked before frames are made of it."""

from typing import Any

import pytest
import torch

from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.steps import coded_window, require_grid
from reeltok.tokenizer.streaming import mark_last, to_input_type
from reeltok.tokens.record import Tokens

SPEC = Spec(
    name="some",
    family="vidtok",
    factors=(4, 8, 8),
    causal=True,
    first_frames=1,
    frames_per_group=4,
    channels=3,
    vocabulary=None,
    parameters=1,
    receptive_steps=None,
)


def tokens(**changes: Any) -> Tokens:
    given = {"latents": torch.zeros(1, 3, 2, 2, 3), "frames": 5, "height": 16, "width": 24}
    return Tokens(**{**given, **changes})


@pytest.mark.parametrize("window", [None, 0, -4, "8", 8.0, [8]])
def test_a_window_is_a_number_of_frames(window: object) -> None:
    assert coded_window(tokens(settings={"window": 8}), SPEC) == 8
    with pytest.raises(ValueError, match="coded in windows"):
        coded_window(tokens(settings={"window": window}), SPEC)


def test_frames_are_given_as_what_holds_frames() -> None:
    x = torch.zeros(1, 3, 5, 16, 24)
    assert to_input_type(x, tokens(settings={"given": "bfloat16"}), None).dtype == torch.bfloat16
    for given in ("load", "int8", "nothing", 5):
        with pytest.raises(ValueError, match="cannot be given as"):
            to_input_type(x, tokens(settings={"given": given}), None)
    for odd in ({"colour": {"hue": 1}}, {"settings": {"given": "video", "start": []}}):
        with pytest.raises(ValueError, match="colour or start"):
            to_input_type(x, tokens(fps=10.0, **odd), None)


def test_the_grid_is_that_of_the_size() -> None:
    require_grid(tokens(), SPEC, (2, 3))
    with pytest.raises(ValueError, match="hold frames of 16x24 pixels, not of the 800x24"):
        require_grid(tokens(height=800), SPEC, (100, 3))
    with pytest.raises(ValueError, match="with 3 channels, these are"):
        require_grid(tokens(latents=torch.zeros(1, 4, 2, 2, 3)), SPEC, (2, 3))


def test_no_parts_are_no_stream() -> None:
    assert list(mark_last([1, 2])) == [(1, False), (2, True)]
    assert list(mark_last([1])) == [(1, True)]
    with pytest.raises(ValueError, match="holds no frames"):
        list(mark_last([]))
