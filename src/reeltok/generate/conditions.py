"""What is given of a clip: which pixels, the condition video, and what that means for its tokens.

Given pixels are a mask "t h w". COMMIT (MAGVIT, section 3.3) completes them to a whole clip, the
condition video; its tokens stand where a mask would, wherever they hold anything given.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.nn.bounds import Side
from reeltok.tokenizer.spec import Spec

CompletionTask = Literal["predict", "interpolate", "inpaint", "outpaint"]
"""What a prior learns to complete: from first frames, both ends, the outer pixels, or a box."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Timing:
    """Which frames a token step stands for: as in `Spec`, apart from any tokenizer."""

    first_frames: Side
    first_steps: Side
    frames_per_group: Side
    steps_per_group: Side

    @classmethod
    def of(cls, spec: Spec) -> "Timing":
        """That of a tokenizer."""
        return cls(
            first_frames=spec.first_frames,
            first_steps=spec.first_steps,
            frames_per_group=spec.frames_per_group,
            steps_per_group=spec.steps_per_group,
        )

    def steps(self, frames: int) -> int:
        """Token steps for so many frames."""
        groups = math.ceil(max(0, frames - self.first_frames) / self.frames_per_group)
        return self.first_steps + groups * self.steps_per_group

    def step_of(self, frames: int) -> Int[Tensor, " t"]:
        """The token step that stands for each frame."""
        at = torch.arange(frames)
        early = at * self.first_steps // self.first_frames
        late = (
            self.first_steps
            + (at - self.first_frames) * self.steps_per_group // self.frames_per_group
        )
        return torch.where(at < self.first_frames, early, late)


def give_frames(
    frames: int, size: tuple[int, int], *, first: int = 0, last: int = 0
) -> Bool[Tensor, "t h w"]:
    """The `first` frames (prediction) and the `last` ones (interpolation) of a clip are given."""
    if not 0 <= first + last <= frames or min(first, last) < 0:
        raise ValueError(
            f"{first} first and {last} last frames were to be given of a clip of {frames}: give "
            f"fewer"
        )
    given = torch.zeros(frames, *size, dtype=torch.bool)
    given[:first] = True
    given[frames - last :] = True
    return given


def give_around(
    frames: int, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Bool[Tensor, "t h w"]:
    """All but `box` = (top, left, bottom, right) in pixels is given: inpainting.

    The mask's opposite (`~`) is outpainting. ValueError for a box that does not lie in the frame.
    """
    top, left, bottom, right = box
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise ValueError(f"the box {box} does not lie in frames of {size[0]}x{size[1]}")
    given = torch.ones(frames, *size, dtype=torch.bool)
    given[:, top:bottom, left:right] = False
    return given


def give(
    kind: CompletionTask, frames: int, size: tuple[int, int], *, first: int
) -> Bool[Tensor, "t h w"]:
    """What is given of an example in training: `first` frames, the last one, or pixels.

    "inpaint" hides, and "outpaint" shows, the middle box of half the height and width.
    """
    if kind in ("predict", "interpolate"):
        return give_frames(frames, size, first=first, last=int(kind == "interpolate"))
    height, width = size
    box = (height // 4, width // 4, height - height // 4, width - width // 4)
    around = give_around(frames, size, box)
    return around if kind == "inpaint" else ~around


def condition_video(
    x: Float[Tensor, "b c t h w"], given: Bool[Tensor, "t h w"]
) -> Float[Tensor, "b c t h w"]:
    """The condition video: what is given of `x`, repeated in time and grey elsewhere.

    A frame of which nothing is given repeats the nearest one before it that has something (or, at
    the start, after it); pixels that are missing in such a frame are grey (0).
    """
    shown = torch.where(given.to(x.device), x, x.new_zeros(()))
    some = given.flatten(1).any(1).nonzero().flatten()
    if len(some) == 0:
        return shown
    frames = torch.arange(len(given))
    source = (some[None, :] <= frames[:, None]).sum(1).sub(1).clamp(min=0)
    return shown[:, :, some[source].to(x.device)]


def padding_cells(
    given: Bool[Tensor, "t h w"], spec: Spec, grid: tuple[int, ...]
) -> Bool[Tensor, "s h2 w2"]:
    """The cells whose pixels hold nothing that is given (the paper's ispad)."""
    return ~by_cell(given, spec, grid)


def settled_cells(
    given: Bool[Tensor, "t h w"], spec: Spec, grid: tuple[int, ...]
) -> Bool[Tensor, "s h2 w2"]:
    """The cells whose tokens are known: a causal tokenizer sees given frames alone up to them."""
    whole = given.flatten(1).all(1)
    until = whole.long().cumprod(0).bool()
    open_steps = Timing.of(spec).step_of(len(given))[~until]
    settled = torch.arange(grid[0]) < (int(open_steps.min()) if len(open_steps) else grid[0])
    settled = settled & bool(whole.all()) if spec.independent else settled
    return settled[:, None, None].expand(grid)


def by_cell(
    given: Bool[Tensor, "t h w"], spec: Spec, grid: tuple[int, ...]
) -> Bool[Tensor, "s h2 w2"]:
    """Whether anything is given in each cell."""
    _, height, width = spec.factors
    steps = Timing.of(spec).step_of(len(given))
    found = torch.zeros(grid, dtype=torch.bool)
    down, right = -given.shape[1] % height, -given.shape[2] % width
    padded = torch.nn.functional.pad(given.float(), (0, right, 0, down))
    cells = torch.nn.functional.max_pool2d(padded[:, None], (height, width))[:, 0] > 0
    for step in range(grid[0]):
        found[step] = cells[steps == step].any(0)
    return found


def actions_by_step(
    actions: Float[Tensor, "b n a"], timing: Timing, frames: int, *, follows: bool
) -> Float[Tensor, "b s fa"]:
    """The actions that lead to the frames of each token step, side by side; zeros where none do.

    Action i is what was done after frame i. `follows`: the coded clip of `frames` frames begins
    behind frame 0 (the reference), otherwise with it. ValueError for too few actions.
    """
    needed = frames if follows else frames - 1
    if actions.shape[1] < needed:
        raise ValueError(
            f"{actions.shape[1]} actions were given for {frames} frames: give {needed}"
        )
    leading = actions[:, :needed]
    if not follows:
        leading = torch.cat([torch.zeros_like(actions[:, :1]), leading], dim=1)
    steps, at = timing.steps(frames), timing.step_of(frames)
    most = frames_of_step(timing)
    table = actions.new_zeros(len(actions), steps, most, actions.shape[2])
    for step in range(steps):
        there = leading[:, at == step]
        table[:, step, : there.shape[1]] = there[:, :most]
    return table.flatten(2)


def frames_of_step(timing: Timing) -> int:
    """Frames that a token step stands for, at most: as many actions lie side by side in one."""
    return max(timing.first_frames, timing.frames_per_group // timing.steps_per_group)
