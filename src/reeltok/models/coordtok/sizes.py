"""The configurations of CoordTok: the paper's sizes and numbers of tokens, and a small one of ours.

Jang et al., "Efficient Long Video Tokenization via Coordinate-based Patch Reconstruction",
CVPR 2025.
"""

from dataclasses import replace
from typing import Any

from reeltok.models.coordtok.triplane import CoordTokConfig
from reeltok.nn.quantizers import FSQConfig


def sized(width: int, heads: int, depth: int) -> CoordTokConfig:
    same: dict[str, Any] = {"width": width, "heads": heads, "depth": depth}
    return CoordTokConfig(**same, **{f"decoder_{name}": value for name, value in same.items()})


SIZES = {"l": sized(1024, 16, 24), "b": sized(768, 12, 12), "s": sized(512, 8, 8)}
"""Table 5 of the paper; the ViT has 8 layers in all of them."""

TOKENS: dict[int, dict[str, Any]] = {
    512: {"cells": (8, 16, 16), "cell_patch": (4, 8, 8)},
    768: {"cells": (16, 16, 16), "cell_patch": (8, 8, 8)},
    1280: {"cells": (32, 16, 16), "cell_patch": (16, 8, 8)},
    3072: {"cells": (32, 32, 32), "cell_patch": (16, 16, 16)},
    8192: {"cells": (32, 64, 64), "cell_patch": (16, 32, 32)},
}
"""Tokens of a 128-frame clip of 128x128: figure 6 and table 8. 1280 is the main configuration."""

PRESETS: dict[str, CoordTokConfig] = {
    f"coordtok_{size}_{count}": replace(config, **planes)
    for size, config in SIZES.items()
    for count, planes in TOKENS.items()
}
# The paper has no quantized variant. Ours: 8 channels of 4 levels, 16 bits a cell.
PRESETS |= {
    f"coordtok_{size}_1280_fsq": replace(config, quantizer=FSQConfig(levels=(4,) * 8))
    for size, config in SIZES.items()
}
COMPACT = CoordTokConfig(
    size=(128, 64, 64),
    patch=(4, 16, 16),
    cell_patch=(4, 4, 4),
    width=160,
    heads=5,
    vit_depth=3,
    depth=2,
    decoder_width=160,
    decoder_heads=5,
    decoder_depth=5,
    position="axes",
)
"""Ours, small enough for two CPU cores: 4 M weights for 64 pixels.

With vectors this narrow, the paper's 12 queries could not carry 10,240 numbers; patches of 4x4
cells make 80 of them.
"""
PUSH = replace(
    COMPACT,
    patch=(4, 8, 8),
    decoder_patch=(1, 4, 4),
    decoder_width=192,
    decoder_heads=6,
    pool_skip=True,
    slices=16,
)
"""For the simulated pushing world, whose objects are five pixels wide: patches half as large.

After 250 steps `pool_skip` had gained 3.8 dB on held-out clips (docs/log.md, 2026-11-28).
"""
