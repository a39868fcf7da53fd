"""VQ: a codebook of learned vectors, fitted by gradients or by running means."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reeltok.nn.bounds import Width
from reeltok.nn.quantizers.contract import (
    SCORES,
    STRICT,
    Quantized,
    Regularized,
    as_float,
    clamped_entropy,
    full_precision,
    noise_like,
    with_losses,
)
from reeltok.parallel import from_first, mean_over_ranks, sum_over_ranks
from reeltok.tokens.ids import check_ids


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VQConfig(Regularized):
    """Vector quantization (VQ-VAE): the nearest of `codes` learned vectors of `width` channels.

    `ema=None` learns the codebook by gradients; a decay such as 0.99 keeps running means instead,
    and then a code whose running count falls below `restart_below` starts anew at a random token.
    """

    only_training = (*Regularized.only_training, "ema", "restart_below")

    kind: Literal["vq"] = "vq"
    codes: int = Field(default=262_144, ge=2, le=2**31)
    width: Width = 8
    ema: float | None = Field(default=None, ge=0, lt=1)
    restart_below: float = Field(default=0.0, ge=0)

    @property
    def channels(self) -> int:
        return self.width

    @property
    def features(self) -> int:
        return self.width

    @property
    def vocabulary(self) -> int:
        return self.codes

    @property
    def terms(self) -> tuple[str, ...]:
        return super().terms if self.ema is not None else ("codebook", *super().terms)

    def build(self) -> "VQ":
        return VQ(self)


class VQ(nn.Module):
    """The nearest of learned vectors, with gradients passed straight through."""

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        codebook = torch.randn(config.codes, config.width) * config.width**-0.5
        if config.ema is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("counts", torch.ones(config.codes))
            self.register_buffer("sums", codebook.clone())

    def forward(
        self,
        z: Float[Tensor, "b *grid d"],
        *,
        step: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        """The nearest codes; while training, the losses, and the running means if there are any.

        `step` is the optimizer step, for annealing; `sample` picks the tokens of restarted codes.
        """
        with full_precision(z):
            x = as_float(z).reshape(-1, z.shape[-1])
            ids = self.nearest(x.detach())
            codes = F.embedding(ids, self.codebook.to(x.dtype))
            out = codes.detach() + (x - x.detach())
            terms = self.losses(x, codes, step) if self.training else {}
            if self.training and self.config.ema is not None:
                self.follow(x.detach(), ids, self.config.ema, sample)
        return with_losses(out.reshape(z.shape).to(z.dtype), ids.reshape(z.shape[:-1]), terms)

    def lookup(self, ids: Int[Tensor, "b *grid"]) -> Float[Tensor, "b *grid d"]:
        """The codes of ids. Raises ValueError naming an id outside the vocabulary."""
        check_ids(ids, self.config.vocabulary)
        return F.embedding(ids, self.codebook)

    @torch.no_grad()
    def nearest(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "n"]:
        """The id of the nearest code, a few tokens at a time so that memory stays bounded."""
        codebook = self.codebook.to(x.dtype)
        lengths = codebook.square().sum(-1)
        if torch.compiler.is_exporting():  # a graph has no parts
            return torch.addmm(lengths, x, codebook.T, alpha=-2).argmin(-1)
        few = max(1, SCORES // len(codebook))
        # One buffer for all: freed between small ones, blocks of this size leave holes in the heap.
        scores = x.new_empty(min(few, len(x)), len(codebook))
        found = []
        for part in x.split(few):
            torch.addmm(lengths, part, codebook.T, alpha=-2, out=scores[: len(part)])
            found.append(scores[: len(part)].argmin(-1))
        return torch.cat(found)

    def losses(self, x: Tensor, codes: Tensor, step: int | None) -> dict[str, Tensor]:
        terms = {}
        if self.config.ema is None:  # the only term without which nothing fits the codebook
            terms["codebook"] = F.mse_loss(codes, x.detach())
        if self.config.regularization:
            terms["commitment"] = self.config.commitment * F.mse_loss(x, codes.detach())
        if self.config.regularization and self.config.entropy != 0:
            terms["entropy"] = self.config.entropy_weight(step) * self.entropy(x)
        return terms

    def entropy(self, x: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Mean entropy of each token's softmax(-distance / temperature) minus that of their mean.

        Distances are squared. A few tokens at a time, computed again for the gradients.
        """
        codebook = self.codebook if self.config.ema is None else self.codebook.clone()
        each, mean = x.new_zeros(()), x.new_zeros(len(codebook))
        for part in x.split(max(1, SCORES // len(codebook))):
            chunk = checkpoint(self.soft_shares, part, codebook, use_reentrant=False)
            each, mean = each + chunk[0], mean + chunk[1]
        return each / len(x) - clamped_entropy(mean_over_ranks(mean / len(x)))

    def soft_shares(self, x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        lengths = codebook.square().sum(-1)
        logits = torch.addmm(-lengths, x, codebook.T, alpha=2) / self.config.temperature
        logs = logits.log_softmax(-1).clamp(min=-80.0)  # below, exp is ten times slower on a CPU
        shares = logs.exp()
        return -(shares * logs).sum(), shares.sum(0)

    @torch.no_grad()
    def follow(self, x: Tensor, ids: Tensor, decay: float, sample: torch.Generator | None) -> None:
        """Move each code to the running mean of its tokens, over all processes.

        No code moves where a token is not finite: such a step is skipped, its means would stay.
        """
        counts = torch.bincount(ids, minlength=len(self.codebook)).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, ids, x.to(self.sums.dtype))
        counts, sums = sum_over_ranks(counts), sum_over_ranks(sums)
        if not sums.isfinite().all():
            return
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        total = self.counts.sum()  # Laplace smoothing, so that a code without tokens stays finite
        smooth = (self.counts + 1e-5) / (total + len(self.counts) * 1e-5) * total
        self.codebook.copy_(self.sums / smooth.unsqueeze(-1))
        dead = (self.counts < self.config.restart_below).nonzero().squeeze(-1)
        if len(dead) > 0:
            pick = noise_like(dead.to(x.dtype), torch.rand, sample).mul(len(x)).long()
            fresh = x[pick.clamp(max=len(x) - 1)].to(self.codebook.dtype)
            from_first(fresh)  # every process must restart at the same tokens
            self.codebook[dead] = fresh
            self.counts[dead] = self.config.restart_below
            self.sums[dead] = fresh * self.config.restart_below
