"""The task of RefTok: give back a clip in closed loop, on references that are sometimes poor.

The network meets its own decoded frames by running over all blocks of a clip, with gradients
through them. Beside those it meets stored first frames, blocks that are reset, and no reference.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import Reference, restore_picture, store_picture
from reeltok.tokenizer.contract import Reconstruction
from reeltok.train.reconstruct import LossConfig, Reconstruct


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DegradationConfig:
    """How often references are worse than in plain closed loop.

    A clip has none at all with probability `drop`; each block but the first is reset with
    `reset`. A batch begins with stored frames with probability `stored`: one in four is the
    original, the others are a WebP of a random quality in `qualities`, noisy (up to `noise`, in
    [-1, 1]), or as blurred as at a quarter of the size.
    """

    drop: float = Field(default=0.1, ge=0, le=1)
    reset: float = Field(default=0.05, ge=0, le=1)
    stored: float = Field(default=0.2, ge=0, le=1)
    qualities: tuple[int, int] = (10, 90)
    noise: float = Field(default=0.15, ge=0)


class ClosedLoop(Reconstruct):
    """Train a RefTok on `config`'s losses over all frames of clips of 1 + n blocks."""

    def __init__(
        self,
        tokenizer: RefTok,
        config: LossConfig,
        *,
        degradation: DegradationConfig | None = None,
        **options: Any,
    ) -> None:
        super().__init__(tokenizer, config, **options)
        self.degradation = degradation or DegradationConfig()

    def make(
        self, x: Float[Tensor, "b c t h w"], step: int, generator: torch.Generator | None
    ) -> Reconstruction:
        tokenizer = self.trained.tokenizer
        if tokenizer.config.policy == "none":
            return tokenizer(x, step=step, generator=generator)
        mask = draw(len(x), generator) >= self.degradation.drop
        references = draw_references(x, tokenizer.config.block, self.degradation, generator)
        return tokenizer(
            x,
            step=step,
            generator=generator,
            references=references,
            reference_mask=mask.to(x.device),
        )


def draw(count: int, generator: torch.Generator | None) -> Float[Tensor, " n"]:
    """Uniform numbers in [0, 1), on the CPU."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(count, generator=generator, device=device).cpu()


def draw_references(
    x: Float[Tensor, "b c t h w"],
    block: int,
    config: DegradationConfig,
    generator: torch.Generator | None,
) -> dict[int, Reference]:
    """What a batch begins with, and which clips are reset where, by frame."""
    everyone: Bool[Tensor, " b"] = torch.ones(len(x), dtype=torch.bool)
    references: dict[int, Reference] = {}
    if draw(1, generator) < config.stored:
        frame = torch.cat([degrade(one[None], config, generator) for one in x[:, :, :1]])
        references[0] = Reference(frame, everyone, start=True)
    for at in range(1 + block, x.shape[2], block):
        clips = draw(len(x), generator) < config.reset
        if clips.any():
            references[at] = Reference(None, clips)
    return references


def degrade(
    x: Float[Tensor, "1 c 1 h w"], config: DegradationConfig, generator: torch.Generator | None
) -> Float[Tensor, "1 c 1 h w"]:
    """A frame as a decoder might hold it."""
    kind, much = draw(2, generator).tolist()
    if kind < 0.25:
        return x
    if kind < 0.5:
        low, high = config.qualities
        data = store_picture(x, quality=round(low + much * (high - low)))
        return restore_picture(data, (x.shape[3], x.shape[4])).to(x)
    if kind < 0.75:
        seed = int(draw(1, generator).item() * 2**31)
        shake = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        return (x + config.noise * much * shake.to(x)).clamp(-1, 1)
    small = torch.nn.functional.interpolate(
        x[:, :, 0], scale_factor=1 - 0.75 * much, mode="bilinear", antialias=True
    )
    size = (x.shape[3], x.shape[4])
    return torch.nn.functional.interpolate(small, size, mode="bilinear")[:, :, None]
