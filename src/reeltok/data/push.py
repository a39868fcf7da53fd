"""True positions beside a clip of a simulated pushing world: CLIP.truth.safetensors.

Clips and actions themselves lie as `reeltok data bair` writes them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from reeltok.files.atomic import write_file

ENDING = ".truth.safetensors"
FORM = "reeltok-push-1"
FACTS = "push"
NAMES = ("gripper", "objects", "gripper_pixels", "objects_pixels", "colours")


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """Where everything was, frame by frame: metres, and pixels (x right, y down) of its clip.

    The gripper is x, y, z of the finger tips and how far each finger is from the middle; its pixel
    is that of the palm's middle. An object is x, y, z and a quaternion, w first; colours are RGB
    in [0, 1].
    """

    gripper: Float32[np.ndarray, "t 4"]
    objects: Float32[np.ndarray, "t n 7"]
    gripper_pixels: Float32[np.ndarray, "t 2"]
    objects_pixels: Float32[np.ndarray, "t n 2"]
    colours: Float32[np.ndarray, "n 3"]
    shapes: tuple[str, ...]

    def save(self, path: Path) -> Path:
        """Write them; `path`."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in NAMES}
        facts = json.dumps({"form": FORM, "shapes": self.shapes})
        return write_file(
            path, save(arrays, metadata={FACTS: facts})
        )  # of several the order varies


def truth_path(clip: Path) -> Path:
    """Where the positions of a clip are."""
    return clip.with_suffix(ENDING)


def read_truth(clip: Path) -> Truth:
    """The true positions of a clip. FileNotFoundError or ValueError with one sentence."""
    path = truth_path(clip)
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no true positions of {clip.name}: {path.name} should be beside it, as "
            f"`reeltok data push` writes it"
        )
    data = path.read_bytes()
    try:
        arrays, shapes = load(data), _shapes(data)
        truth = Truth(**{name: arrays[name] for name in NAMES}, shapes=shapes)
        _check(truth)
    except (SafetensorError, KeyError, ValueError, TypeError):
        raise ValueError(f"{path} does not hold true positions: make the clip again") from None
    return truth


def _shapes(data: bytes) -> tuple[str, ...]:
    size = int.from_bytes(data[:8], "little")
    facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][FACTS])
    if facts["form"] != FORM:
        raise ValueError(facts["form"])
    return tuple(map(str, facts["shapes"]))


def _check(truth: Truth) -> None:
    frames, things = len(truth.gripper), len(truth.colours)
    wanted = ((frames, 4), (frames, things, 7), (frames, 2), (frames, things, 2), (things, 3))
    found = tuple(getattr(truth, name).shape for name in NAMES)
    finite = all(np.isfinite(getattr(truth, name)).all() for name in NAMES)
    if found != wanted or len(truth.shapes) != things or not finite:
        raise ValueError(found)
