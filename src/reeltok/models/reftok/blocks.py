"""One block of a RefTok through its network, and the closed loop over blocks in their order.

Both sides pass a block to VidTok's encoder or decoder as a stream does; what they see of the
references joins it on the way (injection.py). Encoding decodes too: the last decoded frame is the
next reference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.models.reftok.coded import CodedBlock, Decoded, Strip
from reeltok.models.reftok.features import ReferenceFeatures, WholeReference
from reeltok.models.reftok.flow import DecoderFlow, FoundFields, follow_found
from reeltok.models.reftok.injection import (
    ReferenceInjection,
    RefTokConfig,
    along_batch,
    both_masks,
    decoder_shape,
    encoder_shape,
    masked,
    replace_clips,
    rows_at,
    split_stages,
    stand_still,
    still_patches,
)
from reeltok.models.reftok.motion import BlockMotion, enlarge_field, search
from reeltok.models.reftok.reference import NO_REFERENCES, Reference, References
from reeltok.models.reftok.skip import (
    copy_skipped,
    count_still,
    keep_coded,
    mean_errors,
    skipped_cells,
    worth_skipping,
)
from reeltok.models.vidtok.network import Decoder, Encoder, running_order
from reeltok.models.vidtok.stages import Down, Patch, Up
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.nn.quantizers.contract import without_cache
from reeltok.nn.rows import first_row
from reeltok.tokenizer.contract import Tokenizer

# What a stream keeps beside its layers' own: the references as the decoder has them, what they show
# in the original, and the decoder's last features.
REFERENCES, ORIGINALS, FEATURES = "references", "originals", "features"


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
        self.flow = None
        if config.motion is not None and self.decoder_injection is not None:
            widths = self.decoder_injection.reference_encoder.widths
            follows = config.motion.where != "encoder"
            shape = decoder_shape(config, self.decoder)
            patch = self.decoder.patch
            self.flow = DecoderFlow(shape, widths, config.motion, patch) if follows else None

    @property
    def closed(self) -> bool:
        """Whether encoding decodes: for the encoder, for what is skipped, or to refine latents."""
        joins = self.encoder_injection is not None or self.config.skip > 0
        return (joins and self.config.policy != "none") or self.refine > 0

    # One block through the network.

    def encode_block(
        self,
        x: Float[Tensor, "b t h w c"],
        past: Past,
        reference: ReferenceFeatures | None,
        reference_mask: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """What the quantizer reads of a block; the plain encoder's where no reference joins."""
        injection, encoder = self.encoder_injection, self.encoder
        patches = encoder.patch(x, past)
        y = encoder.conv_in(patches, past)
        if injection is not None and reference is not None:
            y = injection.join_fine(y, reference, reference_mask, patches=patches, past=past)
        early, late = split_stages(running_order(encoder), Down)
        for stage in early:
            y = stage(y, past)
        if injection is not None and reference is not None:
            y, _ = injection.join_coarse(y, reference, reference_mask, past)
        for stage in late:
            y = stage(y, past)
        return encoder.conv_out(encoder.norm(y), past)

    def decode_block(
        self,
        z: Float[Tensor, "b t h w d"],
        past: Past,
        reference_mask: Bool[Tensor, " b"] | None = None,
        *,
        reference: WholeReference | None = None,
        strip: Strip | None = None,
    ) -> Decoded:
        """The frames of a block; the plain decoder's where nothing is known yet.

        `reference` is what the past knows, or what was read of whole frames for a `strip`.
        """
        injection, decoder, flow, along = self.decoder_injection, self.decoder, self.flow, None
        reference = reference or self._reference_in(past, injection, decoder.patch)
        joins, followed, field = None, None, None
        y = decoder.conv_in(z, past)
        if injection is not None and reference is not None:
            joins = stand_still(reference, decoder.patch, None if strip is None else strip.cells)
            if flow is not None:
                field = flow.begin(y, joins, past)
                joins = replace(joins, coarse=flow.follow_coarse(reference, field, past))
            y, along = injection.join_coarse(y, joins, reference_mask, past)
        early, late = split_stages(running_order(decoder), Up)
        for stage in early:
            y = stage(y, past)
        if injection is not None and reference is not None and joins is not None:
            if flow is not None and field is not None:
                followed = flow.follow(reference, field, y, decoder.patch, past)
                joins = replace(joins, fine=followed.fine, patches=followed.patches)
            y = injection.join_fine(y, joins, reference_mask, along=along, past=past)
        for stage in late:
            y = stage(y, past)
        features = F.layer_norm(y, y.shape[-1:])
        if past.rows is None:
            past.kept[FEATURES] = features[:, -1:].clone()
        patches = decoder.conv_out(decoder.norm(y), past)
        if injection is not None and joins is not None:
            patches = injection.copy_pixels(patches, features, joins, reference_mask, past)
        made = decoder.patch.inverse(patches, past)
        if self.config.skip and reference is not None:
            skipped = skipped_cells(z) if strip is None else strip.skipped
            cell, top = self.config.factors[1:], first_row(past, decoder.conv_out, made)
            rows = slice(top, top + made.shape[2])
            still = rows_at(reference.frame, decoder.conv_out, rows, 1)
            made = copy_skipped(made, still, masked(reference_mask, skipped), cell, top)
        return Decoded(made, features[:, -1:], followed)

    # Motion.

    def find_motion(self, block: Float[Tensor, "b t h w c"], past: Past) -> BlockMotion | None:
        """What the encoder's search finds; None where it does not search, or has no reference."""
        if not self.config.searches or not self._has_reference(past):
            return None
        before = past.kept[REFERENCES][:, 0].detach()
        return search(before, block, steps=self.config.steps, cell=self.config.factors[1:])

    def encoder_reference(
        self, past: Past, found: BlockMotion | None, frames: int
    ) -> ReferenceFeatures | None:
        """What joins the encoder for a block, along the motion that was found."""
        patch = self.encoder.patch
        reference = self._reference_in(past, self.encoder_injection, patch)
        if reference is None or found is None:
            return None if reference is None else stand_still(reference, patch)
        return follow_found(reference, self.fields_of(found.field), frames, patch)

    def fields_of(self, field: Float[Tensor, "b s h w 4"]) -> FoundFields:
        """A field of the search at both scales."""
        (_, height, width), (_, fh, fw) = self.config.factors, self.config.body.patch
        return FoundFields(field, enlarge_field(field, (height // fh, width // fw)))

    # Cells that are skipped.

    def _quantize(
        self,
        features: Float[Tensor, "b s h2 w2 d"],
        block: Float[Tensor, "b t h w c"],
        past: Past,
        mask: Bool[Tensor, " b"] | None,
        draw: Mapping[str, Any],
    ) -> tuple[Quantized, Decoded | None]:
        """The tokens of a block, with SKIP where it pays; also its frames, where they are known.

        What a block would be without SKIP is decoded first, to know what its tokens are worth.
        """
        skips = self.config.skip > 0 and self._has_reference(past)
        none = features.new_zeros(features.shape[:-1], dtype=torch.bool)
        coding: dict[str, Any] = {"skipped": none} if skips else {}
        features = self._refined_block(features, block, past, mask, **coding)
        if not skips:
            return self.round_to_stored(self.quantizer(features, **draw)), None
        with torch.no_grad(), without_cache(features):
            cells = (none.shape[1], none.shape[2], none.shape[3])
            copied = mean_errors(block, past.kept[REFERENCES][:, :1], cells)
            rests = self.resting(past, block, copied)
            reference = self._reference_in(past, self.decoder_injection, self.decoder.patch)
            coded, after = self.quantizer(features, **draw, **coding), past.copy()
            made = self.decode_block(coded.z, after, mask, reference=reference)
            errors = mean_errors(block, made.frames, cells), copied
            worth = self.worth_of_bits(features, coded.ids, past, block)
            allowed = self.config.skip, self.config.skip_margin
            skipped = masked(mask, worth_skipping(*errors, *allowed, worth=worth, rests=rests))
        if torch.is_grad_enabled():
            return self.quantizer(features, **draw, skipped=skipped), None
        if skipped.any():
            coded, after = self.quantizer(features, **draw, skipped=skipped), past.copy()
            made = self.decode_block(coded.z, after, mask, reference=reference)
        past.kept, past.begun = after.kept, after.begun
        return coded, made

    def resting(
        self, past: Past, block: Float[Tensor, "b t h w c"], copied: Float[Tensor, "b s h2 w2"]
    ) -> Bool[Tensor, "b 1 h2 w2"] | None:
        """Which cells have stood still for long enough; None where that is not asked."""
        enough = self.config.skip_after
        return count_still(past, block, copied, enough) if enough and self.config.skip else None

    def keep_original(
        self, past: Past, frame: Float[Tensor, "b 1 h w c"], coded: Quantized | None = None
    ) -> None:
        """Keep what the last frame shows, for cells that stand still; `coded` tells what it is."""
        if self.config.skip_after and self.config.skip:
            skipped = None if coded is None else skipped_cells(coded.z)
            keep_coded(past, frame, self.config.factors[1:], skipped)

    def _refined_block(
        self,
        features: Float[Tensor, "b s h2 w2 d"],
        frames: Float[Tensor, "b t h w c"],
        past: Past,
        mask: Bool[Tensor, " b"] | None = None,
        **options: Any,
    ) -> Float[Tensor, "b s h2 w2 d"]:
        """What the quantizer reads (with its `options`), refined where the tokenizer does."""
        if not self.refine:
            return features
        reference = self._reference_in(past.copy(), self.decoder_injection, self.decoder.patch)

        def decode(tried: Tensor) -> Tensor:
            z = self.quantizer(tried, **options).z
            return self.decode_block(z, past.copy(), mask, reference=reference).frames

        return self.refined(features, frames, decode, past, **options)

    # What a stream remembers beside its layers' own.

    def _reference_in(
        self, past: Past, injection: ReferenceInjection | None, patch: Patch
    ) -> WholeReference | None:
        """What one side reads of the references; None where it has no use for them."""
        if injection is None or not self._has_reference(past):
            return None
        features = self.read_references(injection, patch, past, past)
        return WholeReference(past.kept[REFERENCES][:, :1], *features)

    def read_references(
        self, injection: ReferenceInjection, patch: Patch, known: Past, past: Past
    ) -> tuple[Float[Tensor, "b 1 h w r"], Float[Tensor, "b 1 h2 w2 r2"]]:
        """The features that one side reads of `known` references; in strips, the rows so far."""
        stills, errors = still_patches(patch, known.kept[REFERENCES]), None
        if injection is self.encoder_injection:
            errors = still_patches(patch, known.kept[ORIGINALS]) - stills
        return injection.read(stills, known.kept[FEATURES], errors, past=past)

    def _has_reference(self, past: Past) -> bool:
        return REFERENCES in past.kept and self.config.policy != "none"

    def remember(
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
        features, trains = self.encode_block(frame, past, None), self.quantizer.training
        self.quantizer.train(False)  # nothing is coded: no codebook follows it, no loss counts it
        quantized = self.round_to_stored(self.quantizer(features))
        self.quantizer.train(trains)
        self.decode_block(quantized.z, past)
        self.remember(past, REFERENCES, frame)
        return frame

    def _forget(
        self, begin: Reference, past: Past, like: Tensor, original: Tensor | None = None
    ) -> Bool[Tensor, " b"] | None:
        """Reset clips to a stored frame or to grey; which clips have a reference (None: all)."""
        clips, fresh = begin.clips.to(like.device), Past()
        self._prime(begin, fresh, like)
        if original is not None:
            self.remember(fresh, ORIGINALS, original)
            self.keep_original(fresh, original)
        replace_clips(past, fresh, clips)
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
            found = self.find_motion(block, past)
            joins = self.encoder_reference(past, found, block.shape[1])
            features = self.encode_block(block, past, joins, mask)
            quantized, made = self._quantize(features, block, past, mask, draw)
            if not decode:
                yield CodedBlock(quantized, block[:, :0])
                continue
            made = made or self.decode_block(quantized.z, past, mask)
            self.keep_ids(past, quantized.ids)
            self.remember(past, ORIGINALS, block[:, -1:], reset)
            self.keep_original(past, block[:, -1:], quantized)
            self.remember(past, REFERENCES, made.frames[:, -1:], reset)
            yield CodedBlock(quantized, made.frames, made.motion(found, block, mask))

    def _begin(
        self, x: Tensor, past: Past, begin: Reference | None, given: bool, draw: Mapping[str, Any]
    ) -> tuple[int, CodedBlock]:
        """How many frames come before the first block, and those: plain, stored, or none."""
        if begin is not None:
            frame = self._prime(begin, past, x[:, :1])
            self.remember(past, ORIGINALS, frame if given else x[:, :1])
            self.keep_original(past, frame if given else x[:, :1])
            return (0, CodedBlock(None, frame[:, :0])) if given else (1, CodedBlock(None, frame))
        features = self._refined_block(self.encode_block(x[:, :1], past, None), x[:, :1], past)
        quantized = self.round_to_stored(self.quantizer(features, **draw))
        frames = self.decode_block(quantized.z, past).frames
        self.keep_ids(past, quantized.ids)
        self.remember(past, ORIGINALS, x[:, :1])
        self.keep_original(past, x[:, :1])
        self.remember(past, REFERENCES, frames)
        return 1, CodedBlock(quantized, frames)
