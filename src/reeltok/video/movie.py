"""Pictures into one video stream: the containers and codecs that are known, and the encoding."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.container import OutputContainer

from reeltok.arguments import is_number, require_kind, said
from reeltok.files.text import nearest
from reeltok.video.colour import FromRGB, Pixels
from reeltok.video.encoders import open_svt_av1
from reeltok.video.lookahead import x264_options, x265_options
from reeltok.video.palette import Palette
from reeltok.video.size import ratio_text, size_text
from reeltok.video.sound import Sound
from reeltok.video.tags import Colour
from reeltok.video.timing import fraction_of

_STAMPS = Fraction(1, 60_000)  # the unit of varying time stamps in seconds; MPEG-4 takes no finer
_NARROW = 64  # pixels of width, below which x265's fast code was seen to write past its memory
_KNOW_ASPECT = {"libx264", "libx265", "mpeg4", "mp4", "mov"}  # codecs and muxers, as PyAV has them
_PAUSE = 0.1  # seconds that sound may be early without a word
_DELAYS = Fraction(1, 100)  # the only unit that GIF has


@dataclass(frozen=True, kw_only=True)
class MovieCodec:
    """An encoder: its layouts for even and for odd sizes, its quality option, what it is told."""

    name: str
    even: str
    odd: str | None  # None: it takes even sizes only
    least: int = 1  # pixels of height and of width
    crf: float | None = None  # None: it has no such setting
    worst: int = 51  # the highest crf
    presets: tuple[str, ...] = ()  # how hard it tries, the fastest first
    options: Mapping[str, str] = field(default_factory=dict)


_X26 = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)
CODECS = {
    "h264": MovieCodec(name="libx264", even="yuv420p", odd="yuv444p", crf=18, presets=_X26),
    "hevc": MovieCodec(
        name="libx265",
        even="yuv420p",
        odd="yuv444p",
        least=16,
        crf=20,
        presets=_X26,
        options={"x265-params": "log-level=none"},
    ),
    "vp9": MovieCodec(
        name="libvpx-vp9",
        even="yuv420p",
        odd="yuv420p",  # VP9 halves odd sizes by rounding up
        crf=24,
        worst=63,
        options={"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    ),
    "av1": MovieCodec(
        name="libsvtav1",
        even="yuv420p",
        odd=None,
        least=32,  # below, SVT-AV1 4.1 waits for ever where the other side is longer than 64
        crf=24,
        worst=63,
        presets=tuple(map(str, range(13, -1, -1))),
        options={"preset": "8"},
    ),
    "prores": MovieCodec(name="prores_ks", even="yuv422p10le", odd=None),
    "mpeg4": MovieCodec(
        name="mpeg4",
        even="yuv420p",
        odd=None,
        options={"flags": "+qscale", "global_quality": "236"},
    ),
    # Version 3 carries a checksum with each slice, which tools for archives verify.
    "ffv1": MovieCodec(
        name="ffv1",
        even="bgr0",
        odd="bgr0",
        least=2,
        options={"level": "3", "slicecrc": "1", "slices": "4"},
    ),
    "gif": MovieCodec(name="gif", even="pal8", odd="pal8"),
}
_ALSO = {"h265": "hevc", **{codec.name: name for name, codec in CODECS.items()}}


@dataclass(frozen=True, kw_only=True)
class Container:
    """A kind of video file: FFmpeg's name for it and the codecs it takes, the usual one first."""

    muxer: str
    codecs: tuple[str, ...]
    stamps: bool = True  # whether it keeps time stamps
    ends: bool = True  # whether it keeps how long the last frame is shown
    fastest: float = math.inf  # frames per second at most
    options: Mapping[str, str] = field(default_factory=dict)


