"""`.reel` files that earlier versions of the package wrote still decode to the same frames.

The files were written at commit da3a646 (9 frames of 32x48 pixels); beside each lies what
that commit decoded, losslessly.
"""

from pathlib import Path

import pytest

import reeltok
from reeltok.tokens.reel import load_tokens as load_tokens

EARLIER = Path(__file__).parents[1] / "golden" / "earlier"


def test_earlier_files_decode_to_the_same_frames() -> None:
    tokens = load_tokens(EARLIER / "reftok-default.reel")
    found = reeltok.load("reftok-default").decode(tokens)
    then = reeltok.read(EARLIER / "reftok-default.mkv")
    assert found.frames.shape == then.frames.shape == (9, 32, 48, 3)
    assert (found.frames.int() - then.frames.int()).abs().max() <= 1


def test_files_of_earlier_weights_are_read_and_refused() -> None:
    """The default has been trained on since: its ids mean other frames now."""
    tokens = load_tokens(EARLIER / "default.reel")
    assert tokens.ids is not None
    assert tuple(tokens.ids.shape) == (1, 3, 4, 6)
    refused = r"'default' with earlier weights \(09297daebca8, here .* commit 4625b4e reads them"
    with pytest.raises(ValueError, match=refused):
        reeltok.load("default").decode(tokens)
