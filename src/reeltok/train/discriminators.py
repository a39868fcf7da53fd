"""Discriminators: networks that tell real clips from reconstructions, patch by patch.

VidTok's code defines both: a 2-D PatchGAN on frames, a 3-D one on clips; weights from N(0, 0.02).
"""

from contextlib import suppress
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.configuration import FINITE
from reeltok.nn.bounds import LEVELS, Width
from reeltok.nn.quantizers.contract import full_precision
from reeltok.train.clips import Window
from reeltok.train.losses import AdversarialLoss


@dataclass(frozen=True, kw_only=True, config=FINITE)
class DiscriminatorConfig:
    """A discriminator and the adversarial losses: which ones, how strongly, from which step.

    `generator_loss` is what the tokenizer minimises, `weight` times, from step `first`;
    `discriminator_loss` is what the network does. `adaptive` scales the generator's part so that it
    moves the last layer as much as the reconstruction loss does; `lecam` and `r1` weigh the
    discriminator's regularizers.
    """

    kind: Literal["frames", "clips"] = "frames"
    width: Width = 64
    layers: int = Field(default=3, ge=1, le=LEVELS)
    norm: Literal["batch", "none"] = "batch"
    generator_loss: AdversarialLoss = "cross-entropy"
    discriminator_loss: AdversarialLoss = "hinge"
    weight: float = Field(default=0.2, ge=0)
    first: int = Field(default=10_000, ge=0)
    adaptive: bool = True
    lecam: float = Field(default=0.0, ge=0)
    lecam_decay: float = Field(default=0.999, ge=0, lt=1)
    r1: float = Field(default=0.0, ge=0)

    def build(self) -> nn.Module:
        return FrameDiscriminator(self) if self.kind == "frames" else ClipDiscriminator(self)

    def fits(self, window: Window) -> bool:
        """Whether it gives logits of such clips: each layer makes them smaller."""
        with torch.device("meta"), suppress(RuntimeError):
            clips = torch.empty(1, 3, window.frames, window.size, window.size)
            return self.build().eval()(clips).numel() > 0
        return False


class FrameDiscriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017): kernel 4, halves `layers` times, then two layers more."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        widths = [config.width * min(2**i, 8) for i in range(config.layers + 1)]
        stages = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, config.layers + 1):
            stride = 2 if i < config.layers else 1
            bias = config.norm == "none"
            stages += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=bias),
                nn.Identity() if bias else nn.BatchNorm2d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*stages, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.apply(init_normal)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "bt 1 i j"]:
        """Logits of every patch of every frame."""
        return super().forward(rearrange(x, "b c t h w -> (b t) c h w"))


class ClipDiscriminator(nn.Sequential):
    """The 3-D one: kernel 3, strides (2,2,2), (2,2,2), (1,2,2), then 1; else as in 2-D."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        widths = [config.width * min(2**i, 8) for i in range(config.layers + 1)]
        strides = [(2, 2, 2), (2, 2, 2), *[(1, 2, 2)] * (config.layers - 2)][: config.layers]
        stages = [nn.Conv3d(3, widths[0], 3, stride=strides[0], padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, config.layers + 1):
            stride = strides[i] if i < config.layers else 1
            bias = config.norm == "none"
            stages += [
                nn.Conv3d(widths[i - 1], widths[i], 3, stride=stride, padding=1, bias=bias),
                nn.Identity() if bias else nn.BatchNorm3d(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*stages, nn.Conv3d(widths[-1], 1, 3, stride=1, padding=1))
        self.apply(init_normal)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 1 t2 i j"]:
        """Logits of every patch in space and time; on a CPU in full precision (layers.Conv)."""
        if x.device.type != "cpu":
            return super().forward(x)
        with full_precision(x):
            return super().forward(x.float())


def init_normal(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02), norms from N(1, 0.02), biases of norms 0."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
