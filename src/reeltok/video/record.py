"""Video in and out: the `Video` record, `read`, `stream` and `write`."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL.Image import Image
from torch import Tensor

from reeltok.arguments import check_rate, float_type, is_count, said, slice_ends
from reeltok.records import register
from reeltok.video.decode import Damage
from reeltok.video.frames import ROUNDING, as_frames, require_frames, to_bytes, to_unit
from reeltok.video.inputs import VideoInput
from reeltok.video.layout import picture_of, rgb_frames
from reeltok.video.movie import MovieShape
from reeltok.video.sink import Written, open_sink
from reeltok.video.size import AnySize, size_text
from reeltok.video.source import Source, open_source
from reeltok.video.tags import MADE, Colour
from reeltok.video.timing import FrameSpan, PartTimes, durations, held, moments_of

__all__ = ["Colour", "Stream", "Video", "Written", "read", "stream", "to_bytes", "to_unit", "write"]


@dataclass(frozen=True, eq=False)
class Video:
    """Pictures in RGB with their rate, and what is needed to write them as they came.

    `fps` is None where no rate is known (images, tensors); with `times` it is the mean. `times` are
    seconds from the first frame of the clip, None at a constant rate, and `last` is how long the
    last frame is shown then, None for 1 / fps. `start` is where the first frame lies in `source`,
    in seconds: audio is copied from there. `damaged` frames of the clip it is from could not be
    decoded and were left out; `notes` say in a sentence each what else is missing of `source`.
    `aspect` is a pixel's width over its height; `sound` the codec of the sound, which is not read.
    """

    frames: UInt8[Tensor, "t h w 3"]
    fps: float | None = None
    times: Float64[Tensor, " t"] | None = None
    colour: Colour = field(default=MADE)
    source: Path | None = None
    start: float = 0.0
    aspect: Fraction = Fraction(1)
    last: float | None = None
    damaged: int = 0
    notes: tuple[str, ...] = ()
    sound: str | None = None

    def __post_init__(self) -> None:
        require_frames(self.frames, self.fps, self.times)

    @classmethod
    def of(
        cls,
        x: Tensor | np.ndarray,
        *,
        fps: float | None = None,
        like: "Video | None" = None,
    ) -> "Video":
        """A video of floating values "1 3 t h w" in [-1, 1], or of bytes "t h w 3" or "h w 3".

        Other orders of axes are taken where they mean one thing only: "3 t h w", "t 3 h w", and
        bytes with one channel (grey) or four (transparency, laid on black).
        `like` lends its rate, times, colour tags, source and aspect. Raises ValueError for other
        shapes and types, NaN, or where `like` has times for another number of frames.
        """
        frames = rgb_frames(x)
        if like is None:
            return cls(frames, fps)
        if not isinstance(like, Video):
            raise ValueError(f"`like` is a Video that lends its rate, not a {type(like).__name__}")
        times = like.times if fps is None else None
        if times is not None and len(times) != len(frames):
            raise ValueError(f"{len(frames)} frames cannot have the {len(times)} times of `like`")
        last = None if times is None else like.last
        return replace(like, frames=frames, fps=fps or like.fps, times=times, last=last)

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.frames.shape[2]

    @property
    def seconds(self) -> float | None:
        """How long it lasts; None without a rate."""
        if self.fps is None:
            return None
        if self.times is not None:
            return float(self.times[-1] - self.times[0]) + (self.last or 1 / self.fps)
        return len(self) / self.fps

    def moments(self) -> list[tuple[float, float]] | list[tuple[None, None]]:
        """When each frame of a varying rate begins to be shown, and for how many seconds it is."""
        if self.times is None or self.fps is None:
            return [(None, None)] * len(self)
        times = self.times.tolist()
        return list(zip(times, durations(times, self.last or 1 / self.fps), strict=True))

    def __len__(self) -> int:
        return self.frames.shape[0]

    def __repr__(self) -> str:
        rate = "no fps" if self.fps is None else f"{self.fps:.6g} fps"
        varying = "" if self.times is None else ", varying"
        return f"Video({len(self)} x {size_text(self.height, self.width)}, {rate}{varying})"

    def __getitem__(self, part: slice) -> "Video":
        """The frames of a slice, with their times moved to begin at 0; a step divides the rate."""
        first, _, step = slice_ends(part, len(self), "a Video is sliced, as in video[0:8]")
        if step < 1:
            raise ValueError(f"a Video runs forwards: a step of {step} is not possible")
        fps = self.fps and self.fps / step
        start = self.start + (first / self.fps if self.fps else 0.0)
        times = last = None
        if self.times is not None and len(self.frames[part]):
            times = self.times[part]
            after = first + len(times) * step  # the frame that would come next
            last = held(self.times, self.last, after - step, after)
            start, times = self.start + float(times[0] - self.times[0]), times - times[0]
        return replace(self, frames=self.frames[part], fps=fps, times=times, start=start, last=last)

    def pin_memory(self) -> "Video":
        """The same video in page-locked memory, as a `DataLoader` asks for."""
        return replace(self, frames=self.frames.pin_memory())

    def tensor(
        self, dtype: torch.dtype | str = torch.float32, device: torch.device | str | None = None
    ) -> Float[Tensor, "1 3 t h w"]:
        """The frames in [-1, 1] as a tokenizer takes them."""
        return to_unit(self.frames.to(device)).to(float_type(dtype, wide=True))


def stack_videos(batch: list[Video]) -> Float[Tensor, "b 3 t h w"]:
    """Videos of one length and size as a tokenizer takes them, in [-1, 1].

    `DataLoader` makes this of a batch. ValueError for other lengths or sizes.
    """
    shapes = sorted({tuple(video.frames.shape[:3]) for video in batch})
    if len(shapes) > 1:
        found = " and ".join(f"{t} frames of {size_text(h, w)}" for t, h, w in shapes[:2])
        raise ValueError(
            f"videos of one batch have one length and size, found {found}: read them with frames= "
            "and size=, or give collate_fn=list"
        )
    return torch.cat([video.tensor() for video in batch])


register(Video, "frames", "times", collate=stack_videos)


def unit_frames(
    x: Video | Tensor | np.ndarray, what: str = "the clip", slack: float = ROUNDING
) -> Float[Tensor, "b c t h w"]:
    """Frames in [-1, 1], from a video or what `frames.as_frames` takes and refuses."""
    return x.tensor() if isinstance(x, Video) else as_frames(x, what, slack)


class Stream(Iterable[Video]):
    """A video read in parts of at most `chunk` frames, in memory that does not grow.

    Size, rate, colour and the number of frames are known before the first part (a file without
    time stamps, such as avi, may hold a few less). `notes` say in a sentence each what of the
    input the frames do not show or show in another shape; `sound` is the codec of its sound, which
    is not read. It can be gone through once; `close` (or a `with`) lets go of the file earlier
    than the end.
    """

    def __init__(self, opened: Source, chunk: int) -> None:
        self._opened = opened
        self._closed = False
        self.chunk = chunk
        self.height, self.width = opened.height, opened.width
        self.fps = opened.plan.fps
        self.frames = opened.plan.count
        self.times = None if opened.plan.times is None else torch.from_numpy(opened.plan.times)
        self.start = opened.plan.start
        self.colour = opened.colour
        self.source = opened.path
        self.aspect = opened.aspect
        self.notes, self.flaws = (*opened.notes, *opened.shape, *opened.flaws), opened.flaws
        self.sound = opened.sound
        self.plan, self.last = opened.plan, opened.plan.last
        self.damaged, self.fingerprint = opened.damaged, opened.fingerprint
        nothing = torch.empty((0, self.height, self.width, 3), dtype=torch.uint8)
        like = Video(nothing, self.fps, None, self.colour, self.source, aspect=self.aspect)
        self._like = replace(like, sound=self.sound, damaged=self.damaged)

    @property
    def seconds(self) -> float | None:
        """How long it lasts; None without a rate."""
        if self.times is None or not self.fps:
            return self.frames / self.fps if self.fps else None
        return float(self.times[-1]) + (self.last or 1 / self.fps)

    def __repr__(self) -> str:
        size = size_text(self.height, self.width)
        return f"Stream({self.frames} x {size}, {self.fps} fps, parts of {self.chunk})"

    def __iter__(self) -> Iterator[Video]:
        """Videos whose times run on from part to part."""
        with self:
            done = 0
            while done < self.frames:
                part = self._part(self._take(min(self.chunk, self.frames - done)), done)
                if not len(part):
                    return
                done += len(part)
                yield part
                del part  # before the next is read

    def _take(self, count: int) -> UInt8[Tensor, "t h w 3"]:
        """The next pictures, `count` of them or as many as there are."""
        if self._closed:
            raise ValueError("this stream was read or closed: open it again to go through it")
        out = np.empty((count, self.height, self.width, 3), np.uint8)
        taken = 0
        for taken, picture in enumerate(islice(self._opened.pictures, count), 1):
            out[taken - 1] = picture
        return torch.from_numpy(out[:taken])

    def _part(self, frames: Tensor, done: int) -> Video:
        times, last = moments_of(self.times, self.last, done, done + len(frames))
        start = done / self.fps if self.fps else 0.0
        start = self.start + (start if times is None or not len(times) else float(times[0]))
        now = {"frames": frames, "times": times, "start": start, "last": last}
        return replace(self._like, **now, notes=self.flaws)

    def whole(self) -> Video:
        """All frames as one video."""
        with self:
            return self._part(self._take(self.frames), 0)

    def limit(self, frames: int) -> None:
        """End after `frames` frames, if there are more; a rate that varies is the mean of these."""
        if frames < self.frames and self.times is not None:
            self.times, self.last = moments_of(self.times, self.last, 0, frames)
            self.fps = frames / (self.seconds or 1.0)
            self._like = replace(self._like, fps=self.fps)
        self.frames = min(self.frames, frames)

    def close(self) -> None:
        """Let go of the file; nothing more can be read."""
        self._closed = True
        self._opened.pictures.close()
        self._opened.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def stream(
    path: VideoInput,
    *,
    start: float = 0.0,
    frames: int | None = None,
    fps: float | None = None,
    size: AnySize = None,
    raw: str | None = None,
    damage: Damage = "refuse",
    chunk: int = 16,
) -> Stream:
    """Open a video to be read in parts of at most `chunk` frames; else as `read`.

    Raises FileNotFoundError or ValueError for what can be seen ahead, the iteration ValueError for
    damage or a change of size in mid-stream.
    """
    if not is_count(chunk):
        raise ValueError(f"chunk must be 1 or more frames, not {said(chunk)}")
    span = FrameSpan(start=start, frames=frames, fps=fps)
    opened = open_source(path, span, size, raw=raw, damage=damage)
    for note in opened.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return Stream(opened, chunk)


def read(
    path: VideoInput,
    *,
    start: float = 0.0,
    frames: int | None = None,
    fps: float | None = None,
    size: AnySize = None,
    raw: str | None = None,
    damage: Damage = "refuse",
) -> Video:
    """Read a video, an image or a folder of images.

    `path` is a file, an address ("https://...", "s3://..." and what else fsspec opens; a str), "-"
    for standard input, bytes, or a binary file, which is read from its beginning and left open.
    `start`: seconds from the first frame; the first picture is the first frame not before it.
    `frames`: at most so many pictures. `fps`: resample, each picture the latest frame on show.
    `size`: short side in pixels, (height, width), or a function of both. `raw`:
    "96x64:25:yuv420p", width x height, frames per second and pixel format of raw pictures (.yuv),
    which say nothing themselves.
    `damage`: "refuse" what cannot be decoded; "stop" there and keep what comes before; "skip" it
    and keep the time stamps of the rest. Warns of interlaced and HDR video. Raises
    FileNotFoundError or OSError where nothing can be fetched, or ValueError for what is not a
    video, is damaged, or has nothing in the span.
    """
    opened = stream(path, start=start, frames=frames, fps=fps, size=size, raw=raw, damage=damage)
    return opened.whole()


def write(
    video: Video | Tensor | np.ndarray | Image | Iterable[Video | Tensor | np.ndarray | Image],
    path: str | Path,
    *,
    fps: float | None = None,
    lossless: bool = False,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pad_even: bool = False,
    audio_from: VideoInput | None = None,
    comment: str | None = None,
) -> Written:
    """Write a video, or its parts one by one, under `path`; nothing stands there until all is done.

    `video` is a `Video`, an array or tensor as `Video.of` takes it, a Pillow picture, or parts of
    these kinds in any iterable; there "h w 3", "3 h w" and bytes "h w" are one picture each.
    The suffix chooses the container: .mp4 .mov .mkv .webm .avi .ts .gif, an image (one frame), none
    for a folder of PNG, "-" for standard output. `fps` overrides the rate (and drops times).
    `lossless` is FFV1 in .mkv or .avi. `crf`: lower is better; `preset` is the encoder's own word
    for how hard it tries ("veryfast"). `pad_even` repeats edge pixels of odd sizes.
    `audio_from`: copy the sound of this file, or what else `read` takes, from where the video
    starts in it. `comment`: a line for the metadata of a file; .gif, .ts and images keep none.
    Raises ValueError for what cannot be written so, FileNotFoundError or OSError for a missing
    folder, no permission or a full disk; the path is checked before the first part is taken.
    """
    check_rate(fps)
    parts = _parts(video)
    sink = open_sink(
        path,
        lossless=lossless,
        codec=codec,
        crf=crf,
        preset=preset,
        pad_even=pad_even,
        audio_from=audio_from,
        comment=comment,
    )
    with sink:
        begun = varying = False
        clock = PartTimes()
        for part in parts:
            if not begun:
                varying = part.times is not None and fps is None
                sink.begin(MovieShape.of(part, fps or part.fps, varying))
                if fps is not None and (part.times is not None or part.fps != fps):
                    sink.retime(part.fps)
                begun = True
            part = part if fps else replace(part, times=clock.of(part))
            moments = part.moments() if varying else [(None, None)] * len(part)
            for number, (time, seconds) in zip(range(len(part)), moments, strict=True):
                sink.add(part.frames[number].numpy(), time, seconds)
            del part  # before the next one is made
    assert sink.written is not None
    return sink.written


def _parts(video: Any) -> Iterator[Video]:
    """What `write` was given, part by part; ValueError at once for what is not a video."""
    whole = picture_of(video)
    if isinstance(whole, Tensor | np.ndarray):
        whole = Video(rgb_frames(whole, picture=whole is not video))
    if isinstance(whole, Video):
        return iter([whole])
    if isinstance(whole, str | bytes | Path | Mapping) or not isinstance(whole, Iterable):
        raise ValueError(
            f"a value of type {type(video).__name__} is not a video: give a Video, an array, or a "
            "list of pictures"
        )
    return map(_part, whole)


def _part(x: Any) -> Video:
    x = picture_of(x)
    if isinstance(x, Video):
        return x
    if not isinstance(x, Tensor | np.ndarray):
        raise ValueError(
            f"a value of type {type(x).__name__} is not a picture: give arrays, tensors or Pillow's"
        )
    return Video(rgb_frames(x, picture=x.ndim < 4))
