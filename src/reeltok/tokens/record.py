"""The record of a tokenized video, `Tokens`.

It holds ids or latents on a grid whose first axis is the one that streams, and what it takes
to give the video back as it was: frames, size, frame rate, time stamps, colour. Axes are flattened
row-major everywhere: time slowest, then row, then column.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils._pytree import tree_map

from reeltok.arguments import is_count, require_kind
from reeltok.records import LazyField, register
from reeltok.tokens.header import bits_for
from reeltok.tokens.ids import (
    as_grid,
    check_clip,
    check_ids,
    check_latents,
    check_request,
    ends_of,
    floats,
    integers,
    join_sizes,
    require_axes,
    require_step,
)
from reeltok.tokens.joining import joined_extras, joined_latents, require_same, stack_tokens
from reeltok.video.timing import moments_of

DOUBLINGS = tuple(2**n for n in range(16))  # frames a step that samplers can give


@runtime_checkable
class Sized(Protocol):
    """What `Tokens.from_ids` asks of a tokenizer."""

    spec: Any

    def grid_for(self, frames: int, size: tuple[int, int]) -> tuple[int, ...]: ...
    def hash(self) -> str: ...


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Tokens:
    """Ids (below `vocabulary`) or finite latents of `frames` frames of `height` x `width` pixels.

    `grid` is the shape of one clip's tokens, the streaming axis first; by default that of the
    tensors. `fps` is None when the frames came from a tensor; `times` are time stamps in seconds
    where the rate varies, and `last` is how long the last frame is shown then (None: 1 / fps).
    `damaged` frames of the original could not be decoded and are left out. `model` and `weights`
    (SHA-256, hex) name the tokenizer, `settings` (JSON values) say how it was used. Stored
    reference frames cost `reference_bits`, a latent value `latent_bits`; `extras` are more tensors
    to keep. A part of a clip begins at step `step`. Latents beside ids are those of the ids. Raises
    ValueError where these disagree. `DataLoader` makes one record of a batch (`stack_tokens`).
    """

    ids: Int64[Tensor, "b ..."] | None = None
    latents: Float[Tensor, "b d ..."] | None = None
    grid: tuple[int, ...] = ()
    frames: int
    height: int
    width: int
    fps: float | None = None
    model: str = ""
    weights: Any = LazyField()  # noqa: RUF009 - str, None, or a function that gives it
    settings: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    reference_bits: int = 0
    latent_bits: int = 16
    times: Float[Tensor, "t"] | None = None
    last: float | None = None
    damaged: int = 0
    colour: Mapping[str, Any] | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        check_clip(self)
        if self.ids is not None:
            check_ids(self.ids, self.vocabulary)
        if self.latents is not None:
            check_latents(self.latents)
        if self.ids is not None and self.latents is not None and len(self.ids) != len(self.latents):
            raise ValueError(
                f"ids and latents are of one batch, found {len(self.ids)} and {len(self.latents)}"
            )
        shapes = [] if self.ids is None else [tuple(self.ids.shape[1:])]
        shapes += [] if self.latents is None else [tuple(self.latents.shape[2:])]
        if not shapes:
            raise ValueError("tokens need ids or latents, and neither was given")
        object.__setattr__(self, "grid", as_grid(self.grid) or shapes[0])
        for shape in shapes:
            if shape != self.grid:
                raise ValueError(
                    f"the grid is {join_sizes(self.grid)}, but the tokens are {join_sizes(shape)}"
                )

    @classmethod
    def from_ids(
        cls,
        ids: Any,
        *,
        frames: int,
        size: tuple[int, int],
        grid: tuple[int, ...] | None = None,
        tokenizer: Sized | None = None,
        vocabulary: int | None = None,
        model: str = "",
        fps: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> "Tokens":
        """Tokens from ids that something else made, such as a language model.

        `ids` is a sequence "n", a batch "b n", or gridded "b *grid"; `size` is (height, width). A
        flat sequence is row-major (time slowest, then row, then column); its grid is `grid`, or the
        `tokenizer`'s for these frames, or else stays flat until `on_grid`. Raises ValueError for
        ids that are not integers, out of range, or too few or many for the grid.
        """
        check_request(frames, size, tokenizer)
        if tokenizer is not None and tokenizer.spec.vocabulary is None:
            raise ValueError(f"{tokenizer.spec.name} is continuous: it has latents, no ids")
        if tokenizer is not None:
            vocabulary = vocabulary or tokenizer.spec.vocabulary
        given = {"ids": integers(ids), "vocabulary": vocabulary, "fps": fps, "settings": settings}
        return cls._made(given, frames, size, grid, tokenizer, model)

    @classmethod
    def from_latents(
        cls,
        latents: Any,
        *,
        frames: int,
        size: tuple[int, int],
        grid: tuple[int, ...] | None = None,
        tokenizer: Sized | None = None,
        model: str = "",
        fps: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> "Tokens":
        """Tokens from latents that something else made, such as a diffusion model.

        `latents` is "b d n" or gridded "b d *grid", on the scale of the tokenizer's own; the rest
        is as for `from_ids`. Raises ValueError for latents that are not finite floats, have another
        number of channels than the tokenizer's, or are too few or many for the grid.
        """
        check_request(frames, size, tokenizer)
        tensor = floats(latents)
        vocabulary = None
        if tokenizer is not None:
            vocabulary = tokenizer.spec.vocabulary
            check_latents(tensor, tokenizer.spec.channels)
        given = {"latents": tensor, "vocabulary": vocabulary, "fps": fps, "settings": settings}
        return cls._made(given, frames, size, grid, tokenizer, model)

    @classmethod
    def _made(
        cls,
        given: Mapping[str, Any],
        frames: int,
        size: tuple[int, int],
        grid: tuple[int, ...] | None,
        tokenizer: Sized | None,
        model: str,
    ) -> "Tokens":
        """Tokens that something else made, on `grid` or that of `tokenizer`."""
        if tokenizer is not None:
            grid = grid or tokenizer.grid_for(frames, size)
            model = model or tokenizer.spec.name
        about = {"frames": frames, "height": size[0], "width": size[1], "model": model}
        about |= {"settings": given["settings"] or {}}
        made = cls(**{**given, **about, "weights": tokenizer and tokenizer.hash()})
        whole = made if grid is None else made.on_grid(grid)
        require_axes(made.grid, whole.grid, f"{frames} frames of {join_sizes(size)}")
        return whole

    # -- shape ----------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """How many clips of the same frames and size these are."""
        return len(self.first_tensor)

    @property
    def first_tensor(self) -> Tensor:
        """The ids where there are any, else the latents."""
        tensor = self.latents if self.ids is None else self.ids
        assert tensor is not None
        return tensor

    def flat(self) -> Int64[Tensor, "b n"]:
        """The ids as one row-major sequence per clip. ValueError where there are none."""
        if self.ids is None:
            raise ValueError("these tokens are latents and have no ids; use a discrete tokenizer")
        return self.ids.flatten(1)

    def on_grid(self, grid: tuple[int, ...]) -> "Tokens":
        """The same tokens on another grid of as many cells. ValueError for another number."""
        grid = as_grid(grid)
        if grid == self.grid:
            return self
        if math.prod(grid) != math.prod(self.grid):
            raise ValueError(
                f"{self.frames} frames of {self.height}x{self.width} take {join_sizes(grid)} = "
                f"{math.prod(grid)} tokens, found {math.prod(self.grid)}"
            )
        return self.with_(
            grid=grid,
            ids=None if self.ids is None else self.ids.reshape(-1, *grid),
            latents=None if self.latents is None else self.latents.reshape(self.batch, -1, *grid),
        )

    def with_(self, **changes: Any) -> "Tokens":
        """A copy with other values; unlike `dataclasses.replace` it leaves late fields late.

        Other ids drop the latents, which are not theirs, and other latents drop the ids.
        """
        for one, other in (("ids", "latents"), ("latents", "ids")):
            if changes.get(one) is not None and other not in changes:
                changes[other] = None
        return Tokens(**{**vars(self), **changes})

    def pin_memory(self) -> "Tokens":
        """The same tokens in page-locked memory, as a `DataLoader` asks for."""
        return tree_map(lambda tensor: None if tensor is None else tensor.pin_memory(), self)

    def __getstate__(self) -> dict[str, Any]:
        # The function that gives the hash holds the tokenizer, which no copy of tokens needs.
        return {**vars(self), "weights": self.weights}

    def to(self, device: torch.device | str) -> "Tokens":
        """The same tokens on another device."""
        return self.with_(
            ids=None if self.ids is None else self.ids.to(device),
            latents=None if self.latents is None else self.latents.to(device),
        )

    # -- parts ----------------------------------------------------------------------------------

    def part(self, start: int, stop: int, *, frames: tuple[int, int] | None = None) -> "Tokens":
        """Steps start..stop of the streaming axis, which stand for frames `frames` = (from, to).

        The tokenizer knows those; by default each step has as many as in its window, or an equal
        share where there are no windows, so that the frames of consecutive parts always add up.
        Raises ValueError for steps that are not there.
        """
        first, end = frames or self.share(start, stop)
        times, last = moments_of(self.times, self.last, first, end)
        return self.with_(
            ids=None if self.ids is None else self.ids[:, start:stop],
            latents=None if self.latents is None else self.latents[:, :, start:stop],
            grid=(stop - start, *self.grid[1:]),
            step=self.step + start,
            frames=end - first,
            times=times,
            last=last,
        )

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """The frames for which steps start..stop stand, where each of a window's has as many."""
        steps = self.grid[0]
        if steps == start == stop == 0:  # frames that are stored, not coded
            return 0, self.frames
        if not (is_count(start, 0) and is_count(stop) and start < stop <= steps):
            raise ValueError(f"steps {start} to {stop} were asked for, but there are 0 to {steps}")
        return self._frames_before(start), self._frames_before(stop)

    def _frames_before(self, step: int) -> int:
        """Frames before a step: as many for each of a window's, or a share where none are known."""
        window: Any = self.settings.get("window")
        frames, steps = self.frames, self.grid[0]
        factors = (f for f in DOUBLINGS if -(-frames // f) == steps)
        if self.settings.get("pad") == "front" and (factor := next(factors, None)):
            return max(0, frames - (steps - step) * factor)  # the first has what the others leave
        if not is_count(window):
            return frames * step // steps
        factors = (n for n in range(1, window + 1) if window % n == 0 and -(-frames // n) == steps)
        if len(self.grid) == 3 and (factor := next(factors, None)):
            return min(frames, step * factor)
        count = -(-frames // window)
        if steps % count:
            return frames * step // steps
        whole, rest = divmod(step, steps // count)  # each window has as many, the last one too
        begun = min(frames, whole * window)
        return begun + (min(frames, begun + window) - begun) * rest // (steps // count)

    def __getitem__(self, steps: Any) -> "Tokens":
        return self.part(*ends_of(steps, self.grid[0]))

    @staticmethod
    def join(parts: Iterable["Tokens"]) -> "Tokens":
        """Parts of one clip, in order, as one. Raises ValueError where they do not belong together.

        Frames, time stamps and reference bits add up; extras are collected.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("no parts were given to join")
        for part in parts:
            require_kind(part, Tokens, "parts of a clip are Tokens")
        first = parts[0]
        for before, part in pairwise(parts):
            require_same(first, part)
            require_step(part.step, before.step + before.grid[0])
        ids = [part.ids for part in parts if part.ids is not None]
        times = [part.times for part in parts if part.times is not None]
        return first.with_(
            ids=torch.cat(ids, 1) if ids else None,
            latents=joined_latents(parts),
            grid=(sum(part.grid[0] for part in parts), *first.grid[1:]),
            frames=sum(part.frames for part in parts),
            reference_bits=sum(part.reference_bits for part in parts),
            times=torch.cat(times) if times else None,
            last=next((part.last for part in parts[::-1] if part.frames), None),
            extras=joined_extras(parts),
        )

    # -- numbers --------------------------------------------------------------------------------

    @property
    def bits(self) -> int:
        """Bits of one token: ceil(log2 vocabulary), or `latent_bits` for each latent value."""
        if self.ids is None:
            return self.latent_bits * self.first_tensor.shape[1]
        if self.vocabulary is None:
            raise ValueError("the bits of ids are unknown without their vocabulary; give one")
        return bits_for(self.vocabulary)

    @property
    def total_bits(self) -> int:
        """Bits of all tokens and stored references."""
        return self.batch * math.prod(self.grid) * self.bits + self.reference_bits

    @property
    def bits_per_pixel(self) -> float:
        """Bits of tokens and stored references over the original frames x height x width."""
        if self.frames == 0:
            raise ValueError("a part without frames has no bits per pixel; join the parts first")
        total = self.total_bits
        return total / (self.batch * self.frames * self.height * self.width)

    def __repr__(self) -> str:
        what = "latents" if self.ids is None else "ids"
        said = [f"{what} {join_sizes(self.first_tensor.shape)}"]
        if self.vocabulary is not None:
            said += [f"of {self.vocabulary}"]
        said += [f"for {self.frames} frames {self.height}x{self.width}"]
        said += [f"at {self.fps:g} fps"] if self.fps else []
        said += [f"by {self.model!r}"] if self.model else []
        if self.frames and (self.ids is None or self.vocabulary is not None):
            said += [f"({self.bits_per_pixel:.4f} bits per pixel)"]
        return f"Tokens({' '.join(said)})"


register(Tokens, "ids", "latents", "times", collate=stack_tokens)
