"""Networks so small that a clip takes a moment, for all tests."""

from reeltok.models.coordtok.triplane import CoordTokConfig

COORDTOK = CoordTokConfig(
    size=(8, 16, 24),
    patch=(4, 8, 8),
    cells=(4, 4, 6),
    cell_patch=(2, 2, 3),
    channels=3,
    width=16,
    heads=2,
    vit_depth=1,
    depth=1,
    decoder_patch=(2, 4, 4),
    decoder_width=32,
    decoder_heads=2,
    decoder_depth=2,
)
