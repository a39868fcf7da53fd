"""How a network of others counts frames and pixels, found by running it, not by its attributes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Frames of the two clips that show how a network counts time: 24 more, a multiple of all known
# groups (2, 3, 4, 6, 8, 12), and one more than such a multiple.
PROBE = (25, 49)
PROBE_SIZE = 64  # pixels a side of those
GROUPS = (1, 2, 4, 8)  # steps that a decoder may take at a time


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """How a network counts: groups of `time` frames, after a first of one where `causal`."""

    time: int
    height: int
    width: int
    causal: bool
    channels: int
    front: int = 0  # copies of the first frame that it wants before a clip, and drops itself
    whole: int | None = None  # frames that it takes at a time beyond the first, if not `time`

    @property
    def first_frames(self) -> int:
        """Frames of the first group."""
        return 1 if self.causal else self.frames_per_group

    @property
    def frames_per_group(self) -> int:
        """Frames of each further group."""
        return self.whole or self.time


@dataclass(frozen=True, eq=False, kw_only=True)
class EncoderOutput:
    """What an encoder gave: a tensor for the decoder, integers where it is discrete.

    `logvar` is the log-variance of a Gaussian whose mean, or a draw of which, `z` is.
    """

    z: Tensor
    ids: Tensor | None = None
    logvar: Tensor | None = None


def find_shape(
    encode: Callable[[Tensor], EncoderOutput],
    like: Tensor,
    *,
    front: int = 0,
    probe: tuple[int, int] = PROBE,
) -> NetworkShape:
    """How an encoder counts, from two clips that it is given on the device of `like`.

    Raises ValueError where its latent is not a volume, or its steps are not regular.
    """
    found = []
    for frames in probe:
        x = like.new_zeros(1, 3, frames + front, PROBE_SIZE, PROBE_SIZE)
        with torch.no_grad():
            z = encode(x).z
        if z.ndim != 5:
            raise ValueError(f"its latent has shape {tuple(z.shape)}, not batch d t h w")
        found.append(tuple(z.shape))
    steps = found[1][2] - found[0][2]
    time = (probe[1] - probe[0]) // max(1, steps)
    causal = probe[0] == 1 + (found[0][2] - 1) * time
    channels, height, width = found[0][1], PROBE_SIZE // found[0][3], PROBE_SIZE // found[0][4]
    return NetworkShape(
        time=time, height=height, width=width, causal=causal, channels=channels, front=front
    )


def find_group(decode: Callable[[Tensor], Any], shape: NetworkShape, like: Tensor) -> NetworkShape:
    """`shape` with the frames that a decoder takes at a time: one group or several.

    CogVideoX decodes two steps at a time, and gives too many frames of clips that hold half of
    that. Where no number fits, it stays one: decoding then says what is wrong.
    """
    cells = (PROBE_SIZE // shape.height, PROBE_SIZE // shape.width)
    first = int(shape.causal)

    def fits(steps: int) -> bool:
        z = like.new_zeros(1, shape.channels, steps, *cells)
        try:
            with torch.no_grad():
                y = decode(z)
        except AssertionError:  # that a clip is too short for it
            return False
        return y.shape[2] == first + (steps - first) * shape.time

    for groups in GROUPS:
        if all(fits(first + times * groups) for times in (1, 2)):
            return replace(shape, whole=groups * shape.time)
    return shape


def check_frames(name: str, y: Any, shape: tuple[int, ...]) -> Tensor:
    """What a network gave back. ValueError naming it unless that is frames of this shape."""
    if not isinstance(y, Tensor) or tuple(y.shape) != shape:
        found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"{name} was given frames {shape} and gave back {found}: a peer must keep "
            "frames and size"
        )
    return y
