"""Objects in videos of which nobody knows where they are: found by their saturation, then followed.

Everything else in the pushing world is grey or pale but for the palm, which is red: an object is a
patch of saturated pixels in the first frame. The arm hides what it passes, so an object counts only
where most of its pixels are seen.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8

from reeltok.evaluate.push.locate import RED, find_gripper, find_objects

SATURATED, VIVID = 0.45, 45  # (max - min) / max of RGB, and max - min in levels: more is an object
PATCH = (5, 150)  # pixels of an object
SEEN = 0.6  # of its pixels in the first frame: with fewer its place is that of a part
STEP = 0.5  # pixels between two frames: an object that moves
TOUCH = 9.0  # pixels from the gripper: near enough to be pushed by it
AWAY = 2.0  # pixels from where an object began: it was moved

Frames = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Followed:
    """Objects of the first frame: where they are in each (NaN: hidden), and the gripper."""

    places: Float[np.ndarray, "t n 2"]
    gripper: Float[np.ndarray, "t 2"]

    @property
    def moved(self) -> Bool[np.ndarray, " n"]:
        """Whether each object is last seen away from where it began."""
        way = np.linalg.norm(self.places - self.places[0], axis=-1)
        seen = ~np.isnan(way)
        last = len(way) - 1 - seen[::-1].argmax(0)
        return way[last, np.arange(way.shape[1])] > AWAY

    @property
    def lost(self) -> Bool[np.ndarray, " n"]:
        """Whether each object is hidden, or has lost its colour, in the last frame."""
        return np.isnan(self.places[-1, :, 0])

    @property
    def touched(self) -> Bool[np.ndarray, " s"]:
        """Whether between two frames an object near the gripper moves."""
        steps = np.linalg.norm(np.diff(self.places, axis=0), axis=-1)
        apart = np.linalg.norm(self.places - self.gripper[:, None], axis=-1)
        with np.errstate(invalid="ignore"):
            near = np.fmin(apart[:-1], apart[1:]) < TOUCH
            return ((steps > STEP) & near).any(1)


def follow_objects(frames: Frames) -> Followed:
    """Find the objects of the first frame, and follow each by its colour."""
    labels = label_patches(object_pixels(frames[0]))
    starts, colours = [], []
    for number in range(1, int(labels.max()) + 1):
        rows, columns = np.nonzero(labels == number)
        if PATCH[0] <= len(rows) <= PATCH[1]:
            starts.append([columns.mean() + 0.5, rows.mean() + 0.5])
            colours.append(np.median(frames[0][rows, columns].astype(np.float64), axis=0))
    gripper = find_gripper(frames).astype(np.float64)
    if not starts:
        return Followed(places=np.empty((len(frames), 0, 2)), gripper=gripper)
    found = find_objects(frames, np.array(colours), np.array(starts))
    hidden = found.near < SEEN * found.near[0]
    places = np.where(hidden[..., None], np.nan, found.places)
    kept = ~np.isnan(places[0, :, 0])
    return Followed(places=places[:, kept], gripper=gripper)


def object_pixels(frame: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Which pixels are as saturated as objects are, and not as red as the palm."""
    x = frame.astype(np.float64)
    most, range_of = x.max(-1), x.max(-1) - x.min(-1)
    red = x[..., 0] - x[..., 1:].max(-1) > RED
    return (range_of > VIVID) & (range_of > SATURATED * most) & ~red


def label_patches(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Numbers from 1 for patches that touch along a side; 0 elsewhere."""
    inside = torch.from_numpy(mask)[None, None]
    labels = (torch.arange(1.0, mask.size + 1).view(1, 1, *mask.shape)) * inside
    while True:
        tall = F.max_pool2d(labels, (3, 1), stride=1, padding=(1, 0))
        wide = F.max_pool2d(labels, (1, 3), stride=1, padding=(0, 1))
        grown = torch.maximum(tall, wide) * inside
        if torch.equal(grown, labels):
            break
        labels = grown
    return np.unique(labels[0, 0].numpy(), return_inverse=True)[1].reshape(mask.shape) + int(
        mask.all()
    )
