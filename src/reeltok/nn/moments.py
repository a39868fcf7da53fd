"""Mean and spread of vectors that are seen part by part, exact in float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """How many vectors of d numbers were seen, their mean, and their scatter about it.

    The scatter sums squared deviations: of each number ("d"), or of all pairs of numbers ("d d").
    """

    count: int
    mean: Float[Tensor, "d"]
    scatter: Float[Tensor, "d"] | Float[Tensor, "d d"]

    @classmethod
    def of(cls, x: Float[Tensor, "..."], *, axis: int = -1, pairs: bool = False) -> "Moments":
        """Those of vectors whose numbers stand on `axis` (1 for latents "b d *grid").

        `pairs`: with the scatter of all pairs, so that there is a covariance.
        """
        rows = x.detach().movedim(axis, -1).reshape(-1, x.shape[axis]).cpu().double()
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        apart = rows - mean
        return cls(len(rows), mean, apart.T @ apart if pairs else apart.square().sum(0))

    @classmethod
    def none(cls, channels: int) -> "Moments":
        """Those of no vector yet."""
        zeros = torch.zeros(channels, dtype=torch.float64)
        return cls(0, zeros, zeros)

    def __add__(self, other: "Moments") -> "Moments":
        """Those of both parts together (Chan et al. 1979): streams and processes merge so."""
        count, apart = self.count + other.count, other.mean - self.mean
        mean = self.mean + apart * (other.count / max(count, 1))
        between = apart.square() if self.scatter.ndim == 1 else torch.outer(apart, apart)
        weight = self.count * other.count / max(count, 1)
        return Moments(count, mean, self.scatter + other.scatter + between * weight)

    @property
    def std(self) -> Float[Tensor, "d"]:
        """Standard deviation of each number (divided by the count)."""
        squares = self.scatter if self.scatter.ndim == 1 else self.scatter.diagonal()
        return (squares / max(self.count, 1)).sqrt()

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The unbiased covariance; ValueError for fewer than two vectors."""
        assert self.scatter.ndim == 2, "moments without pairs have no covariance"
        if self.count < 2:
            raise ValueError(f"a covariance needs 2 feature vectors or more, found {self.count}")
        return self.scatter / (self.count - 1)
