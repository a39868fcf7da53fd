"""The closed loop where frames are read in strips from top to bottom.

Blocks follow one another as in blocks.py, and each is encoded strip by strip, then decoded so.
References wait beside a strip's pasts; before a block goes through, a side reads them, strip by
strip too, since rows that follow a motion come from other strips. Where there is no reference yet
it is zero and masked, so that layers wait for as many rows in every block.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.models.reftok.blocks import FEATURES, ORIGINALS, REFERENCES, BlockCoder
from reeltok.models.reftok.coded import Decoded, Strip
from reeltok.models.reftok.features import WholeReference
from reeltok.models.reftok.flow import FoundFields, follow_found
from reeltok.models.reftok.injection import ReferenceInjection, masked, replace_clips, stand_still
from reeltok.models.reftok.motion import grey, search_grey, searched_frames
from reeltok.models.reftok.reference import Reference, References
from reeltok.models.reftok.skip import mean_errors, skipped_cells, worth_skipping
from reeltok.models.vidtok.stages import Patch
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.nn.rows import SlidingRows
from reeltok.tokenizer.offload import Offload
from reeltok.tokenizer.strips import FilledRows, FrameSource, Regrouped, Strips

LOOP, ENCODER, DECODER, KNOWN, READER, READ = (
    "loop",
    "encoder",
    "decoder",
    "known",
    "reader",
    "read",
)
"""What pasts of strips belong to: the stream, its two networks, references, and who reads them."""
FINE, COARSE = "fine", "coarse"


@dataclass(frozen=True, kw_only=True)
class StripLoop:
    """Blocks of one stream through `coder`, each in `strips`; `like` has their batch and type.

    `size` are the pixels (rows, columns) of frames, in whole cells.
    """

    coder: BlockCoder
    strips: Strips
    like: Tensor
    size: tuple[int, int]

    # Blocks in their order.

    def encode(
        self, x: FrameSource, references: References, sample: torch.Generator | None
    ) -> list[Quantized]:
        """The tokens of whole groups of frames, one after another."""
        config, draw = self.coder.config, {"sample": sample}
        closed = self.coder.closed
        at, parts, begin, given = 0, [], references.get(0), config.start == "given"
        if self._begin():
            first, at = x.part(0, 1), int(not given)
            if begin is None:
                parts.append(self._block(first, first, draw, self._nobody(), closed=closed))
            else:
                self._prime(begin, None if given else first)
        for start in range(at, x.shape[2], config.block):
            block, begin = x.part(start, start + config.block), references.get(start)
            mask, reset = None, None
            if begin is not None and not begin.start:
                reset = begin.clips.to(self.like.device)
                mask = self._forget(begin, block.part(0, 1))
            last = block.part(config.block - 1, config.block)
            parts.append(self._block(block, last, draw, mask, reset, closed=closed))
        return parts

    def decode(
        self, z: Float[Tensor, "b t h w d"], references: References
    ) -> Iterator[Float[Tensor, "b t2 h2 w2 c"]]:
        """The rows of the frames of whole groups of steps, one group after another."""
        config, at, begin = self.coder.config, 0, references.get(0)
        if not self._has_begun() and (begin is None or begin.start):
            self._begin()
            if begin is None:
                at = 1
                yield from self._show(z[:, :1], self._nobody())
            else:
                frame = rows_of(self._prime(begin), slice(0, z.shape[2]))
                yield frame[:, :0] if config.start == "given" else frame
        for start in range(at, z.shape[1], config.steps):
            begin, mask, reset = references.get(start), None, None
            if begin is not None and not begin.start:
                reset, mask = begin.clips.to(self.like.device), self._forget(begin)
            yield from self._show(z[:, start : start + config.steps], mask, reset)

    def _begin(self) -> bool:
        """Whether the stream begins now; from here on it has."""
        return self.strips.whole(LOOP).begin(self.coder.decoder.conv_in)

    def _has_begun(self) -> bool:
        return self.strips.whole(LOOP).has_begun(self.coder.decoder.conv_in)

    # One block.

    def _block(
        self,
        frames: FrameSource,
        original: FrameSource,
        draw: Mapping[str, Any],
        mask: Bool[Tensor, " b"] | None = None,
        reset: Bool[Tensor, " b"] | None = None,
        *,
        closed: bool = True,
        shown: FrameSource | None = None,
    ) -> Quantized:
        """The tokens of a block, which is decoded where the loop is `closed`.

        `original` is what its last frame shows, and `shown` what the decoder remembers of it (None:
        its own), for the next one.
        """
        features = self._encode(frames, mask)
        quantized, read = self._quantize(features, frames, mask, draw)
        self._remember_original(original, quantized, reset)
        if closed:
            drain(self._show(quantized.z, mask, reset, read=read, shown=shown))
        return quantized

    def _encode(
        self, frames: FrameSource, mask: Bool[Tensor, " b"] | None
    ) -> Float[Tensor, "b s h w d"]:
        """What the quantizer reads of a block."""
        coder, total, made = self.coder, frames.cells, list[Tensor]()
        found = self._search(frames)
        reference = self._read(coder.encoder_injection, coder.encoder.patch)
        for cells, past in self.strips.walk(ENCODER, total):
            joins = None
            if reference is not None and found is not None:
                patch = coder.encoder.patch
                joins = follow_found(reference, found, coder.config.block, patch, cells)
            elif reference is not None:
                joins = stand_still(reference, coder.encoder.patch, cells)
            made.append(coder.encode_block(rows_of(frames, cells), past, joins, mask))
        return torch.cat(made, dim=2)

    def _quantize(
        self,
        features: Float[Tensor, "b s h w d"],
        frames: FrameSource,
        mask: Bool[Tensor, " b"] | None,
        draw: Mapping[str, Any],
    ) -> tuple[Quantized, bool]:
        """The tokens of a block, with SKIP where it pays; whether the decoder read its references.

        As `BlockCoder._quantize` finds out.
        """
        coder = self.coder
        if not coder.config.skip or not self._knows_references():
            return coder.round_to_stored(coder.quantizer(features, **draw)), False
        reference = self._read(coder.decoder_injection, coder.decoder.patch)
        assert reference is not None, "SKIP needs a decoder that sees references"
        none = features.new_zeros(features.shape[:-1], dtype=torch.bool)
        coded = coder.quantizer(features, **draw, skipped=none)
        skipped = masked(mask, self._worth_skipping(coded.z, frames, mask, reference))
        if not skipped.any():
            return coded, True
        return coder.quantizer(features, **draw, skipped=skipped), True

    def _worth_skipping(
        self,
        z: Float[Tensor, "b s h w d"],
        frames: FrameSource,
        mask: Bool[Tensor, " b"] | None,
        reference: WholeReference,
    ) -> Bool[Tensor, "b s h w"]:
        """Which cells of a block the reference shows well enough, by what `z` would give."""
        (_, steps, total, columns), config = z.shape[:4], self.coder.config
        coded, copied, rests = list[Tensor](), list[Tensor](), list[Tensor]()
        made = Regrouped(strips=self.strips.split(total), scales=(self._cell,))
        for part in self._decode(z, mask, reference, keep=False):
            for cells, (shown,) in made.add(part.frames):
                number = cells.start // self.strips.cells
                known = self.strips.take(KNOWN, number)
                counts = steps, cells.stop - cells.start, columns
                block = rows_of(frames, cells)
                coded.append(mean_errors(block, shown, counts))
                copied.append(mean_errors(block, known.kept[REFERENCES][:, :1], counts))
                resting = self.coder.resting(known, block, copied[-1])
                rests += [] if resting is None else [resting]
                self.strips.put(KNOWN, number)
        errors = torch.cat(coded, dim=2), torch.cat(copied, dim=2)
        still = torch.cat(rests, dim=2) if rests else None
        return worth_skipping(*errors, config.skip, config.skip_margin, rests=still)

    def _show(
        self,
        z: Float[Tensor, "b t h w d"],
        mask: Bool[Tensor, " b"] | None = None,
        reset: Bool[Tensor, " b"] | None = None,
        *,
        read: bool = False,
        shown: FrameSource | None = None,
    ) -> Iterator[Float[Tensor, "b t2 h2 w2 c"]]:
        """The rows of the frames of a block, whose last frame (or `shown`) is remembered.

        `read`: what the decoder reads of the references is there already.
        """
        coder, finer = self.coder, self._cell // self._patch[0]
        reference = self._read(coder.decoder_injection, coder.decoder.patch, again=not read)
        last = Regrouped(strips=self.strips.split(z.shape[2]), scales=(self._cell, finer))
        for made in self._decode(z, mask, reference):
            yield made.frames
            for cells, (frame, features) in last.add(made.frames[:, -1:], made.features):
                frame = frame if shown is None else rows_of(shown, cells)
                self._remember(cells, frame, features, reset)

    def _decode(
        self,
        z: Float[Tensor, "b t h w d"],
        mask: Bool[Tensor, " b"] | None,
        reference: WholeReference | None,
        *,
        keep: bool = True,
    ) -> Iterator[Decoded]:
        """The rows of a block that can be computed by each strip; remembered with `keep`."""
        skipped = skipped_cells(z)
        for cells, past in self.strips.walk(DECODER, z.shape[2], keep=keep):
            strip = Strip(cells, skipped)
            yield self.coder.decode_block(
                z[:, :, cells], past, mask, reference=reference, strip=strip
            )

    # References, which are read before a block goes through.

    def _read(
        self, injection: ReferenceInjection | None, patch: Patch, *, again: bool = True
    ) -> WholeReference | None:
        """What one side reads of the references, strip by strip; None where it has no use for it.

        It waits beside the strips' pasts. Without `again` what this side read last is still there.
        """
        if injection is None or self.coder.config.policy == "none":
            return None
        if again and self._knows_references():
            self._read_strips(injection, patch)
        return self._reference(injection)

    def _read_strips(self, injection: ReferenceInjection, patch: Patch) -> None:
        cell, total = self._cell, self.size[0] // self._cell
        finer, known = cell // self._patch[0], Past()
        whole = Regrouped(strips=self.strips.split(total), scales=(finer, 1))
        for number, (cells, past) in enumerate(self.strips.walk(READER, total)):
            if cells.start < cells.stop:
                known = self.strips.look(KNOWN, number)
            else:  # layers give out the rows that waited
                known = Past({name: x[:, :, :0] for name, x in known.kept.items()})
            read = self.coder.read_references(injection, patch, known, past)
            for here, (fine, coarse) in whole.add(*read):
                at = here.start // self.strips.cells
                self.strips.take(READ, at).kept = {FINE: fine.clone(), COARSE: coarse.clone()}
                self.strips.put(READ, at)

    def _reference(self, injection: ReferenceInjection) -> WholeReference:
        """What was read, from its first rows on; zeros where there are no references yet."""
        (height, width), (_, ch, cw), (fh, fw) = self.size, self.coder.config.factors, self._patch
        heights = height, height // fh, height // ch
        if self._knows_references():
            places = (KNOWN, REFERENCES), (READ, FINE), (READ, COARSE)
            rows = [partial(self._look, *place) for place in places]
            return WholeReference(*map(SlidingRows, heights, rows))
        widths = width, width // fw, width // cw
        channels = self._colours, *injection.reference_encoder.widths
        nothing, clips = self.like.new_zeros(()), len(self.like)
        shapes = zip(heights, widths, channels, strict=True)
        return WholeReference(*(nothing.expand(clips, 1, *shape) for shape in shapes))

    def _look(self, network: str, name: str) -> Iterator[Float[Tensor, "b 1 h w c"]]:
        """The first of what each strip holds by a name, from top to bottom."""
        for number, _ in enumerate(self.strips.split(self.size[0] // self._cell)):
            yield self.strips.look(network, number).kept[name][:, :1]

    def _search(self, frames: FrameSource) -> FoundFields | None:
        """The field that the encoder's search finds; zeros where there is no reference yet."""
        config, (height, width) = self.coder.config, self.size
        cell = config.factors[1:]
        if not config.searches:
            return None
        if not self._knows_references():
            shape = config.steps, height // cell[0], width // cell[1], 4
            return self.coder.fields_of(self.like.new_zeros(len(self.like), *shape))
        before, after = FilledRows(height), FilledRows(height)
        for cells, frame in zip(
            self.strips.split(frames.cells), self._look(KNOWN, REFERENCES), strict=True
        ):
            before.add(grey(frame)[..., None])
            picked = searched_frames(rows_of(frames, cells), config.steps)
            after.add(grey(picked)[..., None])
        way: dict[str, Any] = {"frames": config.block, "steps": config.steps, "cell": cell}
        found = search_grey(before.frames[:, 0, ..., 0], after.frames[..., 0], **way)
        return self.coder.fields_of(found.field)

    def _knows_references(self) -> bool:
        """Whether a frame was decoded before that blocks refer to."""
        known = self.strips.take(KNOWN, 0)
        knows = REFERENCES in known.kept and self.coder.config.policy != "none"
        self.strips.put(KNOWN, 0)
        return knows

    # What is remembered and forgotten.

    def _prime(self, begin: Reference, original: FrameSource | None = None) -> FrameSource:
        """Pass a frame that both sides know (or grey) through the plain network; that frame."""
        frame = self.like.new_zeros(()).expand(len(self.like), self._colours, 1, *self.size)
        if begin.frame is not None:
            frame = begin.frame.to(self.like)
        source, none = FrameSource(frame, lambda rows: rows, self._cell), self._nobody()
        self._block(source, original or source, {}, none, shown=source)
        return source

    def _forget(
        self, begin: Reference, original: FrameSource | None = None
    ) -> Bool[Tensor, " b"] | None:
        """Reset clips to a stored frame or to grey; which clips have a reference (None: all)."""
        clips = begin.clips.to(self.like.device)
        if clips.all():
            self.strips.clear()
            self._prime(begin, original)
        else:
            self._forget_some(begin, clips, original)
        self._begin()
        return None if begin.frame is not None else ~clips

    def _forget_some(self, begin: Reference, clips: Tensor, original: FrameSource | None) -> None:
        offload = None if self.strips.offload is None else Offload(0)
        fresh = Strips(cells=self.strips.cells, pasts={}, offload=offload)
        loop = StripLoop(coder=self.coder, strips=fresh, like=self.like, size=self.size)
        loop._prime(begin, original)
        for network in (ENCODER, DECODER, KNOWN):
            for number in range(len(fresh.pasts[network])):
                new, past = fresh.take(network, number), self.strips.take(network, number)
                replace_clips(past, new, clips)
                self.strips.put(network, number)
                fresh.pasts[network][number] = Past()

    def _remember_original(
        self, original: FrameSource, coded: Quantized, reset: Tensor | None
    ) -> None:
        """Keep what a frame showed, for an encoder that sees what frames lack, and for SKIP."""
        for number, cells in enumerate(self.strips.split(original.cells)):
            known, rows = self.strips.take(KNOWN, number), rows_of(original, cells)
            if self.coder.encoder_injection is not None:
                self.coder.remember(known, ORIGINALS, rows, reset)
            here = replace(coded, z=coded.z[:, :, cells])
            self.coder.keep_original(known, rows, here)
            self.strips.put(KNOWN, number)

    def _remember(
        self, cells: slice, frame: Tensor, features: Tensor, reset: Tensor | None
    ) -> None:
        """Keep a strip's rows of a decoded frame, and of the last features, for later blocks."""
        number = cells.start // self.strips.cells
        known = self.strips.take(KNOWN, number)
        self.coder.remember(known, REFERENCES, frame, reset)
        known.kept[FEATURES] = features.clone()
        self.strips.put(KNOWN, number)

    def _nobody(self) -> Bool[Tensor, " b"]:
        """A mask by which no clip has a reference."""
        return torch.zeros(len(self.like), dtype=torch.bool, device=self.like.device)

    @property
    def _cell(self) -> int:
        return self.coder.config.factors[1]

    @property
    def _patch(self) -> tuple[int, int]:
        return self.coder.config.body.patch[1:]

    @property
    def _colours(self) -> int:
        return self.coder.config.body.colours


def rows_of(frames: FrameSource, cells: slice) -> Float[Tensor, "b t h w c"]:
    """Rows of frames as networks read them."""
    return rearrange(frames.rows(cells), "b c t h w -> b t h w c").contiguous()


def drain(rows: Iterable[Tensor]) -> None:
    """Go through rows of which only counts what is remembered of them."""
    for _ in rows:
        pass
