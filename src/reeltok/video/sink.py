"""Where pictures are put: a video file, one image, a folder of images or a pipe.

Everything is written beside the target under a hidden name and renamed when it is complete, so that
no half-written output ever stands under the name that was asked for.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import av
from PIL import Image

from reeltok.arguments import check_path
from reeltok.files.atomic import Unfinished, cannot_write, standard_output
from reeltok.video.colour import Pixels
from reeltok.video.images import IMAGES
from reeltok.video.inputs import VideoInput
from reeltok.video.movie import Movie, MovieShape, choose_codec
from reeltok.video.size import size_text
from reeltok.video.sound import Sound

_OURS = re.compile(r"\d{6,}\.png")  # the names of a folder of frames that this module wrote


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written, and in `notes` what the reader of the file should know, a line each."""

    path: Path | None  # None: standard output
    frames: int
    height: int
    width: int
    fps: float | None
    codec: str
    notes: tuple[str, ...] = ()


class Sink:
    """An output on its way: `begin` once, `add` every picture; leaving the `with` completes it.

    Whatever ends the `with` early, an error or Ctrl-C, leaves nothing behind.
    """

    def __init__(self, place: Path | None, target: "_Target", cleanup: ExitStack) -> None:
        self._place = place
        self._target = target
        self._cleanup = cleanup
        self._shape: MovieShape | None = None
        self._frames = 0
        self.written: Written | None = None

    def begin(self, shape: MovieShape) -> None:
        """Say what the pictures will be. Raises ValueError where the form does not allow it."""
        self._shape = shape
        with self._explained():
            self._target.begin(shape)

    def retime(self, own: float | None) -> None:
        """Note that pictures of `own` frames per second play at another rate than their sound."""
        if own is not None and self._target.sounding and self._shape is not None:
            self._target.notes.append(
                f"the pictures play at {self._shape.fps:g} instead of {own:g} a second, the sound "
                "at its own speed: they do not stay together"
            )

    def add(self, picture: Pixels, time: float | None = None, seconds: float | None = None) -> None:
        """Write one picture; where the rate varies, shown at `time` for so many `seconds`."""
        assert self._shape is not None
        size = (self._shape.height, self._shape.width)
        if picture.shape[:2] != size:
            raise ValueError(
                f"the video changes its frame size: frame {self._frames} is "
                f"{size_text(*picture.shape[:2])}, those before it {size_text(*size)}"
            )
        with self._explained():
            self._target.add(picture, self._frames, time, seconds)
        self._frames += 1

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        with self._cleanup:
            if kind is None:
                self._complete()

    def _complete(self) -> None:
        if self._shape is None or not self._frames:
            raise ValueError(f"there are no frames to write to {self._name}")
        with self._explained():
            self._target.finish()
        below, right = self._target.grown
        self.written = Written(
            path=self._place,
            frames=self._frames,
            height=self._shape.height + below,
            width=self._shape.width + right,
            fps=self._shape.fps,
            codec=self._target.form,
            notes=tuple(self._target.notes),
        )

    @property
    def _name(self) -> str:
        return "standard output" if self._place is None else str(self._place)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the system and of FFmpeg as one sentence that names the file."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(self._name, error, at=f" (frame {self._frames})") from error
        except av.FFmpegError as error:
            raise ValueError(
                f"cannot encode frame {self._frames} of {self._name}: {error.strerror}"
            ) from error


def check_form(path: str | Path, *, lossless: bool = False, frames: int = 1) -> None:
    """ValueError where a file of this suffix cannot hold a video of so many frames, or not so."""
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGES:
        choose_codec(suffix, lossless=lossless)
        return
    if lossless and suffix in (".jpg", ".jpeg"):
        raise ValueError("lossless does not go with JPEG: use .png")
    if frames > 1:
        raise ValueError(
            f"one {suffix} file holds one frame and the video has more: name a folder (no suffix) "
            "or a video file"
        )


def open_sink(
    path: str | Path,
    *,
    lossless: bool = False,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pad_even: bool = False,
    audio_from: VideoInput | None = None,
    comment: str | None = None,
) -> Sink:
    """Prepare to write under `path` ("-": standard output), and make sure now that it can be done.

    Raises ValueError for an unknown or impossible form, FileNotFoundError or OSError where there is
    no folder or no permission.
    """
    check_path(path, "what is written")
    place = None if str(path) == "-" else Path(os.path.realpath(path))
    suffix = "-" if place is None else Path(path).suffix.lower()  # not of what a link leads to
    folder = place is not None and (str(path).endswith("/") or not suffix or place.is_dir())
    with ExitStack() as stack:
        if folder or suffix in IMAGES:
            assert place is not None
            if codec or crf is not None or preset:
                raise ValueError(
                    f"codec, crf and preset go with a video file, not with images ({path})"
                )
            if not folder:
                check_form(path, lossless=lossless)
            elif place.exists():
                _check_folder(place)
            part = stack.enter_context(Unfinished(place, folder=folder))
            target: _Target = _Images(part, ".png" if folder else suffix, folder, lossless)
            if audio_from is not None:
                target.notes.append("images carry no sound: left out")
        else:
            settings = choose_codec(suffix, lossless=lossless, codec=codec, crf=crf, preset=preset)
            sound = None if audio_from is None else Sound(audio_from)
            if sound is not None:
                stack.callback(sound.close)
            target = file = _File(None if place is None else stack.enter_context(Unfinished(place)))
            stack.callback(file.drop)
            how: dict[str, Any] = {"pad_even": pad_even, "sound": sound, "comment": comment}
            file.hold(Movie(file.file, suffix, *settings, **how))
        cleanup = stack.pop_all()
    return Sink(place, target, cleanup)


