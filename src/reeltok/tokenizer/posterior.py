"""The Gaussian that a continuous encoder gives for a clip, not only its mean."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.chunks import runner_for
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import ClipLike, as_clip
from reeltok.tokenizer.streaming import whole_groups
from reeltok.tokenizer.strips import FrameSource, StripNetwork, Strips
from reeltok.tokenizer.tiling import TileLike


@dataclass(frozen=True, eq=False, kw_only=True)
class Posterior:
    """Mean and log-variance "b d *grid" of a clip's latents, on the scale that a decoder takes."""

    mean: Tensor
    logvar: Tensor


class Parameters:
    """A tokenizer whose latents are mean and log-variance side by side in the channels."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.crop_options, self.cut_options = tokenizer.crop_options, tokenizer.cut_options
        self.decode_part = tokenizer.decode_part

    def encode_part(self, x: Tensor, past: Past | None, *_: Any, **options: Any) -> Quantized:
        return self._parameters(self.tokenizer.encode_part(x, past, **options))

    def encode_strips(self, x: FrameSource, strips: Strips, *_: Any, **options: Any) -> Quantized:
        assert isinstance(self.tokenizer, StripNetwork), "Spec.strips says so"
        return self._parameters(self.tokenizer.encode_strips(x, strips, **options))

    def decode_strips(self, z: Tensor, strips: Strips, *_: Any, **options: Any) -> Iterator[Tensor]:
        assert isinstance(self.tokenizer, StripNetwork), "Spec.strips says so"
        return self.tokenizer.decode_strips(z, strips, **options)

    def _parameters(self, quantized: Quantized) -> Quantized:
        if quantized.logvar is None:
            raise ValueError(
                f"{self.tokenizer.name} gives no log-variance: only an encoder of Gaussians does"
            )
        return replace(quantized, z=torch.cat([quantized.z, quantized.logvar], dim=1))


def encode_posterior(tokenizer: Tokenizer, x: ClipLike, *, tile: TileLike = None) -> Posterior:
    """The Gaussian of a whole clip of any length and size, in tiles of `tile` pixels.

    The mean is that of `encode`, without the normalisation of a foreign tokenizer. ValueError for
    a tokenizer that is not an encoder of Gaussians, and for what `encode` refuses.
    """
    state = tokenizer.new_encode_state(tile=tile)
    state.independent = True
    (run,) = whole_groups([as_clip(x)], tokenizer.spec, hold=True)
    with tokenizer.gradient(run.x):
        runner = replace(runner_for(tokenizer, state), network=Parameters(tokenizer))
        source = FrameSource(run.x, tokenizer.network_input, tokenizer.spec.factors[1])
        z = runner.encode(source, run.real, {"sample": None}).z
    mean, logvar = z.chunk(2, dim=1)
    scale = tokenizer.scale
    return Posterior(mean=scale.undo(mean), logvar=scale.undo_logvar(logvar))
