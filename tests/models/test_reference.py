"""Reference frames that a file keeps: named, numbered and sized as they must be, or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reeltok.models.reftok.reference import restore_reference, store_reference, stored_clips
from reeltok.tokens.record import Tokens

DATA = torch.empty(0, dtype=torch.uint8)


def tokens(extras: dict[str, Tensor], **changes: Any) -> Tokens:
    given = {"frames": 5, "height": 16, "width": 20, "vocabulary": 9, "extras": extras}
    return Tokens(ids=torch.zeros(2, 1, 2, 3, dtype=torch.int64), **{**given, **changes})


@pytest.mark.parametrize(
    "name",
    ["reference", "reference.x.0", "reference.start", "reference.start.-1", "reference.1.2.3"],
)
def test_names_that_no_encoder_writes(name: str) -> None:
    if name == "reference":
        assert stored_clips({name: DATA}) == {}
        return
    with pytest.raises(ValueError, match="is not a reference frame"):
        stored_clips({name: DATA})


def test_clips_that_are_not_there() -> None:
    assert stored_clips({"reference.000004.1": DATA, "else": DATA}) == {"000004": [1]}
    for where, clips in (("start", [0]), ("start", [0, 1, 2]), ("000004", [2])):
        extras = {f"reference.{where}.{clip}": DATA for clip in clips}
        with pytest.raises(ValueError, match=r"kept for clips .* of 2"):
            restore_reference(tokens(extras), where, clips)


def test_a_picture_of_another_size_takes_no_memory() -> None:
    x = torch.zeros(2, 3, 1, 16, 20)
    extras = dict(store_reference(x, torch.tensor([True, True]), "start", quality=30).extras)
    found = restore_reference(tokens(extras), "start", [0, 1])
    assert found.frame is not None
    assert found.frame.shape == x.shape
    huge = tokens(extras, height=2**24, width=2**24)
    with pytest.raises(ValueError, match=f"16x20 pixels where the clip has {2**24}x{2**24}"):
        restore_reference(huge, "start", [0, 1])
    wide = {name: data.double() for name, data in extras.items()}
    with pytest.raises(ValueError, match="damaged"):
        restore_reference(tokens(wide), "start", [0, 1])