def _check_folder(place: Path) -> None:
    """Only an empty folder, or one with frames that this module wrote, is ever replaced."""
    if not place.is_dir():
        raise ValueError(f"{place} is a file, not a folder: a video's name needs a suffix (.mp4)")
    if not all(_OURS.fullmatch(name) for name in os.listdir(place)):
        raise ValueError(f"the folder {place} holds other files: name a new or an empty one")


@runtime_checkable
class _Target(Protocol):
    """One way of writing, beside the place where it will stand."""

    form: str  # what it is written as, for people
    notes: list[str]

    @property
    def grown(self) -> tuple[int, int]: ...
    @property
    def sounding(self) -> bool: ...

    def begin(self, shape: MovieShape) -> None: ...
    def add(
        self, picture: Pixels, number: int, time: float | None, seconds: float | None
    ) -> None: ...
    def finish(self) -> None: ...


class _Images:
    """One image, or a folder of numbered PNG files."""

    grown = (0, 0)
    sounding = False

    def __init__(self, part: Unfinished, suffix: str, folder: bool, lossless: bool) -> None:
        self._part = part
        self._suffix = suffix
        self._folder = folder
        self._options = {"lossless": lossless} if suffix == ".webp" else {"quality": 95}
        self.form = suffix.removeprefix(".")
        self.notes: list[str] = []

    def begin(self, shape: MovieShape) -> None:
        if shape.varying:
            self.notes.append("images keep no time stamps: left out")
        if shape.aspect != 1:
            self.notes.append(
                "images keep no ratio of pixels: left out, so that they look squeezed"
            )

    def add(self, picture: Pixels, number: int, time: float | None, seconds: float | None) -> None:
        if not self._folder:
            check_form(f"frame{self._suffix}", frames=number + 1)
        file = self._part.path
        file = file / f"{number:06d}{self._suffix}" if self._folder else file
        form = Image.registered_extensions()[self._suffix]
        Image.fromarray(picture).save(file, form, **self._options)

    def finish(self) -> None:
        self._part.finish()


class _File:
    """A video file, or standard output where there is no part of one."""

    def __init__(self, part: Unfinished | None) -> None:
        self._part = part
        self.file: Any = _Pipe() if part is None else _Whole(part.path, "w")

    def hold(self, movie: Movie) -> None:
        """Say what goes into the file."""
        self._movie = movie
        self.form = movie.codec.name
        self.notes = movie.notes
        self.begin = movie.begin
        self.add = movie.add

    @property
    def grown(self) -> tuple[int, int]:
        """Rows and columns that were added to an odd size."""
        (_, below), (_, right), _ = self._movie.padding
        return below, right

    @property
    def sounding(self) -> bool:
        """Whether there is sound in it."""
        return self._movie.sound is not None

    def finish(self) -> None:
        self._movie.finish()
        self.file.close()
        if self._part is None:
            return
        if self._movie.delay is not None:
            set_last_delay(self._part.path, self._movie.delay)
        self._part.finish()

    def drop(self) -> None:
        """Close it, whatever has become of it."""
        with suppress(OSError):  # a full disk is full for what is thrown away, too
            self.file.close()


def set_last_delay(path: Path, delay: int) -> None:
    """Say in a GIF how many hundredths of a second its last picture is shown.

    The delay is in the last graphic control extension (GIF89a, section 23).
    """
    with path.open("rb") as file:
        at = _last_control(file)
    if at is not None:
        with path.open("r+b") as file:
            file.seek(at + 4)
            file.write(min(delay, 0xFFFF).to_bytes(2, "little"))


def _last_control(file: BinaryIO) -> int | None:
    """Where the last graphic control extension of a GIF begins, block by block from the first."""

    def skip_table(flags: int) -> None:
        file.read(3 << (flags & 7) + 1 if flags & 0x80 else 0)

    found = None
    skip_table(file.read(13)[10])
    while (kind := file.read(1)) in (b"\x21", b"\x2c"):
        if kind == b"\x2c":  # a picture
            skip_table(file.read(9)[8])
        label = file.read(1)  # of a picture, how its codes begin
        if (kind, label) == (b"\x21", b"\xf9"):
            found = file.tell() - 2
        while length := file.read(1):
            if length == b"\0":
                break
            file.read(length[0])
    return found


class _Whole(io.FileIO):
    """A file without a buffer: only `write` may fail, as FFmpeg's way back expects."""

    def write(self, data: Any) -> int:
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        return len(data)


class _Pipe:
    """Standard output as FFmpeg writes to it: forwards only."""

    def __init__(self) -> None:
        self._stream = standard_output()
        self.closed = False

    def write(self, data: bytes) -> int:
        return self._stream.write(data)

    def close(self) -> None:
        self.closed = True
        self._stream.flush()
