"""Frames as numbers: what every public function takes as such, checked in one place.

Frames are floats "b c t h w" in [-1, 1], where -1 is black and 0 is mid-grey, or uint8 in
[0, 255]. `to_unit` and `to_bytes` are the only place where the two meet.
"""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from reeltok.arguments import check_rate

ROUNDING = 1e-3  # beyond [-1, 1]: what arithmetic in half precision may add
OVERSHOOT = 1.0  # beyond [-1, 1]: what a decoder may, whose output is not clamped


def to_unit(frames: UInt8[Tensor, "t h w c"]) -> Float[Tensor, "1 c t h w"]:
    """Bytes in [0, 255] to float32 in [-1, 1], with a batch of one and channels first."""
    return frames.permute(3, 0, 1, 2)[None].to(torch.float32).div_(127.5).sub_(1)


def to_bytes(x: Shaped[Tensor, "b c t h w"]) -> UInt8[Tensor, "t h w c"]:
    """Values in [-1, 1] to bytes in [0, 255]: clamped, then rounded to the nearest.

    Raises ValueError for more than one clip, for NaN, which no picture can show, and for values
    that no decoder gives (`check_values`).
    """
    if x.ndim != 5 or len(x) != 1:
        raise ValueError(f"one clip '1 c t h w' becomes bytes, found shape {tuple(x.shape)}")
    return bytes_of(as_values(x, "a video", OVERSHOOT))[0].permute(1, 2, 3, 0).contiguous()


def bytes_of(x: Float[Tensor, "b c t h w"]) -> UInt8[Tensor, "b c t h w"]:
    """Values in [-1, 1] to bytes in [0, 255], clamped and rounded, unchecked.

    On a CPU frame by frame, which stays in the processor's cache on its way.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return round_bytes(x)
    found = torch.empty_like(x, dtype=torch.uint8)
    for i in range(x.shape[2]):
        found[:, :, i] = round_bytes(x[:, :, i])
    return found


def round_bytes(x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Values in [-1, 1] to bytes in [0, 255], all at once."""
    return x.to(torch.float32).clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def shown_bytes(x: Float[Tensor, "b c t h w"]) -> UInt8[Tensor, "b c t h w"]:
    """The bytes of decoded frames, clamped; ValueError for NaN, which no picture can show."""
    if not x.sum().isfinite() and x.isnan().any():  # a sum is read faster, and finite for most
        raise ValueError("a video holds NaN or infinity: look at the model or file that made it")
    return bytes_of(x)


def as_frames(
    x: Any, what: str = "the clip", slack: float = ROUNDING
) -> Float[Tensor, "b c t h w"]:
    """Frames in [-1, 1] from a tensor or an array; `what` names them in errors.

    Taken are "b c t h w", "3 t h w", a picture "1 3 h w" or "3 h w", and bytes "t h w 3" or
    "h w 3". Raises ValueError for other shapes, and where `as_values` does.
    """
    return as_values(five_axes(x, what), what, slack)


def as_values(x: Tensor, what: str = "the clip", slack: float = ROUNDING) -> Float[Tensor, "..."]:
    """Pixels in [-1, 1] of any shape, from floats in that range or uint8.

    Raises ValueError for other types and for floats that `check_values` refuses.
    """
    if x.dtype == torch.uint8:
        return x.to(torch.float32).div_(127.5).sub_(1)
    if not x.is_floating_point():
        raise ValueError(f"{what} came as {x.dtype}: give floats in [-1, 1], or uint8")
    check_values(x, what, slack)
    return x


def unit_values(x: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Pixels in [-1, 1] from bytes, or from such that were checked."""
    return x if x.is_floating_point() else as_values(x)


def check_values(x: Float[Tensor, "..."], what: str = "the clip", slack: float = ROUNDING) -> None:
    """Raise ValueError for NaN, and for values more than `slack` outside [-1, 1].

    Values that fill [0, 1] and never go below it can be of a clip without a dark pixel, so they are
    taken with a warning: frames in [0, 1] are to be given as 2 * x - 1.
    """
    if x.is_meta or not x.numel() or torch.compiler.is_compiling():
        return
    low, high = (end.item() for end in x.detach().aminmax())
    if not (low > -float("inf") and high < float("inf")):
        raise ValueError(f"{what} holds NaN or infinity: look at the model or file that made it")
    if low < -1 - slack or high > 1 + slack:
        raise ValueError(
            f"{what} reaches from {low:.4g} to {high:.4g}, but frames are floats in [-1, 1]: "
            f"{'give x / 127.5 - 1' if low >= 0 else 'scale or clamp them'}"
        )
    if low >= 0 and high - low > 0.5:
        warnings.warn(
            f"{what} reaches from {low:.4g} to {high:.4g}, and is taken as floats in [-1, 1]: if "
            "yours are in [0, 1], give 2 * x - 1",
            stacklevel=3,
        )


def as_tensor(x: Any, what: str = "the clip") -> Tensor:
    """A tensor as it is, or an array as one. ValueError for anything else."""
    if isinstance(x, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(x))
        except TypeError as error:
            raise ValueError(
                f"{what} came as an array of {x.dtype}: give uint8 or floats"
            ) from error
    if not isinstance(x, Tensor):
        raise ValueError(
            f"{what} came as {type(x).__name__}: give a reeltok.Video or a tensor b c t h w"
        )
    return x


def five_axes(x: Any, what: str = "the clip") -> Tensor:
    """Frames as "b c t h w" in their own type, from any shape that has one meaning only."""
    x = as_tensor(x, what)
    if x.dtype == torch.uint8 and x.ndim in (3, 4) and x.shape[-1] == 3:
        x = x.movedim(-1, 0)  # pictures as files hold them
    shape = tuple(x.shape)
    if x.ndim == 3 and shape[0] == 3:
        x = x[None, :, None]
    elif x.ndim == 4 and shape[:2] == (1, 3):
        x = x[:, :, None]
    elif x.ndim == 4 and shape[0] == 3 and 3 not in (shape[1], shape[3]):
        x = x[None]
    if x.ndim != 5 or not x.numel():
        raise ValueError(
            f"{what} came with shape {shape}: give b c t h w without an empty axis "
            f"(pictures b c h w as x[:, :, None], frames t c h w as x.movedim(1, 0)[None])"
        )
    return x


def require_frames(x: Any, fps: Any = None, times: Any = None) -> None:
    """ValueError for what cannot be the frames of a `Video`, or their rate or time stamps."""
    if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.ndim != 4 or x.shape[3] != 3:
        said = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"a Video holds a uint8 tensor of frames t h w 3, found {said}: Video.of takes floats, "
            "arrays and other orders of axes"
        )
    check_rate(fps)
    if times is not None and not (isinstance(times, Tensor) and times.shape == x.shape[:1]):
        shape = tuple(times.shape) if isinstance(times, Tensor) else type(times).__name__
        raise ValueError(
            f"times are a float64 tensor of one for each of {len(x)} frames, found {shape}: give "
            "those, or None for a constant rate"
        )
    if times is not None and len(times):
        if not bool(times.isfinite().all()):
            raise ValueError("times hold NaN or infinity: give seconds from the first frame")
        if bool((times[1:] < times[:-1]).any()):
            at = int((times[1:] < times[:-1]).nonzero()[0])
            raise ValueError(
                f"times run backwards: frame {at} is shown at {float(times[at]):g} s and the next "
                f"at {float(times[at + 1]):g} s: give those of the frames in their order"
            )
