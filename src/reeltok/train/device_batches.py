"""Batches of clips that lie decoded on one device, cut and resized together.

A GPU waits for a process that launches kernels: here each clip is one copy, and all of a batch
share what follows. 64 clips of `default_gpu`, half of them lively, take 441 operations in the place
of 1,116; those that stay are mostly stills with text, which are made one by one.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.train.clips import ClipBatch, Window
from reeltok.train.data import ClipSource, Drawn

AT_ONCE = 16  # clips of a batch that are resized together: of 17x256x256 they take .2 GB


def device_batch(source: ClipSource, step: int, indices: Iterable[int]) -> ClipBatch:
    """The samples `indices` of step `step`, as `source.sample` gives them but for rounding.

    The frames of all clips of `source` are tensors on one device, where the batch is made.
    """
    indices = list(indices)
    window, drawn = draw_together(source, step, indices)
    clips = [source.train[one.clip] for one in drawn]
    real = [at for at, one in enumerate(drawn) if not one.synthetic]
    shape = (len(drawn), 3, window.frames, window.size, window.size)
    x = torch.empty(shape, device=source.device)
    for at, one in enumerate(drawn):
        if one.synthetic:
            x[at] = source.pixels(window, one, step, indices[at])[0]
    for some in (real[first : first + AT_ONCE] for first in range(0, len(real), AT_ONCE)):
        crops = [held_crop(source, window, drawn[at]) for at in some]
        mirrored = [drawn[at].mirrored for at in some]
        x[some] = resize_together(crops, window.size, mirrored)
    return ClipBatch(
        x=x,
        names=tuple(clip.name for clip in clips),
        groups=tuple(clip.group for clip in clips),
    )


def draw_together(
    source: ClipSource, step: int, indices: Sequence[int]
) -> tuple[Window, list[Drawn]]:
    """What `source.draw` gives for each index; the motion of all candidates is measured at once."""
    window = source.window(step)
    candidates = [source.candidates(window, step, index) for index in indices]
    several = [one for some in candidates if len(some) > 1 for one in some]
    if not several:
        return window, [only for (only,) in candidates]
    motions = iter(motions_of([held_crop(source, window, one) for one in several]))
    drawn = []
    for some in candidates:
        moved = [next(motions) if len(some) > 1 else 0.0 for _ in some]
        drawn.append(some[moved.index(max(moved))])
    return window, drawn


def held_crop(source: ClipSource, window: Window, drawn: Drawn) -> UInt8[Tensor, "t s s 3"]:
    """The pixels of a sample before they are resized, where the clip lies."""
    held = source.frames[source.train[drawn.clip]].held
    assert isinstance(held, Tensor)
    top, left, side = drawn.square
    return held[drawn.times(window), top : top + side, left : left + side]


def motions_of(crops: Sequence[UInt8[Tensor, "t _ _ 3"]]) -> list[float]:
    """How much squares of any sizes move, as `ClipSource.draw` compares it."""
    coarse = [crop[:, ::4, ::4] for crop in crops]
    change = padded(coarse).float().diff(dim=1).abs().sum(dim=(2, 3, 4))
    counts = torch.tensor([crop[0].numel() for crop in coarse], device=change.device)
    return (change / counts[:, None]).median(dim=1).values.tolist()


def padded(crops: Sequence[UInt8[Tensor, "t _ _ 3"]]) -> UInt8[Tensor, "b t most most 3"]:
    """Squares of any sizes as one tensor, with zeros below and at the right."""
    most = max(crop.shape[1] for crop in crops)
    held = crops[0].new_zeros(len(crops), len(crops[0]), most, most, 3)
    for place, crop in zip(held, crops, strict=True):
        place[:, : crop.shape[1], : crop.shape[2]].copy_(crop)
    return held


def resize_together(
    crops: Sequence[UInt8[Tensor, "t _ _ 3"]], size: int, mirrored: Sequence[bool]
) -> Float[Tensor, "b 3 t size size"]:
    """`resize_square(to_unit(crop), size)` of squares of any sizes, some of them mirrored.

    Rows, then columns are weighted by matrices, whose rows an antialiased bilinear filter gives.
    """
    held = padded(crops)
    device, most = held.device, held.shape[2]
    sides = torch.tensor([crop.shape[1] for crop in crops], device=device)
    down = filters(size, -(-most // 64) * 64, device)[:, :, :most][sides - size]
    turned = torch.tensor(mirrored, device=device)[:, None, None]
    across = torch.where(turned, down.flip(1), down)
    x = torch.einsum("bsy,btyxc->bctsx", down, held.float())
    return torch.einsum("brx,bctsx->bctsr", across, x).div_(127.5).sub_(1)


@lru_cache(maxsize=16)
def filters(size: int, most: int, device: torch.device) -> Float[Tensor, "sides size most"]:
    """What `size` pixels are of `size`, `size` + 1, ... `most`: the weights of the resizing."""
    rows = []
    for side in range(size, most + 1):
        unit = torch.eye(side)[None, None]
        scaled = F.interpolate(
            unit, (size, side), mode="bilinear", antialias=True, align_corners=False
        )
        rows.append(F.pad(scaled[0, 0], (0, most - side)))
    return torch.stack(rows).to(device)
