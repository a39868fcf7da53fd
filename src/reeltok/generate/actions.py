"""Actions that a video is generated from: whether they fit the prior and the video's length."""

import warnings
from pathlib import Path

from torch import Tensor

from reeltok.data.actions import read_actions
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.conditions import frames_of_step
from reeltok.generate.masked import frames_after
from reeltok.generate.prior import PriorConfig
from reeltok.generate.starts import Starts

UNUSUAL = 2  # times the largest number of the actions that come with a prior


def frames_made(clip: ClipSpec, given: int, blocks: int, has_reference: bool) -> int:
    """Frames of a video of so many blocks, with those that were given (a first one at least).

    ValueError where no new one follows those.
    """
    return (given or 1) + frames_after(clip, given or 1, has_reference) * blocks


def known_actions(path: Path | None, each: int) -> Tensor | None:
    """Actions "1 n a" of a .npy file. ValueError where a prior knows none, or was given none."""
    if path is None and each:
        raise ValueError("this prior generates from actions: give them with `actions` FILE.npy")
    if path is not None and not each:
        raise ValueError(
            f"`actions` {path} was given, but this prior was trained without actions: leave it out"
        )
    return None if path is None else read_actions(path)


def require_actions(
    actions: Tensor, config: PriorConfig, needed: int, name: str, starts: Starts | None
) -> None:
    """ValueError for too few actions or numbers in one; a note on what is left over or unusual."""
    count, numbers = actions.shape[1:]
    known = config.actions // frames_of_step(config.timing)
    if numbers != known:
        raise ValueError(
            f"{name} has {numbers} numbers in an action, this prior was trained on {known}: give "
            "as many"
        )
    if count < needed:
        raise ValueError(
            f"{name} holds {count} actions, a video of {needed + 1} frames needs {needed}: give "
            "more, or ask for fewer `blocks`"
        )
    if count > needed:
        said = f"the first {needed} of {count} actions are used: more `blocks` use more of them"
        warnings.warn(said, stacklevel=3)
    usual = None if starts is None or starts.actions is None else float(starts.actions.abs().max())
    if usual is not None and float(actions.abs().max()) > UNUSUAL * usual:
        warnings.warn(
            f"the actions reach {float(actions.abs().max()):g}, those that come with the prior "
            f"{usual:g}: it was hardly trained on such",
            stacklevel=3,
        )


def require_own_actions(starts: Starts, needed: int) -> None:
    """ValueError where a video is longer than the actions that come with a prior."""
    assert starts.actions is not None
    if starts.actions.shape[1] < needed:
        raise ValueError(
            f"this prior comes with {starts.actions.shape[1]} actions, a video of {needed + 1} "
            f"frames needs {needed}: give as many with `actions`, or ask for fewer `blocks`"
        )
