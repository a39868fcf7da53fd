"""One block of a RefTok through its network, and the closed loop over blocks in their order.

Both sides pass a block to VidTok's encoder or decoder as a stream does; what they see of the
references joins it on the way (injection.py). Encoding decodes too: the last decoded frame is the
next reference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.models.reftok.injection import (
    ReferenceFeatures,
    ReferenceInjection,
    RefTokConfig,
    along_batch,
    both_masks,
    decoder_shape,
    encoder_shape,
    split_stages,
    still_patches,
)
from reeltok.models.reftok.reference import NO_REFERENCES, Reference, References
from reeltok.models.vidtok.network import Decoder, Encoder, running_order
from reeltok.models.vidtok.stages import Down, Patch, Up
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.contract import Tokenizer

# What a stream keeps beside its layers' own: the references as the decoder has them, what they show
# in the original, and the decoder's last features.
REFERENCES, ORIGINALS, FEATURES = "references", "originals", "features"


@dataclass(frozen=True)
class CodedBlock:
    """A block on its way: its tokens (None: it has none) and the frames "b t h w c" made of it."""

    quantized: Quantized | None
    frames: Tensor


class BlockCoder(Tokenizer):
    """The network: a plain body, and what its two sides take from the references."""

    def __init__(self, config: RefTokConfig, name: str) -> None:
        super().__init__(config, name)
        self.encoder = Encoder(config.body)
        self.quantizer = config.quantizer.build()
        self.decoder = Decoder(config.body)
        both = config.where == "both"
        encodes, decodes = both or config.where == "encoder", both or config.where == "decoder"
        shape = decoder_shape(config, self.decoder)
        self.decoder_injection = (
            ReferenceInjection(shape, config, copied=shape.carried) if decodes else None
        )
        shape = encoder_shape(config, self.encoder)
        self.encoder_injection = ReferenceInjection(shape, config, copied=None) if encodes else None

    # One block through the network.

    def encode_block(
        self,
        x: Float[Tensor, "b t h w c"],
        past: Past,
        reference_mask: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """What the quantizer reads of a block; the plain encoder where nothing is known yet."""
        injection, encoder = self.encoder_injection, self.encoder
        reference = self._read_references(injection, past, encoder.patch)
        patches = encoder.patch(x, past)
        y = encoder.conv_in(patches, past)
        if injection is not None and reference is not None:
            y = injection.join_fine(y, reference, reference_mask, patches=patches)
        early, late = split_stages(running_order(encoder), Down)
        for stage in early:
            y = stage(y, past)
        if injection is not None and reference is not None:
            y, _ = injection.join_coarse(y, reference, reference_mask)
        for stage in late:
            y = stage(y, past)
        return encoder.conv_out(encoder.norm(y), past)

    def decode_block(
        self,
        z: Float[Tensor, "b t h w d"],
        past: Past,
        reference_mask: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t2 h2 w2 c"]:
        """The frames of a block; the plain decoder's where nothing is known yet."""
        injection, decoder, along = self.decoder_injection, self.decoder, None
        reference = self._read_references(injection, past, decoder.patch)
        y = decoder.conv_in(z, past)
        if injection is not None and reference is not None:
            y, along = injection.join_coarse(y, reference, reference_mask)
        early, late = split_stages(running_order(decoder), Up)
        for stage in early:
            y = stage(y, past)
        if injection is not None and reference is not None:
            y = injection.join_fine(y, reference, reference_mask, along=along)
        for stage in late:
            y = stage(y, past)
        features = F.layer_norm(y, y.shape[-1:])
        past.kept[FEATURES] = features[:, -1:].clone()
        patches = decoder.conv_out(decoder.norm(y), past)
        if injection is not None and reference is not None:
            patches = injection.copy_pixels(patches, features, reference, reference_mask)
        return decoder.patch.inverse(patches, past)

    # What a stream remembers beside its layers' own.

    def _read_references(
        self, injection: ReferenceInjection | None, past: Past, patch: Patch
    ) -> ReferenceFeatures | None:
        """Features of the references, for one side; None where it has no use for them."""
        if injection is None or REFERENCES not in past.kept or self.config.policy == "none":
            return None
        stills, errors = still_patches(patch, past.kept[REFERENCES]), None
        if injection is self.encoder_injection:
            errors = still_patches(patch, past.kept[ORIGINALS]) - stills
        return injection.read(stills, past.kept[FEATURES], errors)

    def _remember(
        self,
        past: Past,
        slot: str,
        frame: Float[Tensor, "b 1 h w c"],
        reset: Bool[Tensor, " b"] | None = None,
    ) -> None:
        """Keep a frame for later blocks as the policy says; those of `reset` clips are replaced."""
        policy, old = self.config.policy, past.kept.get(slot)
        frames = frame.expand(-1, self.config.references, -1, -1, -1)
        if old is not None and policy.startswith("first"):
            stay = old if reset is None else torch.where(along_batch(reset, old), frames, old)
            frames = torch.cat([frame, stay[:, 1:]], dim=1) if "+" in policy else stay
        past.kept[slot] = frames.clone()

    def _prime(
        self, begin: Reference, past: Past, like: Float[Tensor, "b 1 h w c"]
    ) -> Float[Tensor, "b 1 h w c"]:
        """Pass a frame that both sides know (or grey) through the plain network; that frame."""
        frame = torch.zeros_like(like)
        if begin.frame is not None:
            frame = rearrange(begin.frame, "b c t h w -> b t h w c").to(like).contiguous()
        quantized = self.round_to_stored(self.quantizer(self.encode_block(frame, past)))
        self.decode_block(quantized.z, past)
        self._remember(past, REFERENCES, frame)
        return frame

    def _forget(
        self, begin: Reference, past: Past, like: Tensor, original: Tensor | None = None
    ) -> Bool[Tensor, " b"] | None:
        """Reset clips to a stored frame or to grey; which clips have a reference (None: all)."""
        clips, fresh = begin.clips.to(like.device), Past()
        self._prime(begin, fresh, like)
        if original is not None:
            self._remember(fresh, ORIGINALS, original)
        for name, new in fresh.kept.items():
            old = past.kept.get(name, new)
            past.kept[name] = torch.where(along_batch(clips, new), new, old)
        past.begun += [name for name in fresh.begun if name not in past.begun]
        return None if begin.frame is not None else ~clips

    def round_to_stored(self, quantized: Quantized) -> Quantized:
        """What the decoder will get: latents as the 16-bit numbers that a file keeps."""
        if quantized.ids is not None:
            return quantized
        return replace(quantized, z=quantized.z.half().to(quantized.z.dtype))

    # Blocks in their order: the closed loop.

    def run(
        self,
        x: Float[Tensor, "b t h w c"],
        past: Past,
        references: References = NO_REFERENCES,
        *,
        given: bool = False,
        reference_mask: Bool[Tensor, " b"] | None = None,
        step: int | None = None,
        sample: torch.Generator | None = None,
        decode: bool = True,
    ) -> Iterator[CodedBlock]:
        """Code whole groups of frames, one after another.

        `references` come before the frames of their number; `given`: the first is none of the
        clip's own frames. `reference_mask` says which clips may use references. Without `decode` no
        frames are made.
        """
        at, draw = 0, {"step": step, "sample": sample}
        if not past.has_begun(self.encoder.conv_in):
            at, coded = self._begin(x, past, references.get(0), given, draw)
            yield coded
        for first in range(at, x.shape[1], self.config.block):
            block, begin = x[:, first : first + self.config.block], references.get(first)
            mask, reset = reference_mask, None
            if begin is not None and not begin.start:
                reset = begin.clips.to(x.device)
                mask = both_masks(
                    reference_mask, self._forget(begin, past, block[:, :1], block[:, :1])
                )
            quantized = self.round_to_stored(
                self.quantizer(self.encode_block(block, past, mask), **draw)
            )
            frames = block[:, :0]
            if decode:
                frames = self.decode_block(quantized.z, past, mask)
                self._remember(past, ORIGINALS, block[:, -1:], reset)
                self._remember(past, REFERENCES, frames[:, -1:], reset)
            yield CodedBlock(quantized, frames)

    def _begin(
        self, x: Tensor, past: Past, begin: Reference | None, given: bool, draw: Mapping[str, Any]
    ) -> tuple[int, CodedBlock]:
        """How many frames come before the first block, and those: plain, stored, or none."""
        if begin is not None:
            frame = self._prime(begin, past, x[:, :1])
            self._remember(past, ORIGINALS, frame if given else x[:, :1])
            return (0, CodedBlock(None, frame[:, :0])) if given else (1, CodedBlock(None, frame))
        quantized = self.round_to_stored(self.quantizer(self.encode_block(x[:, :1], past), **draw))
        frames = self.decode_block(quantized.z, past)
        self._remember(past, ORIGINALS, x[:, :1])
        self._remember(past, REFERENCES, frames)
        return 1, CodedBlock(quantized, frames)
