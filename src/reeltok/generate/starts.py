"""Frames that come along with a prior, so that it can begin without any of the user's own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from reeltok.data.actions import read_actions
from reeltok.data.find import find_clips
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.folder import STARTS, find_generator


@dataclass(frozen=True, kw_only=True)
class Starts:
    """First frames of clips, in [-1, 1], and what was done after each of them (None: unknown)."""

    frames: Float[Tensor, "n c 1 h w"]
    actions: Float[Tensor, "n k a"] | None

    def take(self, seed: int, first: int, count: int) -> "Starts":
        """One for each of `count` videos from number `first` on, in turn from the `seed`-th on."""
        numbers = range(seed + first, seed + first + count)  # of any size
        index = torch.tensor([number % len(self.frames) for number in numbers])
        actions = None if self.actions is None else self.actions[index]
        return Starts(frames=self.frames[index], actions=actions)


def read_starts(generator: str | Path, clip: ClipSpec) -> Starts | None:
    """The frames that come along with a prior, of its size; None where none do.

    ValueError for frames of another size.
    """
    folder = find_generator(generator) / STARTS
    if not folder.is_dir():
        return None
    clips = find_clips(folder)
    videos = [found.read(frames=1) for found in clips]
    for found, video in zip(clips, videos, strict=True):
        if (video.height, video.width) != (clip.height, clip.width):
            raise ValueError(
                f"{found.path} has a frame of {video.height}x{video.width}, the prior makes "
                f"{clip.height}x{clip.width}: give `given`"
            )
    files = [found.path.with_suffix(".actions.npy") for found in clips]
    known = all(file.is_file() for file in files)
    return Starts(
        frames=torch.cat([video.tensor() for video in videos]),
        actions=torch.cat([read_actions(file) for file in files]) if known else None,
    )
