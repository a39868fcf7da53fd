"""Windows to rows: batches of one bucket through the encoder, and what is kept of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from reeltok.corpus.plan import Plan
from reeltok.corpus.row import FLOATS, Row
from reeltok.corpus.sidecar import Spread
from reeltok.corpus.sources import ListedClip
from reeltok.corpus.windows import ClipWindow
from reeltok.nn.moments import Moments
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.posterior import encode_posterior
from reeltok.tokens.record import Tokens
from reeltok.transcode.options import Coding as Chunks
from reeltok.video.record import to_unit

LONG = 64  # frames; a longer window is coded in parts by a tokenizer that streams


@dataclass(frozen=True, eq=False, kw_only=True)
class Taken:
    """A window on its way to a row: of which clip of the shard, and which window of it."""

    clip: int
    source: ListedClip
    window: ClipWindow

    @property
    def bucket(self) -> tuple[int, ...]:
        """Frames, height and width: what a batch has in common."""
        return self.window.frames.shape[:3]


@torch.no_grad()
def code_windows(plan: Plan, tokenizer: Tokenizer, batch: Sequence[Taken]) -> list[Row]:
    """The rows of windows of one bucket, in their order."""
    x = frames_of(batch, tokenizer)
    frames, height, width = x.shape[2:]
    chunk = None
    if frames > LONG and not tokenizer.spec.independent:
        chunk = Chunks().chunk_for(height, width)
    # Moments are refined where they are encoded, by `kept_of`; these latents are not kept.
    coder = tokenizer.under(refine=0) if plan.coding.keep == "moments" else tokenizer
    tokens = coder.encode(x, chunk=chunk, tile=plan.coding.tile)
    settings = {k: v for k, v in tokens.settings.items() if k not in ("axes", "start")}
    settings |= tokenizer.used
    tokens = tokens.with_(settings={**settings, "given": "video"})
    kept = kept_of(plan, tokenizer, tokens, x)
    return [row_of(each, tokens, kept, i) for i, each in enumerate(batch)]


@torch.no_grad()
def add_beside(
    plan: Plan, tokenizer: Tokenizer, batch: Sequence[Taken], rows: Sequence[Row]
) -> list[Row]:
    """The rows with what the plan makes of their windows beside the tokens."""
    beside = plan.beside
    if beside is None:
        return [*rows]
    x = frames_of(batch, tokenizer)
    made = beside(tokenizer, x, [e.source for e in batch], [e.window.first for e in batch])
    pairs = zip(rows, made, strict=True)
    return [replace(row, beside={k: v.cpu() for k, v in tensors.items()}) for row, tensors in pairs]


def frames_of(batch: Sequence[Taken], tokenizer: Tokenizer) -> Tensor:
    """The windows of a batch in [-1, 1], "b c t h w", on the tokenizer's device."""
    frames = np.stack([each.window.frames for each in batch])
    x = to_unit(torch.from_numpy(frames).flatten(0, 1).to(tokenizer.device))
    return rearrange(x, "1 c (b t) h w -> b c t h w", b=len(batch)).contiguous()


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """What is kept of a batch; the batch axis first."""

    ids: Tensor | None = None
    latents: Tensor | None = None
    log_variance: Tensor | None = None


def kept_of(plan: Plan, tokenizer: Tokenizer, tokens: Tokens, x: Tensor) -> Kept:
    """Ids, or raw latents and their log-variance, as they are stored."""
    if plan.coding.keep == "ids":
        assert tokens.ids is not None
        return Kept(ids=tokens.ids.cpu())
    stored = lambda z: _stored(z, plan.coding.dtype)
    if plan.coding.keep == "moments":
        posterior = encode_posterior(tokenizer, x, tile=plan.coding.tile)
        return Kept(latents=stored(posterior.mean), log_variance=stored(posterior.logvar))
    latents = tokens.latents if tokens.latents is not None else tokenizer.find_latents(tokens)
    return Kept(latents=stored(tokenizer.scale.undo(latents.float())))


def _stored(latents: Tensor, dtype: str) -> Tensor:
    """Latents in the type in which they are kept. ValueError where it does not hold them."""
    kept = latents.float().cpu().to(FLOATS[dtype])
    if not kept.isfinite().all():
        raise ValueError(f"its latents are beyond what {dtype} holds: give `latents` fp32")
    return kept


def row_of(taken: Taken, tokens: Tokens, kept: Kept, number: int) -> Row:
    """The row of one window of a batch."""
    window, source = taken.window, taken.source
    part = lambda tensor: None if tensor is None else tensor[number]
    return Row(
        id=f"{source.name}#{window.number:04d}",
        source=source.name,
        origin=source.clip.source or source.name,
        group=source.group,
        start=window.start,
        fps=window.fps,
        frames=tokens.frames,
        height=tokens.height,
        width=tokens.width,
        source_height=window.source_height,
        source_width=window.source_width,
        caption=source.caption,
        settings=tokens.settings,
        ids=part(kept.ids),
        latents=part(kept.latents),
        log_variance=part(kept.log_variance),
        extras=extras_of(tokens, number),
        further=source.further,
    )


def extras_of(tokens: Tokens, number: int) -> dict[str, Tensor]:
    """The further tensors of one clip of a batch, whose names end in its number there: a.b.2."""
    parts = {name: name.rpartition(".") for name in tokens.extras}
    mine = {name: part[0] for name, part in parts.items() if part[2] == str(number)}
    return {f"{name}.0": tokens.extras[whole].cpu() for whole, name in mine.items()}


# ---------------------------------------------------------------- statistics


def spread_of(moments: Moments | None) -> Spread | None:
    """Moments as a sidecar holds them."""
    if moments is None:
        return None
    return Spread(
        count=moments.count,
        mean=tuple(moments.mean.tolist()),
        scatter=tuple(moments.scatter.tolist()),
    )


def measured(spreads: Sequence[Spread | None]) -> dict[str, Any] | None:
    """Mean and deviation by channel, over any number of shards; None where all have none.

    A channel that never varies counts as 1.
    """
    whole: Moments | None = None
    for each in spreads:
        if each is not None:
            mean, scatter = torch.tensor([each.mean, each.scatter], dtype=torch.float64)
            part = Moments(each.count, mean, scatter)
            whole = part if whole is None else whole + part
    if whole is None:
        return None
    std = torch.where(whole.std > 1e-6, whole.std, 1.0)
    return {"from": "measured", "mean": whole.mean.tolist(), "std": std.tolist()}


def without_pixels(taken: Taken) -> Taken:
    """The same once its frames are coded."""
    return replace(taken, window=replace(taken.window, frames=taken.window.frames[:0]))
