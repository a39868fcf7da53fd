"""The task of every tokenizer: give back the clip, alone or against a discriminator."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from reeltok.configuration import FINITE
from reeltok.files.text import hint
from reeltok.metrics.lpips import LPIPS, NetworkName
from reeltok.metrics.paired import peak_decibel
from reeltok.nn.quantizers.contract import full_precision
from reeltok.tokenizer.contract import Reconstruction, Tokenizer
from reeltok.train.clips import ClipBatch
from reeltok.train.discriminators import DiscriminatorConfig
from reeltok.train.losses import (
    LOG_MSE_FLOOR,
    LeCAM,
    Losses,
    Pixel,
    adaptive_weight,
    discriminator_loss,
    flicker_loss,
    generator_loss,
    gradient_penalty,
    pixel_loss,
)
from reeltok.train.motion import MotionLoss
from reeltok.video.record import to_bytes

TERMS = ("kl", "commitment", "codebook", "entropy", "even", "motion")
"""The losses that a quantizer may have, and that of a RefTok's motion."""

Score = Callable[[Tensor, Tensor], dict[str, float]]
LoadLPIPS = Callable[..., nn.Module]
"""What gives LPIPS(net, backbone=...): the class itself, or `random_lpips`."""


@config_dataclass(frozen=True, kw_only=True, config=FINITE)
class LossConfig:
    """What a reconstruction minimises.

    Pixel loss `pixel` (L1 for the first `l1_steps` steps; "log-mse" is log(MSE + `log_mse_floor`),
    which stops rewarding a frame whose MSE is well below the floor, in (value range 2)^2),
    `perceptual` x LPIPS with network `net` from step `perceptual_first`, `flicker` x the mean error
    of the differences between frames, the quantizer's terms
    (each times its weight in `terms`, or 1), and the loss against a discriminator. `weights` is
    the file or URL of LPIPS's backbone; None looks in the usual places.
    `motion` is the loss of a RefTok's motion, and `last_frame` the weight of the frames that it
    refers to later, where others have 1; other families have neither.
    `log_variance` divides the reconstruction loss by a learned variance (and adds its logarithm).
    `reduce="sum"` sums over the values of a frame, as VidTok's published recipe does, instead of
    taking their mean.
    """

    pixel: Pixel = "l1"
    weight: float = Field(default=1.0, ge=0)
    l1_steps: int = Field(default=0, ge=0)
    log_mse_floor: float = Field(default=LOG_MSE_FLOOR, gt=0)
    perceptual: float = Field(default=0.0, ge=0)
    perceptual_first: int = Field(default=0, ge=0)
    flicker: float = Field(default=0.0, ge=0)
    net: NetworkName = "squeeze"
    weights: str | None = None
    terms: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=lambda: {"kl": 1e-6})
    log_variance: bool = False
    reduce: Literal["mean", "sum"] = "mean"
    motion: MotionLoss | None = None
    last_frame: float = Field(default=1.0, gt=0)
    discriminator: DiscriminatorConfig | None = None

    def __post_init__(self) -> None:
        for name in self.terms:
            if name not in TERMS:
                raise ValueError(f"terms names {name!r}, which is no loss: {hint(name, TERMS)}")


class Trained(nn.Module):
    """What the generator's optimizer moves: the tokenizer and the learned log-variance."""

    def __init__(self, tokenizer: Tokenizer, *, log_variance: bool) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.log_variance = nn.Parameter(torch.zeros(1)) if log_variance else None


@dataclass(frozen=True)
class AdversarialPair:
    """What the discriminator compares."""

    real: Float[Tensor, "b c t h w"]
    fake: Float[Tensor, "b c t h w"]


