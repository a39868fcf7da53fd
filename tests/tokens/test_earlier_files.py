"""`.reel` files that earlier versions of the package wrote still decode to the same frames.

That of `reftok-push` was written at commit baaf87f, its older one and the oldest of `default-kl` at
5c0724c, the second one at 74ac726 and the newest at 9d15ebc, each with the weights that came after,
the older ones of `reftok-default` at 26efaab, 5247cda and 7ba2be6, that of `default-sharp` at
26efaab, the others at da3a646 (9 frames of 32x48 pixels); beside each that is decoded lies what
that commit decoded, losslessly.
"""

from pathlib import Path

import pytest

import reeltok
from reeltok.tokens.reel import load_tokens as load_tokens

EARLIER = Path(__file__).parents[1] / "golden" / "earlier"


@pytest.mark.parametrize("name", ["reftok-push", "default-kl"])
def test_earlier_files_decode_to_the_same_frames(name: str) -> None:
    tokens = load_tokens(EARLIER / f"{name}.reel")
    found = reeltok.load(name).decode(tokens)
    then = reeltok.read(EARLIER / f"{name}.mkv")
    assert found.frames.shape == then.frames.shape == (9, 32, 48, 3)
    assert (found.frames.int() - then.frames.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("file", "weights", "commit"),
    [
        ("default", "09297daebca8", "4625b4e"),
        ("reftok-default", "abf399193416", "ae3c8c0"),
        ("reftok-push-older", "9f89b5703e71", "32748be"),
        ("reftok-default-older", "6d437e43c17d", "26efaab"),
        ("reftok-default-older-2", "dabaa525f6bd", "5247cda"),
        ("reftok-default-older-3", "e3c93d237917", "7ba2be6"),
        ("default-sharp-older", "e51d73e0d7f6", "26efaab"),
        ("default-kl-older", "7a0483c7736d", "74ac726"),
        ("default-kl-older-2", "d434ab016594", "9d15ebc"),
    ],
)
def test_files_of_earlier_weights_are_read_and_refused(
    file: str, weights: str, commit: str
) -> None:
    """These have been trained on since: their tokens mean other frames now."""
    tokens, name = load_tokens(EARLIER / f"{file}.reel"), file.split("-older")[0]
    assert tokens.grid[1:] == (4, 6)
    refused = rf"'{name}' with earlier weights \({weights}, here .* commit {commit} reads them"
    with pytest.raises(ValueError, match=refused):
        reeltok.load(name).decode(tokens)
