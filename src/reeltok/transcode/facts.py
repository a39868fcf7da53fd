"""What a .reel file holds, by its header: without torch, which takes a second to load."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reeltok.tokens.source import ReelSource


@dataclass(frozen=True, kw_only=True)
class ReelFacts:
    """What a .reel file holds; `size` is height and width in pixels, `tokens` its grid.

    `fps` in Hz. `bits_per_pixel` counts the nominal bits of tokens, `stored_bits_per_pixel` those
    that the file holds them in, `bytes` and `file_bits_per_pixel` the whole file. `packing` is the
    hash of the model that packed them.
    """

    model: str
    frames: int
    size: tuple[int, int]
    fps: float | None
    damaged: int
    tokens: tuple[int, ...]
    vocabulary: int | None
    channels: int | None
    bits_per_pixel: float
    stored_bits_per_pixel: float
    packing: str | None
    bytes: int
    file_bits_per_pixel: float

    @classmethod
    def of(cls, source: ReelSource) -> "ReelFacts":
        """Those of an open file."""
        about = source.about
        pixels = about.batch * about.frames * about.height * about.width
        return cls(
            model=about.model,
            frames=about.frames,
            size=(about.height, about.width),
            fps=about.fps,
            damaged=about.damaged,
            tokens=about.grid,
            vocabulary=about.vocabulary,
            channels=about.channels,
            bits_per_pixel=about.total_bits / pixels,
            stored_bits_per_pixel=about.stored_bits / pixels,
            packing=None if about.packing is None else about.packing.model,
            bytes=source.size,
            file_bits_per_pixel=8 * source.size / pixels,
        )


def reel_facts(path: str | Path) -> ReelFacts:
    """What the .reel file at `path` holds; the errors are those of `ReelSource`."""
    with closing(ReelSource(path)) as source:
        return ReelFacts.of(source)
