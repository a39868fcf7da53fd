"""The sound of a video: packets copied from the original file, neither decoded nor encoded."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer

from reeltok.media.formats import open_container


class Sound:
    """The first sound track of `path` on its way into `target`, from `start` seconds on.

    `codec` is None where the file has no sound. Raises FileNotFoundError, or ValueError when
    nothing can be read from `path`.
    """

    def __init__(self, path: str | Path, start: float = 0.0) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path} to copy the sound from")
        try:
            self._source: InputContainer = open_container(f"file:{path}", str(path))
        except ValueError as error:
            raise ValueError(f"{path} holds no sound that can be read") from error
        self._path = path
        self._stream: Any = next(iter(self._source.streams.audio), None)
        self.codec: str | None = None
        if self._stream is not None:
            self.codec = self._stream.codec_context.name
        self._waiting: Any = None
        self._packets: Iterator[Any] = iter(())

    def fits(self, muxer: str) -> bool:
        """Whether FFmpeg's `muxer` takes the track: it lists more than it takes, so try."""
        try:
            with av.open(BytesIO(), "w", format=muxer) as trial:
                trial.add_stream_from_template(self._stream)
                trial.start_encoding()
        except (av.FFmpegError, ValueError):
            return False
        return True

    def into(self, target: OutputContainer, start: float) -> None:
        """Add the track to `target`; `start` is where its video begins in the original, seconds."""
        assert self._stream is not None
        self._track = target.add_stream_from_template(self._stream)
        self._target = target
        self._packets = self._from(start)
        self._waiting = next(self._packets, None)

    def _from(self, start: float) -> Iterator[Any]:
        """Packets whose time stamps count from `start` on the clock of the original's video."""
        unit = self._stream.time_base
        zero = self._zero() + start
        shift = round(zero / float(unit))
        if start:
            self._source.seek(max(0, round(zero * av.time_base)), backward=True)
        for packet in self._source.demux(self._stream):
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts -= shift
            packet.dts -= shift
            if packet.pts >= 0 or not start:  # before 0 at the very start: the encoder's priming
                packet.stream = self._track
                yield packet

    def _zero(self) -> float:
        video: Any = next(iter(self._source.streams.video), None)
        if video is None or video.start_time is None:
            return 0.0
        return float(video.start_time * video.time_base)

    def until(self, seconds: float) -> None:
        """Write what sounds before `seconds` of the new video."""
        while self._waiting is not None:
            if float(self._waiting.pts * self._waiting.time_base) >= seconds:
                return
            self._target.mux(self._waiting)
            self._waiting = next(self._packets, None)

    def close(self) -> None:
        """Let go of the original."""
        self._source.close()
