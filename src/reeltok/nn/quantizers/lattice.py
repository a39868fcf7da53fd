"""FSQ and LFQ: codebooks without parameters, in which every channel is rounded on its own."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.nn.quantizers.contract import (
    STRICT,
    Quantized,
    Regularized,
    as_float,
    clamped_entropy,
    full_precision,
    noise_like,
    with_losses,
)
from reeltok.parallel import mean_over_ranks
from reeltok.tokens.digits import centre_of, join_digits, split_digits
from reeltok.tokens.ids import check_ids

MOST_CODES = 2**24  # whose mean shares the entropy loss holds (64 MiB in float32)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FSQConfig(Regularized):
    """Finite scalar quantization (Mentzer et al. 2023): channel i is rounded to `levels[i]` values.

    While training, steps before `rounding_from` add uniform noise of half a step instead of
    rounding. Two levels put their boundary at zero; the paper's shift would put it at -3.8.
    `even` weighs a loss of our own, `unevenness`: without one, half of the bits may lie idle.
    """

    only_training = (*Regularized.only_training, "rounding_from", "even")

    kind: Literal["fsq"] = "fsq"
    # Past 1,000 levels the range's margin (eps) would reach beyond the outermost level.
    levels: tuple[Annotated[int, Field(ge=2, le=1000)], ...] = Field(
        default=(8, 8, 8, 8, 8), min_length=1, max_length=62
    )
    rounding_from: int = Field(default=0, ge=0)
    even: float = Field(default=0.0, ge=0)

    @property
    def channels(self) -> int:
        return len(self.levels)

    @property
    def features(self) -> int:
        return self.channels

    @property
    def vocabulary(self) -> int:
        return math.prod(self.levels)

    @property
    def terms(self) -> tuple[str, ...]:
        return ("even", *super().terms) if self.even else super().terms

    def build(self) -> "FSQ":
        return FSQ(self)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LFQConfig(Regularized):
    """Lookup-free quantization (MAGVIT-v2, section 3.1): the sign of each channel is one bit."""

    kind: Literal["lfq"] = "lfq"
    bits: int = Field(default=18, ge=1, le=62)

    @property
    def levels(self) -> tuple[int, ...]:
        return (2,) * self.bits

    @property
    def channels(self) -> int:
        return self.bits

    @property
    def features(self) -> int:
        return self.bits

    @property
    def vocabulary(self) -> int:
        return 2**self.bits

    def build(self) -> "LFQ":
        return LFQ(self)


class Lattice(nn.Module):
    """A codebook that is a grid: each channel falls on a level of its own, without parameters.

    An id is the number whose digits are the levels, channel 0 the least significant (as in VidTok
    and in MAGVIT-v2's formula). A code is (digit - centre) / half.
    """

    def __init__(self, config: FSQConfig | LFQConfig) -> None:
        super().__init__()
        self.config = config
        if config.vocabulary >= 2**63:
            raise ValueError(
                f"levels {config.levels} make {config.vocabulary} codes, more than an int64 id can "
                f"count; use fewer channels or levels"
            )
        if config.regularization and config.entropy != 0 and config.vocabulary > MOST_CODES:
            raise ValueError(
                f"the entropy loss holds one probability per code and {config.vocabulary} codes "
                f"are more than {MOST_CODES}; set entropy=0 or use fewer codes"
            )

    def bound(self, z: Tensor) -> Tensor:
        """The encoder's output in units of one step."""
        raise NotImplementedError

    def digits(self, bounded: Tensor) -> Tensor:
        """The level of each channel, 0 to L - 1, as a float."""
        raise NotImplementedError

    def places(self, z: Float[Tensor, "b *grid d"]) -> Float[Tensor, "b *grid d"]:
        """Where each channel lies among its levels, float32; rounded, it is the digit."""
        bounded = self.bound(as_float(z))
        return bounded + self.centre_and_half(bounded)[0]

    def forward(
        self,
        z: Float[Tensor, "b *grid d"],
        *,
        step: int | None = None,
        sample: torch.Generator | None = None,
        skipped: Bool[Tensor, "b *grid"] | None = None,
    ) -> Quantized:
        """Codes, exactly those of `lookup(ids)`, with gradients passed straight through.

        `step` is the optimizer step, for annealing; `sample` draws the noise of early steps.
        `skipped` cells, and no others, get the centre code: zero in every channel. They have no
        gradient, and losses do not count them.
        """
        self.require_width(z)
        with full_precision(z):
            x = as_float(z)
            bounded = self.bound(x)
            digits = self.digits(bounded)
            if skipped is not None:
                digits = self.centred(digits, skipped)
            ids = join_digits(digits.long(), self.config.levels)
            codes = self.values(digits)
            soft = bounded / self.centre_and_half(bounded)[1]
            out = codes + (soft - soft.detach())
            if self.training and step is not None and step < self.rounding_from:
                shake = noise_like(bounded, torch.rand, sample) - 0.5
                out = soft + shake / self.centre_and_half(bounded)[1]
            if skipped is not None:
                out = torch.where(skipped[..., None], 0.0, out)
            terms = self.losses(x, codes, step, skipped) if self.training else {}
        return with_losses(out.to(z.dtype), ids, terms)

    @property
    def centre_id(self) -> int:
        """The id whose code is zero in every channel."""
        return centre_of(self.config.levels)

    def centred(self, digits: Tensor, skipped: Bool[Tensor, "b *grid"]) -> Tensor:
        """The centre's digits for skipped cells; others that fell on it move by one level."""
        centre = self.centre_and_half(digits)[0]
        chance = (digits == centre).all(-1) & ~skipped
        aside = torch.cat([chance[..., None], torch.zeros_like(digits[..., 1:])], dim=-1)
        return torch.where(skipped[..., None], centre, digits - aside.to(digits.dtype))

    def lookup(self, ids: Int[Tensor, "b *grid"]) -> Float[Tensor, "b *grid d"]:
        """The codes of ids, float32. Raises ValueError naming an id outside the vocabulary."""
        check_ids(ids, self.config.vocabulary)
        return self.values(split_digits(ids, self.config.levels).float())

    @property
    def rounding_from(self) -> int:
        return self.config.rounding_from if isinstance(self.config, FSQConfig) else 0

    def values(self, digits: Tensor) -> Tensor:
        centre, half = self.centre_and_half(digits)
        return (digits - centre) / half

    def centre_and_half(self, like: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.tensor(self.config.levels, device=like.device, dtype=like.dtype) // 2
        return half, half

    def require_width(self, z: Tensor) -> None:
        if z.shape[-1] != self.config.features:
            raise ValueError(
                f"the quantizer takes {self.config.features} channels in the last axis, "
                f"found shape {tuple(z.shape)}"
            )

    def losses(
        self,
        x: Tensor,
        codes: Tensor,
        step: int | None,
        skipped: Bool[Tensor, "b *grid"] | None = None,
    ) -> dict[str, Tensor]:
        terms = {}
        if skipped is not None:
            x = torch.where(skipped[..., None], x.detach(), x)
        if self.config.regularization:
            terms["commitment"] = self.config.commitment * F.mse_loss(x, codes.detach())
        if self.config.regularization and self.config.entropy != 0:
            spread = self.entropy(x.reshape(-1, self.config.channels))
            terms["entropy"] = self.config.entropy_weight(step) * spread
        return terms

    def entropy(self, x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Mean entropy of each token's distribution over codes minus entropy of their mean.

        A token's distribution is softmax(2 x . code / temperature), which is a product over the
        channels. So its entropy is a sum over channels, and the mean over tokens of the product is
        one matrix product of two halves of the channels: nothing of tokens x codebook is built.
        """
        each = x.new_zeros(())
        halves = [x.new_ones(len(x), 1), x.new_ones(len(x), 1)]
        cut = balanced_cut(self.config.levels)
        for i, level in enumerate(self.config.levels):
            digits = torch.arange(level, device=x.device, dtype=x.dtype)
            values = self.values(digits.unsqueeze(-1).expand(-1, len(self.config.levels)))[:, i]
            logs = (x[:, i : i + 1] * values * (2 / self.config.temperature)).log_softmax(-1)
            shares = logs.exp()
            each = each - (shares * logs).sum(-1).mean()
            side = i >= cut
            halves[side] = (halves[side].unsqueeze(2) * shares.unsqueeze(1)).flatten(1)
        mean = mean_over_ranks((halves[0].T @ halves[1]).flatten() / len(x))
        return each - clamped_entropy(mean)


EVEN_SPREAD = math.pi / math.sqrt(12)  # the deviation whose logistic-like values tanh makes even


PRIOR_ROWS = 16


def unevenness(
    x: Float[Tensor, "n d"], coded: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """How far channels are from independent ones that tanh spreads evenly over (-1, 1), in nats.

    The divergence of the normal distribution with the mean and covariance of `x` over all
    processes from one of deviation `EVEN_SPREAD`. Values of density sech(x)^2 / 2 have it, and
    their tanh is uniform: all levels of a channel are used alike, but for the outermost two, which
    FSQ makes half as wide. With `coded`, of those rows alone and of `PRIOR_ROWS` that are as they
    should be: few rows have no covariance of their own.
    """
    x, d = x / EVEN_SPREAD, x.shape[-1]
    if coded is None:
        moments = torch.cat([x.mean(0, keepdim=True), x.T @ x / len(x)])
    else:
        kept = x * coded[:, None]
        sums = torch.cat([kept.sum(0, keepdim=True), kept.T @ kept])
        ideal = torch.cat([x.new_zeros(1, d), torch.eye(d, device=x.device, dtype=x.dtype)])
        moments = (sums + PRIOR_ROWS * ideal) / (coded.sum() + PRIOR_ROWS)
    moments = mean_over_ranks(moments)
    mean, square = moments[0], moments[1:]
    covariance = square - torch.outer(mean, mean) + 1e-6 * torch.eye(d, device=x.device)
    return (square.trace() - d - torch.logdet(covariance)) / 2


class FSQ(Lattice):
    """tanh to the range of each channel, then rounding, as in the paper's appendix (eps 1e-3)."""

    config: FSQConfig

    def bound(self, z: Tensor) -> Tensor:
        half, offset, shift = self.range(z)
        return torch.tanh(z + shift) * half - offset

    def range(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Half the range of each channel in steps, its centre, and what z is moved by."""
        levels = torch.tensor(self.config.levels, device=z.device)
        half = ((levels - 1) * (1 + 1e-3) / 2).to(z.dtype)
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        return half, offset, torch.where(levels > 2, torch.atanh(offset / half), 0.0)

    def losses(
        self,
        x: Tensor,
        codes: Tensor,
        step: int | None,
        skipped: Bool[Tensor, "b *grid"] | None = None,
    ) -> dict[str, Tensor]:
        terms = super().losses(x, codes, step, skipped)
        if self.config.even:
            spread = (x + self.range(x)[2]).flatten(0, -2)
            coded = None if skipped is None else ~skipped.flatten()
            terms["even"] = self.config.even * unevenness(spread, coded)
        return terms

    def digits(self, bounded: Tensor) -> Tensor:
        return bounded.round() + self.centre_and_half(bounded)[0]


class LFQ(Lattice):
    """The sign of each channel: codes are -1 and 1."""

    def bound(self, z: Tensor) -> Tensor:
        return z / 2  # the step from -1 to 1 is two

    def digits(self, bounded: Tensor) -> Tensor:
        return (bounded > 0).to(bounded.dtype)

    def centre_and_half(self, like: Tensor) -> tuple[Tensor, Tensor]:
        half = torch.full((self.config.channels,), 0.5, device=like.device, dtype=like.dtype)
        return half, half


def balanced_cut(levels: tuple[int, ...]) -> int:
    """Where to cut the channels so that the larger product of levels is smallest."""
    return min(
        range(len(levels) + 1), key=lambda i: max(math.prod(levels[:i]), math.prod(levels[i:]))
    )
