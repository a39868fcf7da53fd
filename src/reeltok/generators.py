"""What recipes and networks of generators share: the names of tasks, and published sizes."""

from typing import Literal

Given = Literal["predict", "interpolate", "inpaint", "outpaint"]
"""What a prior learns to complete: from first frames, both ends, the outer pixels, or a box."""

SIT_SIZES = {
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "xl": {"width": 1152, "depth": 28, "heads": 16},
}
"""SiT's sizes (table 1 of the paper)."""

PRIOR_SIZES: dict[str, dict[str, int]] = {
    "s": {"width": 384, "depth": 8, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
}
"""MAGVIT's transformers: B has 87 M parameters, L 306 M; S is ours."""
