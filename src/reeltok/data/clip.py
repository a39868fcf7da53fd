"""The record `Clip`: where a clip lies, what is said of it, and how it is opened."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Any

from reeltok.data.kinds import is_picture, is_shard, is_video
from reeltok.data.tar import TarMember, find_member, index_shard, member_name, unpack_shard
from reeltok.files.atomic import scratch
from reeltok.files.hashes import hash_text
from reeltok.video.record import Stream, Video, stream

NUMBERED = re.compile(r"(.+?)( \(\d+\)|#\d+)")
NEAR = 5e-4  # seconds: as far as lists write times


def said_of(name: str, why: str) -> str:
    """What an error says of the clip `name`, without naming it: "it is not a video"."""
    if why == f"there is no file {name}":
        return "there is no such file"
    folder, found, rest = why.partition(f"{name} ")
    return f"it {rest}" if found and (not folder or folder.endswith("/")) else why


def lot_of(source: str) -> float:
    """Where in [0, 1) the hash of a source lies."""
    return int(hash_text(source, 16), 16) / 2**64


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip that was found; once opened, also its frames, rate in Hz and size in pixels.

    `path` is a video, a picture, a folder of pictures, or the file that holds the clip: then
    `member` is its name in a tar shard, or `record` the byte at which it begins in a TFRecord file.
    What has an `address` is fetched from there whenever it is opened.
    `name` is unique among the clips found with it, and keeps their tree.
    """

    path: Path
    address: str = ""
    name: str = ""
    member: str = ""
    parts: tuple[TarMember, ...] = field(default=(), compare=False, repr=False)
    record: int | None = None
    start: float = 0.0  # seconds of the file that are not part of the clip
    end: float | None = None  # seconds of the file at which the clip ends; None: with it
    group: str = ""
    source: str = ""  # clips of one source are held out together
    row: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            inside = f"/{self.member}" if self.member else ""
            object.__setattr__(self, "name", f"{self.path.name}{inside}")

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells the clip from others, whatever it is called."""
        place = self.address or os.path.abspath(self.path)
        return (place, self.member, self.record, self.start, self.end)

    @property
    def place(self) -> str:
        """Where it lies, for people: a path, and the member or record there."""
        inner = f"/{self.member}" if self.member else ""
        record = "" if self.record is None else f"#{self.record}"
        return self.address or f"{self.path}{inner}{record}"

    @property
    def stem(self) -> str:
        """Its name without the suffix of a file: what is made from it is called so.

        A number that tells it from others stays: "a (2)" of "a.mp4 (2)", "x#3" of "x.tfrecords#3".
        """
        name, number = self.name, ""
        if not is_video(name) and not is_picture(name) and (found := NUMBERED.fullmatch(name)):
            name, number = found.groups()
        if self.member:
            name = name.replace(self.path.name, self.path.stem, 1)
        file = is_video(name) or is_picture(name) or (self.path.is_file() and not self.member)
        return f"{PurePosixPath(name).with_suffix('') if file else name}{number}"

    @property
    def short(self) -> int:
        """The shorter side in pixels."""
        return min(self.height, self.width)

    @property
    def changed(self) -> int:
        """When its bytes were last written, in nanoseconds since 1970; OSError if it is gone."""
        if self.address:
            return sys.maxsize  # nobody knows
        times = [self.path.stat().st_mtime_ns]
        if self.path.is_dir():
            times += [file.stat().st_mtime_ns for file in self.path.iterdir() if is_picture(file)]
        return max(times)

    @property
    def lot(self) -> float:
        """Where in [0, 1) the hash of the clip's source lies: larger shares hold it out."""
        return lot_of(self.source)

    def held_out(self, share: float) -> bool:
        """Whether the clip is kept for validation: a fixed function of its source alone."""
        return self.lot < share

    @contextmanager
    def opened(self) -> Iterator[Path | str]:
        """A path that `video.read` takes; what lies in a shard is unpacked for the time being."""
        with ExitStack() as stack:
            if not self.member and self.record is None:
                if is_shard(self.path) and not self.address:
                    index_shard(self.path)  # says why none of its clips was found
                yield self.address or self.path
                return
            folder = stack.enter_context(scratch())
            if self.record is not None:
                from reeltok.data.bair import save_push

                yield save_push(self.path, self.record, folder / "push.mkv")
                return
            parts = self.parts or find_member(self.path, self.member)
            unpack_shard(self.path, parts, folder)
            alone = parts[0].name in map(member_name, (self.member, self.member.strip()))
            yield folder / Path(parts[0].name).name if alone else folder

    @contextmanager
    def stream(self, *, start: float = 0.0, **options: Any) -> Iterator[Stream]:
        """`video.stream` of the clip; `start` counts from where the clip begins.

        Raises FileNotFoundError or ValueError that name the clip, as `video.stream` does.
        """
        with self.opened() as path:
            try:
                with self._begun(path, self.start + start, options) as opened:
                    if path not in (self.path, self.address):
                        known = lambda note: note.replace(str(path), self.name)
                        opened.notes = tuple(map(known, opened.notes))
                        opened.flaws = tuple(map(known, opened.flaws))
                    yield opened
            except ValueError as error:
                if path in (self.path, self.address):
                    raise
                raise ValueError(str(error).replace(str(path), self.name)) from error

    def _begun(self, path: Path | str, start: float, options: dict[str, Any]) -> Stream:
        """The stream from `start` seconds of the file to where the clip ends."""
        if self.end is None:
            return stream(path, start=start, **options)
        most = options.pop("frames", None)
        if self.end <= start:
            raise ValueError(f"{self.name} ends at {self.end:g} s: start={start:g} lies past that")
        with stream(path, start=start, frames=2, **options) as first:
            rate, left = first.fps or 1.0, self.end - first.start  # of the first frame in it
            if first.fps is None and first.frames > 1:
                raise ValueError(f"{self.name} has no time stamps: end needs fps as well")
        if left <= NEAR:
            raise ValueError(
                f"{self.name}: no frame begins between {start:g} and {self.end:g} s (the next at "
                f"{first.start:g} s): widen start and end"
            )
        # As many frames as the first ones suggest, or all where that is too few.
        count = ceil(left * rate - NEAR * rate)
        opened = stream(path, start=start, frames=min(count + 2, most or count + 2), **options)
        if opened.times is not None and opened.frames == count + 2 and opened.times[-1] < left:
            opened.close()
            opened = stream(path, start=start, frames=most, **options)
        if opened.times is not None:
            count = int((opened.times < left - NEAR).sum())
        opened.limit(count)
        return opened

    def read(self, **options: Any) -> Video:
        """`video.read` of the clip; the options are those of `stream`."""
        with self.stream(**options) as opened:
            return opened.whole()
