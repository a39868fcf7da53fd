"""How a file is read, coded and written: records that the functions of this room take."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from reeltok.arguments import is_count, is_number, said

if TYPE_CHECKING:
    from reeltok.tokenizer.contract import Tokenizer

FRAME_PIXELS = 16 * 256 * 256  # coded at a time unless `chunk` says otherwise: bounds the memory
LARGE = 1920 * 1200  # pixels; a frame of more is better coded in tiles where there are no strips
REFINED_LARGE = 512 * 512  # the same where latents are refined, which holds all activations

OnProgress = Callable[[int, int], None]
"""Called with the frames of a file that are done so far, and with all that it has.

What it raises ends the work, and what was half written is removed.
"""


@runtime_checkable
class Watcher(Protocol):
    """Who is told how far the work on many files is, such as a progress bar."""

    def of_file(self) -> OnProgress:
        """What is called with the progress of one more file."""

    def finish_file(self) -> None:
        """A file is done, however far it got."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which part of a video is taken, at what rate and size; the arguments of `video.read`.

    `start` in seconds, at most `frames` frames, resampled to `fps` (Hz), scaled to `size`: a short
    side or (height, width) in pixels. ValueError for a word of `damage` that is not known.
    """

    start: float = 0.0
    frames: int | None = None
    fps: float | None = None
    size: int | tuple[int, int] | None = None
    raw: str | None = None
    damage: str = "refuse"

    def __post_init__(self) -> None:
        from reeltok.video.decode import check_damage

        check_damage(self.damage)


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a tokenizer is used: frames and pixels at a time, and how its tokens are stored.

    `chunk` frames at a time (by default as many as `FRAME_PIXELS` allows), in tiles of `tile`
    pixels. `memory` in GB bounds the peak of the process on a CPU (by default the model and 0.75,
    at least 1, or what the frames need at least), which `jobs` files share. `latents` is the name
    of a torch dtype. `pack`: ids are packed without loss. ValueError for a chunk, tile or
    number of jobs below 1, and for no memory.
    """

    chunk: int | None = None
    tile: int | None = None
    memory: float | None = None
    jobs: int = 1
    latents: str = "float16"
    pack: bool = False

    def __post_init__(self) -> None:
        for name in ("chunk", "tile", "jobs"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise ValueError(
                    f"`{name}` {said(value)} is too small or no whole number: give 1 or more"
                )
        if self.memory is not None and not (is_number(self.memory) and self.memory > 0):
            raise ValueError(f"`memory={self.memory}` is not a number of GB: give one above 0")

    def chunk_for(self, height: int, width: int) -> int:
        """Frames of this size to read at a time."""
        return self.chunk or max(1, min(64, FRAME_PIXELS // (height * width)))

    def check_unbounded(self, tokenizer: "Tokenizer", height: int, width: int) -> None:
        """ValueError for a `memory` that cannot be kept; a warning where tiles would help."""
        if self.memory is not None:
            where = "" if tokenizer.device.type == "cpu" else f" on {tokenizer.device.type}"
            refined = f" with refine={tokenizer.refine}" if tokenizer.refine else ""
            raise ValueError(
                f"{tokenizer.name}{refined} cannot bound its memory{where}: leave `memory` out"
                + ("" if where or tokenizer.spec.window else ", or give `tile`, which changes ids")
            )
        large = height * width > (REFINED_LARGE if tokenizer.refine else LARGE)
        cut = self.tile is not None or tokenizer.encodes_in_strips
        if large and not cut and tokenizer.spec.window is None:
            warnings.warn(
                f"frames of {height}x{width} take much memory at once: `tile=256` takes less, and "
                "changes ids",
                stacklevel=3,
            )


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a video is written; the arguments of `video.write`."""

    fps: float | None = None
    lossless: bool = False
    codec: str | None = None
    crf: float | None = None
    pad_even: bool = False
    audio_from: str | Path | None = None


WHOLE = Cut()
USUAL = Coding()
PLAYABLE = Writing()
