"""Training a prior on ids that were computed beforehand.

`tokenize_examples` collects them from clips, `Feed` (latents.py) draws batches, a function of
(seed, step), and `PriorTask` is what the training loop runs: MAGVIT's masks, with COMMIT where
frames are given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from reeltok.generate import masked
from reeltok.generate.conditions import actions_by_step, condition_video, padding_cells
from reeltok.generate.decoding import Known, apply_mask
from reeltok.generate.latents import draw_each
from reeltok.generate.prior import Conditions, Prior, PriorConfig
from reeltok.generate.schedule import least_confident, mask_ratio, seeded_generators
from reeltok.models.reftok.reference import on_bytes
from reeltok.records import join_records
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.digits import split_digits
from reeltok.train.losses import Losses
from reeltok.video.record import to_bytes, to_unit

NOISY = 0.2
"""The share of references that a task's noise is added to."""
SMOOTHING = 1e-4
"""Label smoothing (MAGVIT, appendix)."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip "1 c t h w" in [-1, 1], the actions "1 n a" after its frames, and its class."""

    x: Float[Tensor, "1 c t h w"]
    actions: Float[Tensor, "1 n a"] | None = None
    label: int = 0


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Clips' ids in rows, and what they are generated from; None where there is nothing.

    `shown` are the ids of the condition videos, one for each of k masks of what is given, `padding`
    the cells where they hold nothing given. `starts` are the frames that whole videos begin with.
    """

    ids: Int[Tensor, "n cells"]
    labels: Int[Tensor, " n"]
    shown: Int[Tensor, "n k cells"] | None = None
    padding: Bool[Tensor, "k cells"] | None = None
    actions: Float[Tensor, "n s a"] | None = None
    references: UInt8[Tensor, "n h w c"] | None = None
    starts: UInt8[Tensor, "n h w c"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Int[Tensor, " b"]) -> "Examples":
        rows = {k: v[index] for k, v in vars(self).items() if v is not None and k != "padding"}
        return replace(self, **rows)

    def to(self, device: torch.device | str) -> "Examples":
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if v is not None})


@torch.no_grad()
def tokenize_examples(
    tokenizer: Tokenizer,
    config: PriorConfig,
    clips: Iterable[Example],
    *,
    given: Sequence[Bool[Tensor, "t h w"]] = (),
) -> Examples:
    """The ids of clips, and of their condition videos by each mask of what is `given`.

    A clip has the prior's frames; for a RefTok one more in front, the reference. ValueError for
    clips of another length or size.
    """
    clip = masked.pick_clip(config, tokenizer)
    coder, has_reference = masked.following(tokenizer), config.reference is not None
    rows: dict[str, list[Tensor]] = {"ids": [], "labels": []}
    for example in clips:
        x, reference = example.x, None
        wanted = (clip.frames + int(has_reference), clip.height, clip.width)
        if tuple(x.shape[2:]) != wanted:
            raise ValueError(f"a clip is {tuple(x.shape[2:])}, the prior's are {wanted}: cut it so")
        if has_reference:
            reference = on_bytes(x[:, :, :1])
            for name in ("references", "starts") if config.start else ("references",):
                rows.setdefault(name, []).append(to_bytes(x[:, :, :1]))
            x = x[:, :, 1:]
        rows["ids"].append(coder.encode(x, reference=reference).flat().cpu())
        rows["labels"].append(torch.tensor([example.label]))
        if given:
            completed = [condition_video(x, mask) for mask in given]
            shown = [coder.encode(video, reference=reference).flat().cpu() for video in completed]
            rows.setdefault("shown", []).append(torch.stack(shown, dim=1))
        if config.actions:
            if example.actions is None:
                raise ValueError(
                    "this prior is conditioned on actions, but a clip has none: give them"
                )
            acts = actions_by_step(
                example.actions, config.timing, clip.frames, follows=has_reference
            )
            rows.setdefault("actions", []).append(acts)
    if not rows["ids"]:
        raise ValueError("there are no clips to learn from: give at least one")
    empty = [padding_cells(mask, coder.spec, config.grid).flatten() for mask in given]
    padding = torch.stack(empty) if empty else None
    return Examples(padding=padding, **{name: torch.cat(row) for name, row in rows.items()})


@dataclass(frozen=True, kw_only=True)
class MaskedBatch:
    """What is drawn for clips: masked tokens, what is known, and what they are generated from."""

    is_masked: Bool[Tensor, "b n"]
    known: Known | None
    conditions: Conditions

    @classmethod
    def of(cls, parts: "Sequence[MaskedBatch]") -> "MaskedBatch":
        """Several as one."""
        known = [part.known for part in parts if part.known is not None]
        return cls(
            is_masked=torch.cat([part.is_masked for part in parts]),
            known=join_records(known) if known else None,
            conditions=join_records([part.conditions for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class MaskedErrors:
    """Errors of tokens, and sums of them with the number of tokens they are of."""

    errors: Float[Tensor, "b n"]
    sums: dict[str, tuple[Float[Tensor, ""], Float[Tensor, ""]]]


class PriorTask:
    """Train a prior to predict a masked share of a clip's tokens.

    The share follows a cosine; the loss is the cross-entropy over all tokens (masked, refined and
    visible ones, as MAGVIT does), each factor's summed. `held_out` is scored with the same
    masks each time, each clip with its own, so that `batch` makes no difference; "rare" is the loss
    on masked cells whose id is not its commonest one.
    Noise of up to `config.noise` is added to a fifth of the references, and the prior is told.
    """

    def __init__(
        self,
        prior: Prior,
        *,
        held_out: Examples | None = None,
        batch: int = 16,
    ) -> None:
        self.prior, self.held_out, self.batch = prior, held_out, batch
        self.usual = None if held_out is None else int(held_out.ids.flatten().mode().values)

    def parameters(self) -> nn.Module:
        return self.prior

    def to(self, device: torch.device | str) -> None:
        """Move the network to `device`."""
        self.prior.to(device)

    def loss(self, batch: Examples, step: int, generator: torch.Generator | None) -> Losses:
        """The loss of a batch; masks and dropped conditions are drawn from `generator`."""
        found = self.errors(batch.ids, self.draw(batch, generator))
        terms = {name: total / count.clamp(min=1) for name, (total, count) in found.sums.items()}
        return Losses(found.errors.mean(), terms)

    def draw(self, batch: Examples, generator: torch.Generator | None) -> MaskedBatch:
        """Masks and dropped conditions of a batch."""
        return MaskedBatch(
            is_masked=draw_masked(batch.ids, generator),
            known=draw_known(batch, generator),
            conditions=self.conditions(batch, generator),
        )

    def errors(self, ids: Int[Tensor, "b n"], drawn: MaskedBatch) -> MaskedErrors:
        """How far the prior is from the ids."""
        config = self.prior.config
        seen = apply_mask(ids, drawn.is_masked, config.vocabulary, drawn.known)
        scores = self.prior(seen, drawn.conditions)
        errors = ids_errors(scores, ids, config.factors)
        right = ids_right(scores, ids, config.factors)
        weights = drawn.is_masked.float()
        sums = {
            "masked": ((errors * weights).sum(), weights.sum()),
            "accuracy": ((right.float() * weights).sum(), weights.sum()),
        }
        if self.usual is not None:  # most cells have one id where little moves: the others count
            rare = weights * (ids != self.usual)
            sums["rare"] = ((errors * rare).sum(), rare.sum())
        return MaskedErrors(errors=errors, sums=sums)

    def conditions(self, batch: Examples, generator: torch.Generator | None) -> Conditions:
        """What a batch is generated from, dropped for a share of its clips."""
        share, reference, noise, dropped = self.prior.config.dropout, None, None, None
        start = None if batch.starts is None else of_frames(batch.starts)
        if share:
            device = "cpu" if generator is None else generator.device
            dropped = torch.rand(len(batch), generator=generator, device=device) < share
        if batch.references is not None:
            reference = of_frames(batch.references)
            if self.prior.config.noise and self.prior.training:
                reference, noise = self.add_noise(reference, generator)
        labels = batch.labels if self.prior.config.classes else None
        told = {
            "actions": batch.actions,
            "reference": reference,
            "noise": noise,
            "start": start,
        }
        return Conditions(labels=labels, dropped=dropped, **told)

    def add_noise(
        self, reference: Float[Tensor, "b c 1 h w"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "b c 1 h w"], Float[Tensor, " b"]]:
        """References, a fifth of them with noise of a random strength, and the strengths."""
        device = "cpu" if generator is None else generator.device
        chosen, much = torch.rand(2, len(reference), generator=generator, device=device)
        strength = ((chosen < NOISY) * much * self.prior.config.noise).to(reference)
        noise = torch.randn(reference.shape, generator=generator, device=device).to(reference)
        return (reference + strength.view(-1, 1, 1, 1, 1) * noise).clamp(-1, 1), strength

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The loss on held-out ids; `score` is its negative, which grows as it improves."""
        if self.held_out is None:
            return {}
        self.prior.eval()
        sums: dict[str, tuple[float, float]] = {}
        for index in torch.arange(len(self.held_out)).split(self.batch):
            part = self.held_out[index].to(self.prior.mask.device)
            draws = seeded_generators(0, range(int(index[0]), int(index[-1]) + 1))
            found = self.errors(part.ids, MaskedBatch.of(draw_each(self.draw, part, draws)))
            errors = found.errors
            whole = errors.sum(), errors.new_tensor(errors.numel())
            for name, (total, count) in {"held_out": whole, **found.sums}.items():
                held = sums.get(name, (0.0, 0.0))
                sums[name] = held[0] + total.item(), held[1] + count.item()
        scores = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
        return {**scores, "score": -scores["held_out"]}

    def save(self, folder: Path) -> None:
        """Write the prior where `masked.load` finds it."""
        masked.save(self.prior, folder)