class Reconstruct:
    """Train a tokenizer on `config`'s losses; validate on held-out batches with `score`.

    `last` names the parameter whose gradients the adaptive weight compares; None leaves it to the
    tokenizer. `lpips` gives the network of that loss.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: LossConfig,
        *,
        held_out: Callable[[], Iterable[ClipBatch]] | None = None,
        score: Score | None = None,
        lpips: LoadLPIPS = LPIPS,
        last: str | None = None,
    ) -> None:
        self.config, self.held_out, self.score = config, held_out, score or score_frames
        self.shown: dict[str, Tensor] = {}
        self.trained = Trained(tokenizer, log_variance=config.log_variance)
        self.last = last
        self.perceptual = None
        if config.perceptual:  # a missing weight file is an error before the first step
            self.perceptual = lpips(config.net, backbone=config.weights).eval()
        self.discriminator = config.discriminator.build() if config.discriminator else None
        self.discriminator_from = config.discriminator.first if config.discriminator else 0
        self.lecam = LeCAM(config.discriminator.lecam_decay) if config.discriminator else None

    def parameters(self) -> nn.Module:
        return self.trained

    def memory(self) -> dict[str, nn.Module]:
        """What else must survive a restart."""
        return {"lecam": self.lecam} if self.lecam else {}

    def to(self, device: torch.device | str) -> None:
        """Move everything to `device`."""
        for module in (self.trained, self.perceptual, self.discriminator, self.lecam):
            if module is not None:
                module.to(device)

    def make(
        self, x: Float[Tensor, "b c t h w"], step: int, generator: torch.Generator | None
    ) -> Reconstruction:
        """The reconstruction that is trained; a family may draw conditions for it here."""
        return self.trained.tokenizer(x, step=step, generator=generator)

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator | None) -> Losses:
        """The generator's loss of a batch; what it made goes to the discriminator."""
        config, x = self.config, batch.x
        made = self.make(x, step, generator)
        y = made.x[:, :, : x.shape[2]].float()
        kind = "l1" if step < config.l1_steps else config.pixel
        frames = config.weight * pixel_loss(x, y, kind, floor=config.log_mse_floor)
        terms = {kind: frames.mean(), **made.quantized.terms}
        if self.perceptual is not None and step >= config.perceptual_first:
            distance = self.perceptual(as_images(x), as_images(y)).view(frames.shape)
            terms["lpips"] = distance.mean()
            frames = frames + config.perceptual * distance
        if config.flicker:
            shimmer = flicker_loss(x, y)
            terms["flicker"] = shimmer.mean()
            frames = frames + config.flicker * shimmer
        kept = self.scaled(frames, x)
        regular = [config.terms.get(k, 1.0) * v for k, v in made.quantized.terms.items()]
        total = kept + sum(regular, start=kept.new_zeros(()))
        if (
            config.discriminator
            and self.discriminator is not None
            and step >= self.discriminator_from
        ):
            adversarial = generator_loss(self.discriminator(y), config.discriminator.generator_loss)
            weight = kept.new_ones(())
            if config.discriminator.adaptive:
                weight = adaptive_weight(kept, adversarial, self.last_weight())
            terms |= {"adversarial": adversarial, "adaptive": weight}
            total = total + config.discriminator.weight * weight * adversarial
        return Losses(total, terms, AdversarialPair(real=x, fake=y.detach()))

    def last_weight(self) -> nn.Parameter:
        """Where the adaptive weight compares gradients; ValueError where it is frozen."""
        tokenizer = self.trained.tokenizer
        weight = tokenizer.get_parameter(self.last) if self.last else tokenizer.last_weight()
        if not weight.requires_grad:
            raise ValueError(
                f"an adaptive weight needs the last layer of {tokenizer.name}, which loop.freeze "
                f"holds: set losses.discriminator.adaptive=false"
            )
        return weight

    def scaled(self, frames: Float[Tensor, "b t"], x: Tensor) -> Float[Tensor, ""]:
        """One number from the losses of all frames, scaled by the learned variance."""
        values = x.shape[1] * x.shape[3] * x.shape[4] if self.config.reduce == "sum" else 1
        log_variance = self.trained.log_variance
        if log_variance is not None:
            frames = frames / log_variance.exp() + log_variance
        return frames.mean() * values

    def discriminator_loss(self, made: AdversarialPair, step: int) -> Losses:
        """The discriminator's loss on what the generator made."""
        config = self.config.discriminator
        assert config is not None
        assert self.discriminator is not None
        assert self.lecam is not None
        real, fake = self.discriminator(made.real), self.discriminator(made.fake)
        loss = discriminator_loss(real, fake, config.discriminator_loss)
        terms = {"discriminator": loss, "real": real.mean(), "fake": fake.mean()}
        if config.lecam:
            terms["lecam"] = self.lecam(real, fake)
            loss = loss + config.lecam * terms["lecam"]
        if config.r1:
            terms["r1"] = gradient_penalty(self.discriminator, made.real)
            loss = loss + 0.5 * config.r1 * terms["r1"]
        return Losses(loss, terms)

    def validate(self, step: int) -> dict[str, float]:
        """Scores on held-out clips, meaned over the groups' means; nothing without clips."""
        if self.held_out is None:
            return {}
        groups: dict[str, list[dict[str, float]]] = {}
        tokenizer, self.shown = self.trained.tokenizer.eval(), {}
        device = next(tokenizer.parameters()).device
        with torch.no_grad():
            for batch in self.held_out():
                x = batch.x.to(device)
                y = tokenizer(x).x[:, :, : x.shape[2]].float().clamp(-1, 1)
                with full_precision(y):  # a metric under autocast is another metric
                    groups.setdefault(batch.groups[0], []).append(self.score(x, y))
                if len(self.shown) < 4:
                    self.shown[batch.names[0]] = side_by_side(x, y)
        tokenizer.train()
        return mean_of_groups(groups)

    def pictures(self) -> dict[str, UInt8[Tensor, "h w 3"]]:
        """Middle frames of the last validation, original left, reconstruction right."""
        return self.shown

    def save(self, folder: Path) -> None:
        """Write the tokenizer where `reeltok.load` finds it."""
        self.trained.tokenizer.save_pretrained(folder)


def as_images(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "bt c h w"]:
    return x.transpose(1, 2).flatten(0, 1)


def side_by_side(
    x: Float[Tensor, "1 c t h w"], y: Float[Tensor, "1 c t h w"]
) -> UInt8[Tensor, "h w2 3"]:
    """The middle frames of two clips, beside each other."""
    pair = torch.cat([x, y], dim=-1)[:, :, x.shape[2] // 2][:, :, None]
    return to_bytes(pair.clamp(-1, 1))[0].cpu()


def score_frames(x: Float[Tensor, "b c t h w"], y: Float[Tensor, "b c t h w"]) -> dict[str, float]:
    """PSNR in dB, mean over frames, of values in [-1, 1]; at most 80."""
    squared = ((x - y) / 2).square().mean(dim=(1, 3, 4))
    return {"psnr": peak_decibel(squared).mean().item()}


def mean_of_groups(groups: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """The mean over groups of each score, and every group's own mean as `score/group`."""
    found: dict[str, float] = {}
    for key in next(iter(groups.values()))[0] if groups else ():
        means = {g: sum(s[key] for s in scores) / len(scores) for g, scores in groups.items()}
        found[key] = sum(means.values()) / len(means)
        found |= {f"{key}/{group}": mean for group, mean in means.items() if group}
    return found
