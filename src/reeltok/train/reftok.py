"""The task of RefTok: give back a clip in closed loop, on references that are sometimes poor.

The network meets its own decoded frames by running over all blocks of a clip, with gradients
through them. Beside those it meets stored first frames, blocks that are reset, and no reference.
"""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.models.reftok.flow import Motion
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import Reference
from reeltok.parallel import from_first
from reeltok.tokenizer.contract import Reconstruction
from reeltok.train.motion import motion_loss
from reeltok.train.reconstruct import LossConfig, Reconstruct

TOGETHER = 4  # how many times rarer blocks are that reset clips, and how many of the clips then do


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DegradationConfig:
    """How often references are worse than in plain closed loop.

    A clip has none at all with probability `drop`; each block but the first is reset with
    `reset`. A batch begins with stored frames with probability `stored`: one in four is the
    original, the others are as a picture codec leaves them (cosines rounded to random `steps`),
    noisy (up to `noise`, in [-1, 1]), or as blurred as at a quarter of the size.
    """

    drop: float = Field(default=0.1, ge=0, le=1)
    reset: float = Field(default=0.05, ge=0, le=1)
    stored: float = Field(default=0.2, ge=0, le=1)
    steps: tuple[float, float] = (0.02, 0.5)
    noise: float = Field(default=0.15, ge=0)


class ClosedLoop(Reconstruct):
    """Train a RefTok on `config`'s losses over all frames of clips of 1 + n blocks.

    With `images` some are of one frame, which meets no reference.
    """

    def __init__(
        self,
        tokenizer: RefTok,
        config: LossConfig,
        *,
        degradation: DegradationConfig | None = None,
        images: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(tokenizer, config, **options)
        self.degradation = degradation or DegradationConfig()
        self.leaves_out = images and tokenizer.config.policy != "none"

    def make(
        self, x: Float[Tensor, "b c t h w"], step: int, generator: torch.Generator | None
    ) -> Reconstruction:
        tokenizer, motions = self.trained.tokenizer, list[Motion]()
        if tokenizer.config.policy == "none":
            return tokenizer(x, step=step, generator=generator)
        mask = draw_uniform(len(x), generator) >= self.degradation.drop
        references = draw_references(x, tokenizer.config.block, self.degradation, generator)
        made = tokenizer(
            x,
            step=step,
            generator=generator,
            references=references,
            reference_mask=mask.to(x.device),
            motions=motions,
        )
        config = self.config.motion
        if config is None or not motions or not config.factor(step):
            return made
        terms = {"motion": config.factor(step) * motion_loss(motions, config)}
        return replace(made, quantized=replace(made.quantized, terms=made.quantized.terms | terms))

    def scaled(self, frames: Float[Tensor, "b t"], x: Tensor) -> Float[Tensor, ""]:
        """As ever, with the weight `last_frame` of frame 0 and the last of each block."""
        config, block = self.config, self.trained.tokenizer.config.block
        weights = torch.ones(frames.shape[1], device=frames.device)
        weights[::block] = config.last_frame
        return super().scaled(frames * weights / weights.mean(), x)


def draw_uniform(count: int, generator: torch.Generator | None) -> Float[Tensor, " n"]:
    """Uniform numbers in [0, 1), on the CPU."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(count, generator=generator, device=device).cpu()


def draw_turn(share: float, generator: torch.Generator | None) -> bool:
    """Whether it is one of a share of all batches: on every process as the first one draws it.

    Processes that went through their networks in another order would wait for each other.
    """
    return bool(from_first(draw_uniform(1, generator)) < share)


def draw_references(
    x: Float[Tensor, "b c t h w"],
    block: int,
    config: DegradationConfig,
    generator: torch.Generator | None,
) -> dict[int, Reference]:
    """What a batch begins with, and which clips are reset where, by frame.

    A frame that stands alone is coded: stored, it would leave nothing to train.
    """
    everyone: Bool[Tensor, " b"] = torch.ones(len(x), dtype=torch.bool)
    references: dict[int, Reference] = {}
    if x.shape[2] > 1 and draw_turn(config.stored, generator):
        references[0] = Reference(degrade(x[:, :, :1], config, generator), everyone, start=True)
    for at in range(1 + block, x.shape[2], block):
        # A reset passes a whole batch through the network once more: so few blocks, several clips.
        if draw_turn(min(1.0, TOGETHER * config.reset), generator):
            clips = draw_uniform(len(x), generator) < max(1 / TOGETHER, config.reset)
            references[at] = Reference(None, clips)
    return references


def degrade(
    x: Float[Tensor, "b c 1 h w"], config: DegradationConfig, generator: torch.Generator | None
) -> Float[Tensor, "b c 1 h w"]:
    """Frames as a decoder might hold them: each as it is, coded, noisy or blurred."""
    device = x.device if generator is None else generator.device
    kinds, much = torch.rand(2, len(x), 1, 1, 1, 1, generator=generator, device=device).to(x)
    shake = torch.randn(x.shape, generator=generator, device=device).to(x)
    noisy = (x + config.noise * much * shake).clamp(-1, 1)
    soft = F.interpolate(x[:, :, 0], scale_factor=0.25, mode="bilinear", antialias=True)
    soft = F.interpolate(soft, x.shape[3:], mode="bilinear")[:, :, None]
    low, high = config.steps
    coded = coarse(x[:, :, 0], low + much[:, :, 0] * (high - low))[:, :, None]
    made = torch.where(kinds < 0.5, coded, torch.where(kinds < 0.75, noisy, x.lerp(soft, much)))
    return torch.where(kinds < 0.25, x, made)


def coarse(x: Float[Tensor, "b c h w"], step: Float[Tensor, "b 1 1 1"]) -> Tensor:
    """Pictures as a picture codec leaves them: the cosines of 8x8 pixels, rounded to `step`."""
    h, w = x.shape[2:]
    x = F.pad(x, (0, -w % 8, 0, -h % 8), mode="replicate")
    place, order = torch.arange(8, device=x.device) + 0.5, torch.arange(8, device=x.device)
    basis = torch.cos(math.pi / 8 * order[:, None] * place).to(x) / 2
    basis[0] /= math.sqrt(2)
    blocks = rearrange(x, "b c (m i) (n j) -> b c m n i j", i=8, j=8)
    wide = step[..., None, None]
    rounded = (basis @ blocks @ basis.T / wide).round() * wide
    y = rearrange(basis.T @ rounded @ basis, "b c m n i j -> b c (m i) (n j)")
    return y[..., :h, :w].clamp(-1, 1)
