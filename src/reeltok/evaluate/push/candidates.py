"""What is judged on the pushing world: a tokenizer, and what costs nothing to beat."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from reeltok.data.push import Truth
from reeltok.evaluate.candidates.codecs import (
    CODERS,
    decode_packets,
    encode_packets,
    nearest_quality,
)
from reeltok.nn.quantizers import Usage
from reeltok.tokenizer.contract import Tokenizer
from reeltok.transcode.packing import found_packing, packed_bits
from reeltok.video.record import to_bytes, to_unit

FAR = 0.25  # of the bits that were asked: two rates that do not compare
Clips = UInt8[np.ndarray, "b t h w 3"]


@dataclass(frozen=True, eq=False, kw_only=True)
class EpisodeBatch:
    """Some episodes of one length: frames, the actions after them, and true positions.

    `first` counts the episodes before these.
    """

    frames: Clips
    actions: Float32[np.ndarray, "b t 4"]
    truths: tuple[Truth, ...]
    first: int


Make = Callable[[EpisodeBatch], Clips]
"""What is judged, as a function: the frames that it makes of some episodes."""


def repeat_first(batch: EpisodeBatch) -> Clips:
    """The given frame, over and over."""
    return np.broadcast_to(batch.frames[:, :1], batch.frames.shape)


def repeat_mean(batch: EpisodeBatch) -> Clips:
    """The mean of all frames, which is the best still picture."""
    mean = batch.frames.mean(1, keepdims=True).round().astype(np.uint8)
    return np.broadcast_to(mean, batch.frames.shape)


@dataclass(eq=False, kw_only=True)
class Coded:
    """A tokenizer's reconstructions; nominal `bits` of each batch, by its first episode.

    `stored` are those that a file holds, where there is a packing model for the ids. `given`: frame
    0 is the reference that both sides have, as for a prior; it costs no bits. `usage` counts the
    ids, if it has any.
    """

    tokenizer: Tokenizer
    bits: dict[int, int] = field(default_factory=dict)
    stored: dict[int, int] = field(default_factory=dict)
    given: bool = False
    usage: Usage | None = None

    def __post_init__(self) -> None:
        if self.tokenizer.spec.vocabulary is not None:
            self.usage = Usage(self.tokenizer.spec.vocabulary)

    @property
    def packs(self) -> bool:
        """Whether `stored` bits are counted."""
        return found_packing(self.tokenizer) is not None

    def __call__(self, batch: EpisodeBatch) -> Clips:
        """Encode and decode all episodes at once; one by one where their latents are refined.

        Refinement keeps the activations of the decoder, gigabytes for 128 frames.
        """
        device, since = self.tokenizer.device, int(self.given)
        x = torch.cat([to_unit(torch.from_numpy(clip)) for clip in batch.frames]).to(device)
        self.bits.pop(batch.first, None), self.stored.pop(batch.first, None)
        parts = x.split(1 if self.tokenizer.refine else len(x))
        made = [self._coded(part, batch.first) for part in parts]
        frames = pixels_of(torch.cat(made))
        return np.concatenate([batch.frames[:, :since], frames], axis=1)

    def _coded(
        self, x: Float[torch.Tensor, "b c t h w"], first: int
    ) -> Float[torch.Tensor, "b c t2 h w"]:
        """What becomes of some episodes; their bits are added to those of the batch."""
        reference, since = (x[:, :, :1], 1) if self.given else (None, 0)
        with torch.no_grad():
            tokens = self.tokenizer.encode(x[:, :, since:], reference=reference)
            made = self.tokenizer.decode(tokens, reference=reference)
        assert isinstance(made, torch.Tensor)
        spent = len(x) * tokens.bits * int(np.prod(tokens.grid)) + tokens.reference_bits
        self.bits[first] = self.bits.get(first, 0) + spent
        stored = packed_bits(self.tokenizer, tokens)
        if stored is not None:
            self.stored[first] = self.stored.get(first, 0) + stored
        if self.usage is not None and tokens.ids is not None:
            self.usage.update(tokens.ids)
        return made


@dataclass(frozen=True, eq=False, kw_only=True)
class Tiled:
    """H.264 at the `bits` of a tokenizer, by first episode: a batch side by side in one video.

    So its headers, which are larger than a small episode, are paid once. `spent` are its own bits.
    `given`: frame 0 counts in neither's, as the tokenizer has it for nothing.
    """

    bits: dict[int, int]
    given: bool = False
    spent: dict[int, int] = field(default_factory=dict)

    def __call__(self, batch: EpisodeBatch) -> Clips:
        """Code the tiles at the quality whose bits are nearest, and cut them apart."""
        coder, sheet = CODERS["h264"], tile(batch.frames)
        video = torch.from_numpy(np.ascontiguousarray(sheet))

        def bits_at(quality: float) -> int:
            packets = encode_packets(coder, video, quality)
            return 8 * sum(each.size for each in packets if each.pts or not self.given)

        asked = self.bits[batch.first]
        quality = nearest_quality(bits_at, asked, coder)
        self.spent[batch.first] = spent = bits_at(quality)
        if abs(spent - asked) > FAR * asked:
            warnings.warn(
                f"H.264 spends {spent:,} bits on {len(batch.frames)} episodes where {asked:,} were "
                "asked, and has no nearer quality: the two do not compare",
                stacklevel=2,
            )
        return untile(
            decode_packets(coder, encode_packets(coder, video, quality)).numpy(), batch.frames.shape
        )


def tile(clips: Clips) -> UInt8[np.ndarray, "t i j 3"]:
    """Clips in a square of tiles, row by row; black where there are too few."""
    count, frames, height, width, _ = clips.shape
    side = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / side))
    sheet = np.zeros((side * rows, frames, height, width, 3), np.uint8)
    sheet[:count] = clips
    grid = sheet.reshape(rows, side, frames, height, width, 3)
    return grid.transpose(2, 0, 3, 1, 4, 5).reshape(frames, rows * height, side * width, 3)


def untile(sheet: UInt8[np.ndarray, "t i j 3"], shape: Sequence[int]) -> Clips:
    """The inverse of `tile`, for clips of this shape."""
    count, frames, height, width, _ = shape
    rows, side = sheet.shape[1] // height, sheet.shape[2] // width
    grid = sheet.reshape(frames, rows, height, side, width, 3)
    return grid.transpose(1, 3, 0, 2, 4, 5).reshape(-1, frames, height, width, 3)[:count]


def pixels_of(x: torch.Tensor) -> Clips:
    """Videos "b c t h w" in [-1, 1] as bytes."""
    return np.stack([to_bytes(one[None].float().clamp(-1, 1)).cpu().numpy() for one in x])
