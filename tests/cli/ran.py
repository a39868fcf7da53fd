"""What a command gave back, and a clip to give to one."""

import json
from dataclasses import dataclass
from typing import Any

import torch

from reeltok.video.record import Video


@dataclass(frozen=True)
class Ran:
    """What a command gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def moving(frames: int, height: int = 32, width: int = 40, *, fps: float | None = 10) -> Video:
    """Coloured waves that move."""
    t, y, x = torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")
    waves = [((x + speed * t) * 0.3).sin() + ((y - t) * 0.2).cos() for speed in (1, 2, -1)]
    return Video(((torch.stack(waves, -1) + 2) * 63).to(torch.uint8), fps)
