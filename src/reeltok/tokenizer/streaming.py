"""Frames on their way into a network and out of it.

A stream arrives in parts of any length; a network reads whole groups (the first may be shorter).
`whole_groups` regroups, `repeat_last_frame` completes the last, `pad_space` completes rows and
columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from reeltok.arguments import is_count, said
from reeltok.tokenizer.spec import Spec
from reeltok.tokens.record import Tokens
from reeltok.video.frames import as_values, bytes_of, five_axes, shown_bytes, unit_values
from reeltok.video.record import Colour, Video
from reeltok.video.tags import MADE
from reeltok.video.timing import PartTimes, moments_of

Part = TypeVar("Part")
GIVEN = ("float16", "bfloat16", "float32", "float64")  # types of tensors that hold frames


@dataclass(frozen=True, eq=False, kw_only=True)
class SideInformation:
    """What a run of frames is coded with, beside the frames.

    `options` are arguments of `encode_part`; `extras`, `bits` and `settings` are what the tokens
    keep, so that a decoder finds them again.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    bits: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FrameRun:
    """Frames `b c t h w` on their way in, of which the first `real` are the video's.

    They are bytes where they came as such, else floats in [-1, 1].
    """

    x: Tensor
    real: int
    times: Tensor | None = None
    last: float | None = None  # seconds that the last of the video's frames here is shown


