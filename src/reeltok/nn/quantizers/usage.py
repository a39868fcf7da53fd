"""How a codebook was used over a whole set."""

import math

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from reeltok.parallel import sum_over_ranks
from reeltok.tokens.ids import check_ids


class Usage:
    """Counts how often each id occurred: exact utilization and perplexity of a codebook."""

    def __init__(self, vocabulary: int) -> None:
        self.counts = torch.zeros(vocabulary, dtype=torch.int64)

    def update(self, ids: Int[Tensor, "..."]) -> None:
        """Add ids of any shape. Raises ValueError naming an id outside the vocabulary."""
        check_ids(ids, len(self.counts))
        self.counts += torch.bincount(ids.flatten(), minlength=len(self.counts)).cpu()

    def merge(self, other: "Usage") -> None:
        """Add what another accumulator counted."""
        self.counts += other.counts

    def over_ranks(self) -> "Usage":
        """A new accumulator with the counts of all processes (a collective call)."""
        whole = Usage(len(self.counts))
        whole.counts = sum_over_ranks(self.counts.clone())
        return whole

    @property
    def utilization(self) -> float:
        """Share of the codebook that occurred at least once, 0 to 1."""
        return (self.counts > 0).double().mean().item()

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the ids: 1 (always one id) to the vocabulary (all equally)."""
        return 2**self.entropy

    @property
    def entropy(self) -> float:
        """Bits of an id that is coded by how often each occurs, without any context."""
        return torch.special.entr(self._shares).sum().item() / math.log(2)

    @property
    def commonest(self) -> float:
        """The share of the commonest id, 0 to 1."""
        return self._shares.max().item()

    @property
    def _shares(self) -> Float64[Tensor, " v"]:
        return self.counts.double() / self.counts.sum().clamp(min=1)
