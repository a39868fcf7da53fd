"""Pictures as people hold them in memory: arrays, tensors and Pillow's, in any usual layout.

Bytes are taken in any order that can mean one thing only, floating values channels first, as
networks give them: arrays "h w 3" of floats are in [0, 1] as often as in [-1, 1].
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from PIL import Image
from torch import Tensor

from reeltok.video.colour import on_black
from reeltok.video.frames import to_bytes

_GREY, _RGB, _RGBA = 1, 3, 4


def arranged(x: Tensor | np.ndarray, *, picture: bool = False) -> Shaped[Tensor, "t h w c"]:
    """Frames "t h w c" of their own type, bytes with three channels; floats keep their range.

    `picture`: it is one picture, so "h w", "h w c" and "c h w" mean that alone. Raises ValueError
    for what has no meaning, or two.
    """
    if not isinstance(x, Tensor | np.ndarray):
        raise ValueError(f"{_WANTED}, not of type {type(x).__name__}: reeltok.read opens files")
    if isinstance(x, np.ndarray):
        x = torch.from_numpy(np.require(x, requirements=["C", "W"])) if _known(x) else x
    if not isinstance(x, Tensor) or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"{_WANTED}, not {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}")
    x = x.detach()
    meanings = sorted(set(_meanings(x, picture)))
    if "t h w c" in meanings and x.shape[-1] == _RGB and not x.is_floating_point():
        meanings = ["t h w c"]
    if len(meanings) != 1:
        said = f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
        if not meanings:
            raise ValueError(f"{_WANTED}, not {said}")
        both = " or ".join(f"'{axes}'" for axes in meanings)
        raise ValueError(f"a video of {said} could be {both}: give '1 3 t h w' or 't h w 3'")
    frames = _ordered(x, meanings[0])
    if not frames.numel():
        raise ValueError(f"a video needs at least one frame and one pixel, not {tuple(x.shape)}")
    return _coloured(frames) if frames.dtype == torch.uint8 else frames


def rgb_frames(x: Tensor | np.ndarray, *, picture: bool = False) -> UInt8[Tensor, "t h w 3"]:
    """The frames that `arranged` finds, on the CPU; floats in [-1, 1] become bytes."""
    frames = arranged(x, picture=picture)
    if frames.is_floating_point():
        frames = to_bytes(frames.permute(3, 0, 1, 2)[None])
    return frames.cpu()


def picture_of(x: Any) -> Any:
    """A Pillow picture as bytes "h w 3", its transparency laid on black; anything else as it is."""
    if not isinstance(x, Image.Image):
        return x
    if x.mode.startswith("I;16"):
        deep = np.asarray(x).astype(np.uint32)
        grey = ((deep * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[..., None], _RGB, -1)
    if x.mode in ("I", "F"):
        raise ValueError(f"a picture of mode {x.mode!r} has no fixed range: convert it to 'RGB'")
    if x.has_transparency_data:
        return on_black(np.asarray(x.convert("RGBA")))
    return np.asarray(x.convert("RGB"))


_WANTED = (
    "a video is uint8 'frames height width 3' or floating '1 3 frames height width' in [-1, 1]"
)


def _known(x: np.ndarray) -> bool:
    return x.dtype.isnative and x.dtype.kind in "fu" and x.dtype.itemsize <= 8


def _meanings(x: Tensor, picture: bool) -> list[str]:
    """The orders of axes that a shape may have, of those that are taken."""
    shape, floating = tuple(x.shape), x.is_floating_point()
    found = []
    if x.ndim == 5 and shape[0] == 1:
        if shape[1] == _RGB:
            return ["1 c t h w"]
        found += ["1 t h w c"] if not floating and shape[4] == _RGB else []
        found += ["1 t c h w"] if shape[2] == _RGB else []
    if x.ndim == 4 and not picture:
        found += ["t h w c"] if not floating and shape[3] in (_GREY, _RGB, _RGBA) else []
        found += ["t c h w"] if shape[1] == _RGB or (shape[1] == _GREY and not floating) else []
        found += ["c t h w"] if shape[0] == _RGB else []
        found += ["t h w c"] if floating and found and shape[3] == _RGB else []  # which one is it?
    if x.ndim == 3 and (picture or not floating):
        if not floating and shape[2] in (_GREY, _RGB, _RGBA):
            return ["h w c"]
        found += ["c h w"] if shape[0] in (_GREY, _RGB) else []
    if x.ndim == 2 and picture and not floating:
        found += ["h w"]
    return found


def _ordered(x: Tensor, axes: str) -> Tensor:
    names = axes.split()
    if names[0] == "1":
        x, names = x[0], names[1:]
    for axis, name in enumerate("thwc"):
        if name not in names:
            x, names = x.unsqueeze(axis), [*names[:axis], name, *names[axis:]]
    return x.permute(*(names.index(name) for name in "thwc"))


def _coloured(frames: UInt8[Tensor, "t h w c"]) -> UInt8[Tensor, "t h w 3"]:
    """Bytes with three channels: grey three times, transparency laid on black."""
    if frames.shape[-1] == _GREY:
        return frames.expand(*frames.shape[:3], _RGB).contiguous()
    if frames.shape[-1] == _RGBA:
        return torch.from_numpy(on_black(frames.cpu().numpy()))
    return frames