# Its unit is 1 ms; without the flag, segments and tracks get random numbers: other bytes each time.
_MATROSKA: dict[str, Any] = {"fastest": 1000, "options": {"fflags": "+bitexact"}}
# What players expect in each, which is less than what FFmpeg would put there.
_MP4 = ("h264", "hevc", "av1", "vp9", "mpeg4")
CONTAINERS = {
    ".mp4": Container(muxer="mp4", codecs=_MP4),
    ".m4v": Container(muxer="mp4", codecs=_MP4),
    ".mov": Container(muxer="mov", codecs=("h264", "hevc", "prores", "mpeg4")),
    ".mkv": Container(muxer="matroska", codecs=(*_MP4, "prores", "ffv1"), **_MATROSKA),
    ".webm": Container(muxer="webm", codecs=("vp9", "av1"), **_MATROSKA),
    ".avi": Container(muxer="avi", codecs=("h264", "mpeg4", "ffv1"), stamps=False, fastest=1000),
    ".ts": Container(muxer="mpegts", codecs=("h264", "hevc", "mpeg4"), ends=False),
    ".gif": Container(muxer="gif", codecs=("gif",), options={"loop": "0"}, fastest=100),
}
_PIPE = Container(
    muxer="mp4", codecs=_MP4, options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
)
_LOSSLESS_PIPE = replace(CONTAINERS[".mkv"], options={"live": "1", **_MATROSKA["options"]})


@dataclass(frozen=True, kw_only=True)
class MovieShape:
    """What is known of a video when its first part arrives; `fps` is the mean where it varies."""

    height: int
    width: int
    fps: float | None
    varying: bool
    colour: Colour
    start: float
    aspect: Fraction = Fraction(1)  # width over height of a pixel
    silenced: str | None = None  # the sound of the original, unless it is to be copied

    @classmethod
    def of(cls, first: Any, fps: float | None, varying: bool) -> "MovieShape":
        """What the first part of a video, a `Video`, says of all of it."""
        source = first.source or "the original"
        return cls(
            height=first.height,
            width=first.width,
            fps=fps,
            varying=varying,
            colour=first.colour,
            start=first.start,
            aspect=first.aspect,
            silenced=first.sound and f"the {first.sound} sound of {source}",
        )


def codec_named(name: str) -> str:
    """Our word for a codec, which may go by its encoder's name or by another of its own."""
    return _ALSO.get(name, name)


def choose_codec(
    suffix: str,
    *,
    lossless: bool = False,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
) -> tuple[Container, MovieCodec]:
    """The container and codec of a file name's suffix ("-": a pipe) and the options asked for.

    Raises ValueError for an unknown suffix or codec, and for what does not go together.
    """
    container = _container(suffix, lossless)
    name = codec or ("ffv1" if lossless else container.codecs[0])
    require_kind(name, str, "a codec has a name")
    name = codec_named(name)
    if name not in CODECS:
        near = nearest(name, [*CODECS, *_ALSO], cutoff=0)
        raise ValueError(f"unknown codec {name!r}: did you mean {near}? ({', '.join(CODECS)})")
    if lossless and name != "ffv1":
        raise ValueError(f"lossless is FFV1, not {name}: leave out one of the two")
    if name not in container.codecs:
        fitting = [other for other, kind in CONTAINERS.items() if name in kind.codecs]
        raise ValueError(f"{name} video does not go into {suffix}: use {' or '.join(fitting)}")
    return container, _set(name, CODECS[name], crf, preset)


def _set(name: str, codec: MovieCodec, crf: float | None, preset: str | None) -> MovieCodec:
    """The codec with these settings. Raises ValueError for one that it does not take."""
    if crf is not None:
        if codec.crf is None:
            raise ValueError(f"{name} has no crf: leave it out, or name another codec")
        if not is_number(crf) or not 0 <= crf <= codec.worst:
            raise ValueError(f"crf={said(crf)} is outside what {name} takes: 0 to {codec.worst}")
        codec = replace(codec, crf=crf)
    if preset is not None:
        if preset not in codec.presets:
            known = ", ".join(codec.presets) or "none: leave it out, or name another codec"
            raise ValueError(f"{name} has no preset {preset!r}; there are {known}")
        codec = replace(codec, options={**codec.options, "preset": preset})
    return codec


