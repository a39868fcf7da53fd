"""From a peer's name to what is judged: codecs, the resize, foreign autoencoders, functions."""

from collections.abc import Callable, Sequence

import torch

from reeltok.evaluate.candidates.candidate import Candidate, TokenizerCandidate
from reeltok.evaluate.candidates.codecs import CODERS, RateTarget, Resize, open_codecs
from reeltok.evaluate.candidates.functions import Reconstructor
from reeltok.files.text import nearest
from reeltok.models.foreign.function import Function
from reeltok.models.foreign.names import HOW as FOREIGN
from reeltok.models.foreign.names import ForeignName, parse_foreign
from reeltok.models.foreign.open import open_foreign

ALSO = {"avc": "h264", "x264": "h264", "hevc": "h265", "x265": "h265"}
HOW = (
    f"give {', '.join(CODERS)} (or h264@34 for one crf), resize, or {FOREIGN.removeprefix('give ')}"
)


OpenCandidates = Callable[[RateTarget, torch.device], Sequence[Candidate]]
"""What a name stands for: the candidates, matched to a rate target, on a device."""


def open_peers(
    name: str, like: RateTarget | None = None, *, device: torch.device | str = "cpu"
) -> list[Candidate]:
    """What a peer's name stands for; a codec is several candidates: matched to `like`, and a curve.

    Raises ValueError, which says what may be given, for a name that is none.
    """
    return [*find_peer(name)(like or RateTarget(), torch.device(device))]


def find_peer(name: str) -> OpenCandidates:
    """What opens a peer, before anything is judged. ValueError for a name that is none."""
    key, _, rest = name.partition("@")
    key = ALSO.get(key, key)
    if key in CODERS:
        codec = f"{key}@{rest}" if rest else key
        open_codecs(codec, RateTarget())  # a wrong crf is told now
        return lambda like, at: open_codecs(codec, like)
    if name == "resize":
        return lambda like, at: [Resize(factors=like.factors, causal=like.causal)]
    foreign = parse_foreign(name)
    if foreign is not None:
        return lambda like, at: [open_peer(foreign, at)]
    near = nearest(name, [*CODERS, "resize"])
    hint = f"did you mean {near}? " if near else ""
    raise ValueError(f"there is no peer {name!r}: {hint}{HOW}")


def open_peer(name: ForeignName, device: torch.device) -> Candidate:
    """A foreign tokenizer to be judged; a function that does not encode is judged as it is."""
    found = open_foreign(name)
    if isinstance(found, Function) and not found.coded:
        return Reconstructor(name=name.text, function=found.function, weights=found.hash())
    found = found.to(device)
    return TokenizerCandidate(tokenizer=found, name=found.name, trained=found.trained, kind="peer")
