"""What exporters read of a corpus, checked: raw or normalised latents, ids, text, names."""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from reeltok.corpus.read import Corpus
from reeltok.corpus.row import Row
from reeltok.tokenizer.scale import Scale
from reeltok.wording import count

TEXT_WIDTH = 4096  # of UMT5-XXL, T5-XXL and Gemma's projections, which the trainers' models read
STORED = ("lossless", "webp")  # ways in which tokens keep the first frame: as a picture
PICTURE_RATE = 24.0  # frames per second that are said of a picture; LTX's own default


@dataclass(kw_only=True, eq=False)
class ExportSource:
    """A corpus on its way out. Notes for the user gather in `notes`, each one once.

    `on_row` is called with the rows that are done and their number.
    """

    corpus: Corpus
    format: str
    on_row: Callable[[int, int], None] | None = None
    notes: list[str] = field(default_factory=list)
    texts: int = 0
    """Rows with an embedding so far."""

    def rows(self) -> Iterator[Row]:
        """All rows in the order of the files, each checked to be coded by itself.

        ValueError for one that is a slice of a longer code, or several windows in one.
        """
        for number, row in enumerate(self.corpus):
            check_window(row, self.corpus.tokenizer, self.format)
            self.texts += row.text is not None
            if row.extras:
                kept = ", ".join(sorted({name.split(".")[0] for name in row.extras}))
                self.note(f"{self.format} has no place for {kept}: decode from the corpus itself")
            yield row
            if self.on_row is not None:
                self.on_row(number + 1, len(self.corpus))

    def note(self, sentence: str) -> None:
        """Say something about what was written."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    # Tokens.

    def require(self, kept: str) -> None:
        """ValueError unless rows hold `kept`, "latents" or "ids"."""
        held = "ids" if self.corpus.manifest["build"]["keep"] == "ids" else "latents"
        if held != kept:
            raise ValueError(
                f"{self.corpus.place} holds {held} and {self.format} takes {kept}: build another "
                f"with `reeltok corpus build --keep {kept}`"
            )
        if not len(self.corpus):
            raise ValueError(f"{self.corpus.place} has no rows: build it with other clips")

    @property
    def first_frames(self) -> int:
        """Frames of the first latent: 1, but for tokenizers that are not causal."""
        return self.corpus.tokenizer["first_frames"]

    def say_first(self) -> None:
        """Say where the first latent is not of one frame, for which trainers take it."""
        if self.first_frames != 1:
            self.note(
                f"{self.corpus.tokenizer['name']} is not causal: its first latent is of "
                f"{count(self.first_frames, 'frame')}, and {self.format} takes it for one"
            )

    def latents(self, row: Row) -> Float[Tensor, "c t h w"]:
        """Raw latents in float32. ValueError where they are not a finite volume."""
        z = row.latents
        assert z is not None, "checked by `require`"
        if z.ndim != 4:
            raise ValueError(
                f"{self.format} takes latents c t h w, those of {row.id} are "
                f"{'x'.join(map(str, z.shape))}: only tokenizers with a grid of cells fit"
            )
        if not z.isfinite().all():
            raise ValueError(f"{row.id} holds NaN or infinity: build its shard again")
        return z.float()

    def normalised(self, row: Row) -> Float[Tensor, "c t h w"]:
        """(raw - mean) / deviation by channel, in float32. ValueError without statistics."""
        return self.scale.apply(self.latents(row)[None])[0]

    def cast(self, z: Tensor, dtype: torch.dtype, row: Row) -> Tensor:
        """Latents in another type. ValueError where it does not hold them."""
        made = z.to(dtype)
        if not made.isfinite().all():
            raise ValueError(
                f"{row.id} is beyond what {str(dtype).removeprefix('torch.')} holds: give `dtype` "
                "bf16 or fp32"
            )
        return made

    @property
    def scale(self) -> Scale:
        """The corpus's normalisation: the tokenizer's own, or what was measured."""
        found = self.corpus.statistics
        if not found:
            raise ValueError(
                f"{self.format} takes normalised latents and {self.corpus.place} has no "
                "statistics: `reeltok corpus finish` measures them"
            )
        return Scale(mean=tuple(found["mean"]), std=tuple(found["std"]))

    def say_scale(self) -> None:
        """Say whose statistics latents are normalised by."""
        found = self.corpus.statistics or {}
        whose = "the tokenizer's own" if found.get("from") == "tokenizer" else "this corpus's"
        self.note(f"latents are normalised by {whose} mean and deviation of each channel")

    def ids(self, row: Row) -> Int64[Tensor, " n"]:
        """Ids as one sequence: time slowest, then rows, then columns."""
        assert row.ids is not None, "checked by `require`"
        return row.ids.flatten()

    # What is said beside.

    def text(self, row: Row) -> Float[Tensor, "l d"]:
        """The embedding of a row in float32, or the neutral one of a single zero vector."""
        if row.text is None:
            return torch.zeros(1, self.text_width)
        return row.text.float()

    @cached_property
    def text_width(self) -> int:
        """The length of an embedding's vectors: that of the first which the corpus has."""
        if not self.corpus.manifest["build"].get("text"):
            return TEXT_WIDTH
        found = (row.text.shape[-1] for row in self.corpus if row.text is not None)
        return next(found, TEXT_WIDTH)

    def say_text(self, neutral: str) -> None:
        """Say what stands where a row has no embedding."""
        missing = len(self.corpus) - self.texts
        if missing:
            self.note(f"{count(missing, 'row')} of {len(self.corpus):,} without text: {neutral}")

    def rate(self, row: Row) -> float:
        """Frames per second; a picture has `PICTURE_RATE`."""
        return row.fps or PICTURE_RATE

    def names(self) -> Callable[[Row], str]:
        """A function of rows to paths of their own, without a suffix, inside of any folder."""
        taken: dict[str, int] = {}

        def name(row: Row) -> str:
            found = safe_path(row.id)
            taken[found] = taken.get(found, 0) + 1
            return found if taken[found] == 1 else f"{found}_{taken[found]}"

        return name


