"""Where a corpus lies: a folder, or an address that fsspec opens (s3://..., gs://..., memory://...).

A file appears under its name when it is whole: in a folder it is renamed, at an address it is put
there by one call. What fails, or does not answer, is an OSError of one sentence.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from reeltok.files.atomic import replacing, scratch, write_file, write_new
from reeltok.files.patience import PatientFile, UnansweredError, answer_within
from reeltok.video.inputs import how_to_open, is_address

Result = TypeVar("Result")
PATIENCE = 60.0  # seconds that a remote may take to answer
SLOWEST = 2**19  # bytes per second: a transfer may take so much longer than an answer


class Place:
    """A folder or an address, and the files in it by their names."""

    def __init__(self, path: "str | Path | Place", *, patience: float = PATIENCE) -> None:
        self.text, self.patience = str(path), patience
        self.folder = None if is_address(self.text) else Path(self.text)
        self._files: Any = None

    def __str__(self) -> str:
        return self.text

    def __fspath__(self) -> str:
        return self.text

    def where(self, name: str) -> str:
        """The path or address of a file."""
        return str(self.folder / name) if self.folder else f"{self.text.rstrip('/')}/{name}"

    def names(self) -> set[str]:
        """The files that are there; none where the place itself is not."""
        if self.folder is not None:
            found = self.folder.iterdir() if self.folder.is_dir() else ()
            return {file.name for file in found}
        remote, root = self._remote()

        def ask() -> set[str]:
            remote.invalidate_cache()
            if not remote.exists(root):
                return set()
            return {str(each).rstrip("/").rpartition("/")[2] for each in remote.ls(root, False)}

        return self._within(ask, self.text)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        if self.folder is not None:
            return (self.folder / name).is_file()
        remote, root = self._remote()
        return self._within(lambda: bool(remote.exists(f"{root}/{name}")), self.where(name))

    def written(self, name: str) -> int:
        """When a file of a folder was last written, in nanoseconds since 1970."""
        return (self.folder / name).stat().st_mtime_ns if self.folder else sys.maxsize

    def read(self, name: str) -> bytes:
        """The bytes of a file. FileNotFoundError where there is none."""
        if self.folder is not None:
            return (self.folder / name).read_bytes()
        remote, root = self._remote()
        return self._within(lambda: remote.cat_file(f"{root}/{name}"), self.where(name))

    def write(self, name: str, data: str | bytes) -> None:
        """Write text (UTF-8) or bytes as a whole file."""
        if self.folder is not None:
            write_file(self.folder / name, data)
            return
        remote, root = self._remote()
        whole = data.encode() if isinstance(data, str) else data
        put = lambda: remote.pipe_file(f"{root}/{name}", whole)
        self._within(put, self.where(name), size=len(whole))

    def write_new(self, name: str, data: str | bytes) -> bool:
        """Write text (UTF-8) or bytes as a whole new file; False where there is one.

        In a folder one of two processes is first; at an address both may be.
        """
        if self.folder is not None:
            return write_new(self.folder / name, data)
        if self.has(name):
            return False
        self.write(name, data)
        return True

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A path to make a file at, which gets its name when all went well."""
        if self.folder is not None:
            with replacing(self.folder / name) as part:
                yield part
            return
        remote, root = self._remote()
        with scratch() as held:
            part = held / name
            yield part
            put = lambda: remote.put_file(str(part), f"{root}/{name}")
            self._within(put, self.where(name), size=part.stat().st_size)

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file open for reading at any position. FileNotFoundError where there is none.

        In a folder it is pyarrow's own: a thread of pyarrow that still holds a file of Python's
        aborts the interpreter at its end (apache/arrow issue 34314).
        """
        if self.folder is not None:
            import pyarrow as pa

            with pa.OSFile(str(self.folder / name)) as file:
                yield cast(IO[bytes], file)
            return
        remote, root = self._remote()
        opens = lambda: remote.open(f"{root}/{name}", "rb")
        with self._within(opens, self.where(name)) as file:
            yield cast(IO[bytes], PatientFile(file, self.patience, self.where(name)))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
        elif self.has(name):
            remote, root = self._remote()
            self._within(lambda: remote.rm_file(f"{root}/{name}"), self.where(name))

    def _remote(self) -> tuple[Any, str]:
        """fsspec's file system of the address, and the path there. ImportError without fsspec."""
        if self._files is None:
            from fsspec.core import url_to_fs

            try:
                self._files = url_to_fs(self.text)
            except (ValueError, ImportError) as error:  # a kind that is unknown, or not installed
                how = how_to_open(self.text, error)
                raise ValueError(f"{self.text} cannot be used: {how}") from error
        remote, root = self._files
        return remote, root.rstrip("/")

    def _within(self, work: Callable[[], Result], name: str, *, size: int = 0) -> Result:
        """What `work` gives, in time. OSError that names the file where it fails or hangs."""
        try:
            return answer_within(self.patience + size / SLOWEST, work, name)
        except UnansweredError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no file {name}") from error
        except Exception as error:  # each of fsspec's many backends has errors of its own
            said = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{name} cannot be reached: {said}") from error
