"""From the videos of a data set to the clips that a protocol asks for, one at a time.

Each is cut, filled, resized and cropped as the protocol's record says, and carries a hash of its
pixels, so that two results can show that they were judged on the same clips.
"""

import math
import random
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.evaluate.protocols import Protocol, find_protocol
from reeltok.files.hashes import hash_parts
from reeltok.metrics.paired import Box
from reeltok.video.record import Video
from reeltok.video.size import size_text

HELD = 128 * 2**20  # bytes of pixels kept between candidates: 40 clips of 17x256x256


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredClip:
    """A piece of video as a protocol wants it, ready to be judged."""

    name: str  # of the video; with "#k" where a video gives several
    video: Video
    sha256: str  # of the pixels and their shape
    source: str = ""  # the name of the video that gives several; else it is this one's
    origin: str = ""  # the clip's `source` in its list: with all of one origin it is held out
    filled: int = 0  # frames that repeat the last one
    boxes: tuple[Box, ...] = ()  # in pixels of this clip
    row: dict[str, str] = field(default_factory=dict)  # what the list says of the video

    @property
    def file(self) -> str:
        """The name of the video."""
        return self.source or self.name

    @property
    def together(self) -> str:
        """What clips that are not independent of one another have in common."""
        return self.origin or self.file


class ClipCache:
    """The clips of a set that stay between candidates, so that a video is decoded once.

    Those that come first stay, up to `limit` bytes: a set is always gone through in one order, in
    which the clip used last is the one needed last. One cache serves one data set and protocol.
    What the set holds is looked up once too: a file that comes later is in no candidate's clips.
    """

    def __init__(self, limit: int = HELD) -> None:
        self.left = limit
        self.items: list[Clip] = []
        self.kept: dict[tuple[str, int | None], list[ScoredClip]] = {}

    def find(self, data: str | Path, root: str | Path | None) -> list[Clip]:
        """What `find_clips` found the first time."""
        self.items = self.items or find_clips(data, root=root)
        return self.items

    def keep(self, key: tuple[str, int | None], clips: list[ScoredClip]) -> None:
        """Keep all clips of a video, if they fit."""
        size = size_of(clips)
        if clips and size <= self.left:
            self.kept[key] = clips
            self.left -= size


class ScoredClips:
    """The clips of a set under a protocol, made one at a time while they are asked for.

    A video that breaks midway gives none: its first clips would bias every mean.
    What could not be used stands in `broken` (unreadable) and `left_out` (too short or too small
    for the protocol), each with its reason; `filled` counts the clips that were filled up.
    """

    def __init__(
        self,
        protocol: Protocol,
        items: list[Clip],
        *,
        causal: bool = True,
        done: Container[str] = (),
        cache: ClipCache | None = None,
    ) -> None:
        self.protocol = protocol
        self.items = items
        self.frames = protocol.clip_frames(causal=causal)
        self.done = done
        self.cache = ClipCache(0) if cache is None else cache
        self.broken: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.filled = 0

    def __iter__(self) -> Iterator[ScoredClip]:
        """Every clip that is not yet `done`."""
        for item in self.items:
            if item.name in self.done:  # its only clip: the video need not be opened
                continue
            try:
                for clip in self._once(item):
                    if clip.name not in self.done:
                        self.filled += clip.filled > 0
                        yield clip
            except (ValueError, OSError) as error:
                self.broken[item.name] = str(error)

    def _once(self, item: Clip) -> Iterator[ScoredClip]:
        """The clips of a video: those that are held, or made and, where all is well, held."""
        key, made = (item.name, self.frames), list[ScoredClip]()
        if key in self.cache.kept:
            yield from self.cache.kept[key]
            return
        fits = True
        for clip in self._of(item):
            fits = fits and size_of([*made, clip]) <= self.cache.left
            made = [*made, clip] if fits else []
            yield clip
        if fits and item.name not in self.left_out:  # else the reason must be found again
            self.cache.keep(key, made)

    def _of(self, item: Clip) -> Iterator[ScoredClip]:
        plan, boxes = self.protocol, boxes_of(item)
        for number, part in enumerate(self._windows(item)):
            if min(part.height, part.width) < plan.smallest:
                size = size_text(part.height, part.width)
                self.left_out[item.name] = f"{size} pixels, but {plan.smallest} are asked for"
                return
            wanted = self.frames or 1 + (plan.groups_of or 0)
            count = len(part)
            missing = max(0, wanted - count)
            if missing and plan.short == "skip":
                self.left_out[item.name] = (
                    f"{count} frame{'s' * (count != 1)}, but {wanted} are asked for"
                )
                return
            for side in range(plan.crops):
                several = plan.window in ("consecutive", "spread", "every")
                index = f"#{number * plan.crops + side}" if several else ""
                video, moved = fit_to_protocol(extend_video(part, missing), plan, boxes, side)
                yield ScoredClip(
                    name=item.name + index,
                    video=video,
                    sha256=hash_of(video),
                    source=item.name if several else "",
                    origin=item.source,
                    filled=missing,
                    boxes=moved,
                    row=dict(item.row),
                )

    def _windows(self, item: Clip) -> Iterator[Video]:
        """The pieces of time that a video gives, the last of them perhaps too short."""
        plan, count = self.protocol, self.frames
        fps = plan.fps if plan.rate == "resample" else None
        step = 1
        if plan.rate == "stride" and plan.fps:
            step = max(1, round((frame_rate(item) or plan.fps) / plan.fps))
        if plan.window == "consecutive":
            assert count is not None
            yield from (part[::step] for part in sound_parts(item, count * step, fps=fps))
        elif plan.window == "first":
            yield item.read(frames=count and count * step, fps=fps)[::step]
        elif plan.window == "whole":
            limit = math.floor(plan.seconds * (frame_rate(item) or 25)) if plan.seconds else None
            video = item.read(frames=limit, fps=fps)[::step]
            yield video[: crop_to_groups(len(video), plan.groups_of)]
        else:
            assert count is not None
            whole = item.read(fps=fps)[::step]
            every = range(max(1, len(whole) - count + 1))
            each = (
                every if plan.window == "every" else window_starts(len(whole), count, plan.windows)
            )
            for start in each:
                yield whole[start : start + count]


