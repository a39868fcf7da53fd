"""What ids take in a packed file, known while a clip is encoded: rate beside distortion."""

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reeltok.nn.quantizers.lattice import Lattice
from reeltok.tokenizer.inputs import Coder
from reeltok.tokenizer.packing import packing_for
from reeltok.tokens.packing.expected import bits_between
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.network import STEPS_SEEN, PackingNetwork


class IdRate:
    """The bits of a tokenizer's ids by its packing model, and how they change with its latents.

    Contexts are the two steps before and the neighbours within a step, as in packing, wherever
    those are at hand: not across the edges of tiles, of windows, and of segments in a file.
    """

    def __init__(self, model: PackingModel, quantizer: Lattice) -> None:
        self.model, self.quantizer = model, quantizer
        self._networks: dict[torch.device, PackingNetwork] = {}

    def bits(
        self,
        features: Float[Tensor, "b s h w d"],
        ids: Int[Tensor, "b s h w"],
        before: Int[Tensor, "b k h w"] | None,
    ) -> Float[Tensor, "b s h w"]:
        """Those of each id, float32; the gradient for `features` is that of `bits_between`.

        `ids` are what the quantizer makes of `features`, `before` those of earlier steps.
        """
        network, places = self._network(ids.device), self.quantizer.places(features)
        seen = ids if before is None else torch.cat([before, ids], dim=1)
        found, first = [], seen.shape[1] - ids.shape[1]
        for step, its in enumerate(places.unbind(1), start=first):
            context = seen[:, max(0, step - STEPS_SEEN) : step + 1]
            found.append(bits_between(network, context, its))
        return torch.stack(found, dim=1)

    def _network(self, device: torch.device) -> PackingNetwork:
        """A copy on the device where latents are: the model itself stays on the CPU."""
        if device not in self._networks:
            self._networks[device] = copy.deepcopy(self.model.network).to(device)
        return self._networks[device]


def rate_for(tokenizer: Coder, quantizer: object) -> IdRate:
    """What tells the bits of ids of `tokenizer`; the errors are those of `packing_for`.

    ValueError too where they are not the levels of a lattice, such as those of VQ.
    """
    model = packing_for(tokenizer, "rate_weight")
    levels = quantizer.config.levels if isinstance(quantizer, Lattice) else None
    if not isinstance(quantizer, Lattice) or levels != model.config.digits:
        raise ValueError(
            f"ids of {tokenizer.name} are not the levels of channels that its packing model "
            "expects one by one (FSQ or LFQ): leave `rate_weight=0`"
        )
    return IdRate(model, quantizer)
