"""A small video to find."""

import torch

from reeltok.video.record import Video


def moving(frames: int, size: int = 16) -> Video:
    """A bright column that moves by one pixel a frame."""
    pixels = torch.zeros(frames, size, size, 3, dtype=torch.uint8)
    for number in range(frames):
        pixels[number, :, number % size] = 200
    return Video(pixels, 10.0)
