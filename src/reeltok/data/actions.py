"""Actions beside clips: CLIP.actions.npy beside CLIP.mp4, one row of numbers after each frame."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.files.parsing import read_array

SUFFIX = ".actions.npy"
ACTION = 4  # numbers of a robot's, BAIR's and the simulated one's: dx, dy, dz and grip


def read_actions(path: str | Path) -> Float[Tensor, "1 n a"]:
    """Actions of a .npy file, one row of finite numbers after each frame.

    ValueError for anything else.
    """
    values = read_array(path)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has shape {values.shape} of {values.dtype}: give one row of numbers for each "
            f"frame"
        )
    actions = torch.from_numpy(np.array(values, "float32"))[None]
    wrong = (~actions.isfinite()).any(2).flatten().nonzero()
    if len(wrong):
        raise ValueError(
            f"action {int(wrong[0])} of {path} holds what is not a number: give finite ones"
        )
    return actions


def read_clip_actions(
    clip: Clip, *, count: int, numbers: int, first: int = 0
) -> Float[Tensor, "1 n a"]:
    """The `numbers` numbers after each of `count` frames of a clip, from frame `first` on.

    FileNotFoundError where there are none. ValueError for too few or of another width, and for a
    clip that begins within its file: rows count the frames of the file.
    """
    path = clip.path.with_suffix(SUFFIX)
    if clip.start:
        raise ValueError(
            f"{clip.name} begins at {clip.start:g} s of its file, and {path.name} has the actions "
            "of the whole file: cut both to the clip"
        )
    if clip.member or not path.is_file():
        raise FileNotFoundError(
            f"there are no actions for {clip.name}: write {numbers} numbers after each frame to "
            f"{path.name} beside it"
        )
    actions = read_actions(path)
    found = actions[:, first : first + count]
    if found.shape[1:] != (count, numbers):
        raise ValueError(
            f"{path} has {actions.shape[1]} rows of {actions.shape[2]} numbers: frames {first} to "
            f"{first + count} of the clip need {count} of {numbers}"
        )
    return found
