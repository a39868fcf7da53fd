"""One video of the pushing world against the real one: what is measured, frame by frame."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from reeltok.data.push import Truth
from reeltok.evaluate.push.locate import can_follow, colours_of, find_gripper, find_objects
from reeltok.metrics import paired
from reeltok.video.record import to_unit

CHANGED = 10  # levels by which a pixel of the real video differs from its first frame
FALSE = 25  # levels by which a pixel that does not change there differs from it
MOVED = 2.0  # pixels from where an object was
LOST = 5.0  # pixels from the palm's projection: what is found there is red, but not the palm
GONE, TWICE = 0.3, 2.0  # of the pixels of an object's colour in the real frame

Frames = UInt8[np.ndarray, "t h w 3"]
Row = Float[np.ndarray, " t"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Real:
    """What one real video gives to compare with; made once for all that is judged on it.

    The gripper's place is NaN in frames in which its colour does not find it.
    """

    frames: Frames
    changed: Bool[np.ndarray, "t h w"]
    gripper: Float[np.ndarray, "t 2"]
    colours: Float[np.ndarray, "n 3"]  # of the objects that can be followed
    objects: Float[np.ndarray, "t n 2"]
    pixels: Float[np.ndarray, "t n"]
    truth: Truth

    @classmethod
    def of(cls, frames: Frames, truth: Truth) -> "Real":
        """Find everything in the real video, and keep what is found where it is."""
        difference = np.abs(frames.astype(np.int16) - frames[0].astype(np.int16)).max(-1)
        places = truth.objects_pixels[: len(frames)].astype(np.float64)
        colours = colours_of(frames[0], places[0])
        found = find_objects(frames, colours, places[0])
        kept = can_follow(found, places)
        return cls(
            frames=frames,
            changed=difference > CHANGED,
            gripper=known_gripper(frames, truth),
            colours=colours[kept],
            objects=found.places[:, kept],
            pixels=found.pixels[:, kept].astype(np.float64),
            truth=truth,
        )

    @property
    def offsets(self) -> Float[np.ndarray, "t 2"]:
        """Where the gripper is found, from the projection of its palm: how sure the colour is."""
        return self.gripper - self.truth.gripper_pixels[: len(self.gripper)]


def known_gripper(frames: Frames, truth: Truth) -> Float[np.ndarray, "t 2"]:
    """Where the palm's colour finds the gripper; NaN where that is far from its true place."""
    found = find_gripper(frames)
    away = np.linalg.norm(found - truth.gripper_pixels[: len(found)], axis=-1)
    found[~(away <= LOST)] = np.nan
    return found


def measure(real: Real, made: Frames) -> dict[str, Row]:
    """Every measure of each frame; NaN where there is nothing to measure.

    psnr (dB) and ssim over all pixels; "changing": PSNR over the pixels that differ from frame 0 in
    the real video; "false": the share of the others that differ in the made one; "gripper": pixels
    from its place in the real video, half a picture where it is not found; "missing": whether it
    is not (neither is known where the real video does not show it); and what `measure_objects`
    gives. ValueError for other frames than the real ones.
    """
    if made.shape != real.frames.shape:
        raise ValueError(f"the real video is {real.frames.shape}, what was made is {made.shape}")
    squares = (made.astype(np.float64) - real.frames) ** 2
    error, total = squares.mean(-1), real.changed.sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        changing = decibel((error * real.changed).sum((1, 2)) / total)
    moved = np.abs(made.astype(np.int16) - real.frames[0].astype(np.int16)).max(-1) > FALSE
    still = ~real.changed
    a, b = (to_unit(torch.from_numpy(np.ascontiguousarray(x))) for x in (real.frames, made))
    place = find_gripper(made)
    away = np.linalg.norm(place - real.gripper, axis=-1)
    unknown = np.isnan(real.gripper[:, 0])
    missing = np.isnan(place[:, 0]) & ~unknown
    return {
        "psnr": decibel(error.mean((1, 2))),
        "ssim": paired.ssim(a, b)[0].double().numpy(),
        "changing": changing,
        "false": (moved & still).sum((1, 2)) / np.maximum(still.sum((1, 2)), 1),
        "gripper": np.where(missing, made.shape[1] / 2, away),
        "missing": np.where(unknown, np.nan, missing),
        **measure_objects(real, made),
    }


def measure_objects(real: Real, made: Frames) -> dict[str, Row]:
    """Objects that can be followed, by frame: means over those of which it can be said.

    "moved": pixels from the true place, of objects that have moved; "share": how much of their way
    they have gone (0: they stay, 1: all of it); "still": pixels that others have strayed; "gone"
    and "twice": shares whose colour has less than 0.3, or more than 2 times its pixels.
    """
    names = ("moved", "share", "still", "gone", "twice")
    if not len(real.colours):
        return {name: np.full(len(made), np.nan) for name in names}
    found = find_objects(made, real.colours, real.objects[0])
    way = real.objects - real.objects[0]
    gone = found.places - real.objects[0]
    length = np.linalg.norm(way, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (gone * way).sum(-1) / length**2
        pixels = found.pixels / real.pixels
    seen = real.pixels >= 6
    return {
        "moved": mean_of(np.linalg.norm(gone - way, axis=-1), length > MOVED),
        "share": mean_of(share, length > MOVED),
        "still": mean_of(np.linalg.norm(gone - way, axis=-1), length <= MOVED / 2),
        "gone": mean_of((pixels < GONE).astype(np.float64), seen),
        "twice": mean_of((pixels > TWICE).astype(np.float64), seen),
    }


def mean_of(values: Float[np.ndarray, "t n"], chosen: Bool[np.ndarray, "t n"]) -> Row:
    """The mean of the chosen values of each frame that are known; NaN for none."""
    known = chosen & ~np.isnan(values)
    count = known.sum(1)
    total = np.where(known, values, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def decibel(error: Row) -> Row:
    """PSNR of mean squares of levels, at most 80 dB."""
    return paired.peak_decibel(torch.from_numpy(error / 255**2)).numpy()
