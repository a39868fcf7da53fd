"""How masked generation proceeds: how many tokens stay masked, and which.

A schedule maps progress r in [0, 1] to the share of tokens that is masked, 1 to 0 (MaskGIT, Chang
et al. 2022, section 3.2; MAGVIT, Yu et al. 2023, section 3.2).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

MaskSchedule = Literal["cosine", "linear", "square", "exponential", "logarithm"]
SHARES: dict[str, Callable[[float, int], float]] = {
    "cosine": lambda r, cells: math.cos(math.pi / 2 * r),
    "linear": lambda r, cells: 1 - r,
    "square": lambda r, cells: 1 - r**2,
    "exponential": lambda r, cells: 1 - cells ** (r - 1),
    "logarithm": lambda r, cells: 1.0 if r <= 0 else min(1.0, -math.log(r) / math.log(cells)),
}

LARGEST = 1e6
"""Of what multiplies logits or velocities: beyond, they may overflow to numbers that are none."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Sampling:
    """How tokens are decoded: `steps` rounds, each keeping the most confident of them.

    Gumbel noise times `temperature`, which falls linearly to zero, is added to the logarithms of
    the probabilities that decide what is kept. `guidance` above 1 goes beyond the conditions.
    Below 1 `token_temperature`, which divides the logits, prefers the likelier ids.
    """

    steps: int = Field(default=12, ge=1)
    schedule: MaskSchedule = "cosine"
    temperature: float = Field(default=4.5, ge=0, le=LARGEST)
    guidance: float = Field(default=1.0, ge=0, le=LARGEST)
    token_temperature: float = Field(default=1.0, ge=1 / LARGEST, le=LARGEST)

    def with_(self, **values: Any) -> "Sampling":
        """The same with these values in place of its own, but for those that are None.

        ValueError for one that is out of range.
        """
        try:
            return replace(self, **{k: value for k, value in values.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name, said = first["loc"][0], first["msg"].removeprefix("Input should be ")
            raise ValueError(f"`{name}` is {first['input']}, it should be {said}") from None


BAIR_STANDARD = Sampling(schedule="exponential", temperature=400.0)
BAIR_DEBIASED = Sampling(schedule="cosine", temperature=4.5)
"""MAGVIT's settings for its two BAIR protocols (appendix); 12 steps in both."""


def mask_ratio(schedule: MaskSchedule, r: float, cells: int) -> float:
    """The share of `cells` tokens that is masked at progress `r` in [0, 1]."""
    return min(1.0, max(0.0, SHARES[schedule](r, cells)))


def masked_count(schedule: MaskSchedule, step: int, steps: int, cells: int, masked: int) -> int:
    """How many tokens stay masked after round `step` (from 0) of `steps`.

    `cells` were masked at the start and `masked` are now: each round settles at least one and, but
    for the last, leaves at least one.
    """
    if step == steps - 1 or masked <= 1:
        return 0
    count = math.floor(mask_ratio(schedule, (step + 1) / steps, cells) * cells)
    return max(1, min(masked - 1, count))


def least_confident(
    confidence: Float[Tensor, "b n"], counts: int | Int[Tensor, " b"]
) -> Bool[Tensor, "b n"]:
    """The `counts` tokens of each clip with the lowest confidence; ties go by position."""
    rank = confidence.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    wanted = counts if isinstance(counts, int) else counts[:, None]
    return rank < wanted


def gumbel(uniform: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Standard Gumbel noise from uniform numbers in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()


def pick(
    probabilities: Float[Tensor, "b n v"], uniform: Float[Tensor, "b n"]
) -> Int[Tensor, "b n"]:
    """One choice for each token: where its cumulated probabilities pass a uniform number."""
    total = probabilities.cumsum(-1)
    index = torch.searchsorted(total, (uniform * total[..., -1])[..., None], right=True)
    return index[..., 0].clamp(max=probabilities.shape[-1] - 1)


def require_positive(**values: int) -> None:
    """ValueError for a number below 1, by its name."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"`{name}` is {value}: give 1 or more")


def seeded_generators(seed: int, clips: range) -> list[torch.Generator]:
    """A generator for each clip, on the CPU: the same on every device, whatever the batch."""
    return [torch.Generator().manual_seed((seed * 1_000_003 + clip) % 2**63) for clip in clips]


class ClipGenerators:
    """A random generator for each clip, so that a clip does not depend on its batch."""

    def __init__(self, seed: int, clips: range) -> None:
        self.generators = seeded_generators(seed, clips)

    def rand(self, *shape: int) -> Float[Tensor, "b ..."]:
        """Numbers in [0, 1) of `shape` for each clip."""
        return torch.stack([torch.rand(*shape, generator=each) for each in self.generators])
