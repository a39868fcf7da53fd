"""The contract of every tokenizer: what it does. What it is, in numbers, is its `Spec`.

A family supplies `encode_part`, `decode_part` and `lookup` on whole groups of frames. This file
adds, once for all, what does not depend on the network: padding and cropping, streams of any
chunk length, ranges, tiles, running out of memory, and the folder a model is saved in.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from reeltok.nn.past import Past, name_layers
from reeltok.nn.quantizers import Quantized
from reeltok.records import register
from reeltok.tokenizer.card import model_card
from reeltok.tokenizer.chunks import (
    DecodeState,
    EncodeState,
    decode_next,
    decode_run,
    encode_next,
    encode_run,
)
from reeltok.tokenizer.folder import LatentStatistics, config_record, write_folder
from reeltok.tokenizer.inputs import (
    ClipLike,
    TokensLike,
    as_clip,
    as_tokens,
    axes_of,
    check_tokens,
    say_axes,
    stored_latents,
    with_axes,
)
from reeltok.tokenizer.refinement import RefinedModule
from reeltok.tokenizer.rows import Bits
from reeltok.tokenizer.scale import Scale
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.steps import (
    StepSpan,
    begun_at,
    coded_parts,
    find_span,
    frame_range,
    require_all,
    require_beginning,
    split_steps,
    whole_windows,
)
from reeltok.tokenizer.streaming import (
    FrameRun,
    SideInformation,
    check_chunk,
    check_pad,
    count_frames,
    cut,
    join_frames,
    mark_last,
    pad_space,
    peek,
    require_parts,
    split_frames,
    whole_groups,
)
from reeltok.tokenizer.tiling import Options, TileLike, tiling_of
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel
from reeltok.video.record import Video


@dataclass(frozen=True)
class Reconstruction:
    """What training sees: frames `b c t h w` and what the quantizer made on the way."""

    x: Tensor
    quantized: Quantized


register(Reconstruction, "x", "quantized")


class Tokenizer(RefinedModule):
    """A network that turns video into tokens and tokens into video.

    Frames are a `Video`, or a tensor `b c t h w`: floats in [-1, 1] of any dtype, or uint8. A
    tensor may lack axes that are one (`3 t h w`, `1 3 h w`, `3 h w`), and `encode` takes paths and
    arrays too. `decode` gives back what `encode` was given, as a `Video` or a tensor. Gradients
    flow only in training mode, or from a tensor that asks for them.
    """

    family: str
    scale = Scale()  # from latents of the decoder to those of tokens

    def __init__(self, config: Any, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name
        self.statistics: LatentStatistics | None = None
        self.about: Mapping[str, Any] = {}  # what the settings of its tokens say of it beside
        self.earlier: Mapping[str, str] = {}  # hashes of weights before, and what still has them
        self.packing: Path | None = None  # the file of a model that packs its ids

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):  # layers learn their names as they are registered
            name_layers(value, name)

    # What a family supplies.

    @property
    def spec(self) -> Spec:
        """What this tokenizer does to a video, in numbers."""
        raise NotImplementedError

    def encode_part(
        self,
        x: Float[Tensor, "b c t h w"],
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
    ) -> Quantized:
        """Tokens of whole groups, of which `frames` frames are real; no past: a whole clip."""
        raise NotImplementedError

    def decode_part(
        self, z: Float[Tensor, "b d *grid"], past: Past | None = None, *, last: bool = True
    ) -> Float[Tensor, "b c t h w"]:
        """Frames of whole steps; a network that looks ahead holds some back until `last`."""
        raise NotImplementedError

    def lookup(self, ids: Int[Tensor, "b *grid"]) -> Float[Tensor, "b d *grid"]:
        """The latents that ids stand for. ValueError where an id is outside the vocabulary."""
        raise NotImplementedError

    def side_information(
        self, run: FrameRun, step: int, before: Tensor | None, reference: Any
    ) -> SideInformation:
        """What a run of frames is coded with, whose first token step is `step`.

        `before` is the frame before the run, as it came, `reference` what the caller gave.
        """
        if reference is not None:
            raise ValueError(f"{self.name} takes no reference frame: leave reference=None")
        return SideInformation()

    def decoding_options(self, part: Tokens, reference: Any, *, begun: bool) -> Options:
        """Arguments of `decode_part` that tokens keep; `begun`: others came before in a stream."""
        if reference is not None:
            raise ValueError(f"{self.name} takes no reference frame: leave reference=None")
        return {}

    def crop_options(self, options: Options, rows: slice, columns: slice) -> Options:
        """The same arguments for one tile of pixels."""
        return options

    def cut_options(self, options: Options, at: int) -> tuple[Options, Options]:
        """The same arguments for what comes before frame or step `at`, and from there on."""
        return options, options

    def find_latents(self, part: Tokens) -> Float[Tensor, "b d *grid"]:
        """The latents that a part holds or its ids stand for; ValueError where they do not fit."""
        return stored_latents(part, self)

    def last_weight(self) -> nn.Parameter:
        """The last weight that makes frames: where an adaptive discriminator compares gradients."""
        return [weight for weight in self.parameters() if weight.ndim > 1][-1]

    def grid_for(self, frames: int, size: tuple[int, int]) -> tuple[int, ...]:
        """The token grid of a clip of `frames` frames of `size` = (height, width) pixels."""
        (_, fh, fw), (height, width) = self.spec.factors, size
        return self.spec.steps(frames), math.ceil(height / fh), math.ceil(width / fw)

    # Frames to tokens.

    def encode(
        self,
        x: ClipLike,
        *,
        chunk: int | None = None,
        tile: TileLike = None,
        sample: torch.Generator | None = None,
        reference: ClipLike | None = None,
        pad: str = "end",
    ) -> Tokens:
        """The tokens of a clip of any length and size.

        `chunk` frames at a time (None: all at once), in tiles of `tile` pixels (None: whole
        frames). A causal tokenizer gives the same tokens for every chunk; another codes each chunk
        as a clip of its own, and says so in `settings`. KL gives the mode, or what the generator
        `sample` draws, in training mode too. A tokenizer that leans on a `reference` frame must be
        given the same one to decode. `pad="front"` completes a whole clip as the public v1.1 does.
        ValueError for frames of another shape, type or range.
        """
        check_pad(pad, chunk=chunk, tile=tile, reference=reference, refine=self.refine or None)
        clip = as_clip(x)
        axes = axes_of(x, clip)
        if pad == "front":
            return say_axes(self.encode_front(clip, sample=sample), axes)
        parts = self.stream_encode(
            [clip] if chunk is None else split_frames(clip, chunk),
            window=chunk or count_frames(clip) or None,
            tile=tile,
            sample=sample,
            reference=reference,
            hold=chunk is None,
        )
        return say_axes(Tokens.join(list(parts)), axes)

    def stream_encode(
        self,
        parts: Iterable[ClipLike],
        *,
        window: int | None = None,
        tile: TileLike = None,
        sample: torch.Generator | None = None,
        reference: ClipLike | None = None,
        hold: bool = False,
    ) -> Iterator[Tokens]:
        """Tokens of a stream of parts of any lengths, in memory that does not grow with it.

        A tokenizer that is not causal codes `window` frames (16) at a time, each as a clip of its
        own; one that does not stream too, or all as one clip (None), as `hold` does with any.
        """
        spec = self.spec
        check_chunk(window, "window")
        given, parts = peek(map(as_clip, require_parts(parts)))
        hold = (hold or (window is None and not spec.streams)) and spec.window is None
        width = spec.window_for(window or 16)
        state = self.new_encode_state(tile=tile, reference=reference)
        state.independent |= hold
        for run in whole_groups(parts, spec, window=width, hold=hold):
            width = run.x.shape[2] if hold and width else width
            yield encode_run(self, run, given, state, window=width, sample=sample)
            del run  # before the next frames come

    def new_encode_state(
        self, *, tile: TileLike = None, reference: Video | Tensor | None = None
    ) -> EncodeState:
        """Where a stream of frames begins: for `encode_chunk`, one for each stream."""
        return EncodeState(**self._stream(tile, self.encodes_in_strips), reference=reference)

    def encode_chunk(
        self,
        x: ClipLike,
        state: EncodeState,
        *,
        sample: torch.Generator | None = None,
    ) -> Tokens:
        """The tokens of the next frames of a stream, which `state` then stands behind.

        Give whole groups: `spec.first_frames`, then multiples of `spec.frames_per_group`. What is
        left over is filled and ends the stream. ValueError after that.
        """
        return encode_next(self, as_clip(x), state, sample=sample)

    def decode(
        self,
        tokens: TokensLike,
        *,
        chunk: int | None = None,
        tile: TileLike = None,
        start: int | None = None,
        stop: int | None = None,
        reference: ClipLike | None = None,
    ) -> Video | Tensor:
        """The frames of `tokens`, or those from `start` up to `stop`, without decoding the rest.

        `tokens` may also be the path of a .reel file, or bare ids `b *grid` or latents `b d *grid`
        of a clip of whole groups and cells. Gives a `Video` (rounded to bytes) or a tensor (neither
        clamped nor rounded, in the given dtype), as `encode` was given; of a batch of videos one
        tensor of bytes "b c t h w". `chunk` frames at a time,
        in tiles of `tile` pixels; `reference` as `encode` was given it. ValueError for tokens of
        another tokenizer, or frames that the clip does not have.
        """
        tokens = as_tokens(tokens, self)
        self._check(tokens)
        spec, axes = self.spec, tokens.settings.get("axes")
        require_beginning(tokens, spec)
        first, end = frame_range(tokens.frames, start, stop)
        if tokens.settings.get("pad") == "front":
            check_pad("front", chunk=chunk, tile=tile, reference=reference)
            video = self.decode_front(tokens.part(0, tokens.grid[0]))
            return with_axes(begun_at(first, cut(video, first, end), tokens, spec), axes)
        check_chunk(chunk)
        span = self.span(tokens, first, end)
        part = tokens.part(span.early, span.late, frames=(span.before, end))
        hold = chunk is None and spec.window is None
        width, whole = chunk or spec.frames_per_group, hold or spec.independent
        pieces = [part] if whole else split_steps(part, spec, width)
        options: Options = {"tile": tile, "hold": hold, "inside": True, "reference": reference}
        frames = self.stream_decode(pieces, **options)
        video = join_frames(list(frames), first - span.before)
        return with_axes(begun_at(first, video, tokens, spec), axes)

    def stream_decode(
        self,
        parts: Iterable[Tokens],
        *,
        tile: TileLike = None,
        hold: bool = False,
        inside: bool = False,
        reference: ClipLike | None = None,
    ) -> Iterator[Video | Tensor]:
        """The frames of a stream of parts, as `stream_encode` made them, in constant memory.

        `hold` promises that `parts` is a single one, `inside` that the first begins a `span`.
        Frames beyond a part's own wait for the next. ValueError for parts of a clip that are
        decoded only with what comes before.
        """
        given, parts = peek(coded_parts(parts))
        self._check(given)
        state = self.new_decode_state(tile=tile, reference=reference)
        state.independent |= hold
        state.step = given.step or None if inside else None
        for part, last in mark_last(whole_windows(parts, self.spec)):
            frames = decode_run(self, part, state, last=last)
            if frames is not None:
                yield frames
            del frames
        require_all(state.due)

    def new_decode_state(
        self, *, tile: TileLike = None, reference: Video | Tensor | None = None
    ) -> DecodeState:
        """Where a stream of tokens begins: for `decode_chunk`, one for each stream."""
        return DecodeState(**self._stream(tile, self.spec.strips), reference=reference)

    def decode_chunk(
        self, tokens: Tokens | Tensor, state: DecodeState, *, last: bool = False
    ) -> Video | Shaped[Tensor, "b c t h w"] | None:
        """The frames that the next tokens of a stream make, which `state` then stands behind.

        Give `Tokens` as `encode_chunk` made them, for what was encoded, or ids `b *grid` or latents
        `b d *grid` of whole groups, for a tensor of all their frames. A tokenizer that looks ahead
        holds a group back until the next chunk, or `last`; None where no frame is due yet.
        """
        return decode_next(self, tokens, state, last=last)

    def encode_front(self, x: Video | Tensor, *, sample: torch.Generator | None = None) -> Tokens:
        """Tokens with the clip completed in front; ValueError where a family has no such rule."""
        raise ValueError(f"{self.name} pads clips at the end only: leave pad='end'")

    def decode_front(self, tokens: Tokens) -> Video | Tensor:
        """What `encode_front` was given."""
        raise ValueError(f"{self.name} pads clips at the end only, these tokens in front")

    # Between frames, groups and steps.

    @property
    def encodes_in_strips(self) -> bool:
        """Whether frames are encoded in strips: a gradient needs whole ones."""
        return self.spec.strips and not self.refine

    def _stream(self, tile: TileLike, strips: bool) -> dict[str, Any]:
        spec = replace(self.spec, strips=strips)
        return {**tiling_of(tile, spec), "independent": spec.independent}

    def network_input(self, x: Tensor) -> Tensor:
        """Frames as the network takes them: its device and dtype, whole cells."""
        spec = self.spec
        if spec.size is not None and tuple(x.shape[3:]) != spec.size:
            raise ValueError(
                f"{self.name} codes frames of {spec.size[0]}x{spec.size[1]} (height x width), "
                f"these have {x.shape[3]}x{x.shape[4]}: read the video with size={spec.size}"
            )
        return pad_space(x.to(device=self.device, dtype=self.dtype), spec.factors[1:])

    def span(self, tokens: Tokens | Reel, first: int, end: int) -> StepSpan:
        """The steps to decode for frames `first` to `end`, with all that those depend on."""
        return find_span(self.spec, tokens, first, end)

    def _check(self, tokens: Tokens | Reel) -> None:
        """ValueError unless this tokenizer can have made `tokens`."""
        check_tokens(tokens, self)

    def gradient(self, x: Tensor) -> AbstractContextManager[None]:
        """Gradients in training, or where `x` asks for them."""
        if not torch.is_grad_enabled() or self.training or x.requires_grad:
            return nullcontext()  # nothing to switch, so that an exported step can be saved
        return torch.no_grad()

    # The model itself.

    def save_pretrained(self, folder: str | Path, *, small: bool = False) -> Path:
        """Write config.json, model.safetensors and README.md; `small`: 8-bit weights, others."""
        weights, card = self.state_dict(), model_card(self.spec)
        bits: Bits | None = 8 if small else None
        return write_folder(folder, config_record(self, bits), weights, bits=bits, card=card)
