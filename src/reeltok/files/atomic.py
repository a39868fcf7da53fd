"""Files: written whole or not at all, named in errors, and one place for the cache.

Whatever is made stands in a hidden folder `.HEX.part` beside its place until it is complete. That
folder holds a file `lock`, locked as long as its process lives. So what a killed process left is
told from what is on its way, and removed by the next one that makes the same thing.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO
from uuid import getnode

from reeltok.files.hashes import hash_text
from reeltok.files.rename import give_name

PART = re.compile(r"\.[0-9a-f]{12}\.part")  # the name of what is on its way
SCRATCH = re.compile(r"reeltok-[0-9a-f]{12}")  # the name of a temporary folder
LOCK = "lock"
LIKELY, MOST = 4, 64  # processes that make one thing at a time: usually, and at most
HOUR, DAY = 3600.0, 86400.0
FEW = 2**16  # bytes; with fewer left, a write that failed is put down to the full disk
REASONS = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EFBIG: "files may not become so large here; raise the limit or write elsewhere",
}
"""Why a file cannot grow. The system's own words for these name no file."""


# ---------------------------------------------------------------- written whole or not at all


@contextmanager
def replacing(target: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """A path to make a file (or a `folder`) at, which becomes `target` when all went well.

    After an error nothing is left of it. Folders above `target` are made. Raises OSError, in one
    sentence that names `target`, where it cannot be written.
    """
    with Unfinished(target, folder=folder) as part, naming(part.target, inside=part.path.parent):
        yield part.path
        part.finish()


def write_file(target: str | Path, data: str | bytes) -> Path:
    """Write text (UTF-8) or bytes as a whole file; OSError that names it where it cannot."""
    with replacing(target) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
    return Path(target)


def write_new(target: str | Path, data: str | bytes) -> bool:
    """Write text (UTF-8) or bytes as a whole new file; False where there is one by then."""
    with Unfinished(target) as part, naming(part.target, inside=part.path.parent):
        part.path.write_bytes(data.encode() if isinstance(data, str) else data)
        try:
            os.link(part.path, part.target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if part.target.exists():
                return False
            part.finish()
    return True


class Unfinished:
    """Something on its way to `target`: made at `path`, given its name by `finish`.

    Leaving the `with` removes what was not finished. Links are followed: what they lead to is
    replaced, not they. An old folder is replaced as a whole.
    """

    def __init__(self, target: str | Path, *, folder: bool = False) -> None:
        self.target = Path(os.path.realpath(target))
        if self.target.exists() and self.target.is_dir() != folder:
            kind = "folder" if folder else "file"
            raise ValueError(f"{self.target} exists and is not a {kind}: choose another name")
        if not folder and self.target.exists() and not self.target.is_file():
            raise ValueError(f"{self.target} exists and is not a file: choose another name")
        self._stack = ExitStack()
        with ExitStack() as stack:
            try:
                held = _hold_beside(self.target, stack)
                self.path = held / f"new{self.target.suffix}"
                if folder:
                    self.path.mkdir()
            except OSError as error:
                raise cannot_write(self.target, error) from error
            self._stack = stack.pop_all()

    def finish(self) -> None:
        """Give it its name; OSError where that cannot be done."""
        try:
            usual = stat.S_IMODE((self.path.parent / LOCK).stat().st_mode)  # as the umask says
            for file in (self.path, *self.path.glob("*")):
                if stat.S_IMODE(file.stat().st_mode) == 0o600:  # as safetensors makes them
                    file.chmod(usual)
            give_name(self.path, self.target)
        except OSError as error:
            raise cannot_write(self.target, error) from error

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _make_parents(target: Path, stack: ExitStack) -> None:
    """Make the folders above `target`; those still empty at the end of the stack go again."""
    missing = [folder for folder in target.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        stack.callback(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _hold_beside(target: Path, stack: ExitStack) -> Path:
    """A new folder beside `target`, locked until the end of the stack.

    Another process may have made the folders above, come to nothing and removed them meanwhile.
    """
    for _ in range(LIKELY):
        with suppress(FileNotFoundError):
            _make_parents(target, stack)
            return stack.enter_context(_hold(_names(target)))
    _make_parents(target, stack)
    return stack.enter_context(_hold(_names(target)))


# ---------------------------------------------------------------- temporary folders, leftovers


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that goes away with the `with`, or after a kill with the next one."""
    place = Path(tempfile.gettempdir())
    sweep(place, SCRATCH)
    numbers = (os.urandom(6).hex() for _ in range(MOST))
    with _hold([place / f"reeltok-{number}" for number in numbers], likely=0) as held:
        inner = held / "held"
        inner.mkdir()
        yield inner


def sweep(folder: str | Path, pattern: re.Pattern[str] = PART) -> None:
    """Remove what killed processes left in `folder` (not below it)."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if pattern.fullmatch(entry.name):
                _remove_dead(Path(entry.path))


def _names(target: Path) -> list[Path]:
    """The hidden names under which `target` may be made: the same ones in every run."""
    texts = (f"{target.name} {number}" for number in range(MOST))
    return [target.with_name(f".{hash_text(text, 12)}.part") for text in texts]


@contextmanager
def _hold(names: list[Path], *, likely: int = LIKELY) -> Iterator[Path]:
    """A new folder under one of the names, locked; dead ones under `likely` names are removed."""
    for name in names[:likely]:
        _remove_dead(name)
    for name in names:
        try:
            name.mkdir()
        except FileExistsError:
            _remove_dead(name)
            continue
        try:
            lock = _lock(name)
        except OSError:  # the disk is so full that it takes a folder, but nothing in it
            _remove_dead(name)
            raise
        if lock is not None:
            break
    else:
        raise OSError(f"{len(names)} processes write it already: wait for them")
    with lock:  # kept until all is removed: the name may be another's right after
        try:
            yield name
        finally:
            _clear(name)


def _lock(folder: Path) -> IO[str] | None:
    """The locked file of a new folder; None where the folder was taken for dead before that.

    It may have been made anew by then: one of two processes has the lock, the other gets None.
    """
    try:
        file = (folder / LOCK).open("x")
    except (FileNotFoundError, FileExistsError):
        return None
    with ExitStack() as stack:
        stack.enter_context(file)
        with suppress(OSError):  # a file system without locks: there, age alone tells
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            file.write(_machine())
            file.flush()
        except OSError:
            if _stands(file, folder / LOCK):
                _clear(folder)
            raise
        if _stands(file, folder / LOCK):
            stack.pop_all()
            return file
    return None


def _stands(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _remove_dead(path: Path) -> None:
    """Remove a leftover, unless its process lives, or may live on another machine."""
    try:
        file = (path / LOCK).open("r+")
    except (FileNotFoundError, NotADirectoryError):  # killed, or not yet there: then it is empty
        with suppress(OSError):
            path.rmdir()  # its process, if it lives, takes another name
        if _idle(path) > HOUR:
            _remove(path)
        return
    except OSError:
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Some network file systems keep locks to one machine: of others, age must tell.
            age = 0 if file.read() in (_machine(), "") else DAY  # "": killed as it began
        except BlockingIOError:
            return
        except OSError:
            age = DAY
        if _stands(file, path / LOCK) and (not age or _idle(path) > age):
            _remove(path)


def _clear(folder: Path) -> None:
    """Remove a folder, its lock last: one without a lock is empty, whenever this is killed."""
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.name != LOCK:
                _remove(Path(entry.path))
    shutil.rmtree(folder, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        _clear(path)
    else:
        with suppress(OSError):
            path.unlink()


def _idle(path: Path) -> float:
    """Seconds since something was last written at or below `path`; 0 where nothing is there."""
    found, times = [path], []
    for at, folders, names in os.walk(path):
        found += [Path(at, name) for name in (*folders, *names)]
    for each in found:
        with suppress(OSError):
            times.append(each.lstat().st_mtime)
    return time.time() - max(times) if times else 0.0


def _machine() -> str:
    """What tells this machine, as long as it runs, from others; containers on it are one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(getnode())


# ---------------------------------------------------------------- errors that name the file


@contextmanager
def naming(target: str | Path, *, inside: Path | None = None) -> Iterator[None]:
    """Failures to write, also of what lies `inside`, as one sentence that names `target`."""
    try:
        yield
    except Exception as error:
        if not _is_of_writing(error, inside):
            raise
        raise cannot_write(target, error) from error


def cannot_write(target: str | Path, error: BaseException, *, at: str = "") -> OSError:
    """The error that says in one sentence which file cannot be written (`at` which place), why."""
    number = _number(error)
    if number is None and _is_full(target):
        number = errno.ENOSPC
    reason = REASONS.get(number or 0) or (os.strerror(number) if number else str(error))
    plain = OSError(f"cannot write {target}{at}: {reason}")
    plain.errno = number
    return plain


def _is_of_writing(error: Exception, inside: Path | None) -> bool:
    """Whether something failed because a file could not grow, or of a file that lies `inside`."""
    if isinstance(error, OSError) and error.filename is not None:
        file = os.fsdecode(error.filename) if not isinstance(error.filename, int) else ""
        return inside is not None and Path(file).is_relative_to(inside)
    if isinstance(error, OSError):
        cut = "requested and" in str(error)  # numpy says how many items it wrote
        return cut or (error.errno in REASONS and error.strerror is not None)
    return "os error" in str(error) or (
        isinstance(error, RuntimeError) and inside is not None and _is_full(inside)
    )


def _number(error: BaseException) -> int | None:
    """The system's number of an error, which Rust's libraries have in their text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _is_full(place: str | Path) -> bool:
    folder = next((p for p in (Path(place), *Path(place).parents) if p.is_dir()), None)
    return folder is not None and shutil.disk_usage(folder).free < FEW


# ---------------------------------------------------------------- pipes


def standard_input() -> BinaryIO:
    """Standard input, in bytes; OSError where it is closed."""
    if sys.stdin is None:
        raise OSError("standard input is closed: pipe something in, or name a file instead of -")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Standard output, in bytes; OSError where it is closed."""
    if sys.stdout is None:
        raise OSError("standard output is closed: pipe it somewhere, or name a file instead of -")
    return sys.stdout.buffer


# ---------------------------------------------------------------- the same file or not


def same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two names lead to one file or folder: by links or other spellings, too."""
    try:
        return os.path.samefile(first, second)
    except OSError:  # one of them is not there
        return os.path.realpath(first) == os.path.realpath(second)


def is_pipe(path: str | Path) -> bool:
    """Whether a path is a named pipe, a socket or a device: nothing that can be read twice."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


# ---------------------------------------------------------------- the cache


def cache_folder(*names: str) -> Path:
    """Where what can be fetched or made again is kept; `names` lead into it.

    It is REELTOK_CACHE, or reeltok in XDG_CACHE_HOME, or ~/.cache/reeltok.
    """
    if chosen := os.environ.get("REELTOK_CACHE"):
        return Path(chosen, *names)
    base = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache").expanduser()
    return Path(base, "reeltok", *names)
