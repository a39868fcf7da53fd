"""Latents that are refined on the clip at hand: gradient steps, while the network is held.

An encoder is trained for all clips, and finds the best latents of none of them (the amortization
gap). A few steps on those of one clip win a part of that back, for time in encoding alone: tokens
are as many as ever, and are decoded as ever. Campos et al. 2019, "Content Adaptive Optimization
for Neural Image Compression"; Yang et al. 2020, "Improving Inference for Neural Image Compression".
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.arguments import is_count, said
from reeltok.nn.quantizers.contract import as_float
from reeltok.tokenizer.tiling import ran_out_of_memory
from reeltok.tokenizer.weights import HashedModule

# The rate of the first of MANY steps or more, in root mean squares of a channel; it falls linearly
# to zero. Few steps begin with a lower one, so that the first is not too long where much is flat.
RATE, MANY = 0.07, 8
MOMENTUM, SQUARES = 0.7, 0.9  # what running means of gradients and of their squares keep
SMALLEST = 1e-12
Network = TypeVar("Network", bound="RefinedModule")


class RefinedModule(HashedModule):
    """A network whose latents may be refined as it encodes, in `refine` steps (0: they are not)."""

    refines = False  # whether a family's `encode_part` knows how
    loops = False  # whether encoding decodes too
    refine = 0
    name: str

    def under(self: Network, **values: Any) -> Network:
        """The same weights used in another way: `refine`, the gradient steps on latents.

        A step takes about as long as decoding four times, and holds the activations of what is
        coded at a time: a group of frames, or a window. No gradient passes on to the frames.
        ValueError for what the tokenizer cannot do.
        """
        refine = values.pop("refine", self.refine)
        if values:
            raise ValueError(f"{self.name} has no setting {next(iter(values))!r}: give refine")
        if not (is_count(refine) or (refine == 0 and not isinstance(refine, bool))):
            raise ValueError(f"refine={said(refine)} is not a number of steps: give 0 or more")
        if refine and not self.refines:
            raise ValueError(f"the latents of {self.name} cannot be refined: leave `refine=0`")
        if refine == self.refine:
            return self
        view = copy.copy(self)
        view.refine, view.loops = refine, type(self).loops or refine > 0
        return view

    @property
    def used(self) -> dict[str, Any]:
        """What decides its tokens beside weights and configuration."""
        return {"refine": self.refine} if self.refine else {}

    @contextmanager
    def held_codebook(self) -> Iterator[None]:
        """Inside, no codebook follows what is quantized, in training mode either."""
        quantizer = getattr(self, "quantizer", None) or nn.Identity()
        trains = quantizer.training
        quantizer.train(False)
        try:
            yield
        finally:
            quantizer.train(trains)

    def refined(
        self,
        features: Float[Tensor, "b *grid d"],
        target: Tensor,
        decode: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "b *grid d"]:
        """What the quantizer reads, refined where the tokenizer does; as `refine_latents`.

        MemoryError, in a sentence, where memory runs out.
        """
        if not self.refine:
            return features
        try:
            with self.held_codebook():
                return refine_latents(features, target, decode, self.refine)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            raise MemoryError(
                f"memory ran out while latents of {self.name} were refined: give a lower `tile`, "
                "smaller frames, or `refine=0`"
            ) from error


def refine_latents(
    features: Float[Tensor, "b *grid d"],
    target: Tensor,
    decode: Callable[[Tensor], Tensor],
    steps: int,
) -> Float[Tensor, "b *grid d"]:
    """What the quantizer reads, so that the frames that `decode` makes of it are nearer `target`.

    `decode` goes through the quantizer, whose gradient is passed straight through. Adam on the
    logarithm of a clip's squared error; the second moments are those of a channel, so that cells
    on which little depends stay. A clip of a batch gets its best of `steps` + 1 tries, the first
    of which are its features as they are. ValueError in inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "latents are refined by gradients, which torch.inference_mode() rules out: use "
            "torch.no_grad(), or `refine=0`"
        )
    here = as_float(features.detach())
    cells = tuple(range(1, here.ndim - 1))
    unit = RATE * min(1.0, (steps / MANY) ** 0.5) * here.square().mean(cells, keepdim=True).sqrt()
    best, least = here, here.new_full((len(here),), torch.inf)
    mean, square = torch.zeros_like(here), torch.zeros_like(here)
    for step in range(1, steps + 2):
        tried = here.detach().to(features.dtype).requires_grad_(step <= steps)
        with torch.set_grad_enabled(step <= steps):
            error = (as_float(decode(tried)) - target).square().flatten(1).mean(1)
        better = error.detach() < least
        best = torch.where(better.view(-1, *[1] * (here.ndim - 1)), here, best)
        least = torch.where(better, error.detach(), least)
        if step > steps:
            break
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad((error + SMALLEST).log().sum(), tried)
        gradient = as_float(gradient)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient
        square = SQUARES * square + (1 - SQUARES) * gradient.square().mean(cells, keepdim=True)
        direction = mean / (1 - MOMENTUM**step)
        scale = (square / (1 - SQUARES**step)).sqrt() + SMALLEST
        here = here - unit * (1 - (step - 1) / steps) * direction / scale
    return best.detach().to(features.dtype)
