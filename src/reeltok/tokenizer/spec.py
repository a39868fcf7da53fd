"""What a tokenizer does to a video, in numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reeltok.tokens.header import bits_for


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a tokenizer does to a video, in numbers.

    The first `first_frames` frames become `first_steps` steps of the token grid's first axis, each
    further group of `frames_per_group` frames `steps_per_group`. A token stands for `factors` =
    (t, h, w) pixels, and has `channels` latent values or is an id below `vocabulary` (None:
    continuous). A frame depends on at most `receptive_steps` steps up to and with its own (None: on
    all before) and `lookahead_steps` after it. A tokenizer that is not causal codes windows as
    independent clips, of `window` frames where that is fixed; so does one that does not stream,
    since its network hands nothing on. `strips`: frames can be coded in strips from top to bottom,
    which changes nothing; where they cannot, tiles change values. The widest layer has `widest`
    values for each pixel of a frame (0: not known), and strips have `held` of whole frames beside.
    `used`: values of its configuration that decide tokens or frames, though they are no weights.
    """

    name: str
    family: str
    factors: tuple[int, int, int]
    causal: bool
    first_frames: int
    frames_per_group: int
    channels: int
    vocabulary: int | None
    parameters: int
    receptive_steps: int | None
    lookahead_steps: int = 0
    first_steps: int = 1
    steps_per_group: int = 1
    window: int | None = None
    size: tuple[int, int] | None = None
    streams: bool = True
    strips: bool = False
    widest: float = 0.0
    held: float = 0.0
    used: Mapping[str, Any] = field(default_factory=dict)

    @property
    def independent(self) -> bool:
        """Whether what is coded at a time is a clip of its own."""
        return not (self.causal and self.streams)

    @property
    def least_tile(self) -> int:
        """Pixels of the height of the lowest strips, or the side of the smallest tiles."""
        return self.factors[1] if self.strips else 1

    @property
    def bits(self) -> int:
        """Bits of one token: of its id, or 16 for each latent value."""
        if self.vocabulary is None:
            return 16 * self.channels
        return bits_for(self.vocabulary)

    def window_for(self, chunk: int) -> int | None:
        """Frames of an independent clip where `chunk` are asked for; None where none are."""
        return (self.window or self.frames(self.steps(chunk))) if self.independent else None

    def steps(self, frames: int) -> int:
        """Steps along the token grid's first axis for `frames` frames, the last group filled."""
        groups = math.ceil(max(0, frames - self.first_frames) / self.frames_per_group)
        return self.first_steps + groups * self.steps_per_group

    def frames(self, steps: int) -> int:
        """Frames that `steps` steps decode to, before cropping."""
        return (
            self.first_frames
            + (steps - self.first_steps) // self.steps_per_group * self.frames_per_group
        )
