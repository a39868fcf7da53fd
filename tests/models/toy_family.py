"""A tokenizer family in one file, as CONTRIBUTING says: patches of 2x4x4 pixels, a matrix, FSQ."""

import torch
from einops import rearrange
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.nn.past import Past
from reeltok.nn.quantizers import FSQConfig, Quantized
from reeltok.tokenizer.contract import Reconstruction, Tokenizer
from reeltok.tokenizer.inputs import forward_input
from reeltok.tokenizer.spec import Spec

T, H, W = 2, 4, 4


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ToyConfig:
    """The levels of the quantizer's channels."""

    quantizer: FSQConfig = FSQConfig(levels=(8, 8, 8), regularization=False)


class Toy(Tokenizer):
    """Every patch is coded by itself, so no frame depends on another group."""

    family = "toy"

    def __init__(self, config: ToyConfig, name: str = "toy") -> None:
        super().__init__(config, name)
        values = 3 * T * H * W
        self.encoder = nn.Linear(values, config.quantizer.features)
        self.quantizer = config.quantizer.build()
        self.decoder = nn.Linear(config.quantizer.channels, values)

    @property
    def spec(self) -> Spec:
        quantizer = self.config.quantizer
        return Spec(
            name=self.name,
            family=self.family,
            factors=(T, H, W),
            causal=True,
            first_frames=T,
            frames_per_group=T,
            channels=quantizer.channels,
            vocabulary=quantizer.vocabulary,
            parameters=self.parameter_count(),
            receptive_steps=1,
        )

    def encode_part(
        self,
        x: Tensor,
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        return self.quantize(x, sample=sample)

    def decode_part(self, z: Tensor, past: Past | None = None, *, last: bool = True) -> Tensor:
        patches = self.decoder(rearrange(z, "b d t h w -> b t h w d"))
        form = "b t h w (c p q r) -> b c (t p) (h q) (w r)"
        return rearrange(patches, form, c=3, p=T, q=H, r=W)

    def lookup(self, ids: Tensor) -> Tensor:
        return rearrange(self.quantizer.lookup(ids), "b t h w d -> b d t h w")

    def forward(
        self, x: Tensor, *, step: int | None = None, generator: torch.Generator | None = None
    ) -> Reconstruction:
        quantized = self.quantize(forward_input(x, self), step=step, sample=generator)
        return Reconstruction(x=self.decode_part(quantized.z), quantized=quantized)

    def quantize(self, x: Tensor, **how: object) -> Quantized:
        form = "b c (t p) (h q) (w r) -> b t h w (c p q r)"
        made = self.quantizer(self.encoder(rearrange(x, form, p=T, q=H, r=W)), **how)
        z = rearrange(made.z, "b t h w d -> b d t h w")
        return Quantized(z=z, ids=made.ids, loss=made.loss, terms=made.terms)
