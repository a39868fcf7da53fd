"""What may stand in ids and latents, checked wherever they come from outside."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


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
        found = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"ids must be an int64 tensor, found {found}; give ids.long()")
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
    if not latents.is_meta and not latents.detach().isfinite().all():
        raise ValueError("latents hold NaN or infinity: look at the model that made them")


def join_sizes(shape: Iterable[int]) -> str:
    """A shape for people: 5x32x32."""
    return "x".join(str(size) for size in shape)


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


def all_one(values: list[Any]) -> Any:
    """The value that all have, or None."""
    return values[0] if all(value == values[0] for value in values) else None


def require_one(name: str, one: Any, other: Any) -> None:
    if one != other:
        raise ValueError(
            f"tokens of one batch agree, but their {name} is {one!r} and {other!r}: "
            "batch clips of one kind, or give collate_fn=list"
        )


def ends_of(steps: Any, total: int) -> tuple[int, int]:
    """Where a slice of `total` steps begins and ends. ValueError for what is none."""
    if not isinstance(steps, slice):
        raise ValueError(
            f"tokens are sliced, as in tokens[0:2], not counted out: found tokens[{steps!r}]"
        )
    start, stop, stride = steps.indices(total)
    if stride != 1:
        raise ValueError(f"tokens are sliced in steps of 1, not {stride}")
    return start, stop
