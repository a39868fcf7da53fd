"""RefTok: blocks of frames, coded by a network that sees a frame which the decoder has already.

    block of frames ──► encoder ──► quantizer ──► ids ──► decoder ──► frames
                          ▲                                 ▲           │ the last one
    reference frame ──────┴─────────────────────────────────┴───────────┘ is the next reference

The paper (arXiv 2507.02862) publishes the idea, both sides see an unquantized frame. The network
is ours: VidTok's encoder and decoder as a stream of blocks, and injections that start at zero
(injection.py): untrained it is its plain body, to the bit. reference.py chooses and keeps frames.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import ValidationError
from torch import Tensor, nn

from reeltok.models.reftok.injection import (
    Lean,
    RefTokConfig,
    Seen,
    along_batch,
    both,
    decoder_frontier,
    encoder_frontier,
    parted,
    still_patches,
)
from reeltok.models.reftok.reference import START, USED, choose, kept_clips, recall
from reeltok.models.vidtok.network import Decoder, Encoder, channels_first, running_order
from reeltok.models.vidtok.stages import Down, Patch, Up
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized, join
from reeltok.tokenizer.contract import Reconstruction, Tokenizer
from reeltok.tokenizer.inputs import as_tokens, take
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.streaming import Frames, Leaning, Reference, Span, peek, whole_blocks
from reeltok.tokenizer.tiling import NOTHING, References
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel
from reeltok.video.record import Video

# What a stream keeps beside its layers' own: the references as the decoder has them, what they show
# in the original, and the decoder's last features.
REFERENCES, ORIGINALS, FEATURES = "references", "originals", "features"


@dataclass(frozen=True)
class Coded:
    """A block on its way: its tokens (None: it has none) and the frames "b t h w c" made of it."""

    quantized: Quantized | None
    frames: Tensor


class RefTok(Tokenizer):
    """The tokenizer: a plain body, and what its two sides take from the references."""

    family = "reftok"
    loops = True

    def __init__(self, config: RefTokConfig, name: str = "reftok") -> None:
        super().__init__(config, name)
        self.encoder = Encoder(config.body)
        self.quantizer = config.quantizer.build()
        self.decoder = Decoder(config.body)
        both = config.where == "both"
        encodes, decodes = both or config.where == "encoder", both or config.where == "decoder"
        frontier = decoder_frontier(config, self.decoder)
        self.decoder_lean = Lean(frontier, config, copied=frontier.carried) if decodes else None
        frontier = encoder_frontier(config, self.encoder)
        self.encoder_lean = Lean(frontier, config, copied=None) if encodes else None

    @property
    def spec(self) -> Spec:
        config, given = self.config, self.config.start == "given"
        return Spec(
            name=self.name,
            family=self.family,
            factors=config.factors,
            causal=config.causal,
            first=config.block if given else 1,
            first_steps=config.steps if given else config.opening,
            group=config.block,
            group_steps=config.steps,
            channels=config.quantizer.channels,
            vocabulary=config.quantizer.vocabulary,
            parameters=self.parameter_count(),
            reach=None,
        )

    # One block through the network.

    def last_weight(self) -> nn.Parameter:
        return self.get_parameter("decoder.leave.weight")

    def encode_block(
        self,
        x: Float[Tensor, "b t h w c"],
        past: Past,
        leans: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """What the quantizer reads of a block; the plain encoder where nothing is known yet."""
        lean, encoder = self.encoder_lean, self.encoder
        seen = self._see(lean, past, encoder.patch)
        patches = encoder.patch(x, past)
        y = encoder.enter(patches, past)
        if lean is not None and seen is not None:
            y = lean.join_fine(y, seen, leans, patches=patches)
        early, late = parted(running_order(encoder), Down)
        for stage in early:
            y = stage(y, past)
        if lean is not None and seen is not None:
            y, _ = lean.join_coarse(y, seen, leans)
        for stage in late:
            y = stage(y, past)
        return encoder.leave(encoder.norm(y), past)

    def decode_block(
        self,
        z: Float[Tensor, "b t h w d"],
        past: Past,
        leans: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t2 h2 w2 c"]:
        """The frames of a block; the plain decoder's where nothing is known yet."""
        lean, decoder, along = self.decoder_lean, self.decoder, None
        seen = self._see(lean, past, decoder.patch)
        y = decoder.enter(z, past)
        if lean is not None and seen is not None:
            y, along = lean.join_coarse(y, seen, leans)
        early, late = parted(running_order(decoder), Up)
        for stage in early:
            y = stage(y, past)
        if lean is not None and seen is not None:
            y = lean.join_fine(y, seen, leans, along=along)
        for stage in late:
            y = stage(y, past)
        features = F.layer_norm(y, y.shape[-1:])
        past.kept[FEATURES] = features[:, -1:].clone()
        patches = decoder.leave(decoder.norm(y), past)
        if lean is not None and seen is not None:
            patches = lean.copy_pixels(patches, features, seen, leans)
        return decoder.patch.inverse(patches, past)

    # What a stream remembers beside its layers' own.

    def _see(self, lean: Lean | None, past: Past, patch: Patch) -> Seen | None:
        """Features of the references, for one side; None where it has no use for them."""
        if lean is None or REFERENCES not in past.kept or self.config.policy == "none":
            return None
        stills, errors = still_patches(patch, past.kept[REFERENCES]), None
        if lean is self.encoder_lean:
            errors = still_patches(patch, past.kept[ORIGINALS]) - stills
        return lean.read(stills, past.kept[FEATURES], errors)

    def _remember(
        self,
        past: Past,
        slot: str,
        frame: Float[Tensor, "b 1 h w c"],
        anew: Bool[Tensor, " b"] | None = None,
    ) -> None:
        """Keep a frame for later blocks as the policy says; clips that begin `anew` do so."""
        policy, old = self.config.policy, past.kept.get(slot)
        frames = frame.expand(-1, self.config.references, -1, -1, -1)
        if old is not None and policy.startswith("first"):
            stay = old if anew is None else torch.where(along_batch(anew, old), frames, old)
            frames = torch.cat([frame, stay[:, 1:]], dim=1) if "+" in policy else stay
        past.kept[slot] = frames.clone()

    def _prime(
        self, begin: Reference, past: Past, like: Float[Tensor, "b 1 h w c"]
    ) -> Float[Tensor, "b 1 h w c"]:
        """Pass a frame that both sides know (or grey) through the plain network; that frame."""
        frame = torch.zeros_like(like)
        if begin.frame is not None:
            frame = rearrange(begin.frame, "b c t h w -> b t h w c").to(like).contiguous()
        quantized = self._told(self.quantizer(self.encode_block(frame, past)))
        self.decode_block(quantized.z, past)
        self._remember(past, REFERENCES, frame)
        return frame

    def _forget(
        self, begin: Reference, past: Past, like: Tensor, original: Tensor | None = None
    ) -> Bool[Tensor, " b"] | None:
        """Let some clips begin anew, on a stored frame or on grey; which clips lean (None: all)."""
        clips, fresh = begin.clips.to(like.device), Past()
        self._prime(begin, fresh, like)
        if original is not None:
            self._remember(fresh, ORIGINALS, original)
        for name, new in fresh.kept.items():
            old = past.kept.get(name, new)
            past.kept[name] = torch.where(along_batch(clips, new), new, old)
        past.begun += [name for name in fresh.begun if name not in past.begun]
        return None if begin.frame is not None else ~clips

    def _told(self, quantized: Quantized) -> Quantized:
        """What the decoder will get: latents as the 16-bit numbers that a file keeps."""
        if quantized.ids is not None:
            return quantized
        return replace(quantized, z=quantized.z.half().to(quantized.z.dtype))

    # Blocks in their order: the closed loop.

    def run(
        self,
        x: Float[Tensor, "b t h w c"],
        past: Past,
        references: References = NOTHING,
        *,
        given: bool = False,
        leans: Bool[Tensor, " b"] | None = None,
        step: int | None = None,
        sample: torch.Generator | None = None,
        decode: bool = True,
    ) -> Iterator[Coded]:
        """Code whole groups of frames, one after another.

        `references` come before the frames of their number; `given`: the first is none of the
        clip's own frames. `leans` says which clips may lean at all. Without `decode` no frames are
        made.
        """
        at, draw = 0, {"step": step, "sample": sample}
        if not past.has_begun(self.encoder.enter):
            at, coded = self._begin(x, past, references.get(0), given, draw)
            yield coded
        for first in range(at, x.shape[1], self.config.block):
            block, begin = x[:, first : first + self.config.block], references.get(first)
            may, anew = leans, None
            if begin is not None and not begin.start:
                anew = begin.clips.to(x.device)
                may = both(leans, self._forget(begin, past, block[:, :1], block[:, :1]))
            quantized = self._told(self.quantizer(self.encode_block(block, past, may), **draw))
            frames = block[:, :0]
            if decode:
                frames = self.decode_block(quantized.z, past, may)
                self._remember(past, ORIGINALS, block[:, -1:], anew)
                self._remember(past, REFERENCES, frames[:, -1:], anew)
            yield Coded(quantized, frames)

    def _begin(
        self, x: Tensor, past: Past, begin: Reference | None, given: bool, draw: Mapping[str, Any]
    ) -> tuple[int, Coded]:
        """How many frames come before the first block, and those: plain, stored, or none."""
        if begin is not None:
            frame = self._prime(begin, past, x[:, :1])
            self._remember(past, ORIGINALS, frame if given else x[:, :1])
            return (0, Coded(None, frame[:, :0])) if given else (1, Coded(None, frame))
        quantized = self._told(self.quantizer(self.encode_block(x[:, :1], past), **draw))
        frames = self.decode_block(quantized.z, past)
        self._remember(past, ORIGINALS, x[:, :1])
        self._remember(past, REFERENCES, frames)
        return 1, Coded(quantized, frames)

    def forward(
        self,
        x: Float[Tensor, "b c t h w"],
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
        references: References = NOTHING,
        leans: Bool[Tensor, " b"] | None = None,
    ) -> Reconstruction:
        """The differentiable path of training: a first frame and blocks, in closed loop.

        `references` and `leans` as for `run`: a stored first frame, blocks that begin anew.
        """
        rows = rearrange(take(x, self), "b c t h w -> b t h w c").contiguous()
        coded = list(self.run(rows, Past(), references, leans=leans, step=step, sample=generator))
        frames = rearrange(torch.cat([each.frames for each in coded], 1), "b t h w c -> b c t h w")
        return Reconstruction(x=frames, quantized=self._joined(coded, x))

    # The contract.

    def encode_part(
        self,
        x: Float[Tensor, "b c t h w"],
        past: Past | None = None,
        *,
        frames: int | None = None,
        sample: torch.Generator | None = None,
        references: References = NOTHING,
    ) -> Quantized:
        past, config = Past() if past is None else past, self.config
        rows = rearrange(x, "b c t h w -> b t h w c").contiguous()
        closed = config.policy != "none" and self.encoder_lean is not None
        options: dict[str, Any] = {"given": config.start == "given", "decode": closed}
        return self._joined(list(self.run(rows, past, references, sample=sample, **options)), x)

    def decode_part(
        self,
        z: Float[Tensor, "b d t h w"],
        past: Past | None = None,
        *,
        last: bool = True,
        references: References = NOTHING,
    ) -> Float[Tensor, "b c t2 h2 w2"]:
        past, steps = Past() if past is None else past, self.config.steps
        z = rearrange(z, "b d t h w -> b t h w d").contiguous()
        (_, fh, fw), (b, _, h, w, _), begin = self.config.factors, z.shape, references.get(0)
        grey = z.new_zeros(b, 1, h * fh, w * fw, self.config.body.colours)
        at, made = 0, [grey[:, :0]]
        if not past.has_begun(self.decoder.enter) and (begin is None or begin.start):
            if begin is None:
                at, frame = 1, self.decode_block(z[:, :1], past)
                self._remember(past, REFERENCES, frame)
            else:
                frame = self._prime(begin, past, grey)
            made.append(frame[:, :0] if self.config.start == "given" else frame)
        for first in range(at, z.shape[1], steps):
            block, begin, may, anew = z[:, first : first + steps], references.get(first), None, None
            assert block.shape[1] == steps, "whole_blocks cuts streams into blocks"
            if begin is not None and not begin.start:
                anew, may = begin.clips.to(z.device), self._forget(begin, past, grey)
            made.append(self.decode_block(block, past, may))
            self._remember(past, REFERENCES, made[-1][:, -1:], anew)
        return rearrange(torch.cat(made, dim=1), "b t h w c -> b c t h w")

    def lookup(self, ids: Int[Tensor, "b t h w"]) -> Float[Tensor, "b d t h w"]:
        return rearrange(self.quantizer.lookup(ids), "b t h w d -> b d t h w")

    def _joined(self, coded: list[Coded], x: Float[Tensor, "b c t h w"]) -> Quantized:
        """The tokens of blocks as those of one run."""
        parts = [each.quantized for each in coded if each.quantized is not None]
        if not parts:  # a stored frame alone
            (_, fh, fw), quantizer = self.config.factors, self.config.quantizer
            z = x.new_zeros(len(x), quantizer.channels, 0, x.shape[3] // fh, x.shape[4] // fw)
            ids = z[:, 0].long() if quantizer.vocabulary is not None else None
            return Quantized(z=z, ids=ids, loss=x.new_zeros(()))
        return channels_first(join(parts))

    # References, and other ways to use the same network.

    def under(self, **values: Any) -> "RefTok":
        """The same network used in another way: `policy`, `start`, `quality`, `cuts`, `refresh`.

        ValueError for what the network cannot do.
        """
        try:
            config = replace(self.config, **values)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ValueError(f"{self.name} cannot be used with {values}: {message}") from error
        if config == self.config:
            return self
        self.hash()  # once for all views
        other = copy.copy(self)
        other.config = config
        return other

    def as_coded(self, tokens: Tokens | Reel) -> "RefTok":
        """The same network, used as it was for `tokens`."""
        settings = tokens.settings
        used = {name: settings[key] for key, name in USED.items() if key in settings}
        return self.under(**used)

    def stream_encode(
        self,
        parts: Iterable[Video | Float[Tensor, "b c t h w"]],
        *,
        reference: Video | Tensor | None = None,
        **options: Any,
    ) -> Iterator[Tokens]:
        view = self if reference is None else self.under(start="given")
        return Tokenizer.stream_encode(view, parts, reference=reference, **options)

    def decode(self, tokens: Tokens | Reel, **options: Any) -> Video | Float[Tensor, "b c t h w"]:
        tokens = as_tokens(tokens, self)
        return Tokenizer.decode(self.as_coded(tokens), tokens, **options)

    def stream_decode(
        self, parts: Iterable[Tokens], **options: Any
    ) -> Iterator[Video | Float[Tensor, "b c t h w"]]:
        first, parts = peek(parts)
        view = self.as_coded(first)
        parts = whole_blocks(parts, view.config.opening, view.config.steps)
        return Tokenizer.stream_decode(view, parts, **options)

    def span(self, tokens: Tokens | Reel, first: int, end: int) -> Span:
        """From the last block up to frame `first` at which all clips begin anew."""
        spec, kept = self.as_coded(tokens).spec, kept_clips(tokens.extras)
        anew = [int(at) for at, clips in kept.items() if at != START and len(clips) == tokens.batch]
        here = spec.steps(first + 1) - spec.group_steps
        early = max((step for step in anew if step <= here), default=0)
        late = min(tokens.grid[0], spec.steps(end))
        return Span(early, late, spec.frames(early) if early else 0)

    def choose_references(
        self, run: Frames, step: int, before: Tensor | None, reference: Tensor | None
    ) -> Leaning:
        leaning = choose(self.config, run.x, step, before, reference)
        return replace(leaning, references=self._entered(leaning.references))

    def find_references(self, part: Tokens, reference: Tensor | None) -> References:
        return self._entered(recall(self.config, part, reference))

    def _entered(self, references: References) -> References:
        """References as the network takes frames."""
        return {
            at: each if each.frame is None else replace(each, frame=self._enter(each.frame))
            for at, each in references.items()
        }