def check_window(row: Row, tokenizer: Mapping[str, Any], wanted: str) -> None:
    """ValueError unless the tokens of a row are a whole code of its frames and of nothing else.

    A trainer takes the first latent for one frame, and all for one code: slices of a longer code
    and windows that were coded apart and joined are neither.
    """
    tensor = row.ids if row.ids is not None else row.latents
    assert tensor is not None
    window = row.settings.get("window")
    if isinstance(window, int) and window < row.frames:
        raise ValueError(
            f"{row.id} joins windows of {window} frames that were coded apart, and {wanted} takes "
            f"each as a clip: build another with `reeltok corpus build --frames {window}`"
        )
    grid = tensor.shape if row.ids is not None else tensor.shape[1:]
    if len(grid) != 3:
        return
    time, first, group = (
        tokenizer["factors"][0],
        tokenizer["first_frames"],
        tokenizer["frames_per_group"],
    )
    groups = math.ceil(max(0, row.frames - first) / group)
    steps = -(-first // time) + groups * (group // time)
    if row.settings.get("reference_start") in STORED:
        check_stored(row, wanted)
        steps -= 1
    if grid[0] != steps:
        raise ValueError(
            f"{row.id} has {grid[0]} steps for {count(row.frames, 'frame')}, and a clip of these "
            f"has {steps}: it is a slice of a longer code, so build another corpus with `reeltok "
            "corpus build --frames N`"
        )


def check_stored(row: Row, wanted: str) -> None:
    """ValueError where the first frame, which is a picture beside the tokens, cannot be missed."""
    if row.ids is None:
        raise ValueError(
            f"{row.id} keeps its first frame as a picture, and {wanted} takes the first latent for "
            "that frame: build another with a tokenizer that codes all frames"
        )
    if not row.ids.numel():
        raise ValueError(
            f"{row.id} is a single frame that is kept as a picture, and {wanted} takes ids: build "
            "another without pictures"
        )


def safe_path(name: str) -> str:
    """A path below any folder for the id of a row: clips/a.mp4#0003 is clips/a.mp4_0003."""
    source, _, number = name.rpartition("#")
    plain = (source or name).replace("://", "/").replace("\\", "/").replace("\0", "")
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")] or ["clip"]
    if parts[-1].startswith("latent_"):  # which LTX takes for another name of a condition
        parts[-1] = f"_{parts[-1]}"
    return "/".join(parts) + (f"_{number}" if source else "")


def saved(held: Any) -> bytes:
    """What torch saves of tensors. A file that it wrote itself would hide why it could not."""
    file = io.BytesIO()
    torch.save(held, file)
    return file.getvalue()