def _container(suffix: str, lossless: bool) -> Container:
    if suffix == "-":
        return _LOSSLESS_PIPE if lossless else _PIPE
    if suffix not in CONTAINERS:
        raise ValueError(f"unknown suffix {suffix!r}: known are {', '.join(CONTAINERS)}")
    return CONTAINERS[suffix]


class Movie:
    """One video stream, and the sound beside it, written into an open binary file."""

    padding = ((0, 0), (0, 0), (0, 0))  # rows and columns that were added, as of `begin`

    def __init__(
        self,
        file: Any,
        suffix: str,
        container: Container,
        codec: MovieCodec,
        *,
        pad_even: bool = False,
        sound: Sound | None = None,
        comment: str | None = None,
    ) -> None:
        self.container = container
        self.codec = codec
        self.notes: list[str] = []
        self._suffix = suffix
        self._pad_even = pad_even
        self.sound = sound
        self._out: OutputContainer = av.open(
            file, "w", format=container.muxer, options=dict(container.options)
        )
        if comment is not None:
            self._out.metadata["comment"] = comment

    def begin(self, shape: MovieShape) -> None:
        """Fix the layout, rate and tags. ValueError for a rate or size that cannot be had."""
        if shape.fps is None:
            raise ValueError("the video has no frame rate (images have none): give it with `fps`")
        layout = self._layout(shape)
        self._check_size(shape.height, shape.width)
        self._rate = fraction_of(shape.fps)
        self._check_rate(shape.fps)
        self._stamped = shape.varying and self.container.stamps
        if shape.varying and not self._stamped:
            self.notes.append(f"{self._suffix} keeps no time stamps: written at the mean rate")
        elif shape.varying and not self.container.ends:
            self.notes.append(f"{self._suffix} does not keep how long the last frame is shown")
        self._unit = _STAMPS if self._stamped else 1 / self._rate
        self._unit = _DELAYS if self.codec.name == "gif" else self._unit
        self._convert = FromRGB("rgb24" if layout == "pal8" else layout, shape.colour)
        self._encoder = self._add_stream(shape, layout)
        self._palette = Palette(self._encoder, self._unit) if layout == "pal8" else None
        self._last = -1
        self._end = 0.0
        self._spans: dict[int, int] = {}  # stamp -> units for which its picture is shown
        self._held: int | None = None
        if shape.silenced and self.sound is None:
            self.notes.append(f"{shape.silenced} is left out: `audio_from` copies it")
        self._add_sound(shape.start)

    def _check_rate(self, fps: float) -> None:
        most, muxer = self.container.fastest, self.container.muxer
        if fps > most and self.codec.name != "gif":
            raise ValueError(
                f"{muxer} takes at most {most:g} frames per second, not {fps:g}: use .mp4 or `fps`"
            )
        if fps > most:
            self.notes.append(
                f"{self._suffix} shows at most {most:g} frames per second: these are shown "
                f"slower, instead of {fps:g}"
            )

    def _check_size(self, height: int, width: int) -> None:
        (_, below), (_, right), _ = self.padding
        if min(height + below, width + right) < self.codec.least:
            raise ValueError(
                f"{_ALSO[self.codec.name]} takes heights and widths from {self.codec.least} pixels "
                f"on, the video has {size_text(height, width)}: use h264 or another codec"
            )

    def _layout(self, shape: MovieShape) -> str:
        odd = (0, shape.height % 2), (0, shape.width % 2)
        if self._pad_even:
            self.padding = (*odd, (0, 0))
        if self._pad_even or not any(map(any, odd)) or self.codec.even == self.codec.odd:
            return self.codec.even
        size = size_text(shape.height, shape.width)
        if self.codec.odd is None:
            raise ValueError(f"{self.codec.name} takes even sizes only, not {size}: use `pad_even`")
        self.notes.append(
            f"odd size {size}: written as {self.codec.odd}, which some players refuse "
            "(`pad_even` adds a row or column instead)"
        )
        return self.codec.odd

    def _add_stream(self, shape: MovieShape, layout: str) -> Any:
        options = dict(self.codec.options)
        if self.codec.crf is not None:
            options["crf"] = f"{self.codec.crf:g}"
        if not self.container.stamps and self.codec.name in ("libx264", "libx265"):
            options["bf"] = "0"  # avi keeps one time per frame: no frame may be reordered
        if self._stamped and self.codec.name in ("libx264", "libx265"):
            options["bf"] = "0"  # mp4 keeps the durations in the order of the file
        pixels = shape.height * shape.width
        if self.codec.name == "libx264":
            options |= x264_options(pixels)
        if self.codec.name == "libx265":
            plain = ":asm=no" if shape.width < _NARROW else ""
            options["x265-params"] += x265_options(pixels) + plain
        stream: Any = self._out.add_stream(self.codec.name, rate=self._rate, options=options)
        (_, below), (_, right), _ = self.padding
        stream.height, stream.width = shape.height + below, shape.width + right
        stream.pix_fmt = layout
        if shape.aspect != 1:
            self._set_aspect(stream, shape.aspect)
        stream.codec_context.time_base = self._unit
        stream.codec_context.thread_type = "AUTO"
        if layout != "pal8":
            self._convert.tag(stream.codec_context)
        if self.codec.name == "libsvtav1":
            open_svt_av1(stream.codec_context)
        return stream

    def _set_aspect(self, stream: Any, aspect: Fraction) -> None:
        if self.codec.name in _KNOW_ASPECT or self.container.muxer in _KNOW_ASPECT:
            stream.codec_context.sample_aspect_ratio = aspect
        else:
            self.notes.append(
                f"{self.codec.name} in {self._suffix} keeps no ratio of pixels "
                f"({ratio_text(aspect)}): left out, so that it looks squeezed"
            )

    def _add_sound(self, start: float) -> None:
        sound = self.sound
        if sound is None or sound.codec is None:
            self.sound = None
        elif (becomes := sound.becomes(self.container.muxer)) is None:
            self.notes.append(f"{sound.codec} sound does not go into {self._suffix}: left out")
            self.sound = None
        else:
            if becomes != (found := sound.codec):
                self.notes.append(
                    f"{found} sound does not go into {self._suffix}: written as {becomes}"
                )
            sound.into(self._out, self.container.muxer, start)

    def add(self, picture: Pixels, number: int, time: float | None, seconds: float | None) -> None:
        """Encode picture `number`; where the rate varies, shown at `time` for so many `seconds`."""
        if time is None or not self._stamped:
            time, seconds = float(number / self._rate), None
        stamp = max(self._last + 1, round(time / self._unit))
        self._last = stamp
        self._end = time + (seconds or float(1 / self._rate))
        if seconds is not None:
            self._spans[stamp] = max(1, round(self._end / self._unit) - stamp)
        if any(map(any, self.padding)):
            picture = np.pad(picture, self.padding, mode="edge")
        frame = self._convert(picture, stamp, self._unit)
        for laid in self._palette(frame) if self._palette else (frame,):
            self._put(laid)
        if self.sound:
            self.sound.until(self._end)

    def finish(self) -> None:
        """Write what the encoder still holds, the rest of the sound, and the end of the file."""
        for laid in (*(self._palette(None) if self._palette else ()), None):
            self._put(laid)
        if self.sound:
            self.notes += self.sound.end(self._end)
            self._note_pause(self.sound.pause)
        self._out.close()

    def _note_pause(self, seconds: float) -> None:
        if not self.container.stamps and seconds > _PAUSE:
            self.notes.append(
                f"{self._suffix} keeps no time stamps: the sound begins late or pauses for "
                f"{seconds:.1f} s, and what follows is heard too early"
            )

    def _put(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame, or what is left (None); each packet is told how long it is shown."""
        for packet in self._encoder.encode(frame):
            if packet.pts in self._spans:
                self._held = packet.duration = self._spans.pop(packet.pts)
            if packet.pts is not None and (packet.dts is None or packet.dts > packet.pts):
                packet.dts = packet.pts  # x265's of one or two frames, now and then
            self._out.mux(packet)

    @property
    def delay(self) -> int | None:
        """Hundredths of a second for the last picture of a GIF, which FFmpeg cannot be told."""
        return self._held if self.codec.name == "gif" else None
