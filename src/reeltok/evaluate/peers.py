"""From a peer's name to what is judged: codecs, the resize, foreign autoencoders, functions."""

from difflib import get_close_matches
from pathlib import Path

import torch

from reeltok.evaluate.autoencoders import open_function, open_scripted
from reeltok.evaluate.codecs import CODERS, Resize, Yardstick, open_codecs
from reeltok.evaluate.from_diffusers import open_diffusers
from reeltok.evaluate.subjects import Subject

ALSO = {"avc": "h264", "x264": "h264", "hevc": "h265", "x265": "h265"}
HOW = (
    f"give {', '.join(CODERS)} (or h264@34 for one crf), resize, diffusers:CLASS or "
    "diffusers:CLASS=FOLDER, a folder of encoder.jit and decoder.jit, or module:function"
)


def open_peers(
    name: str, like: Yardstick | None = None, *, device: torch.device | str = "cpu"
) -> list[Subject]:
    """What a peer's name stands for; a codec is several subjects: matched to `like`, and a curve.

    Raises ValueError, which says what may be given, for a name that is none.
    """
    like, place = like or Yardstick(), torch.device(device)
    key, _, rest = name.partition("@")
    key = ALSO.get(key, key)
    if key in CODERS:
        return [*open_codecs(key if not rest else f"{key}@{rest}", like)]
    if name == "resize":
        return [Resize(factors=like.factors, causal=like.causal)]
    folder = Path(name)
    if (folder / "encoder.jit").is_file():
        return [open_scripted(folder, device=place)]
    kind, colon, rest = name.partition(":")
    if kind == "diffusers" and rest:
        chosen, _, source = rest.partition("=")
        return [open_diffusers(chosen, source or None, device=place)]
    if colon and rest.isidentifier():
        return [open_function(name)]
    near = get_close_matches(name, [*CODERS, "resize"], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"there is no peer {name!r}: {hint}{HOW}")
