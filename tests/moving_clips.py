"""A clip to give to whatever is tested."""

import torch

from reeltok.video.record import Video


def moving(frames: int, height: int = 32, width: int = 40, *, fps: float | None = 10) -> Video:
    """Coloured waves that move."""
    t, y, x = torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")
    waves = [((x + speed * t) * 0.3).sin() + ((y - t) * 0.2).cos() for speed in (1, 2, -1)]
    return Video(((torch.stack(waves, -1) + 2) * 63).to(torch.uint8), fps)
