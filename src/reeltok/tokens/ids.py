"""What may stand in ids and latents, checked wherever they come from outside."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from reeltok.arguments import check_rate, is_count, said, slice_ends


def integers(ids: Any) -> Int64[Tensor, "b ..."]:
    """Ids of any container with a batch axis in front. ValueError where they are not integers."""
    try:
        tensor = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"ids must be integers in rows of one length: {error}") from error
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"ids must be integers, found {tensor.dtype}")
    if tensor.ndim == 0 or tensor.numel() == 0:
        raise ValueError(f"ids must be a sequence, found shape {tuple(tensor.shape)}")
    return tensor.long().unsqueeze(0) if tensor.ndim == 1 else tensor.long()


def narrow_ids(ids: Tensor) -> Tensor:
    """The same ids as int32 where it holds them all, else as int64."""
    holds = not ids.numel() or int(ids.max()) < 2**31
    return ids.to(torch.int32 if holds else torch.int64)


def floats(latents: Any) -> Float[Tensor, "b d ..."]:
    """Latents of any container, "b d *grid". ValueError where they are not floats of that shape."""
    try:
        tensor = torch.as_tensor(latents)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"latents must be floats in rows of one length: {error}") from error
    if not tensor.is_floating_point() or tensor.ndim < 3 or not tensor.numel():
        raise ValueError(
            f"latents must be floats 'batch channels ...', found {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}"
        )
    return tensor


def check_ids(ids: Tensor, vocabulary: int | None) -> None:
    """Raise ValueError unless ids are int64 and 0 .. vocabulary - 1 (None: 0 or more)."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        found, give = type(ids).__name__, "torch.as_tensor(ids).long()"
        if isinstance(ids, Tensor):
            found, give = str(ids.dtype), "ids.long()"
        raise ValueError(f"ids must be an int64 tensor, found {found}; give {give}")
    if ids.is_meta or torch.compiler.is_exporting() or ids.numel() == 0:
        return  # there are no values; a graph that is exported has no checks
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 and vocabulary is None:
        raise ValueError(f"token id {low} is out of range: ids begin at 0")
    if vocabulary is not None and (low < 0 or high >= vocabulary):
        wrong = low if low < 0 else high
        raise ValueError(
            f"token id {wrong} is out of range: the vocabulary has {vocabulary} ids, "
            f"0 to {vocabulary - 1}"
        )


def check_latents(latents: Tensor, channels: int | None = None) -> None:
    """Raise ValueError unless latents "b d *grid" are finite floats, of so many channels."""
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        found = latents.dtype if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"latents must be a floating point tensor, found {found}")
    if latents.ndim < 3:
        raise ValueError(f"latents are 'batch channels ...', found shape {tuple(latents.shape)}")
    if channels is not None and latents.shape[1] != channels:
        raise ValueError(
            f"the tokenizer's latents have {channels} channels, these have {latents.shape[1]}: "
            "give those of the same tokenizer"
        )
    if latents.is_meta or torch.compiler.is_exporting():
        return
    if not latents.detach().isfinite().all():
        raise ValueError("latents hold NaN or infinity: look at the model that made them")


def join_sizes(shape: Iterable[int]) -> str:
    """A shape for people: 5x32x32."""
    return "x".join(str(size) for size in shape)


def require_gridded(tokens: Any, axes: str) -> None:
    """ValueError unless ids or latents have the axes that `axes` names, such as "batch tokens"."""
    if isinstance(tokens, Tensor) and tokens.ndim != len(axes.split()):
        shape = join_sizes(tokens.shape) or "()"
        raise ValueError(f"tokens without a record are {axes!r}, found shape {shape}: give those")


def check_clip(tokens: Any) -> None:
    """ValueError for what cannot be said of the clip that a record of tokens stands for."""
    frames, *size = tokens.frames, tokens.height, tokens.width
    if not (is_count(frames, 0) and all(map(is_count, size))):  # a part may hold no frame's end
        raise ValueError(
            f"tokens stand for frames of at least one pixel, found {said(frames)} frames of "
            f"{'x'.join(map(said, size))}: give whole numbers"
        )
    check_rate(tokens.fps)
    if tokens.vocabulary is not None and not is_count(tokens.vocabulary):
        raise ValueError(f"a vocabulary is a number of ids, not {said(tokens.vocabulary)}")
    if not isinstance(tokens.settings, Mapping):
        raise ValueError(
            f"settings are JSON values by name, found {type(tokens.settings).__name__}: give a dict"
        )


def as_grid(grid: Any) -> tuple[int, ...]:
    """The shape of a clip's tokens. ValueError for what is none."""
    if not isinstance(grid, tuple | list) or not all(is_count(side, 0) for side in grid):
        raise ValueError(
            f"a grid is a tuple of sizes, the steps first, found {said(grid)}: give (2, 4, 4) or so"
        )
    return tuple(grid)


def check_request(frames: Any, size: Any, tokenizer: Any) -> None:
    """ValueError unless tokens can stand for `frames` frames of `size` made by `tokenizer`."""
    if not is_count(frames):
        raise ValueError(f"tokens stand for at least one frame, not frames={said(frames)}")
    pair = isinstance(size, tuple | list) and len(size) == 2
    if not pair or not all(is_count(side) for side in size):
        raise ValueError(f"size is (height, width) in pixels, not {said(size)}")
    if tokenizer is not None and not hasattr(tokenizer, "grid_for"):
        raise ValueError(f"tokenizer= is what reeltok.load gives, not {said(tokenizer)}: load it")


def require_axes(found: tuple[int, ...], wanted: tuple[int, ...], what: str) -> None:
    """ValueError for a grid of as many cells, but along other axes than those of `what`."""
    if len(found) > 1 and found != wanted:
        raise ValueError(
            f"{what} take a grid of {join_sizes(wanted)}, found one of {join_sizes(found)}: give "
            "it with those axes, or flat"
        )


def require_step(step: int, due: int) -> None:
    """ValueError where a part of a clip does not begin at the step that comes next."""
    if step != due:
        raise ValueError(
            f"parts of one clip follow one another, but one from step {step} on comes where "
            f"step {due} is next: give them all, in their order"
        )


def ends_of(steps: Any, total: int) -> tuple[int, int]:
    """Where a slice of `total` steps begins and ends. ValueError for what is none, or is empty."""
    start, stop, stride = slice_ends(steps, total, "tokens are sliced, as in tokens[0:2]")
    if stride != 1:
        raise ValueError(f"tokens are sliced in steps of 1, not {stride}")
    if start >= stop and total:  # as they were given: a slice ends where its sequence does
        begin, end = steps.start or 0, total if steps.stop is None else steps.stop
        raise ValueError(f"steps {begin} to {end} were asked for, but there are 0 to {total}")
    return start, stop
