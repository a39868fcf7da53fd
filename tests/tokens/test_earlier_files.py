"""`.reel` files that earlier versions of the package wrote still decode to the same frames.

The files were written at commit da3a646 (9 frames of 32x48 pixels); beside each lies what
that commit decoded, losslessly.
"""

from pathlib import Path

import pytest

import reeltok
from reeltok.tokens.reel import load_tokens as load_tokens

EARLIER = Path(__file__).parents[1] / "golden" / "earlier"


@pytest.mark.parametrize("name", ["default", "reftok-default"])
def test_earlier_files_decode_to_the_same_frames(name: str) -> None:
    tokens = load_tokens(EARLIER / f"{name}.reel")
    found = reeltok.load(name).decode(tokens)
    then = reeltok.read(EARLIER / f"{name}.mkv")
    assert found.frames.shape == then.frames.shape == (9, 32, 48, 3)
    assert (found.frames.int() - then.frames.int()).abs().max() <= 1
