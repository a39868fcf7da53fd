"""A clip to bring to the page."""

import torch

from reeltok.video.record import Video


def waves(frames: int, height: int = 48, width: int = 64, *, speed: int = 1) -> Video:
    """Coloured waves that move."""
    t, y, x = torch.meshgrid(*map(torch.arange, (frames, height, width)), indexing="ij")
    parts = [((x + speed * n * t) * 0.3).sin() + ((y - t) * 0.2).cos() for n in (1, 2, -1)]
    return Video(((torch.stack(parts, -1) + 2) * 63).to(torch.uint8), 10)
