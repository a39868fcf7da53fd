"""Multiply-adds of coding a clip once: without computing where a network allows it, else counted.

They are those of torch's own convolutions: a processor on which fewer products are computed
(nn/winograd.py) counts no less than another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from reeltok.devices import direct_convolutions, has_onednn
from reeltok.models.foreign.network import Foreign
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import NO_REFERENCES, Reference, everyone
from reeltok.nn.past import Past
from reeltok.tokenizer.contract import Tokenizer


def product_flops(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
    """Those of oneDNN's product with a weight."""
    return 2 * out_val.numel() * weight.shape[-1]


def convolution_flops(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
    """Those of oneDNN's convolution that is called by its name."""
    return 2 * out_val.numel() * weight[0].numel()


aten = torch.ops.aten
ONEDNN: dict[Any, Any] = {}
"""Formulas for what runs through oneDNN on a CPU, which torch does not list."""
if has_onednn():
    ONEDNN[torch.ops.mkldnn._linear_pointwise] = product_flops
    ONEDNN[aten.mkldnn_convolution] = convolution_flops
# torch's own formulas, those of products in place, and of an attention that runs on a CPU.
FLOPS: dict[Any, Any] = {
    **flop_registry,
    aten.addmm_: flop_registry[aten.addmm],
    aten.baddbmm_: flop_registry[aten.baddbmm],
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
    **ONEDNN,
}


class Macs(TorchDispatchMode):
    """Counts the multiply-adds of all that runs inside (convolutions, products, attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by torch's compiler would mean to import it, which takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, and count it where it multiplies."""
        kwargs = kwargs or {}
        if func._overloadpacket not in FLOPS:
            with self:  # inference mode gives operators whole that are made of others
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        self.total += FLOPS[func._overloadpacket](*args, **kwargs, out_val=out) / 2
        return out


@contextmanager
def counting() -> Iterator[Macs]:
    """Inside, multiply-adds are counted, and convolutions are computed directly."""
    with direct_convolutions(), Macs() as macs:
        yield macs


def count_macs(tokenizer: Tokenizer, shape: tuple[int, int, int]) -> float | None:
    """Multiply-adds of coding a clip of (frames, height, width) once, counted without computing.

    None where the tokenizer cannot run on the meta device, or goes through its network again and
    again to refine latents.
    """
    # The constructors of others read files, or values.
    if isinstance(tokenizer, Foreign) or tokenizer.refine:
        return None
    config = tokenizer.config
    if isinstance(tokenizer, RefTok):  # which cells are skipped depends on values
        config = replace(config, skip=0.0)
    with torch.device("meta"):
        ghost = type(tokenizer)(config, tokenizer.name).eval()
    try:
        with torch.no_grad(), counting() as macs:
            further = code_once(ghost, shape, macs)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return None
    return macs.total + further


def code_once(ghost: Tokenizer, shape: tuple[int, int, int], macs: Macs) -> float:
    """Encode and decode a clip that has a shape alone, in one pass; `macs` of what was left out."""
    spec, (frames, *sides) = ghost.spec, shape
    if spec.window is not None:  # windows are coded apart, the last one for its own frames
        ghost.decode(ghost.encode(torch.empty(1, 3, *shape, device="meta")))
        return 0.0
    whole = [side + -side % cell for side, cell in zip(sides, spec.factors[1:], strict=True)]
    x = torch.empty(1, 3, spec.frames(spec.steps(frames)), *whole, device="meta")
    if isinstance(ghost, RefTok):
        return code_blocks(ghost, x, macs)
    ghost(x)
    return 0.0


def code_blocks(ghost: RefTok, x: Float[Tensor, "1 c t h w"], macs: Macs) -> float:
    """`code_once` of a closed loop, up to its second block: the further ones take as much."""
    start, block = ghost.config.start, ghost.config.block
    first = Reference(x[:, :, :1], everyone(x), start=True)
    known = NO_REFERENCES if start == "plain" else {0: first}
    coded = ghost.run(x.movedim(1, -1), Past(), known, given=start == "given")
    totals = [macs.total for _ in islice(coded, 3)]
    further = x.shape[2] // block - 2
    return further * (totals[-1] - totals[-2]) if further > 0 else 0.0
