"""The sound of a video: packets copied from the original file, coded anew only where they must be.

A container that does not take the original's codec gets another (Opus in .webm); everything else
is copied packet by packet, neither decoded nor encoded.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from reeltok.video.formats import open_container
from reeltok.video.inputs import VideoInput, open_input
from reeltok.video.packets import joins_in

# What sound becomes where its own codec is not taken, by muxer: what players expect there.
_ENCODERS = {
    "webm": "libopus",
    "mp4": "aac",
    "mov": "aac",
    "avi": "libmp3lame",
    "mpegts": "aac",
    "matroska": "libopus",
}
_UNSTAMPED = {"avi"}  # muxers of files without time stamps
_MOST = 48_000  # samples per second of MP3, AAC and Opus
_SLACK = 1.0  # seconds that sound may go on after its pictures
_NAMES = {"libopus": "Opus", "aac": "AAC", "libmp3lame": "MP3"}
# FFmpeg writes any codec into a transport stream, but only these can be told apart in it again.
_IN_TRANSPORT_STREAMS = {"aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "truehd"}


class Sound:
    """The first sound track of `given` on its way into another file.

    `codec` is None where the file has no sound. Raises FileNotFoundError, or ValueError when
    nothing can be read from `given`.
    """

    def __init__(self, given: VideoInput) -> None:
        try:
            taken = open_input(given)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error} to copy the sound from") from error
        self._close, self._name = taken.close, taken.name
        try:
            with open_container(taken.file, taken.name) as first:
                self._joins = joins_in(first) if first.streams.audio else []
            self._source: InputContainer = open_container(taken.file, taken.name)
        except ValueError as error:
            taken.close()
            raise ValueError(f"{taken.name} holds no sound that can be read") from error
        self._stream: Any = next(iter(self._source.streams.audio), None)
        self.codec: str | None = None
        if self._stream is not None:
            self.codec = self._stream.codec_context.codec.canonical_name
        self._waiting: Any = None
        self._reached = 0.0  # seconds of the new video up to which sound was written
        self.pause = 0.0  # the most seconds in which nothing was, up to the last packet
        self._stamp: int | None = None  # of the last packet, in units of the new track
        self._lost = 0  # packets that could not be decoded
        self._broken: float | None = None  # seconds after which nothing more could be read
        self._packets: Iterator[Any] = iter(())

    def becomes(self, muxer: str) -> str | None:
        """The codec that the track gets in FFmpeg's `muxer`, and what it loses; or None.

        Its own codec, if that is taken.
        """
        if self._fits(muxer):
            return self.codec
        if muxer not in _ENCODERS:
            return None
        found, name = self._stream.codec_context, _NAMES[_ENCODERS[muxer]]
        less = [f"stereo instead of {found.layout.name}"] if found.layout.nb_channels > 2 else []
        if found.sample_rate > _MOST:
            less.append(f"{_MOST / 1000:g} instead of {found.sample_rate / 1000:g} kHz")
        return f"{name} ({', '.join(less)})" if less else name

    def _fits(self, muxer: str) -> bool:
        """Whether `muxer` takes the track as it is: it lists more than it takes, so try."""
        if muxer == "mpegts" and self.codec not in _IN_TRANSPORT_STREAMS:
            return False
        if muxer == "mp4" and str(self.codec).startswith("pcm_"):  # few play it, FFmpeg not all
            return False
        try:
            with av.open(BytesIO(), "w", format=muxer) as trial:
                trial.add_stream_from_template(self._stream)
                trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return False
        return True

    def into(self, target: OutputContainer, muxer: str, start: float) -> None:
        """Add the track to `target`; `start` is where its video begins in the original, seconds."""
        assert self._stream is not None
        self._target, self._muxer = target, muxer
        if self._fits(muxer):
            self._track: Any = target.add_stream_from_template(self._stream)
            self._coder, self._packets = self._stream.codec_context, self._copied(start)
        else:
            self._track = self._encoder_for(muxer)
            self._coder = self._track.codec_context
            self._packets = self._coded(start)
        self._waiting = next(self._packets, None)

    def _encoder_for(self, muxer: str) -> Any:
        name, context = _ENCODERS[muxer], self._stream.codec_context
        # Opus knows 48 kHz alone (and its halves); MP3 and AAC nothing above.
        rate = _MOST if name == "libopus" else min(context.sample_rate, _MOST)
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        return self._target.add_stream(name, rate=rate, layout=layout)

    def _go_to(self, start: float) -> int:
        """Go to `start`; the time stamp there in the track's units."""
        zero = self._zero() + start
        if start and not self._joins:
            self._source.seek(max(0, round(zero * av.time_base)), backward=True)
        return round(zero / float(self._stream.time_base))

    def _copied(self, start: float) -> Iterator[Any]:
        """Packets whose time stamps count from `start` on the clock of the original's video."""
        shift = self._go_to(start)
        early = not start and self._muxer not in _UNSTAMPED  # before 0: the encoder's priming
        for packet in self._running():
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts -= shift
            packet.dts -= shift
            if packet.pts >= 0 or early:
                packet.stream = self._track
                yield packet

    def _coded(self, start: float) -> Iterator[Any]:
        """The same sound in packets of the new codec."""
        shift = self._go_to(start)
        parts = (self._decoded(packet, shift) for packet in self._running())
        for frame in chain.from_iterable(parts):
            if frame.pts is None:
                continue
            frame.pts -= shift
            if frame.pts >= 0:
                yield from self._track.encode(frame)
        yield from self._track.encode(None)

    def _decoded(self, packet: Any, begin: int) -> list[Any]:
        """What sounds in a packet: nothing where it is damaged, which counts from `begin` on."""
        try:
            frames: list[Any] = packet.decode()
        except av.FFmpegError:
            self._lost += packet.pts is None or packet.pts >= begin
            return []
        return frames

    def _demuxed(self) -> Iterator[Any]:
        """The track's packets as far as they can be read."""
        last = 0.0
        try:
            for packet in self._source.demux(self._stream):
                last = last if packet.dts is None else float(packet.dts * packet.time_base)
                yield packet
        except av.FFmpegError:
            self._broken = last - self._zero()

    def _running(self) -> Iterator[Any]:
        """The track's packets, with stamps that run on where recordings were joined.

        Those that stand between two recordings and fit neither are left out.
        """
        starts, here, last = [join.at for join in self._joins], 0, -math.inf
        unit = float(self._stream.time_base)
        for packet in self._demuxed():
            if starts and packet.pts is not None and packet.dts is not None:
                here = max(here, bisect_right(starts, packet.pos or 0))
                moved = round(self._joins[here - 1].shift / unit) if here else 0
                packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
                until = self._joins[here].begins + _SLACK if here < len(starts) else math.inf
                if not last < packet.dts * unit < until:
                    continue
                last = packet.dts * unit
            yield packet

    def _zero(self) -> float:
        video: Any = next(iter(self._source.streams.video), None)
        if video is None or video.start_time is None:
            return 0.0
        return float(video.start_time * video.time_base)

    def until(self, seconds: float) -> None:
        """Write what sounds before `seconds` of the new video."""
        while self._waiting is not None:
            at = float(self._waiting.pts * self._waiting.time_base)
            if at >= seconds:
                return
            self.pause = max(self.pause, at - self._reached)
            self._reached = at + self._length(self._waiting)
            self._put(self._waiting)
            self._waiting = next(self._packets, None)

    def _put(self, packet: Any) -> None:
        """Write a packet; avi's units may be so coarse that two fall on one, which it refuses."""
        if self._muxer in _UNSTAMPED:
            self._target.start_encoding()
            unit = self._track.time_base
            stamp = round(packet.dts * packet.time_base / unit)
            if self._stamp is not None and stamp <= self._stamp:
                stamp = packet.pts = packet.dts = self._stamp + 1
                packet.duration, packet.time_base = 1, unit
            self._stamp = stamp
        self._target.mux(packet)

    def end(self, seconds: float) -> list[str]:
        """Write the rest up to `seconds`; a sentence each on what could not be read of it."""
        self.until(seconds)
        said = []
        if self._lost:
            packets = "1 packet" if self._lost == 1 else f"{self._lost} packets"
            said.append(f"the sound of {self._name} is damaged: {packets} left out")
        if self._broken is not None:
            said.append(f"the sound of {self._name} cannot be read after {self._broken:.2f} s")
        return said

    def _length(self, packet: Any) -> float:
        """Seconds that a packet sounds; where packets are alike, mp4 stretches one over a pause."""
        if self._coder.frame_size and self._coder.sample_rate:
            return self._coder.frame_size / self._coder.sample_rate
        return float((packet.duration or 0) * packet.time_base)

    def close(self) -> None:
        """Let go of the original."""
        self._source.close()
        self._close()
