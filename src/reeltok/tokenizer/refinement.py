"""Latents that are refined on the clip at hand: gradient steps, while the network is held.

An encoder is trained for all clips, and finds the best latents of none of them (the amortization
gap). A few steps on those of one clip win a part of that back, for time in encoding alone: tokens
are as many as ever, and are decoded as ever. Campos et al. 2019, "Content Adaptive Optimization
for Neural Image Compression"; Yang et al. 2020, "Improving Inference for Neural Image Compression".
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.arguments import is_count, is_number, said
from reeltok.files.text import printable
from reeltok.nn.past import Past
from reeltok.nn.quantizers.contract import as_float
from reeltok.tokenizer.rate import IdRate, rate_for
from reeltok.tokenizer.tiling import ran_out_of_memory
from reeltok.tokenizer.weights import HashedModule
from reeltok.tokens.packing.network import STEPS_SEEN

# The rate of the first of MANY steps or more, in root mean squares of a channel; it falls linearly
# to zero. Few steps begin with a lower one, so that the first is not too long where much is flat.
RATE, MANY = 0.07, 8
MOMENTUM, SQUARES = 0.7, 0.9  # what running means of gradients and of their squares keep
SMALLEST = 1e-12
REFINEMENT = ("refine", "rate_weight", "rate_model")  # what `under` takes of it
IDS = "ids"  # where a stream keeps those of the steps before
COLOURS = 3
Network = TypeVar("Network", bound="RefinedModule")


class RefinedModule(HashedModule):
    """A network whose latents may be refined as it encodes, in `refine` steps (0: they are not).

    `rate_weight` weighs the bits that ids take in a packed file against the error of frames.
    """

    refines = False  # whether a family's `encode_part` knows how
    loops = False  # whether encoding decodes too
    refine = 0
    rate_weight = 0.0
    rate: IdRate | None = None  # where bits are weighed
    name: str

    def under(self: Network, **values: Any) -> Network:
        """The same weights used in another way: `refine`, the gradient steps on latents.

        A step takes about as long as decoding four times, and holds the activations of what is
        coded at a time: a group of frames, or a window. No gradient passes on to the frames.

        With `rate_weight` what is minimised is the logarithm of the squared error plus so many
        times the bits per pixel that the packing model of the tokenizer expects (a Lagrangian; 10
        takes about what refinement adds to a file). `rate_model`: which packing model that has to
        be, as the beginning of its hash. ValueError for what the tokenizer cannot do.
        """
        refine = values.pop("refine", self.refine)
        weight = values.pop("rate_weight", self.rate_weight if refine else 0.0)
        model = values.pop("rate_model", None)
        if values:
            raise ValueError(f"{self.name} has no setting {next(iter(values))!r}: give refine")
        self._check_refinement(refine, weight)
        rate = rate_for(cast(Any, self), self.quantizer) if weight else None
        if model is not None:
            require_model(rate, model)
        if (refine, weight) == (self.refine, self.rate_weight):
            return self
        view = copy.copy(self)
        view.refine, view.loops = refine, type(self).loops or refine > 0
        view.rate_weight, view.rate = float(weight), rate
        return view

    def _check_refinement(self, refine: Any, weight: Any) -> None:
        """ValueError for values of `under` that this network cannot have."""
        if not (is_count(refine) or (refine == 0 and not isinstance(refine, bool))):
            raise ValueError(f"refine={said(refine)} is not a number of steps: give 0 or more")
        if not is_number(weight) or weight < 0:
            raise ValueError(f"rate_weight={said(weight)} is no weight: give 0 or more, such as 10")
        if refine and not self.refines:
            raise ValueError(f"the latents of {self.name} cannot be refined: leave `refine=0`")
        if weight and not refine:
            raise ValueError(
                f"`rate_weight={weight:g}` is for refined latents: give `refine`, such as 8"
            )

    @property
    def used(self) -> dict[str, Any]:
        """What decides its tokens beside weights and configuration."""
        if not self.refine:
            return {}
        if self.rate is None:
            return {"refine": self.refine}
        model = self.rate.model.hash[:12]
        return {"refine": self.refine, "rate_weight": self.rate_weight, "rate_model": model}

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
        past: Past | None = None,
        **options: Any,
    ) -> Float[Tensor, "b *grid d"]:
        """What the quantizer reads, refined where the tokenizer does; as `refine_latents`.

        `past` has the ids of the steps before, `options` are those of the quantizer. MemoryError,
        in a sentence, where memory runs out.
        """
        if not self.refine:
            return features
        quantizer: Any = self.quantizer

        def cost(tried: Tensor) -> Tensor:
            ids = quantizer(tried, **options).ids
            return self.worth_of_bits(tried, ids, past, target).flatten(1).mean(1)

        try:
            with self.held_codebook():
                priced = None if self.rate is None else cost
                return refine_latents(features, target, decode, self.refine, priced)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            raise MemoryError(
                f"memory ran out while latents of {self.name} were refined: give a lower `tile`, "
                "smaller frames, or `refine=0`"
            ) from error

    def worth_of_bits(
        self, features: Tensor, ids: Tensor | None, past: Past | None, frames: Tensor
    ) -> Any:
        """What the bits of each cell are worth: by how many times the mean squared error of
        `frames` its own may rise to save them. 0 where bits are not weighed.

        The logarithm of the mean error may rise by `rate_weight` times what a pixel saves.
        """
        if self.rate is None or ids is None:
            return 0.0
        bits = self.rate.bits(features, ids, None if past is None else past.kept.get(IDS))
        pixels = frames[0].numel() / COLOURS
        return self.rate_weight * ids[0].numel() / pixels * bits

    def keep_ids(self, past: Past, ids: Tensor | None) -> None:
        """Let `past` keep as many of these steps' ids as later ones are expected by."""
        if self.rate is not None and ids is not None:
            before = past.kept.get(IDS, ids[:, :0])
            past.kept[IDS] = torch.cat([before, ids], dim=1)[:, -STEPS_SEEN:].clone()


