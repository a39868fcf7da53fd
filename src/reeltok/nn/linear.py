"""Products with a weight: torch's own, or the same through oneDNN where MKL is slow.

Which one is a fixed rule (`devices.matmul`). They differ by rounding, up to 3e-6 of the range.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reeltok.devices import matmul

FEW = 16  # rows; for fewer the weight has to be read once in any case


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, for x "*n c" and weight "d c"."""
    if matmul() == "onednn" and is_plain(x) and x.numel() >= FEW * x.shape[-1]:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def is_plain(x: Tensor) -> bool:
    """Whether `x` is float32 on a CPU, and nobody asks for gradients, graphs or other types."""
    return is_eager(x) and x.dtype == torch.float32


def is_eager(x: Tensor) -> bool:
    """Whether `x` is on a CPU, and nobody asks for gradients, graphs or autocast."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()
    )


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