def frame_rate(item: Clip) -> float | None:
    """Its own rate in frames per second; None where none is known (pictures in a folder)."""
    with item.stream() as opened:
        return opened.fps


def decode_parts(item: Clip, length: int, *, fps: float | None = None) -> Iterator[Video]:
    """All of it in parts of `length` frames, the last perhaps shorter; one is held."""
    with item.stream(fps=fps, chunk=length) as opened:
        yield from opened


def sound_parts(
    item: Clip, length: int, *, fps: float | None = None, limit: int = HELD
) -> Iterator[Video]:
    """The same, but none of a video that breaks later on: the first comes when all are decoded.

    Parts beyond the first `limit` bytes are not held, but decoded twice.
    """
    held, size = list[Video](), 0
    for part in decode_parts(item, length, fps=fps):
        size += part.frames.nbytes
        if size <= limit:
            held.append(part)
    count = len(held)
    yield from held
    if size > limit:
        yield from islice(decode_parts(item, length, fps=fps), count, None)


def boxes_of(item: Clip) -> tuple[Box, ...]:
    """The regions in its list's column `boxes`: "text:left,top,width,height; ..."."""
    row = {key.strip().lower(): value for key, value in item.row.items()}
    texts = [text.strip() for text in row.get("boxes", "").split(";")]
    return tuple(_box(text, item.name) for text in texts if text)


def _box(text: str, name: str) -> Box:
    label, _, numbers = text.rpartition(":")
    try:
        left, top, width, height = (int(n) for n in numbers.split(","))
    except ValueError:
        raise ValueError(
            f"{name}: a box is written name:left,top,width,height in pixels, not {text!r}"
        ) from None
    return Box(name=label.strip() or "box", left=left, top=top, width=width, height=height)


def clips(
    protocol: str | Protocol,
    data: str | Path,
    *,
    root: str | Path | None = None,
    causal: bool = True,
    shard: tuple[int, int] = (0, 1),
    done: Container[str] = (),
    cache: ClipCache | None = None,
) -> ScoredClips:
    """The clips of a data set under a protocol; see `find_clips` for what a data set may be.

    `causal` chooses between the protocol's two clip lengths; `shard` is (rank, number of ranks);
    clips named in `done` are passed over, those in `cache` not decoded again. Raises ValueError or
    FileNotFoundError where the protocol is unknown or the data holds nothing.
    """
    plan = find_protocol(protocol) if isinstance(protocol, str) else protocol
    items = find_clips(data, root=root) if cache is None else cache.find(data, root)
    if plan.clips is not None:
        items = sample_clips(items, math.ceil(plan.clips / (plan.windows * plan.crops)))
    return ScoredClips(plan, items[shard[0] :: shard[1]], causal=causal, done=done, cache=cache)


