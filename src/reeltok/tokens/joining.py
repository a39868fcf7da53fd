"""Tokens put together: parts of one clip one after another, clips of a batch side by side."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Parts of one clip.


def require_same(first: Any, part: Any) -> None:
    """Raise ValueError where two parts cannot be of one clip, naming what differs."""
    for name in ("model", "height", "width", "fps", "vocabulary", "settings", "batch"):
        one, other = getattr(first, name), getattr(part, name)
        if one != other:
            raise ValueError(f"parts of one clip agree, but their {name} is {one!r} and {other!r}")
    require_weights(first, part)
    if first.grid[1:] != part.grid[1:] or (first.ids is None) != (part.ids is None):
        raise ValueError(f"parts of one clip have one kind of tokens, found {first} and {part}")


def require_weights(first: Any, part: Any) -> None:
    """ValueError for parts made by other weights; where some are not known, they may be the same.

    Of one model that has not changed in between nothing is hashed.
    """
    if vars(first)["weights"] == vars(part)["weights"]:
        return
    hashes = {first.weights, part.weights} - {None}
    if len(hashes) > 1:
        raise ValueError(
            f"parts of one clip come from one tokenizer, these from {first.model!r} with the "
            f"weights {first.weights[:12]} and {part.weights[:12]}: encode the clip with one"
        )


def joined_latents(parts: list[Any]) -> Tensor | None:
    found = [part.latents for part in parts if part.latents is not None]
    return torch.cat(found, 2) if len(found) == len(parts) else None


def joined_extras(parts: list[Any]) -> Mapping[str, Any]:
    """All extras; those that the parts share stay as they are, unread."""
    if all(part.extras is parts[0].extras for part in parts):
        return parts[0].extras
    return {name: part.extras[name] for part in parts for name in part.extras}


# Clips of one batch.


def all_one(values: list[Any]) -> Any:
    """The value that all have, or None."""
    return values[0] if all(value == values[0] for value in values) else None


def require_one(name: str, one: Any, other: Any) -> None:
    if one != other:
        raise ValueError(
            f"tokens of one batch agree, but their {name} is {one!r} and {other!r}: "
            "batch clips of one kind, or give collate_fn=list"
        )


def stack_tokens(batch: list[Any]) -> Any:
    """Clips of the same frames, size and tokenizer as one record, in their order.

    Rate, time stamps, colour, source file and where a clip starts in it are kept where all agree.
    Reference bits add up. ValueError for clips that differ otherwise, or that keep `extras`.
    """
    first, held = batch[0], [{**each.settings} for each in batch]
    places = {
        name: all_one([settings.pop(name, None) for settings in held])
        for name in ("fingerprint", "start")
    }
    for each, settings in zip(batch, held, strict=True):
        for name in ("frames", "height", "width", "grid", "vocabulary", "model", "weights", "step"):
            require_one(name, getattr(first, name), getattr(each, name))
        require_one("settings", held[0], settings)
        require_one("kind", first.ids is None, each.ids is None)
        if each.extras:
            names = ", ".join(each.extras)
            raise ValueError(f"tokens with {names} are not batched: give collate_fn=list")
    one = {
        name: all_one([getattr(each, name) for each in batch]) for name in ("fps", "colour", "last")
    }
    stamps = [None if each.times is None else each.times.tolist() for each in batch]
    one["times"] = first.times if all_one(stamps) is not None else None
    place = {name: value for name, value in places.items() if value is not None}
    ids = [each.ids for each in batch if each.ids is not None]
    latents = [each.latents for each in batch if each.latents is not None]
    return first.with_(
        ids=torch.cat(ids) if ids else None,
        latents=torch.cat(latents) if len(latents) == len(batch) else None,
        settings=held[0] | place,
        reference_bits=sum(each.reference_bits for each in batch),
        damaged=sum(each.damaged for each in batch),
        **one,
    )
