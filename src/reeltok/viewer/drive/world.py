"""Predicting a world from frames and actions, and the simulator's truth beside it."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from reeltok.data.actions import ACTION
from reeltok.data.clip import Clip
from reeltok.generate import masked
from reeltok.generate.conditions import frames_of_step
from reeltok.generate.predictor import PriorPredictor
from reeltok.video.record import to_bytes

Frame = UInt8[np.ndarray, "h w 3"]
NAMED = re.compile(r"push-(\d+)-(\d+)")  # a clip of `reeltok data push`: its seed and number

BLOCK, APART = 8, 8.0
"""Pixels a side, and levels. In 20 scenes, of 64 and of 128 pixels, H.264 up to crf 28 changed the
mean of no such block by more than 5.8; leaving out the shadows changed one by 10.6 or more."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Start:
    """A frame to begin with; `origin` is the seed and number of the episode that it begins."""

    name: str
    frame: Frame
    origin: tuple[int, int] | None = None


def same_picture(a: Frame, b: Frame) -> bool:
    """Whether two frames of one size show the same, up to what lossy storage changes."""
    apart = torch.from_numpy(a.astype(np.float32).mean(-1) - b.astype(np.float32).mean(-1))[None]
    side = min(BLOCK, *apart.shape[1:])
    return bool(torch.nn.functional.avg_pool2d(apart, side).abs().max() <= APART)


def start_of(clip: Clip, side: int) -> Start:
    """The first frame of a clip. ValueError for another size than the prior's."""
    video, named = clip.read(frames=1), NAMED.fullmatch(clip.path.stem)
    if (video.height, video.width) != (side, side):
        raise ValueError(
            f"{clip.name} has frames of {video.height}x{video.width}, this prior makes "
            f"{side}x{side}: make them by `reeltok data push OUT --size {side}`"
        )
    origin = None if named is None else (int(named[1]), int(named[2]))
    return Start(name=clip.name, frame=video.frames[0].numpy(), origin=origin)


def simulated_start(seed: int, number: int, side: int) -> Start:
    """The first frame of an episode that is simulated now. ImportError without a simulator."""
    return Start(
        name=f"push-{seed}-{number:05d}",
        frame=Simulated(seed, number, side).frame,
        origin=(seed, number),
    )


class WorldModel:
    """A prior with actions as a world: what comes after a frame when something is done.

    ValueError for a prior that knows no actions, or not those of the pushing world.
    """

    def __init__(self, prior: PriorPredictor, *, folder: str | Path) -> None:
        self.prior = prior
        config, clip = prior.prior.config, masked.pick_clip(prior.prior.config, None)
        self.new = clip.frames - 1 + int(config.reference is not None)
        self.side, self.fps = prior.size, clip.fps or 10.0
        each = frames_of_step(config.timing)
        if not config.actions:
            raise ValueError(
                f"{folder} knows no actions, so nothing can be done in it: give a run of prior_push"
            )
        if config.actions != each * ACTION:
            raise ValueError(
                f"{folder} knows {config.actions // each} numbers an action, the pushing world has "
                f"{ACTION}: give a run of prior_push"
            )

    def go_on(
        self, frame: Frame, action: np.ndarray, seed: int, *, start: Frame
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames that follow when an action is held, in a drive that began with `start`."""
        x, first = (self.prior.prepare(torch.from_numpy(each[None])) for each in (frame, start))
        held = torch.from_numpy(action).float().expand(1, self.new + 1, ACTION)
        parts = masked.roll_out(
            self.prior.prior,
            self.prior.tokenizer,
            x,
            clips=1,
            seed=seed,
            start=first,
            actions=held,
            sampling=self.prior.sampling,
        )
        return to_bytes(next(iter(parts)).float().cpu().clamp(-1, 1)).numpy()


class Simulated:
    """The simulator's own world, from the first frame of an episode on. Of one thread."""

    def __init__(self, seed: int, number: int, side: int) -> None:
        from reeltok.worlds.episodes import camera_of
        from reeltok.worlds.push import World, first_draw

        self.camera: Any = camera_of(side)
        self.world: Any = World(first_draw(seed, number), side=side)

    @cached_property
    def frame(self) -> Frame:
        """The picture of the world as it began."""
        return self.camera(self.world)

    def go_on(self, action: np.ndarray, count: int) -> UInt8[np.ndarray, "t h w 3"]:
        """The frames that truly follow when an action is held."""
        pictures = []
        for _ in range(count):
            self.world.step(action)
            pictures.append(self.camera(self.world))
        return np.stack(pictures)