def sample_clips(items: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` clips in their order, always the same ones: drawn with seed 0."""
    if count >= len(items):
        return list(items)
    return [items[i] for i in sorted(random.Random(0).sample(range(len(items)), count))]


def size_of(clips: Iterable[ScoredClip]) -> int:
    """The bytes that the pixels of clips hold in memory."""
    return sum(clip.video.frames.untyped_storage().nbytes() for clip in clips)


def window_starts(total: int, length: int, count: int) -> list[int]:
    """Where `count` windows of `length` begin, from the first frame to the last."""
    if count == 1 or total <= length:
        return [0]
    return [round(i * (total - length) / (count - 1)) for i in range(count)]


def crop_to_groups(frames: int, size: int | None) -> int:
    """The largest 1 + k x `size` that is not above `frames`, k of 1 or more.

    All of them without a size, or where they are too few.
    """
    return frames if size is None or frames <= size else 1 + (frames - 1) // size * size


def extend_video(video: Video, missing: int) -> Video:
    """A video with its last frame repeated `missing` times."""
    if not missing:
        return video
    frames = torch.cat([video.frames, video.frames[-1:].expand(missing, -1, -1, -1)])
    return replace(video, frames=frames, times=None)


def fit_to_protocol(
    video: Video, protocol: Protocol, boxes: tuple[Box, ...] = (), side: int = 0
) -> tuple[Video, tuple[Box, ...]]:
    """A video resized and cropped as the protocol says, with the boxes that are still in it.

    `side` counts the crops along the long side. Sizes of a crop are even.
    """
    height, width = video.height, video.width
    scale = protocol.size / min(height, width) if protocol.size else 1.0
    if scale > 1 and not protocol.enlarge:
        scale = 1.0
    frames = video.frames
    if scale != 1:
        short, target = min(height, width), protocol.size or 0
        # The long side is rounded down, as torchvision's Resize does.
        height, width = (target if n == short else target * n // short for n in (height, width))
        frames = resize(frames, (height, width), protocol.kernel)
    if protocol.crop is None:
        return replace(video, frames=frames), tuple(_move(box, scale, 0, 0) for box in boxes)
    tall, wide = (min(n, protocol.crop) // 2 * 2 for n in (height, width))
    top, left = (
        (n - m) // 2 if protocol.crops == 1 else (n - m) * side // (protocol.crops - 1)
        for n, m in ((height, tall), (width, wide))
    )
    kept = tuple(_move(box, scale, left, top) for box in boxes)
    kept = tuple(b for b in kept if -b.width < b.left < wide and -b.height < b.top < tall)
    cut = frames[:, top : top + tall, left : left + wide]
    return replace(video, frames=cut.contiguous()), kept  # what was cut off is let go


def _move(box: Box, scale: float, left: int, top: int) -> Box:
    return Box(
        name=box.name,
        left=round(box.left * scale) - left,
        top=round(box.top * scale) - top,
        width=max(1, round(box.width * scale)),
        height=max(1, round(box.height * scale)),
    )


def resize(
    frames: UInt8[Tensor, "t h w 3"], size: tuple[int, int], kernel: str
) -> UInt8[Tensor, "t i j 3"]:
    """Frames at another size, with antialiasing, rounded to bytes again."""
    out = torch.empty(len(frames), *size, 3, dtype=torch.uint8)
    for i, picture in enumerate(frames):  # one by one: whole videos pass through here
        x = picture.permute(2, 0, 1)[None].float()
        x = F.interpolate(x, size=size, mode=kernel, antialias=True, align_corners=False)
        out[i] = x[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
    return out


def as_scored(video: Video, protocol: Protocol) -> Video:
    """A clip at the size that a protocol scores generated frames at."""
    if protocol.scored_size is None:
        return video
    size = (protocol.scored_size, protocol.scored_size)
    return replace(video, frames=resize(video.frames, size, protocol.kernel))


def hash_of(video: Video) -> str:
    """The sha256 of a video's shape and pixels: equal for equal clips on every machine."""
    return hash_parts([repr(tuple(video.frames.shape)), video.frames.contiguous().numpy().data])
