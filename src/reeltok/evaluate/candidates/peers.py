"""From a peer's name to what is judged: codecs, the resize, foreign autoencoders, functions."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import torch

from reeltok.evaluate.candidates.autoencoders import open_function, open_scripted
from reeltok.evaluate.candidates.codecs import CODERS, Resize, Yardstick, open_codecs
from reeltok.evaluate.candidates.from_diffusers import open_diffusers
from reeltok.evaluate.candidates.subjects import Subject

ALSO = {"avc": "h264", "x264": "h264", "hevc": "h265", "x265": "h265"}
HOW = (
    f"give {', '.join(CODERS)} (or h264@34 for one crf), resize, diffusers:CLASS or "
    "diffusers:CLASS=FOLDER, a folder of encoder.jit and decoder.jit, or module:function"
)


Open = Callable[[Yardstick, torch.device], Sequence[Subject]]
"""What a name stands for: the subjects, matched to a yardstick, on a device."""


def open_peers(
    name: str, like: Yardstick | None = None, *, device: torch.device | str = "cpu"
) -> list[Subject]:
    """What a peer's name stands for; a codec is several subjects: matched to `like`, and a curve.

    Raises ValueError, which says what may be given, for a name that is none.
    """
    return [*find_peer(name)(like or Yardstick(), torch.device(device))]


def find_peer(name: str) -> Open:
    """What opens a peer, before anything is judged. ValueError for a name that is none."""
    key, _, rest = name.partition("@")
    key = ALSO.get(key, key)
    if key in CODERS:
        codec = f"{key}@{rest}" if rest else key
        open_codecs(codec, Yardstick())  # a wrong crf is told now
        return lambda like, at: open_codecs(codec, like)
    if name == "resize":
        return lambda like, at: [Resize(factors=like.factors, causal=like.causal)]
    folder = Path(name)
    if (folder / "encoder.jit").is_file():
        return lambda like, at: [open_scripted(folder, device=at)]
    kind, colon, rest = name.partition(":")
    if kind == "diffusers" and rest:
        chosen, _, source = rest.partition("=")
        return lambda like, at: [open_diffusers(chosen, source or None, device=at)]
    if colon and rest.isidentifier():
        return lambda like, at: [open_function(name)]
    near = get_close_matches(name, [*CODERS, "resize"], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"there is no peer {name!r}: {hint}{HOW}")
