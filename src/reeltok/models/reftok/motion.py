"""Motion from a reference frame to a block: fields, warping along them, and the encoder's search.

A field has one velocity v and one acceleration a for each token. The frame at time t of a block
(its end is 1) shows at p what the reference shows at p + v t + a t^2: the tokens of a block pay
for four numbers a cell, not for a field of every frame.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from reeltok.nn.quantizers.contract import full_precision

REACH = 64.0  # pixels that a frame may lie from its reference
STILL = 0.125  # pixels: less than this in both directions is not motion, and copies are exact
RADIUS = 12  # of the search, in pixels of a quarter of the size
FAR = 2e-4  # what a pixel of motion costs the search, in mean absolute difference
MOST_HELD = 2**21  # differences, or pixels of windows, that the search holds at once (8 MiB)
WORTH = 0.98  # of the difference without motion: what motion must beat

# Fields and warping.


def displacements(field: Float[Tensor, "b s h w 4"], frames: int) -> Float[Tensor, "b t h w 2"]:
    """How far (rows, columns; pixels) each frame lies from the reference, at most REACH."""
    times = torch.arange(1, frames + 1, device=field.device, dtype=field.dtype) / frames
    times = times.view(1, -1, 1, 1, 1)
    each = field.repeat_interleave(frames // field.shape[1], dim=1)
    moved = each[..., :2] * times + each[..., 2:] * times.square()
    return moved.clamp(-REACH, REACH)


def drop_small(moved: Float[Tensor, "b t h w 2"]) -> Float[Tensor, "b t h w 2"]:
    """`moved` without what is less than STILL; gradients pass as if it were there."""
    small = (moved.detach().abs() < STILL).all(-1, keepdim=True)
    return moved - moved.detach() * small


def warp(
    x: Float[Tensor, "b h w c"],
    moved: Float[Tensor, "b t h2 w 2"],
    *,
    cubic: bool = False,
    top: int = 0,
) -> Float[Tensor, "b t h2 w c"]:
    """`x` at p + moved(p), float32: bilinear or bicubic, the border repeated beyond it.

    The rows of `moved` are those of `x` from `top` on. Where nothing moved it is `x` to the bit.
    """
    (h, w), high = x.shape[1:3], moved.shape[2]
    if not high:
        return x.new_empty(*moved.shape[:-1], x.shape[-1])
    with full_precision(x):
        x, moved = x.float(), moved.float()
        rows = torch.arange(top, top + high, device=x.device).view(1, 1, high, 1) + 0.5
        rows = rows + moved[..., 0]
        columns = torch.arange(w, device=x.device) + 0.5 + moved[..., 1]
        grid = torch.stack([2 * columns / w - 1, 2 * rows / h - 1], dim=-1)
        y = F.grid_sample(
            x.permute(0, 3, 1, 2),
            grid.flatten(1, 2),
            mode="bicubic" if cubic else "bilinear",
            padding_mode="border",
            align_corners=False,
        )
        y = y.unflatten(2, moved.shape[1:3]).permute(0, 2, 3, 4, 1)
        still = (moved == 0).all(-1, keepdim=True)
        exact = torch.where(still, x[:, None, top : top + high], y).detach()
        return exact + (y - y.detach())


def enlarge_field(
    field: Float[Tensor, "b s h w k"], ratio: tuple[int, int], rows: slice | None = None
) -> Float[Tensor, "b s h2 w2 k"]:
    """A field on a grid that is `ratio` times finer, bilinear; of some `rows` of it, or of all."""
    around = field if rows is None else field[:, :, max(0, rows.start - 1) : rows.stop + 1]
    if ratio == (1, 1):
        return field if rows is None else field[:, :, rows]
    b, s = field.shape[:2]
    y = rearrange(around.float(), "b s h w k -> (b s) k h w")
    y = F.interpolate(y, scale_factor=[float(side) for side in ratio], mode="bilinear")
    y = rearrange(y, "(b s) k h w -> b s h w k", b=b, s=s)
    if rows is None:
        return y
    first = min(1, rows.start) * ratio[0]
    return y[:, :, first : first + (rows.stop - rows.start) * ratio[0]]


# The encoder's search: blocks of twice a cell's side, that overlap by half.


@dataclass(frozen=True)
class BlockMotion:
    """The motion of a block: its field in pixels, and the displacements that it was fitted to.

    `moved` holds those of the frames that `searched_frames` picks, `saved` by how much the mean
    absolute difference fell through them.
    """

    field: Float[Tensor, "b s h w 4"]
    moved: Float[Tensor, "b n h w 2"]
    saved: Float[Tensor, "b n h w"]


def searched_frames(x: Float[Tensor, "b t *rest"], steps: int) -> Float[Tensor, "b n *rest"]:
    """Of the frames of a block the middle and the last one of each of its token steps.

    Every frame, where a step is one. By slices: a list of numbers would wait for an accelerator.
    """
    each = x.shape[1] // steps
    if each == 1:
        return x
    mids, ends = x[:, each - 1 - each // 2 :: each], x[:, each - 1 :: each]
    return torch.stack([mids, ends], dim=2).flatten(1, 2)


@torch.no_grad()
def search(
    reference: Float[Tensor, "b h w c"],
    block: Float[Tensor, "b t h w c"],
    *,
    steps: int,
    cell: tuple[int, int],
) -> BlockMotion:
    """Where the cells of a block come from in the reference, to half a pixel.

    `cell` are the pixels (rows, columns) of a token, multiples of 4, `steps` the token steps of the
    block. Exhaustive at a quarter of the size (RADIUS there), a median, then one pixel each way at
    half and full size, and half a pixel.
    """
    picked = searched_frames(block, steps)
    return search_grey(grey(reference), grey(picked), frames=block.shape[1], steps=steps, cell=cell)


def grey(x: Float[Tensor, "*b h w c"]) -> Float[Tensor, "*b h w"]:
    """What the search compares: the mean of the colours, float32."""
    with full_precision(x):
        return x.float().mean(-1)


@torch.no_grad()
def search_grey(
    before: Float[Tensor, "b h w"],
    after: Float[Tensor, "b n h w"],
    *,
    frames: int,
    steps: int,
    cell: tuple[int, int],
) -> BlockMotion:
    """`search`, of the `searched_frames` of a block of `frames`."""
    (b, many), times = after.shape[:2], torch.arange(1, frames + 1, device=after.device) / frames
    times = searched_frames(times.view(1, -1, 1, 1, 1), steps)
    with full_precision(after):
        moved = find_far(before, after[:, many // steps - 1 :: many // steps], cell)
        if many > steps:
            near = (moved * (times[:, ::2] / times[:, 1::2])).round().long()
            moved = torch.stack([near, moved], dim=2).flatten(1, 2)
        found = find_near(before, after.flatten(0, 1), moved.flatten(0, 1), cell)
    moved, saved = (each.unflatten(0, (b, many)) for each in (found.moved, found.cost))
    return BlockMotion(fit(moved, times, steps), moved, saved)


def fit(
    moved: Float[Tensor, "b n h w 2"], times: Float[Tensor, "1 n 1 1 1"], steps: int
) -> Float[Tensor, "b s h w 4"]:
    """The velocity and acceleration that two frames a step determine; of one, the velocity."""
    speed = moved / times
    if moved.shape[1] == steps:
        return torch.cat([speed, torch.zeros_like(speed)], dim=-1)
    gap = times[:, 1::2] - times[:, ::2]
    change = (speed[:, 1::2] - speed[:, ::2]) / gap
    return torch.cat([speed[:, ::2] - change * times[:, ::2], change], dim=-1)


def find_far(
    before: Float[Tensor, "b h w"], ends: Float[Tensor, "b s h w"], cell: tuple[int, int]
) -> Int[Tensor, "b s h2 w2 2"]:
    """Displacements of the last frames of token steps, in pixels of a quarter of the size."""
    b, steps = ends.shape[:2]
    wide = shrink(before.repeat_interleave(steps, dim=0), 4)
    moved = exhaust(wide, shrink(ends.flatten(0, 1), 4), (cell[0] // 4, cell[1] // 4))
    return middling(moved).unflatten(0, (b, steps))


@dataclass(frozen=True)
class Better:
    """Displacements, and the mean absolute difference that they leave, or save."""

    moved: Float[Tensor, "n h w 2"] | Int[Tensor, "n h w 2"]
    cost: Float[Tensor, "n h w"]


def find_near(
    before: Float[Tensor, "b h w"],
    after: Float[Tensor, "n h w"],
    moved: Int[Tensor, "n h2 w2 2"],
    cell: tuple[int, int],
) -> Better:
    """Displacements in pixels near `moved`, which is in those of a quarter; what they save.

    As many of `after` follow each of `before`.
    """
    sizes = {ratio: (shrink(before, ratio), shrink(after, ratio)) for ratio in (4, 2, 1)}
    windows = len(moved) * moved.shape[2] * (2 * cell[0] + 2) * (2 * cell[1] + 2)
    many = max(1, MOST_HELD // windows)  # rows of cells at a time
    starts = range(0, moved.shape[1], many)
    parts = [refine(sizes, moved[:, at : at + many], cell, at) for at in starts]
    return Better(*(torch.cat([getattr(x, k) for x in parts], 1) for k in ("moved", "cost")))


def refine(
    sizes: dict[int, tuple[Tensor, Tensor]],
    moved: Int[Tensor, "n h2 w2 2"],
    cell: tuple[int, int],
    first: int,
) -> Better:
    """The same in some rows of cells from `first` on, of both frames in three `sizes`."""
    for ratio in (4, 2, 1):
        side = (cell[0] // ratio, cell[1] // ratio)
        near = improve(*sizes[ratio], moved, side, first)
        moved = 2 * near.moved if ratio > 1 else near.moved
    best = improve(*sizes[1], moved, cell, first, fine=True)
    still = mean_difference(*sizes[1], torch.zeros_like(moved), cell, first)
    moves = (best.cost < WORTH * still) & (best.cost < still - FAR)
    return Better(best.moved * moves[..., None], (still - best.cost) * moves)


def shrink(x: Float[Tensor, "n h w"], ratio: int) -> Float[Tensor, "n h2 w2"]:
    return F.avg_pool2d(x[:, None], ratio)[:, 0]


def exhaust(
    before: Float[Tensor, "n h w"], after: Float[Tensor, "n h w"], cell: tuple[int, int]
) -> Int[Tensor, "n h2 w2 2"]:
    """The best of all displacements of at most RADIUS whole pixels each way, of 3x3 cells."""
    (h, w), r, side = after.shape[1:], RADIUS, 2 * RADIUS + 1
    wide = F.pad(before[:, None], (r, r, r, r), mode="replicate")[:, 0]
    far = (torch.arange(side, device=after.device) - r).abs() * 4 * FAR
    many = max(1, MOST_HELD // (after.numel() * side))  # rows of displacements at a time
    least = after.new_full((len(after), h // cell[0], w // cell[1]), torch.inf)
    best = torch.zeros_like(least, dtype=torch.long)
    for first in range(0, side, many):
        rows = wide[:, first : first + many + h - 1].unfold(1, h, 1).unfold(2, w, 1)
        apart = (rows - after[:, None, None]).abs().flatten(0, 1)
        apart = F.avg_pool2d(F.avg_pool2d(apart, cell), 3, 1, 1, count_include_pad=False)
        cost = apart.unflatten(0, (len(after), -1))
        cost = cost + (far[first : first + many, None] + far)[:, :, None, None]
        cost, at = cost.flatten(1, 2).min(1)
        best = torch.where(cost < least, at + first * side, best)
        least = torch.minimum(cost, least)
    return torch.stack([best // side - r, best % side - r], dim=-1)


def middling(moved: Int[Tensor, "n h w 2"]) -> Int[Tensor, "n h w 2"]:
    """The median of each 3x3 cells, of rows and columns apart: lone vectors are errors."""
    x = F.pad(moved.permute(0, 3, 1, 2).float(), (1, 1, 1, 1), mode="replicate")
    x = x.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).median(-1).values
    return x.permute(0, 2, 3, 1).to(moved.dtype)


def improve(
    before: Float[Tensor, "b h w"],
    after: Float[Tensor, "n h w"],
    moved: Int[Tensor, "n h2 w2 2"],
    cell: tuple[int, int],
    first: int,
    *,
    fine: bool = False,
) -> Better:
    """The best of `moved` and its eight neighbours, one pixel away or (`fine`) half a pixel.

    The rows of cells are those from `first` on. Large windows are compared at every other pixel of
    both axes.
    """
    every = 2 if min(cell) >= 8 else 1
    target = displaced_windows(after, torch.zeros_like(moved), cell, first)[::every, ::every]
    around, costs = displaced_windows(before, moved, cell, first, 1), []
    for down in (-1, 0, 1):
        rows = shifted(around, down, 0, fine)[::every]
        for right in (-1, 0, 1):
            there = shifted(rows, right, 1, fine)[:, ::every]
            costs.append((there - target).abs().mean((0, 1)))
    far = torch.full((9, 1, 1, 1), FAR, device=moved.device)
    far[4] = 0
    best = (torch.stack(costs) + far).argmin(0)
    step = torch.stack([best // 3 - 1, best % 3 - 1], dim=-1)
    cost = torch.stack(costs).gather(0, best[None])[0]
    return Better(moved + (step / 2 if fine else step), cost)


def shifted(
    x: Float[Tensor, "i j n h w"], by: int, axis: int, fine: bool
) -> Float[Tensor, "i2 j2 n h w"]:
    """Windows without their margin of one pixel, moved along an axis by a pixel or half of one."""
    size = x.shape[axis] - 2
    there = x.narrow(axis, 1 + by, size)
    return (there + x.narrow(axis, 1, size)) / 2 if fine and by else there


def mean_difference(
    before: Float[Tensor, "b h w"],
    after: Float[Tensor, "n h w"],
    moved: Int[Tensor, "n h2 w2 2"],
    cell: tuple[int, int],
    first: int,
) -> Float[Tensor, "n h2 w2"]:
    """The mean absolute difference that displacements leave, in rows of cells from `first` on."""
    pairs = (before, moved), (after, torch.zeros_like(moved))
    every = 2 if min(cell) >= 8 else 1
    pair = [displaced_windows(*each, cell, first)[::every, ::every] for each in pairs]
    return (pair[0] - pair[1]).abs().mean((0, 1))


def displaced_windows(
    x: Float[Tensor, "b h w"],
    moved: Int[Tensor, "n h2 w2 2"],
    cell: tuple[int, int],
    first: int,
    margin: int = 0,
) -> Float[Tensor, "i j n h2 w2"]:
    """The pixels around cells, twice their sides, displaced; the border repeated beyond it.

    The rows of cells are those from `first` on, as many of `moved` are of each of `x`.
    """
    n, h2, w2, _ = moved.shape
    sides, starts = [], (first, 0)
    for axis, (side, count) in enumerate(zip(cell, (h2, w2), strict=True)):
        inside = torch.arange(-margin, 2 * side + margin, device=x.device) - side // 2
        begins = (torch.arange(count, device=x.device) + starts[axis]) * side
        begins = begins.view((1, -1, 1) if axis == 0 else (1, 1, -1))
        places = moved[..., axis].long() + begins + inside.view(-1, 1, 1, 1)
        sides.append(places.clamp(0, x.shape[1 + axis] - 1))
    clip = (torch.arange(n, device=x.device) // (n // len(x))).view(-1, 1, 1)
    return x[clip, sides[0][:, None], sides[1][None]]
