"""The sound of a video: packets copied from the original file, coded anew only where they must be.

A container that does not take the original's codec gets another (Opus in .webm); everything else
is copied packet by packet, neither decoded nor encoded.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from io import BytesIO
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
        self._close = taken.close
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
        self._packets: Iterator[Any] = iter(())

    def becomes(self, muxer: str) -> str | None:
        """The codec that the track gets in FFmpeg's `muxer`: its own if that is taken; or None."""
        if self._fits(muxer):
            return self.codec
        return _NAMES[_ENCODERS[muxer]] if muxer in _ENCODERS else None

    def _fits(self, muxer: str) -> bool:
        """Whether `muxer` takes the track as it is: it lists more than it takes, so try."""
        if muxer == "mpegts" and self.codec not in _IN_TRANSPORT_STREAMS:
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
        self._target = target
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
        rate = 48_000 if name == "libopus" else min(context.sample_rate, 48_000)
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
        for packet in self._running():
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts -= shift
            packet.dts -= shift
            if packet.pts >= 0 or not start:  # before 0 at the very start: the encoder's priming
                packet.stream = self._track
                yield packet

    def _coded(self, start: float) -> Iterator[Any]:
        """The same sound in packets of the new codec."""
        shift = self._go_to(start)
        for frame in (frame for packet in self._running() for frame in packet.decode()):
            if frame.pts is None:
                continue
            frame.pts -= shift
            if frame.pts >= 0:
                yield from self._track.encode(frame)
        yield from self._track.encode(None)

    def _running(self) -> Iterator[Any]:
        """The track's packets, with stamps that run on where recordings were joined.

        Those that stand between two recordings and fit neither are left out.
        """
        starts, here, last = [join.at for join in self._joins], 0, -math.inf
        unit = float(self._stream.time_base)
        for packet in self._source.demux(self._stream):
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
            self._target.mux(self._waiting)
            self._waiting = next(self._packets, None)

    def _length(self, packet: Any) -> float:
        """Seconds that a packet sounds; where packets are alike, mp4 stretches one over a pause."""
        if self._coder.frame_size and self._coder.sample_rate:
            return self._coder.frame_size / self._coder.sample_rate
        return float((packet.duration or 0) * packet.time_base)

    def close(self) -> None:
        """Let go of the original."""
        self._source.close()
        self._close()