def of_frames(frames: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b c 1 h w"]:
    """References or starts in [-1, 1]."""
    return rearrange(to_unit(frames), "1 c b h w -> b c 1 h w")


def draw_masked(ids: Int[Tensor, "b n"], generator: torch.Generator | None) -> Bool[Tensor, "b n"]:
    """Which tokens of each clip are masked: a cosine of a uniform number says how many."""
    device = "cpu" if generator is None else generator.device
    drawn = torch.rand(len(ids), 1 + ids.shape[1], generator=generator, device=device)
    shares = [mask_ratio("cosine", r, ids.shape[1]) for r in drawn[:, 0].tolist()]
    counts = (torch.tensor(shares) * ids.shape[1]).ceil().long().clamp(min=1)
    return least_confident(drawn[:, 1:], counts.to(device)).to(ids.device)


def draw_known(batch: Examples, generator: torch.Generator | None) -> Known | None:
    """Each clip's tokens of the condition video by one of the masks; None where none is given."""
    if batch.shown is None or batch.padding is None:
        return None
    kinds = batch.shown.shape[1]
    device = "cpu" if generator is None else generator.device
    kind = torch.zeros(len(batch), dtype=torch.long, device=device)
    if kinds > 1:
        kind = torch.randint(kinds, (len(batch),), generator=generator, device=device)
    kind = kind.to(batch.ids.device)
    shown, padding = batch.shown[torch.arange(len(batch)), kind], batch.padding[kind]
    return Known(ids=shown, padding=padding, settled=torch.zeros_like(padding))


def ids_errors(
    scores: list[Float[Tensor, "b n _"]], ids: Int[Tensor, "b n"], factors: tuple[int, ...]
) -> Float[Tensor, "b n"]:
    """The cross-entropy of every token: of its factors, summed."""
    digits = split_digits(ids, factors).unbind(-1)
    each = [
        F.cross_entropy(
            score.float().flatten(0, 1),
            digit.flatten(),
            label_smoothing=SMOOTHING,
            reduction="none",
        )
        for score, digit in zip(scores, digits, strict=True)
    ]
    return torch.stack(each).sum(0).view(ids.shape)


def ids_right(
    scores: list[Float[Tensor, "b n _"]], ids: Int[Tensor, "b n"], factors: tuple[int, ...]
) -> Bool[Tensor, "b n"]:
    """Which tokens the likeliest factors hit."""
    digits = split_digits(ids, factors).unbind(-1)
    hits = [score.argmax(-1) == digit for score, digit in zip(scores, digits, strict=True)]
    return torch.stack(hits).all(0)
