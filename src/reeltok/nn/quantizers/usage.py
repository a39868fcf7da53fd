"""What was seen over a whole set: how a codebook was used, how latents are spread."""

import torch
from jaxtyping import Float, Int
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
        shares = self.counts.double() / self.counts.sum().clamp(min=1)
        return torch.special.entr(shares).sum().exp().item()


class Moments:
    """Mean and standard deviation of each channel over any number of latents, exact in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # summed squared deviations

    def update(self, z: Float[Tensor, "..."], axis: int = -1) -> None:
        """Add latents whose channels stand on `axis` (1 for `b d *grid`)."""
        x = z.detach().movedim(axis, -1).reshape(-1, z.shape[axis]).cpu().double()
        part = Moments(x.shape[1])
        part.count, part.mean = len(x), x.mean(0)
        part.squares = (x - part.mean).square().sum(0)
        self.merge(part)

    def merge(self, other: "Moments") -> None:
        """Add what another accumulator saw (Chan et al. 1979)."""
        total = self.count + other.count
        if total == 0:
            return
        gap = other.mean - self.mean
        self.mean = self.mean + gap * (other.count / total)
        self.squares = self.squares + other.squares + gap**2 * (self.count * other.count / total)
        self.count = total

    def over_ranks(self) -> "Moments":
        """A new accumulator with what all processes saw (a collective call)."""
        whole = Moments(len(self.mean))
        whole.count = int(sum_over_ranks(torch.tensor(self.count)))
        whole.mean = sum_over_ranks(self.mean * self.count) / max(whole.count, 1)
        gap = self.mean - whole.mean
        whole.squares = sum_over_ranks(self.squares + gap**2 * self.count)
        return whole

    @property
    def std(self) -> Float[Tensor, "d"]:
        """Standard deviation of the values seen (divided by their number)."""
        return (self.squares / max(self.count, 1)).sqrt()
