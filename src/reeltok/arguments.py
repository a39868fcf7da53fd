"""Arguments that people give: whether they are what is asked for, and how an error says them."""

import math
import operator
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FLOATS = ("float32", "bfloat16", "float16")  # names of torch's types
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as commands name them


def said(value: Any) -> str:
    """A value in an error: on one line, a long one cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number from `least` on: of Python, numpy or torch; no bool, no 4.0."""
    if isinstance(value, bool):
        return False
    try:
        return operator.index(value) >= least
    except TypeError:
        return False


def is_number(value: Any) -> bool:
    """Whether it is a finite real number of any kind; no bool, no text."""
    if isinstance(value, bool | str | bytes):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


SLOWEST, FASTEST = 1e-5, 1e6  # frames per second


def check_rate(fps: Any) -> None:
    """ValueError unless `fps` is a number of frames per second that files can hold, or None."""
    if fps is not None and not (is_number(fps) and fps > 0):
        raise ValueError(f"fps must be positive, not {said(fps)}")
    if fps is not None and not SLOWEST <= fps <= FASTEST:
        raise ValueError(f"fps lies between {SLOWEST:g} and {FASTEST:g}, not {said(fps)}")


def check_path(given: Any, what: str, advice: str = "give its path") -> None:
    """ValueError unless `given` is a str or a path, and not an empty one; `what` takes it."""
    if not isinstance(given, str | os.PathLike) or given == "":
        found = "''" if given == "" else type(given).__name__
        raise ValueError(f"{what} has a name, a str or a Path, found {found}: {advice}")


def require_kind(given: Any, kind: type, what: str) -> Any:
    """The same. ValueError unless it is of `kind`; `what` says that it is to be."""
    if not isinstance(given, kind):
        raise ValueError(f"{what}, found {type(given).__name__}: give {kind.__name__}")
    return given


def float_type(dtype: Any, name: str = "dtype=", *, wide: bool = False) -> "torch.dtype":
    """torch's float32, bfloat16 or float16 (`wide`: or float64), also by its name, such as "fp16".

    ValueError for anything else; `name` is the argument's in it.
    """
    import torch

    known = {text: getattr(torch, text) for text in (*FLOATS, *["float64"] * wide)}
    if isinstance(dtype, str) and SHORT.get(dtype, dtype) in known:
        return known[SHORT.get(dtype, dtype)]
    if not isinstance(dtype, torch.dtype) or dtype not in known.values():
        found = dtype if isinstance(dtype, str | torch.dtype) else said(dtype)
        raise ValueError(f"{name}{found} is not known: give float32, bfloat16 or float16")
    return dtype


def slice_ends(part: Any, total: int, what: str) -> tuple[int, int, int]:
    """Start, stop and step of a slice of `total` things. ValueError for what is none.

    `what` says what is sliced how, such as "tokens are sliced, as in tokens[0:2]".
    """
    try:
        return slice.indices(part, total)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}, not by {said(part)}") from error
