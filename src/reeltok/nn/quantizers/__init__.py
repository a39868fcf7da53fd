"""From what the encoder says to what the decoder gets: Gaussian (KL), FSQ, LFQ and VQ.

All four keep one contract. Tensors are channel-last, `b *grid d`. A configuration's `build()` gives
a module whose `forward` gives a `Quantized` record and whose `lookup` turns ids into the decoder's
input. The arithmetic is float32 (or float64) inside, also under autocast; ids are int64; in
evaluation there are no losses, so no softmax over the codebook.
"""

from typing import Annotated

from pydantic import Field

from reeltok.nn.quantizers.contract import (
    Quantized,
    Regularized,
    join_quantized,
)
from reeltok.nn.quantizers.gaussian import Gaussian, GaussianConfig
from reeltok.nn.quantizers.lattice import FSQ, LFQ, FSQConfig, LFQConfig
from reeltok.nn.quantizers.usage import Usage
from reeltok.nn.quantizers.vector import VQ, VQConfig

Quantizer = Annotated[
    GaussianConfig | FSQConfig | LFQConfig | VQConfig, Field(discriminator="kind")
]

__all__ = [
    "FSQ",
    "LFQ",
    "VQ",
    "FSQConfig",
    "Gaussian",
    "GaussianConfig",
    "LFQConfig",
    "Quantized",
    "Quantizer",
    "Regularized",
    "Usage",
    "VQConfig",
    "join_quantized",
]