def require_model(rate: IdRate | None, model: str) -> None:
    """ValueError unless bits are weighed by the packing model whose hash begins so."""
    found = "none" if rate is None else rate.model.hash[:12]
    if rate is None or not rate.model.hash.startswith(model):
        raise ValueError(
            f"bits were weighed by the packing model {printable(model)}, and here is {found}: take "
            "the packing.safetensors that was there then"
        )


def refine_latents(
    features: Float[Tensor, "b *grid d"],
    target: Tensor,
    decode: Callable[[Tensor], Tensor],
    steps: int,
    cost: Callable[[Tensor], Float[Tensor, "b"]] | None = None,
) -> Float[Tensor, "b *grid d"]:
    """What the quantizer reads, so that the frames that `decode` makes of it are nearer `target`.

    `decode` goes through the quantizer, whose gradient is passed straight through. Adam on the
    logarithm of a clip's squared error, plus the `cost` of its tokens if there is one; the second
    moments are those of a channel, so that cells on which little depends stay. A clip of a batch
    gets its best of `steps` + 1 tries, the first of which are its features as they are. ValueError
    in inference mode.
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
            loss = (error + SMALLEST).log()
            loss = loss if cost is None else loss + cost(tried)
        better = loss.detach() < least
        best = torch.where(better.view(-1, *[1] * (here.ndim - 1)), here, best)
        least = torch.where(better, loss.detach(), least)
        if step > steps:
            break
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss.sum(), tried)
        gradient = as_float(gradient)
        mean = MOMENTUM * mean + (1 - MOMENTUM) * gradient
        square = SQUARES * square + (1 - SQUARES) * gradient.square().mean(cells, keepdim=True)
        direction = mean / (1 - MOMENTUM**step)
        scale = (square / (1 - SQUARES**step)).sqrt() + SMALLEST
        here = here - unit * (1 - (step - 1) / steps) * direction / scale
    return best.detach().to(features.dtype)
