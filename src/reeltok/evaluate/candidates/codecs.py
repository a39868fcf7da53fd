"""The honest yardsticks of bits: video codecs through PyAV, and resizing as the floor.

A codec runs at a quality of its own, or at the bits of a tokenizer in two ways: one quality for the
whole set (it may spend bits where it likes), or every clip at that clip's bits. Bits are those of
the packets that a decoder needs: neither a container's headers count nor the comment in which an
encoder writes its settings (5 kbit of H.264, 19 of H.265). Colours are converted exactly, and
chroma is halved and doubled by bicubic filters: a codec is to lose as little there as it can.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from reeltok.evaluate.candidates.candidate import CodedClip, pad_clip, timed
from reeltok.evaluate.clips import ScoredClip
from reeltok.evaluate.results import CandidateKind
from reeltok.files.hashes import hash_text
from reeltok.parallel import gather, sum_over_ranks
from reeltok.video.colour import FromRGB, ToRGB
from reeltok.video.encoders import open_svt_av1
from reeltok.video.record import to_unit
from reeltok.video.size import size_text
from reeltok.video.tags import Colour

FPS = 30  # told to every encoder: rates here are per pixel, not per second
BT709 = Colour(matrix=1)
SUPPLEMENT = 6  # H.264: the type of a unit that tells a decoder nothing about pixels


@dataclass(frozen=True, kw_only=True)
class CodecSettings:
    """An encoder and its decoder: settings, and the grid of qualities (crf; lower is better)."""

    encoder: str
    decoder: str
    options: Mapping[str, str]
    low: float
    high: float
    step: float  # the finest that the encoder knows, or that makes a difference
    curve: tuple[float, ...]  # qualities that show its curve at the bits of tokenizers
    smallest: int = 16  # pixels a side


# Threads are fixed, since what x264 and x265 write depends on their number. Two slice threads are
# PyAV's own choice on two cores, with which the figures in tests/evaluate/test_peers.py were
# measured; with one thread libx264 takes 5 % fewer bits at crf 34 (.0486 for .0512, same PSNR).
CODERS = {
    "h264": CodecSettings(
        encoder="libx264",
        decoder="h264",
        options={"preset": "slow", "threads": "2"},
        low=8,
        high=51,
        step=0.125,
        curve=(26, 30, 34, 38),
    ),
    "h265": CodecSettings(
        encoder="libx265",
        decoder="hevc",
        options={
            "preset": "slow",
            "x265-params": "log-level=none:pools=none:frame-threads=1:info=0",
        },
        low=8,
        high=51,
        step=0.125,
        curve=(26, 30, 34, 38),
        smallest=64,  # its largest block: libx265 writes past its memory at 40x32
    ),
    "av1": CodecSettings(
        encoder="libsvtav1",
        decoder="libdav1d",
        options={"preset": "4", "svtav1-params": "lp=1"},
        low=10,
        high=63,
        step=1,
        curve=(40, 45, 50, 55),
    ),
    "vp9": CodecSettings(
        encoder="libvpx-vp9",
        decoder="vp9",
        options={"b": "0", "deadline": "good", "cpu-used": "1"},
        low=10,
        high=63,
        step=1,
        curve=(38, 44, 50, 56),
    ),
}


def encode_packets(
    coder: CodecSettings, frames: UInt8[Tensor, "t h w 3"], quality: float
) -> list[av.Packet]:
    """The packets of a clip at a quality, without comments.

    ValueError where the encoder refuses the size.
    """
    if min(frames.shape[1:3]) < coder.smallest:
        size = size_text(*frames.shape[1:3])
        raise ValueError(
            f"{coder.encoder} takes {coder.smallest} pixels a side or more, not {size}"
        )
    context: Any = av.CodecContext.create(coder.encoder, "w")
    context.height, context.width = frames.shape[1:3]
    context.pix_fmt = "yuv420p"
    context.time_base, context.framerate = Fraction(1, FPS), Fraction(FPS)
    context.options = {**coder.options, "crf": f"{quality:g}"}
    packets, to_yuv = [], FromRGB("yuv420p", BT709, sharp=True)
    try:
        if coder.encoder == "libsvtav1":
            open_svt_av1(context)
        for time, picture in enumerate(frames.numpy()):
            packets += context.encode(to_yuv(picture, time, context.time_base))
        packets += context.encode(None)
    except av.FFmpegError as error:
        size = size_text(*frames.shape[1:3])
        raise ValueError(f"{coder.encoder} does not take frames of {size} ({error})") from error
    return [without_comment(p) for p in packets] if coder.encoder == "libx264" else packets


def without_comment(packet: av.Packet) -> av.Packet:
    """An H.264 packet without supplemental information, which libx264 cannot leave out itself."""
    units = re.split(rb"\x00?\x00\x00\x01", bytes(packet))[1:]
    kept = (unit for unit in units if unit[0] & 31 != SUPPLEMENT)
    made = av.Packet(b"".join(b"\x00\x00\x01" + unit for unit in kept))
    made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
    return made


def decode_packets(coder: CodecSettings, packets: Iterable[av.Packet]) -> UInt8[Tensor, "t h w 3"]:
    """The frames of packets."""
    context: Any = av.CodecContext.create(coder.decoder, "r")
    frames = [frame for packet in packets for frame in context.decode(packet)]
    frames += context.decode(None)
    for frame in frames:
        frame.colorspace = BT709.matrix
    to_rgb = ToRGB(sharp=True)
    return torch.from_numpy(np.stack([to_rgb(frame).copy() for frame in frames]))


def to_even_size(frames: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "t h2 w2 3"]:
    """Frames with a row or column repeated where their size is odd: chroma is halved."""
    x = frames.permute(3, 0, 1, 2)[None]
    return pad_clip(x, x.shape[2], (2, 2))[0].permute(1, 2, 3, 0).contiguous()


def nearest_quality(bits_at: Callable[[float], int], target: float, coder: CodecSettings) -> float:
    """The quality on the coder's grid whose bits are nearest to `target`, by bisection."""
    low, high = 0, round((coder.high - coder.low) / coder.step)
    quality = lambda i: coder.low + i * coder.step
    while low < high:  # the first whose bits are not above the target
        middle = (low + high) // 2
        if bits_at(quality(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return quality(0)
    off = [abs(math.log(bits_at(quality(i)) / target)) for i in (low - 1, low)]
    return quality(low if off[1] <= off[0] else low - 1)


class Sizes:
    """Bits of clips at qualities, each encoded once."""

    def __init__(self, coder: CodecSettings) -> None:
        self.coder = coder
        self.held: dict[tuple[str, float], int] = {}

    def of(self, clip: ScoredClip, quality: float) -> int:
        """Bits of all packets of a clip."""
        key = clip.sha256, quality
        if key not in self.held:
            packets = encode_packets(self.coder, to_even_size(clip.video.frames), quality)
            self.held[key] = 8 * sum(packet.size for packet in packets)
        return self.held[key]


def bits_here(like: "RateTarget") -> dict[str, int]:
    """Those bits of `like` that are of its clips, by name; all where it has none. Collective.

    ValueError where bits are known, but of none of the clips.
    """
    if not like.bits:
        return {}
    names = set[str]().union(*gather({clip.name for clip in like.clips()}))
    found = {name: bits for name, bits in like.bits.items() if name in names or not names}
    if not found:
        raise ValueError(
            f"a codec is matched to the bits of {len(like.bits)} clips, such as "
            f"{next(iter(like.bits))}, and none of them is among the {len(names)} that are judged: "
            "give a result of the same clips, or the model itself"
        )
    return found


def match_set(
    sizes: Sizes, clips: Callable[[], Iterable[ScoredClip]], target: Mapping[str, int]
) -> float:
    """The one quality at which all clips together take the bits of `target`, by clip name.

    Clips are read anew for each quality, so that memory holds one. A collective call.
    """

    def total(quality: float) -> int:
        chosen = (clip for clip in clips() if clip.name in target)
        return int(sum_over_ranks(torch.tensor(sum(sizes.of(c, quality) for c in chosen))))

    return nearest_quality(total, sum(target.values()), sizes.coder)


@dataclass(frozen=True, eq=False, kw_only=True)
class CodecCandidate:
    """A codec as a candidate: at `quality`, or every clip at its bits of `target`."""

    name: str
    coder: CodecSettings
    quality: float | None = None
    target: Mapping[str, int] | None = None  # bits by clip name
    sizes: Sizes | None = None
    causal: bool = True  # which of a protocol's clip lengths it is given
    role: str = "quality"  # or "set", "clip", "curve": how the quality was chosen

    kind: CandidateKind = "codec"
    weights: None = None
    vocabulary: None = None
    trained: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used; clips' bits by their sum and a hash, as others may have the same sum."""
        target, by_clip = None, dict[str, str]()
        if self.target is not None:
            target = sum(self.target.values())
            by_clip = {"bits_hash": hash_text(json.dumps(sorted(self.target.items())), 12)}
        return {
            **{key: value for key, value in self.coder.options.items() if key == "preset"},
            "encoder": self.coder.encoder,
            "crf": self.quality,
            "role": self.role,
            "bits": target,
            **by_clip,
            "format": f"yuv420p, BT.709, {FPS} fps",
            "av": av.__version__,
        }

    def reconstruct(self, clip: ScoredClip) -> CodedClip:
        """Encode and decode; searching for the quality is not timed."""
        frames, seconds = to_even_size(clip.video.frames), dict[str, float]()
        quality = self._quality_for(clip)
        with timed(seconds, "encode"):
            packets = encode_packets(self.coder, frames, quality)
        with timed(seconds, "decode"):
            out = decode_packets(self.coder, packets)
        bits = 8 * sum(packet.size for packet in packets)
        x = to_unit(out[:, : clip.video.height, : clip.video.width])
        return CodedClip(x=x, bits=bits, stored_bits=bits, seconds=seconds)

    def _quality_for(self, clip: ScoredClip) -> float:
        if self.target is None:
            assert self.quality is not None
            return self.quality
        if clip.name not in self.target:
            raise ValueError(f"the bits of {clip.name} are not known: the tokenizer broke on it")
        sizes = self.sizes or Sizes(self.coder)
        return nearest_quality(lambda q: sizes.of(clip, q), self.target[clip.name], self.coder)

    def facts(self, clip: ScoredClip) -> dict[str, float]:
        """Nothing: it has no parameters."""
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class Resize:
    """The floor: as many numbers as a tokenizer has tokens times three, as bytes.

    Every `factors[0]`-th frame is kept, made smaller by `factors[1:]` (bicubic, antialiased), and
    enlarged again (bicubic; linear in time).
    """

    name: str = "resize"
    factors: tuple[int, int, int] = (4, 8, 8)
    causal: bool = True

    kind: CandidateKind = "resize"
    weights: None = None
    vocabulary: None = None
    trained: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used."""
        return {
            "factors": list(self.factors),
            "role": "floor",
            "space": "bicubic",
            "time": "linear",
        }

    def reconstruct(self, clip: ScoredClip) -> CodedClip:
        """Thin, shrink, round, enlarge, and fill in frames."""
        frames, seconds = clip.video.frames, dict[str, float]()
        time, tall, wide = self.factors
        size = clip.video.height, clip.video.width
        small = max(1, round(size[0] / tall)), max(1, round(size[1] / wide))
        with timed(seconds, "encode"):
            kept = frames[::time].permute(0, 3, 1, 2).float()
            low = F.interpolate(kept, size=small, mode="bicubic", antialias=True)
            low = low.round().clamp(0, 255)
        with timed(seconds, "decode"):
            big = F.interpolate(low, size=size, mode="bicubic").clamp(0, 255)
            at = torch.arange(len(frames)) / time
            first = at.long()
            after = (first + 1).clamp(max=len(big) - 1)
            share = (at - first).view(-1, 1, 1, 1)
            out = torch.lerp(big[first], big[after], share).round().to(torch.uint8)
        return CodedClip(x=to_unit(out.permute(0, 2, 3, 1)), bits=8 * low.numel(), seconds=seconds)

    def facts(self, clip: ScoredClip) -> dict[str, float]:
        """Nothing: it has no parameters."""
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class RateTarget:
    """What peers are matched to: the bits of a tokenizer by clip, its factors and its clips."""

    bits: Mapping[str, int] = field(default_factory=dict)
    factors: tuple[int, int, int] = (4, 8, 8)
    clips: Callable[[], Iterable[ScoredClip]] = tuple
    causal: bool = True


def parse_quality(name: str) -> float:
    """The crf in "h264@34". ValueError for what is none of the coder's."""
    key, _, asked = name.partition("@")
    coder = CODERS[key]
    try:
        quality = float(asked)
    except ValueError:
        raise ValueError(f"{name}: behind @ stands a crf, such as {key}@34") from None
    if not 0 <= quality <= coder.high:
        raise ValueError(f"{name}: {coder.encoder} takes a crf from 0 to {coder.high:g}")
    return quality


def open_codecs(name: str, like: RateTarget) -> list[CodecCandidate]:
    """A codec at both matchings to `like` and along its curve; "h264@34" is that quality alone."""
    key, _, asked = name.partition("@")
    coder = CODERS[key]
    if asked:
        quality = parse_quality(name)
        return [
            CodecCandidate(
                name=f"{key} crf {quality:g}", coder=coder, quality=quality, causal=like.causal
            )
        ]
    found, bits = [], bits_here(like)
    if bits:
        sizes = Sizes(coder)
        quality = match_set(sizes, like.clips, bits)
        found += [
            CodecCandidate(
                name=f"{key}, bits of each clip",
                coder=coder,
                target=bits,
                sizes=sizes,
                role="clip",
                causal=like.causal,
            ),
            CodecCandidate(
                name=f"{key}, bits of the set",
                coder=coder,
                quality=quality,
                role="set",
                causal=like.causal,
            ),
        ]
    curve = [
        CodecCandidate(
            name=f"{key} crf {q:g}", coder=coder, quality=q, role="curve", causal=like.causal
        )
        for q in coder.curve
    ]
    return found + curve