def whole_groups(
    parts: Iterable[Video | Tensor],
    spec: Spec,
    *,
    window: int | None = None,
    hold: bool = False,
    begun: bool = False,
    clock: PartTimes | None = None,
) -> Iterator[FrameRun]:
    """The frames of `parts` in runs of whole groups of `spec`.

    A run holds all whole groups that have arrived, or exactly `window` frames, or (`hold`)
    everything. The last run is filled up to a whole group. `begun`: the first group came before,
    and `clock` knows until when. ValueError when parts differ in size or rate.
    """
    held, clock = None, clock or PartTimes()
    first, group = spec.first_frames, spec.frames_per_group
    for part in parts:
        held = _append(held, part, clock)
        del part  # before the next comes
        wanted = window or (group if begun else first)
        while not hold and held.real >= wanted:
            count = wanted if window else wanted + (held.real - wanted) // group * group
            run, held = _cut(held, count)
            yield run
            del run  # before the next frames come
            begun, wanted = True, window or group
    if held is not None and held.real:
        start = 0 if begun and not window else first
        yield repeat_last_frame(held, start + -(-max(0, held.real - start) // group) * group)
    elif not begun:
        raise ValueError("the clip holds no frames: give at least one")


def repeat_last_frame(frames: FrameRun, length: int) -> FrameRun:
    """The same frames with the last one repeated up to `length`."""
    missing = length - frames.x.shape[2]
    if missing <= 0:
        return frames
    last = frames.x[:, :, -1:].expand(-1, -1, missing, -1, -1)
    return replace(frames, x=torch.cat([frames.x, last], dim=2))


def _append(held: FrameRun | None, part: Video | Tensor, clock: PartTimes) -> FrameRun:
    video = part if isinstance(part, Video) else None
    times, last = (None, None) if video is None else (clock.of(video), video.last)
    x = part.frames.permute(3, 0, 1, 2)[None] if isinstance(part, Video) else five_axes(part)
    x = x if x.dtype == torch.uint8 else as_values(x)
    if held is None:
        return FrameRun(x, x.shape[2], times, last)
    require_alike(held.x, x)
    both = None if held.times is None or times is None else torch.cat([held.times, times])
    return FrameRun(_join(held.x, x), held.real + x.shape[2], both, last)


def _join(early: Shaped[Tensor, "b c t h w"], late: Shaped[Tensor, "b c t2 h w"]) -> Tensor:
    """Frames that follow one another; as values where not all are of one type."""
    if not early.shape[2]:
        return late
    pair = (early, late)
    return torch.cat(pair if early.dtype == late.dtype else [*map(unit_values, pair)], dim=2)


def require_alike(before: Tensor, x: Tensor) -> None:
    """ValueError unless frames `b c t h w` can follow `before` in one stream."""
    if before.shape[3:] != x.shape[3:]:
        raise ValueError(
            f"the stream began with frames of {tuple(before.shape[3:])} and continues with "
            f"{tuple(x.shape[3:])} (height, width): cut it there, or read it with one size"
        )
    if before.shape[0] != x.shape[0]:
        raise ValueError(
            f"the stream began with {before.shape[0]} clips side by side and continues with "
            f"{x.shape[0]}: give as many, or begin another stream"
        )


def _cut(frames: FrameRun, count: int) -> tuple[FrameRun, FrameRun]:
    head, tail = frames.x[:, :, :count], frames.x[:, :, count:]
    early = moments_of(frames.times, frames.last, 0, count)
    late = moments_of(frames.times, frames.last, count, frames.real)
    if not tail.shape[2]:
        tail = tail.clone()  # of nothing: frames shall not stay for its sake
    return FrameRun(head, count, *early), FrameRun(tail, tail.shape[2], *late)


def pad_space(x: Float[Tensor, "b c t h w"], factors: tuple[int, int]) -> Tensor:
    """`x` with its last row and column repeated until both sides divide by `factors`."""
    down, right = (-x.shape[3] % factors[0], -x.shape[4] % factors[1])
    if not down and not right:
        return x
    if not x.shape[3]:  # no rows: nothing that could be repeated
        return x.new_empty(*x.shape[:4], x.shape[4] + right)
    return F.pad(x, (0, right, 0, down, 0, 0), mode="replicate")


def crop_padding(x: Shaped[Tensor, "b c t h w"], part: Tokens) -> Tensor:
    """`x` without the rows and columns that `pad_space` added. ValueError where it lacks some."""
    size = (part.height, part.width)
    if x.shape[3] < size[0] or x.shape[4] < size[1]:
        raise ValueError(
            f"these tokens hold frames of {x.shape[3]}x{x.shape[4]} pixels, not of the "
            f"{size[0]}x{size[1]} that they are said to be: give their own size"
        )
    return x[..., : size[0], : size[1]]


def peek(parts: Iterable[Part]) -> tuple[Part, Iterator[Part]]:
    """The first of `parts`, and all of them. ValueError when there is none."""
    rest = iter(parts)
    for first in rest:
        return first, chain([first], rest)
    raise ValueError("the stream holds no frames: give at least one")


def require_parts(parts: Any, whole: str = "encode for a clip or a batch") -> Any:
    """The same. ValueError for one clip, which `whole` takes, where a stream is asked for."""
    one = isinstance(parts, Video | Tokens | Tensor | np.ndarray | str | bytes | Path)
    if one or not isinstance(parts, Iterable):
        raise ValueError(
            f"a stream is made of parts of a clip, found one {type(parts).__name__}: give a list "
            f"or an iterator of them, or use {whole}"
        )
    return parts


def mark_last(parts: Iterable[Part]) -> Iterator[tuple[Part, bool]]:
    """Every part with whether it is the last one. ValueError when there is none."""
    held, rest = peek(parts)
    next(rest)
    for part in rest:
        yield held, False
        held = part
    yield held, True


def count_frames(x: Video | Tensor) -> int:
    """How many frames `x` holds."""
    return len(x) if isinstance(x, Video) else x.shape[2]


def frame_size(x: Video | Tensor) -> tuple[int, int]:
    """Height and width of the frames of `x`, in pixels."""
    return (x.height, x.width) if isinstance(x, Video) else (x.shape[3], x.shape[4])


def cut(x: Video | Tensor, start: int, stop: int) -> Video | Tensor:
    """Frames `start` to `stop` of `x`, whose time stamps stay what they are."""
    if isinstance(x, Tensor):
        return x[:, :, start:stop]
    times, last = moments_of(x.times, x.last, start, stop)
    return replace(x, frames=x.frames[start:stop], times=times, last=last)


def split_frames(x: Video | Tensor, chunk: int) -> Iterator[Video | Tensor]:
    """`x` in parts of `chunk` frames."""
    for start in range(0, count_frames(x), chunk):
        yield cut(x, start, min(start + chunk, count_frames(x)))


def check_pad(pad: str, **others: Any) -> None:
    """ValueError unless `pad` is known, `chunk` too, and alone where clips are coded whole."""
    check_chunk(others.get("chunk"))
    if pad not in ("end", "front"):
        raise ValueError(f"pad={pad!r} is unknown: give 'end' or 'front'")
    wrong = [f"{name}={value}" for name, value in others.items() if value is not None]
    if pad == "front" and wrong:
        raise ValueError(f"pad='front' codes whole clips alone: leave out {wrong[0]}")


def check_chunk(chunk: int | None, name: str = "chunk") -> None:
    """ValueError unless `chunk` is a number of frames, or None."""
    if chunk is not None and not is_count(chunk):
        raise ValueError(f"{name}={said(chunk)} is not a number of frames: give 1 or more, or None")


def type_name(x: Video | Tensor) -> str:
    """How tokens name what was given: "video", or the type of a tensor, such as "float32"."""
    return "video" if isinstance(x, Video) else str(x.dtype).removeprefix("torch.")


def type_given(part: Tokens) -> Any:
    """What had been encoded: "video", or the type of a tensor, if it is one that we know."""
    return part.settings.get("given", "float32" if part.fps is None else "video")


def conversion_for(part: Tokens) -> Callable[[Tensor], Tensor]:
    """What makes of decoded frames those of the type that had been encoded; bytes of a video's."""
    given = type_given(part)
    if given == "uint8":
        return bytes_of
    if given == "video":
        return shown_bytes
    if given not in GIVEN:
        raise ValueError(f"frames cannot be given as {given!r}: there are video, {GIVEN}")
    return lambda x: x.to(getattr(torch, given))


def to_input_type(
    x: Tensor, part: Tokens, times: Tensor | None, last: float | None = None
) -> Video | Tensor:
    """Decoded frames as what had been encoded: a `Video`, or a tensor of the given dtype.

    They may be of that type already. Of a batch of videos they are bytes "b c t h w".
    """
    x = x if x.dtype == torch.uint8 else conversion_for(part)(x)
    if type_given(part) != "video" or len(x) != 1:
        return x
    frames = x[0].permute(1, 2, 3, 0)
    try:
        colour = MADE if part.colour is None else Colour(**part.colour)
        start = float(part.settings.get("start", 0.0))
    except TypeError as error:
        raise ValueError(f"the colour or start of these tokens is none: {error}") from error
    found = Video(frames.contiguous(), part.fps, times, colour, start=start, last=last)
    return replace(found, aspect=aspect_of(part.settings), damaged=part.damaged)


def aspect_of(settings: Mapping[str, Any]) -> Fraction:
    """The width of a pixel over its height that tokens were made with; square if they say none."""
    width, colon, height = str(settings.get("pixel_aspect")).partition(":")
    numbers = width.isdecimal() and height.isdecimal() and len(width + height) < 20
    if not (colon and numbers and int(width) and int(height)):
        return Fraction(1)
    return Fraction(int(width), int(height))


def join_frames(parts: list[Video | Tensor], skip: int) -> Video | Tensor:
    """The parts as one, without the first `skip` frames."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    videos = [part for part in parts if isinstance(part, Video)]
    assert not tensors or not videos, "all parts of a clip are given back in the same way"
    if tensors:
        return torch.cat(tensors, dim=2)[:, :, skip:]
    frames = torch.cat([video.frames for video in videos])[skip:]
    known = [video.times for video in videos if video.times is not None]
    times = torch.cat(known)[skip:] if len(known) == len(videos) else None
    return replace(videos[0], frames=frames, times=times, last=videos[-1].last)
