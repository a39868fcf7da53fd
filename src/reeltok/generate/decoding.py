"""Decoding masked tokens: the condition video's or the mask, samples, and which are kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reeltok.generate.prior import Conditions, Prior
from reeltok.generate.schedule import (
    ClipGenerators,
    Sampling,
    gumbel,
    least_confident,
    masked_count,
    pick,
)
from reeltok.tokens.digits import join_digits


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a batch's tokens, in one row each: the condition video's `ids`.

    Where `padding` they hold nothing given, where `settled` they are the clip's own; in one row for
    all clips or in one each.
    """

    ids: Int[Tensor, "b n"]
    padding: Bool[Tensor, "*b n"]
    settled: Bool[Tensor, "*b n"]


def apply_mask(
    ids: Int[Tensor, "b n"],
    masked: Bool[Tensor, "b n"],
    mask: int,
    known: Known | None = None,
) -> Int[Tensor, "b n"]:
    """COMMIT (MAGVIT, section 3.3): a masked token becomes the condition video's, or the mask.

    The mask stands where nothing is given; visible tokens stay.
    """
    instead = torch.full_like(ids, mask)
    if known is not None:
        instead = torch.where(known.padding, instead, known.ids)
    return torch.where(masked, instead, ids)


@torch.no_grad()
def decode_masked(
    prior: Prior,
    conditions: Conditions,
    rng: ClipGenerators,
    sampling: Sampling,
    *,
    known: Known | None = None,
    progress: Callable[[float], None] | None = None,
) -> Int[Tensor, "b n"]:
    """The ids of a batch (MAGVIT, section 3.3)."""
    config, device = prior.config, prior.mask.device
    batch, cells = len(rng.generators), config.cells
    ids = torch.zeros(batch, cells, dtype=torch.long, device=device)
    masked = torch.ones(batch, cells, dtype=torch.bool, device=device)
    if known is not None:
        ids, masked = known.ids.clone(), masked & ~known.settled
    start = left = int(masked[0].sum())
    for step in range(sampling.steps):
        if progress is not None:
            progress(step / sampling.steps)
        shown = apply_mask(ids, masked, config.vocabulary, known)
        probabilities = guided(prior, shown, conditions, sampling)
        uniform = rng.rand(len(probabilities) + 1, cells).to(device)
        digits = [pick(each, uniform[:, i]) for i, each in enumerate(probabilities)]
        ids = torch.where(masked, join_digits(torch.stack(digits, -1), config.factors), ids)
        confidence = sum(
            each.gather(2, digit[..., None])[..., 0].clamp(min=1e-30).log()
            for each, digit in zip(probabilities, digits, strict=True)
        )
        left = masked_count(sampling.schedule, step, sampling.steps, start, left)
        noise_scale = sampling.temperature * (1 - (step + 1) / sampling.steps)
        confidence = confidence + noise_scale * gumbel(uniform[:, -1])
        masked = least_confident(confidence.masked_fill(~masked, torch.inf), left)
    return ids


def guided(
    prior: Prior, ids: Int[Tensor, "b n"], conditions: Conditions, sampling: Sampling
) -> list[Float[Tensor, "b n f"]]:
    """Probabilities of each factor: of s(nothing) + guidance (s - s(nothing)), by temperature."""
    scores = prior(ids, conditions)
    if sampling.guidance != 1:
        bare = prior(ids, conditions.without(len(ids)))
        scores = [torch.lerp(b, s, sampling.guidance) for b, s in zip(bare, scores, strict=True)]
    return [(score.float() / sampling.token_temperature).softmax(-1) for score in scores]
