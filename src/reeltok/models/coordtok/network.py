"""CoordTok: clips in windows of a fixed length, each as the cells of three planes.

The network is in `triplane.py`. Here: the paper's configurations, which patches are decoded
together, and the tokenizer. Jang et al., "Efficient Long Video Tokenization via Coordinate-based
Patch Reconstruction", CVPR 2025.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from reeltok.models.coordtok.triplane import (
    CoordTokConfig,
    Planes,
    TriplaneDecoder,
    TriplaneEncoder,
    assemble,
)
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.chunks import DecodeState, require_state
from reeltok.tokenizer.contract import Reconstruction, Tokenizer, frame_range, join_frames
from reeltok.tokenizer.inputs import (
    ClipLike,
    TokensLike,
    as_tokens,
    drawing,
    forward_input,
    with_axes,
)
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.steps import begun_at, coded_parts
from reeltok.tokenizer.streaming import to_input_type
from reeltok.tokenizer.tiling import TileLike, ran_out_of_memory
from reeltok.tokens.ids import join_sizes, require_gridded
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel
from reeltok.video.record import Video
from reeltok.video.timing import moments_of

Range = tuple[int, int]
"""A half-open range: from, to."""
Ranges = tuple[Range, ...]
"""Ranges of (time, row, column)."""
Context = Literal["region", "slice"]
CONTEXTS: tuple[str, ...] = get_args(Context)


def decode_box(
    decoder: TriplaneDecoder,
    planes: Planes,
    box: Ranges,
    *,
    frames: int,
    slices: int = 1,
    context: Context = "region",
    budget: int | None = None,
) -> Float[Tensor, "b c t h w"]:
    """The pixels of a box (time, rows, columns) in a window of `frames` frames, unclamped.

    The frames are cut into `slices` runs of whole patches, as even as they go (no run is empty, so
    a short clip may have fewer). The patches of a run see one another: those of the box alone, or
    with `context="slice"` all of the clip's, so that the pixels are those of the whole clip.
    """
    if context not in CONTEXTS:
        raise ValueError(f"no context is called {context!r}: choose one of {', '.join(CONTEXTS)}")
    places, patch = decoder.config.places, decoder.config.decoder_patch
    length = -(-frames // patch[0])
    wanted = [(a // p, -(-b // p)) for (a, b), p in zip(box, patch, strict=True)]
    parts = []
    for run in pairwise(i * length // slices for i in range(slices + 1)):
        inner = (max(run[0], wanted[0][0]), min(run[1], wanted[0][1]))
        if inner[0] >= inner[1]:
            continue
        whole = (run, (0, places[1]), (0, places[2]))
        ask = (inner, *wanted[1:]) if context == "region" else whole
        device = next(iter(planes.values())).device
        index = torch.cartesian_prod(*(torch.arange(*side, device=device) for side in ask))
        x = assemble(decoder(planes, index[None], budget=budget), ask, patch)
        parts.append(
            crop_to_box(x, box, tuple((a * p, b * p) for (a, b), p in zip(ask, patch, strict=True)))
        )
    return torch.cat(parts, dim=2)


def crop_to_box(
    x: Float[Tensor, "b c t h w"], box: Ranges, around: Ranges
) -> Float[Tensor, "b c t2 h2 w2"]:
    """What lies in `box`, of pixels that fill `around`."""
    for axis, ((a, b), (low, high)) in enumerate(zip(box, around, strict=True), start=2):
        start, stop = max(a, low), min(b, high)
        x = x.narrow(axis, start - low, stop - start)
    return x


class CoordTok(Tokenizer):
    """The tokenizer: clips of `config.size` pixels, in windows of its frames that are coded apart.

    Latents are `b d n`: the cells of xy, yt and xt, row-major, window after window. `budget` bounds
    the bytes of activations beside a decoder's tokens; None takes the plain path.
    """

    family = "coordtok"
    refines = True
    budget: int | None = 64 * 2**20
    slices: int | None = None  # of the frames that refinement compares; None: the configuration's

    def __init__(self, config: CoordTokConfig, name: str = "coordtok") -> None:
        super().__init__(config, name)
        self.encoder = TriplaneEncoder(config)
        self.quantizer = config.quantizer.build() if config.quantizer else None
        self.decoder = TriplaneDecoder(config)

    @property
    def spec(self) -> Spec:
        config, quantizer = self.config, self.config.quantizer
        return Spec(
            name=self.name,
            family=self.family,
            factors=config.factors,
            causal=config.causal,
            first_frames=config.size[0],
            frames_per_group=config.size[0],
            channels=config.channels,
            vocabulary=quantizer.vocabulary if quantizer else None,
            parameters=self.parameter_count(),
            receptive_steps=0,
            first_steps=config.tokens,
            steps_per_group=config.tokens,
            window=config.size[0],
            size=config.size[1:],
            used=self.used,
        )

    def grid_for(self, frames: int, size: tuple[int, int]) -> tuple[int, ...]:
        return (self.spec.steps(frames),)

    # The network, plane by plane.

    def last_weight(self) -> nn.Parameter:
        return self.get_parameter("decoder.pixels.weight")

    def encode_planes(
        self, x: Float[Tensor, "b c t h w"], frames: Int[Tensor, "b"] | None = None
    ) -> Planes:
        """The planes of clips in [-1, 1] of up to a window, `frames` of them real; unquantized."""
        return self.encoder(x, frames)

    def decode_patches(
        self, planes: Planes, index: Int[Tensor, "#b n 3"]
    ) -> Float[Tensor, "b n d"]:
        """Patches (time, row, column, rgb; in [-1, 1]) at integer places, which see one another."""
        return self.decoder(planes, index)

    def join_planes(self, planes: Planes) -> Float[Tensor, "b n d"]:
        """All cells on one axis: xy, yt, xt, each row-major."""
        return torch.cat([planes[name].flatten(1, 2) for name in self.config.planes], dim=1)

    def split_planes(self, cells: Float[Tensor, "b n d"]) -> Planes:
        """The planes of one window's cells."""
        grids = self.config.grids
        parts = cells.split([math.prod(grid) for grid in grids.values()], dim=1)
        return {
            name: part.unflatten(1, grid)
            for (name, grid), part in zip(grids.items(), parts, strict=True)
        }

    def quantize(
        self, planes: Planes, *, step: int | None = None, sample: torch.Generator | None = None
    ) -> Quantized:
        """The cells "b n d" that the decoder gets; without a quantizer, the planes' own."""
        return self._quantize_cells(self.join_planes(planes), step=step, sample=sample)

    def _shown(
        self, cells: Float[Tensor, "b n d"], size: Sequence[int]
    ) -> Float[Tensor, "b c t h w"]:
        """The frames that `decode` makes of what the quantizer reads of a window."""
        box, slices = tuple((0, side) for side in size), self.slices or self.config.slices
        z = self._quantize_cells(cells).z.mT
        return self.decode_window(z, box, frames=size[0], slices=slices, context="slice")

    def _quantize_cells(self, cells: Float[Tensor, "b n d"], **options: Any) -> Quantized:
        if self.quantizer is None:
            return Quantized(z=cells, ids=None, loss=cells.new_zeros(()))
        return self.quantizer(cells, **options)

    # The contract.

    def encode_part(
        self,
        x: Float[Tensor, "b c t h w"],
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        real = x if frames is None else x[:, :, :frames]
        cells = self.join_planes(self.encoder(real))
        cells = self.refined(cells, real, partial(self._shown, size=real.shape[2:]))
        quantized = self._quantize_cells(cells, sample=sample)
        return replace(quantized, z=quantized.z.transpose(1, 2))

    def decode_part(
        self,
        z: Float[Tensor, "b d n"],
        past: Past | None = None,
        *,
        last: bool = True,
    ) -> Float[Tensor, "b c t h w"]:
        """All frames of whole windows, each in the configuration's slices."""
        box = tuple((0, side) for side in self.config.size)
        ask: dict[str, Any] = {"frames": box[0][1], "slices": self.config.slices}
        windows = z.split(self.config.tokens, dim=2)
        return torch.cat([self.decode_window(cells, box, **ask) for cells in windows], dim=2)

    def lookup(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b d n"]:
        if self.quantizer is None:
            raise ValueError(f"{self.name} is continuous and has no ids: decode from latents")
        require_gridded(ids, "batch tokens")
        return self.quantizer.lookup(ids.to(self.device)).transpose(1, 2)

    def forward(
        self,
        x: Shaped[Tensor, "b c t h w"],
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """The differentiable path: clips of up to a window, decoded in one call."""
        z = self.encoder(forward_input(x, self))
        quantized = self.quantize(z, step=step, sample=drawing(self, generator))
        planes, box = self.split_planes(quantized.z), tuple((0, side) for side in x.shape[2:])
        frames = decode_box(self.decoder, planes, box, frames=x.shape[2], budget=self.budget)
        return Reconstruction(x=frames, quantized=replace(quantized, z=quantized.z.mT))

    # Slices and regions.

    def encode(self, x: ClipLike, *, slices: int | None = None, **options: Any) -> Tokens:
        """The tokens of a clip, in windows; the options are those of every tokenizer.

        `slices` is how `decode` will cut a window unless told otherwise: 1 is the paper's single
        call, more are faster and give other pixels; None takes the configuration's. ValueError for
        slices a window does not have.
        """
        slices = self.config.slices if slices is None else slices
        self.check_slices(slices)
        view = copy.copy(self)
        view.slices = slices
        tokens = super(CoordTok, view).encode(x, **options)
        return tokens.with_(settings={**tokens.settings, "slices": slices})

    def decode(
        self,
        tokens: TokensLike,
        *,
        chunk: int | None = None,
        tile: TileLike = None,
        start: int | None = None,
        stop: int | None = None,
        reference: ClipLike | None = None,
        slices: int | None = None,
    ) -> Video | Tensor:
        """The frames of `tokens`, or those from `start` up to `stop`, as what `encode` was given.

        `slices` cuts each window (None: as the tokens say). Windows are the chunks of this family,
        whatever `chunk` says. ValueError for a tile or a reference, for tokens of another preset,
        for frames that the clip does not have.
        """
        if tile is not None:
            raise ValueError(f"{self.name} codes whole frames: leave tile=None")
        if reference is not None:
            raise ValueError(f"{self.name} codes windows alone: leave reference=None")
        tokens = as_tokens(tokens, self)
        t = frame_range(tokens.frames, start, stop)
        return self.decode_region(tokens, t=t, slices=slices, context="slice")

    def stream_decode(
        self,
        parts: Iterable[Tokens],
        *,
        tile: TileLike = None,
        hold: bool = False,
        inside: bool = False,
        reference: ClipLike | None = None,
    ) -> Iterator[Video | Tensor]:
        for part in coded_parts(parts):
            for i in range(0, part.frames, self.config.size[0]):
                stop = min(part.frames, i + self.config.size[0])
                yield self.decode(part, tile=tile, start=i, stop=stop, reference=reference)

    def decode_chunk(
        self, tokens: Tokens | Tensor, state: DecodeState, *, last: bool = False
    ) -> Video | Shaped[Tensor, "b c t h w"] | None:
        require_state(state, DecodeState)
        return self.decode(tokens, reference=state.reference)

    def decode_region(
        self,
        tokens: TokensLike,
        t: Range | None = None,
        y: Range | None = None,
        x: Range | None = None,
        *,
        slices: int | None = None,
        context: Context = "region",
    ) -> Video | Tensor:
        """Frames `t`, rows `y`, columns `x` (from, to; None: all) alone, without decoding the rest.

        Patches see one another, so pixels depend on what is decoded together: the region alone, cut
        into slices where the window is; with `context="slice"` everything around it too, for the
        pixels that `decode` gives. ValueError for a region outside the clip.
        """
        tokens = as_tokens(tokens, self)
        self._check(tokens)
        slices = tokens.settings.get("slices", self.config.slices) if slices is None else slices
        self.check_slices(slices)
        sides = {"t": (t, tokens.frames), "y": (y, tokens.height), "x": (x, tokens.width)}
        box = tuple(inside(name, side, end) for name, (side, end) in sides.items())
        parts = []
        for part, (first, last) in self._windows_of(tokens, box[0]):
            z = self.find_latents(part)
            with self.gradient(z):
                z = z.to(device=self.device, dtype=self.dtype)
                here = ((first, last), *box[1:])
                pixels = self.decode_window(
                    z, here, frames=part.frames, slices=slices, context=context
                )
            parts.append(
                to_input_type(pixels, part, *moments_of(part.times, part.last, first, last))
            )
        video = begun_at(box[0][0], join_frames(parts, 0), tokens, self.spec)
        return with_axes(video, tokens.settings.get("axes"))

    def decode_window(
        self,
        z: Float[Tensor, "b d n"],
        box: Ranges,
        *,
        frames: int,
        slices: int = 1,
        context: Context = "region",
    ) -> Float[Tensor, "b c t h w"]:
        """A box of one window; with less memory beside the tokens where memory runs out."""
        planes = self.split_planes(z.mT)
        budget = None if torch.compiler.is_exporting() else self.budget  # a graph has no parts
        ask: dict[str, Any] = {"frames": frames, "slices": slices, "context": context}
        while True:
            try:
                return decode_box(self.decoder, planes, box, budget=budget, **ask)
            except RuntimeError as error:
                if not ran_out_of_memory(error) or budget is None or budget < 2**20:
                    raise
            budget //= 4
            warnings.warn(f"out of memory: going on with {budget} bytes at a time", stacklevel=2)

    def _windows_of(self, tokens: Tokens | Reel, t: Range) -> Iterator[tuple[Tokens, Range]]:
        """The windows that hold frames `t`, and which of their own frames those are."""
        length, steps = self.config.size[0], self.config.tokens
        for i in range(t[0] // length, -(-t[1] // length)):
            first, last = i * length, min(tokens.frames, (i + 1) * length)
            part = tokens.part(i * steps, (i + 1) * steps, frames=(first, last))
            yield part, (max(t[0], first) - first, min(t[1], last) - first)

    def _check(self, tokens: Tokens | Reel) -> None:
        super()._check(tokens)
        (_, height, width), expected = self.config.size, self.grid_for(tokens.frames, (0, 0))
        if tuple(tokens.grid) != expected or (tokens.height, tokens.width) != (height, width):
            raise ValueError(
                f"{self.name} codes {tokens.frames} frames of {height}x{width} in {expected[0]} "
                f"tokens, these are {join_sizes(tokens.grid)} for {tokens.height}x{tokens.width}: "
                f"load the preset that made them ({tokens.model!r})"
            )

    def check_slices(self, slices: int) -> None:
        """ValueError for a number of slices that a window cannot be cut into."""
        most = self.config.places[0]
        if not isinstance(slices, int) or not 1 <= slices <= most:
            raise ValueError(f"slices={slices!r}, but a window of {self.name} has 1 to {most}")


def inside(name: str, side: Range | None, end: int) -> Range:
    """`side`, or all up to `end`. ValueError unless it holds something and lies inside."""
    first, last = (0, end) if side is None else side
    if not 0 <= first < last <= end:
        raise ValueError(
            f"the region {name} = {first} to {last} does not lie in the clip: give "
            f"0 <= from < to <= {end}"
        )
    return first, last
