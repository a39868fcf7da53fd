"""Means over a set of clips, with intervals from a seeded bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000  # of the bootstrap
LEVEL = 0.95  # of its intervals


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over a set of clips with its 95 % interval, where one can be given."""

    mean: float
    low: float | None = None
    high: float | None = None
    clips: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def estimate(
    values: Sequence[float],
    weights: Sequence[float | int],
    groups: Sequence[str] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The weighted mean of clips with its percentile interval from a seeded bootstrap over clips.

    Clips of one of `groups`, such as parts of one video, are drawn together. One clip or group
    has no interval. Raises ValueError for none at all, for NaN or infinity, and for weights that
    sum to 0.
    """
    if not len(values):
        raise ValueError("a mean needs at least one clip, but none was scored")
    held, share = np.asarray(values, float), np.asarray(weights, float)
    wrong = np.flatnonzero(~(np.isfinite(held) & np.isfinite(share)))
    if len(wrong):
        raise ValueError(
            f"value {wrong[0] + 1} of {len(held)} is {held[wrong[0]]} with weight "
            f"{share[wrong[0]]}: a mean is taken of finite values alone"
        )
    if share.sum() == 0:
        raise ValueError("the weights of a mean sum to 0: give one clip some weight")
    mean = float((held * share).sum() / share.sum())
    total = held * share
    if groups is not None:
        number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
        where = [number[name] for name in groups]
        total, share = (np.bincount(where, each) for each in (total, share))
    if len(share) == 1:
        return Estimate(mean=mean, clips=len(held))
    draw, means = np.random.default_rng(seed), []
    rows = max(1, 1_000_000 // len(share))  # resamples at once: memory stays bounded
    for done in range(0, resamples, rows):
        chosen = draw.integers(0, len(share), (min(rows, resamples - done), len(share)))
        means.append(total[chosen].sum(axis=1) / share[chosen].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean=mean, low=float(low), high=float(high), clips=len(held))
