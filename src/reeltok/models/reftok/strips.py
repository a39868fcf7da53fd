"""The closed loop where frames are read in strips from top to bottom.

Blocks follow one another as in blocks.py, and each is encoded strip by strip, then decoded so. A
strip's references lie beside its pasts, cut at its own borders: decoded rows come later than those
that they were made of. Where there is no reference yet it is zero and masked, so that layers wait
for as many rows in every block.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from reeltok.models.reftok.blocks import (
    FEATURES,
    ORIGINALS,
    REFERENCES,
    BlockCoder,
    replace_clips,
)
from reeltok.models.reftok.reference import Reference, References
from reeltok.nn.past import Past
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.offload import Offload
from reeltok.tokenizer.strips import FrameSource, PassedRows, Strips

LOOP, ENCODER, DECODER, KNOWN = "loop", "encoder", "decoder", "known"
"""What pasts of strips belong to: the stream, its two networks, and the references."""


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
        closed = config.policy != "none" and self.coder.encoder_injection is not None
        at, parts, begin, given = 0, [], references.get(0), config.start == "given"
        if self._begin():
            first, at = x.part(0, 1), int(not given)
            if begin is None:
                parts.append(self._code(first, first, draw, self._nobody()))
                drain(self._show(parts[0].z, self._nobody()) if closed else ())
            else:
                self._prime(begin, None if given else first)
        for start in range(at, x.shape[2], config.block):
            block, begin = x.part(start, start + config.block), references.get(start)
            mask, reset = None, None
            if begin is not None and not begin.start:
                reset = begin.clips.to(self.like.device)
                mask = self._forget(begin, block.part(0, 1))
            last = block.part(config.block - 1, config.block)
            parts.append(self._code(block, last, draw, mask, reset))
            drain(self._show(parts[-1].z, mask, reset) if closed else ())
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

    def _code(
        self,
        frames: FrameSource,
        original: FrameSource,
        draw: Mapping[str, Any],
        mask: Bool[Tensor, " b"] | None = None,
        reset: Bool[Tensor, " b"] | None = None,
    ) -> Quantized:
        """The tokens of a block; `original` is what its last frame shows, for the next one."""
        made = []
        for number, (cells, past) in enumerate(self.strips.walk(ENCODER, frames.cells)):
            known = self._known(number, cells, past)
            made.append(self.coder.encode_block(rows_of(frames, cells), past, mask, known=known))
            self.coder.remember(past, ORIGINALS, rows_of(original, cells), reset)
        return self.coder.round_to_stored(self.coder.quantizer(torch.cat(made, dim=2), **draw))

    def _show(
        self,
        z: Float[Tensor, "b t h w d"],
        mask: Bool[Tensor, " b"] | None = None,
        reset: Bool[Tensor, " b"] | None = None,
        *,
        shown: FrameSource | None = None,
    ) -> Iterator[Float[Tensor, "b t2 h2 w2 c"]]:
        """The rows of the frames of a block, whose last frame (or `shown`) is remembered."""
        frames, features, strip = PassedRows(), PassedRows(), 0
        total, finer = z.shape[2], self._cell // self._patch[0]
        for number, (cells, past) in enumerate(self.strips.walk(DECODER, total)):
            known = self._known(number, cells, past)
            made = self.coder.decode_block(z[:, :, cells], past, mask, known=known)
            frames.add(made.frames[:, -1:])
            features.add(made.features)
            yield made.frames
            while strip < total:
                here = slice(strip, min(total, strip + self.strips.cells))
                high = here.stop - strip
                if frames.count() < high * self._cell or features.count() < high * finer:
                    break
                frame, strip = frames.take(high * self._cell), here.stop
                frame = frame if shown is None else rows_of(shown, here)
                self._remember(here, frame, features.take(high * finer), reset)

    # What is forgotten, and references of strips.

    def _prime(self, begin: Reference, original: FrameSource | None = None) -> FrameSource:
        """Pass a frame that both sides know (or grey) through the plain network; that frame."""
        frame = self.like.new_zeros(()).expand(len(self.like), self._colours, 1, *self.size)
        if begin.frame is not None:
            frame = begin.frame.to(self.like)
        source, none = FrameSource(frame, lambda rows: rows, self._cell), self._nobody()
        quantized = self._code(source, original or source, {}, none)
        drain(self._show(quantized.z, none, shown=source))
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

    def _known(self, number: int, cells: slice, past: Past) -> Past:
        """What a strip knows of references; zeros where there are none."""
        kept = dict(self.strips.take(KNOWN, number).kept)
        self.strips.put(KNOWN, number)
        if ORIGINALS in past.kept:
            kept[ORIGINALS] = past.kept[ORIGINALS]
        high, config = (cells.stop - cells.start) * self._cell, self.coder.config
        stills = (config.references, high, self.size[1], self._colours)
        (fh, fw), carried = self._patch, config.body.width * config.body.multipliers[0]
        shapes = {
            REFERENCES: stills,
            ORIGINALS: stills,
            FEATURES: (1, high // fh, self.size[1] // fw, carried),
        }
        none = {
            k: self.like.new_zeros(len(self.like), *v) for k, v in shapes.items() if k not in kept
        }
        return Past(kept | none)

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
