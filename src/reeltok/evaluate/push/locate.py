"""Where the gripper and the objects are in pictures of the pushing world, by their colours alone.

The gripper's palm is the one thing that is red. An object is followed by the colour that it has in
the first real frame; those that this does not find in the real video are not judged.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from reeltok.video.size import size_text

SIDE = 64  # pixels of the pictures that what follows is meant for
RED = 60  # levels by which the palm's red exceeds its green and blue
FEWEST = 3  # pixels of something that is found
NEAR = 38.0  # Euclidean distance in RGB within which a pixel has an object's colour
REACH = 8.0  # pixels that an object moves between two frames at most
LARGEST = 90  # pixels of an object: more have its colour where the table has it too
CLOSE = 2.0  # pixels from the truth within which an object is found in the real video

Frames = UInt8[np.ndarray, "t h w 3"]
Places = Float[np.ndarray, "t 2"]


def warn_other_size(frames: Frames) -> None:
    """Say where pictures have another size than objects are looked for in."""
    found, meant = size_text(*frames.shape[1:3]), size_text(SIDE, SIDE)
    if found != meant:
        warnings.warn(
            f"gripper and objects are looked for as in pictures of {meant} pixels, these have "
            f"{found}: many objects are missed, and pixels mean other distances",
            stacklevel=3,
        )


def find_gripper(frames: Frames) -> Places:
    """The middle of what is red in each frame, x right and y down in pixels; NaN for none."""
    x = frames.astype(np.float32)
    red = x[..., 0] - x[..., 1:].max(-1)
    weight = np.where(red > RED, red, 0.0)
    few = (weight > 0).sum((1, 2)) < FEWEST
    weight[few] = 0.0
    return middles(weight)


def middles(weight: Float[np.ndarray, "*n h w"]) -> Float[np.ndarray, "*n 2"]:
    """The weighted mean place of pictures; NaN where all weights are 0."""
    height, width = weight.shape[-2:]
    total = weight.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (weight.sum(-2) * (np.arange(width) + 0.5)).sum(-1) / total
        y = (weight.sum(-1) * (np.arange(height) + 0.5)).sum(-1) / total
    return np.stack([x, y], axis=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectPlaces:
    """Objects in each frame: their places (NaN: not there), and pixels of their colour.

    `near` counts those around the place where an object was last seen, `pixels` all of the frame.
    """

    places: Float[np.ndarray, "t n 2"]
    near: Int[np.ndarray, "t n"]
    pixels: Int[np.ndarray, "t n"]


def find_objects(
    frames: Frames, colours: Float[np.ndarray, "n 3"], starts: Float[np.ndarray, "n 2"]
) -> ObjectPlaces:
    """Follow objects of these colours (RGB in [0, 255]) from where they are in frame 0."""
    height, width = frames.shape[1:3]
    x = frames.astype(np.float32)
    far = ((x[:, None] - colours[None, :, None, None]) ** 2).sum(-1)
    like = far < NEAR**2
    rows, columns = np.mgrid[:height, :width] + 0.5
    last, places, near = starts.copy(), [], []
    for picture in like:
        away = np.hypot(columns - last[:, 0, None, None], rows - last[:, 1, None, None])
        here = picture & (away < REACH)
        here[here.sum((1, 2)) < FEWEST] = False
        found = middles(here.astype(np.float32))
        last = np.where(np.isnan(found), last, found)
        places.append(found)
        near.append(here.sum((1, 2)))
    return ObjectPlaces(places=np.stack(places), near=np.stack(near), pixels=like.sum((2, 3)))


def colours_of(
    frame: UInt8[np.ndarray, "h w 3"], places: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 3"]:
    """The median colour of the 9 pixels around each place."""
    height, width = frame.shape[:2]
    at = np.clip(np.floor(places).astype(int), 1, [width - 2, height - 2])
    boxes = [frame[y - 1 : y + 2, x - 1 : x + 2].reshape(9, 3) for x, y in at]
    return np.stack([np.median(box.astype(np.float32), axis=0) for box in boxes])


def can_follow(found: ObjectPlaces, truth: Float[np.ndarray, "t n 2"]) -> Bool[np.ndarray, " n"]:
    """Which objects are found in the real video, near their true places in all frames."""
    away = np.linalg.norm(found.places - truth, axis=-1)
    seen = ~np.isnan(away)
    near = np.where(seen, away, 0.0).max(0) < CLOSE
    return near & seen[0] & (seen.mean(0) > 0.5) & (found.pixels[0] <= LARGEST)
