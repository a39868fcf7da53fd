"""RefTok: blocks of frames, coded by a network that sees a frame which the decoder has already.

    block of frames ──► encoder ──► quantizer ──► ids ──► decoder ──► frames
                          ▲                                 ▲           │ the last one
    reference frame ──────┴─────────────────────────────────┴───────────┘ is the next reference

The paper (arXiv 2507.02862) publishes the idea, both sides see an unquantized frame. The network
is ours: VidTok's encoder and decoder as a stream of blocks, and injections that start at zero
(injection.py): untrained it is its plain body, to the bit. reference.py chooses and keeps frames.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import ValidationError
from torch import Tensor, nn

from reeltok.arguments import require_kind
from reeltok.files.parsing import first_error
from reeltok.models.reftok.blocks import REFERENCES, BlockCoder
from reeltok.models.reftok.coded import CodedBlock
from reeltok.models.reftok.flow import Motion
from reeltok.models.reftok.injection import (
    RefTokConfig,
)
from reeltok.models.reftok.reference import (
    NO_REFERENCES,
    SETTINGS,
    SKIPS,
    START,
    Reference,
    References,
    choose_references,
    cut_references,
    everyone,
    on_bytes,
    recall_references,
    stored_clips,
    whole_blocks,
)
from reeltok.models.reftok.strips import StripLoop
from reeltok.models.vidtok.network import channels_first
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized, join_quantized
from reeltok.tokenizer.chunks import DecodeState, EncodeState, require_state
from reeltok.tokenizer.contract import Reconstruction, Tokenizer
from reeltok.tokenizer.inputs import (
    ClipLike,
    TokensLike,
    as_clip,
    as_tokens,
    drawing,
    forward_input,
)
from reeltok.tokenizer.refinement import REFINEMENT
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.steps import StepSpan, coded_parts
from reeltok.tokenizer.streaming import FrameRun, SideInformation, peek
from reeltok.tokenizer.strips import FrameSource, Strips
from reeltok.tokenizer.tiling import Options
from reeltok.tokens.ids import require_gridded
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel
from reeltok.video.record import Video, unit_frames

USED = ("policy", "start", "quality", "cuts", "refresh", *SKIPS)
"""What `under` may change: how the same weights are used."""


class RefTok(BlockCoder):
    """The tokenizer: the closed loop behind the contract of every tokenizer."""

    family = "reftok"
    loops = True
    refines = True

    def __init__(self, config: RefTokConfig, name: str = "reftok") -> None:
        super().__init__(config, name)

    @property
    def spec(self) -> Spec:
        config, given = self.config, self.config.start == "given"
        used = {name: getattr(config, name) for name in USED}
        for name in ("skip_margin", "skip_after"):
            if not used[name]:  # nor did corpora say so before there was one
                del used[name]
        return Spec(
            name=self.name,
            family=self.family,
            factors=config.factors,
            causal=config.causal,
            first_frames=config.block if given else 1,
            first_steps=config.steps if given else config.opening,
            frames_per_group=config.block,
            steps_per_group=config.steps,
            channels=config.quantizer.channels,
            vocabulary=config.quantizer.vocabulary,
            parameters=self.parameter_count(),
            receptive_steps=None,
            strips=config.strips,
            widest=config.widest,
            held=config.held,
            used=used | self.used,
        )

    @property
    def configuration(self) -> dict[str, Any]:
        return {k: v for k, v in super().configuration.items() if k not in USED}

    def last_weight(self) -> nn.Parameter:
        return self.get_parameter("decoder.conv_out.weight")

    def forward(
        self,
        x: Shaped[Tensor, "b c t h w"],
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
        references: References = NO_REFERENCES,
        reference_mask: Bool[Tensor, " b"] | None = None,
        motions: list[Motion] | None = None,
    ) -> Reconstruction:
        """The differentiable path of training: a first frame and blocks, in closed loop.

        `references` and `reference_mask` as for `run`: a stored first frame, blocks that are reset.
        A stored first frame is the original on 8-bit levels unless `references` has one. The motion
        of each block is added to `motions`.
        """
        if not references and self.config.start in ("lossless", "webp"):
            references = {0: Reference(on_bytes(x[:, :, :1]), everyone(x), start=True)}
        rows = rearrange(forward_input(x, self), "b c t h w -> b t h w c").contiguous()
        coded = list(
            self.run(
                rows,
                Past(),
                references,
                reference_mask=reference_mask,
                step=step,
                sample=drawing(self, generator),
            )
        )
        if motions is not None:
            motions += [each.motion for each in coded if each.motion is not None]
        frames = rearrange(torch.cat([each.frames for each in coded], 1), "b t h w c -> b c t h w")
        return Reconstruction(x=frames, quantized=self._joined(coded_tokens(coded), x, x.shape[3:]))

    # The contract.

    def encode_part(
        self,
        x: Float[Tensor, "b c t h w"],
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
        references: References = NO_REFERENCES,
    ) -> Quantized:
        past = Past() if past is None else past
        rows = rearrange(x, "b c t h w -> b t h w c").contiguous()
        options: dict[str, Any] = {"given": self.config.start == "given", "decode": self.closed}
        coded = list(self.run(rows, past, references, sample=sample, **options))
        return self._joined(coded_tokens(coded), x, x.shape[3:])

    def decode_part(
        self,
        z: Float[Tensor, "b d t h w"],
        past: Past | None = None,
        *,
        last: bool = True,
        references: References = NO_REFERENCES,
    ) -> Float[Tensor, "b c t2 h2 w2"]:
        past, steps = Past() if past is None else past, self.config.steps
        z = rearrange(z, "b d t h w -> b t h w d").contiguous()
        (_, fh, fw), (b, _, h, w, _), begin = self.config.factors, z.shape, references.get(0)
        grey = z.new_zeros(b, 1, h * fh, w * fw, self.config.body.colours)
        at, made = 0, [grey[:, :0]]
        if not past.has_begun(self.decoder.conv_in) and (begin is None or begin.start):
            if begin is None:
                at, frame = 1, self.decode_block(z[:, :1], past).frames
                self.remember(past, REFERENCES, frame)
            else:
                frame = self._prime(begin, past, grey)
            made.append(frame[:, :0] if self.config.start == "given" else frame)
        for first in range(at, z.shape[1], steps):
            block, begin, mask, reset = (
                z[:, first : first + steps],
                references.get(first),
                None,
                None,
            )
            assert block.shape[1] == steps, "whole_blocks cuts streams into blocks"
            if begin is not None and not begin.start:
                reset, mask = begin.clips.to(z.device), self._forget(begin, past, grey)
            made.append(self.decode_block(block, past, mask).frames)
            self.remember(past, REFERENCES, made[-1][:, -1:], reset)
        return rearrange(torch.cat(made, dim=1), "b t h w c -> b c t h w")

    def encode_strips(
        self,
        x: FrameSource,
        strips: Strips,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
        references: References = NO_REFERENCES,
    ) -> Quantized:
        """What `encode_part` makes of the frames."""
        loop = self._loop(x.rows(slice(0, 0)), strips, x.shape[3:])
        return self._joined(loop.encode(x, references, sample), loop.like, loop.size)

    def decode_strips(
        self,
        z: Float[Tensor, "b d t h w"],
        strips: Strips,
        *,
        last: bool = True,
        references: References = NO_REFERENCES,
    ) -> Iterator[Tensor]:
        """What `decode_part` makes of the tokens, in rows."""
        (_, fh, fw), z = self.config.factors, rearrange(z, "b d t h w -> b t h w d").contiguous()
        loop = self._loop(z, strips, (z.shape[2] * fh, z.shape[3] * fw))
        for rows in loop.decode(z, references):
            yield rearrange(rows, "b t h w c -> b c t h w")

    def _loop(self, like: Tensor, strips: Strips, size: Sequence[int]) -> StripLoop:
        (_, fh, fw), (height, width) = self.config.factors, size
        whole = height + -height % fh, width + -width % fw
        return StripLoop(coder=self, strips=strips, like=like.new_zeros(len(like)), size=whole)

    def lookup(self, ids: Int[Tensor, "b t h w"]) -> Float[Tensor, "b d t h w"]:
        require_gridded(ids, "batch steps rows columns")
        return rearrange(self.quantizer.lookup(ids), "b t h w d -> b d t h w")

    def _joined(self, parts: list[Quantized], like: Tensor, size: Sequence[int]) -> Quantized:
        """The tokens of blocks as those of one run of frames of `size` pixels."""
        if not parts:  # a stored frame alone
            (_, fh, fw), quantizer = self.config.factors, self.config.quantizer
            z = like.new_zeros(len(like), quantizer.channels, 0, size[0] // fh, size[1] // fw)
            ids = z[:, 0].long() if quantizer.vocabulary is not None else None
            return Quantized(z=z, ids=ids, loss=like.new_zeros(()))
        return channels_first(join_quantized(parts))

    # References, and other ways to use the same network.

    def under(self, **values: Any) -> "RefTok":
        """The same network used in another way: values of USED and of REFINEMENT.

        ValueError for what the network cannot do.
        """
        refined = {name: values.pop(name) for name in REFINEMENT if name in values}
        if refined:
            return super().under(**refined).under(**values)
        try:
            config = replace(self.config, **values)
        except ValidationError as error:
            said = first_error(error)
            raise ValueError(f"{self.name} cannot be used with {values}: {said}") from error
        if config == self.config:
            return self
        self.hash()  # once for all views
        other = copy.copy(self)
        other.config = config
        return other

    def as_coded(self, tokens: Tokens | Reel) -> "RefTok":
        """The same network, used as it was for `tokens`."""
        if not isinstance(tokens, Reel):
            require_kind(tokens, Tokens, "a tokenizer decodes Tokens")
        settings = tokens.settings
        used = {name: settings[key] for key, name in SETTINGS.items() if key in settings}
        if "policy" in used:  # tokens that say how they were made, without SKIP unless they say so
            used = dict.fromkeys(SKIPS, 0) | used
        return self.under(**used)

    def stream_encode(
        self,
        parts: Iterable[ClipLike],
        *,
        reference: ClipLike | None = None,
        **options: Any,
    ) -> Iterator[Tokens]:
        view = self if reference is None else self.under(start="given")
        return Tokenizer.stream_encode(view, parts, reference=reference, **options)

    def decode(self, tokens: TokensLike, **options: Any) -> Video | Tensor:
        bare = not isinstance(tokens, Tokens | Reel | str | Path)
        stored = self.config.start in ("lossless", "webp")  # which ids alone do not hold
        view = self.under(start="plain") if bare and stored else self
        tokens = as_tokens(tokens, view)
        return Tokenizer.decode(view.as_coded(tokens), tokens, **options)

    def stream_decode(
        self,
        parts: Iterable[Tokens],
        *,
        reference: ClipLike | None = None,
        **options: Any,
    ) -> Iterator[Video | Tensor]:
        first, parts = peek(coded_parts(parts))
        view = self.as_coded(first)
        parts = whole_blocks(parts, view.config.opening, view.config.steps)
        return Tokenizer.stream_decode(view, parts, reference=reference, **options)

    def new_encode_state(self, *, reference: Any = None, **options: Any) -> EncodeState:
        return super().new_encode_state(reference=as_frame(reference), **options)

    def new_decode_state(self, *, reference: Any = None, **options: Any) -> DecodeState:
        return super().new_decode_state(reference=as_frame(reference), **options)

    def encode_chunk(self, x: ClipLike, state: EncodeState, **options: Any) -> Tokens:
        require_state(state, EncodeState)
        view = self if state.reference is None else self.under(start="given")
        return Tokenizer.encode_chunk(view, x, state, **options)

    def decode_chunk(
        self, tokens: Tokens | Tensor, state: DecodeState, *, last: bool = False
    ) -> Video | Shaped[Tensor, "b c t h w"] | None:
        if isinstance(tokens, Tensor) and self.config.start != "plain":
            raise ValueError(
                f"bare ids do not hold the frame that {self.name} begins with: give Tokens"
            )
        view = self if isinstance(tokens, Tensor) else self.as_coded(tokens)
        whole = tokens if isinstance(tokens, Tensor) else view.whole(tokens)
        return Tokenizer.decode_chunk(view, whole, state, last=last)

    def whole(self, tokens: Tokens) -> Tokens:
        """`tokens` themselves. ValueError unless they are whole blocks."""
        return Tokens.join(list(whole_blocks([tokens], self.config.opening, self.config.steps)))

    def span(self, tokens: Tokens | Reel, first: int, end: int) -> StepSpan:
        """From the last block up to frame `first` at which all clips are reset."""
        spec, kept = self.as_coded(tokens).spec, stored_clips(tokens.extras)
        resets = [
            int(at) for at, clips in kept.items() if at != START and len(clips) == tokens.batch
        ]
        here = spec.steps(first + 1) - spec.steps_per_group
        early = max((step for step in resets if step <= here), default=0)
        late = min(tokens.grid[0], spec.steps(end))
        return StepSpan(early, late, spec.frames(early) if early else 0)

    def side_information(
        self, run: FrameRun, step: int, before: Tensor | None, reference: Any
    ) -> SideInformation:
        chosen = choose_references(self.config, run.x, step, before, reference)
        return replace(chosen, options=self._entered(chosen.options["references"]))

    def decoding_options(self, part: Tokens, reference: Any, *, begun: bool) -> Options:
        return self._entered(recall_references(self.config, part, reference, begun=begun))

    def crop_options(self, options: Options, rows: slice, columns: slice) -> Options:
        cropped = {at: each.crop(rows, columns) for at, each in references_of(options).items()}
        return {**options, "references": cropped}

    def cut_options(self, options: Options, at: int) -> tuple[Options, Options]:
        early, late = cut_references(references_of(options), at)
        return {**options, "references": early}, {**options, "references": late}

    def _entered(self, references: References) -> Options:
        """References as the network takes frames."""
        entered = {
            at: each if each.frame is None else replace(each, frame=self.network_input(each.frame))
            for at, each in references.items()
        }
        return {"references": entered}


def coded_tokens(coded: list[CodedBlock]) -> list[Quantized]:
    """The tokens of the blocks that have some."""
    return [each.quantized for each in coded if each.quantized is not None]


def references_of(options: Options) -> References:
    """The references among arguments; none for bare tokens."""
    return options.get("references", NO_REFERENCES)


def as_frame(reference: Video | Tensor | None) -> Tensor | None:
    """The caller's reference in [-1, 1]. ValueError for what is not a frame."""
    return None if reference is None else unit_frames(as_clip(reference), "the reference")
