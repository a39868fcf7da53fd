"""From what a user hands over to a file that can be opened and rewound.

A path stays what it is; bytes and binary files are read where they are; what can only be read
forwards (a pipe) or lies elsewhere (an address) is copied to a temporary file first, because most
containers have to be searched.
"""

import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, url2pathname, urlopen

from reeltok.arguments import check_path
from reeltok.files.atomic import is_pipe, standard_input
from reeltok.files.hashes import hash_parts
from reeltok.files.patience import PatientFile, UnansweredError, answer_within

VideoInput = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+(://|::)")
PACKAGES = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""By the kind of an address, the package that fsspec opens it with."""
_ENDS = 2**16  # bytes at either end of a file that its fingerprint is of
_WAIT = 60  # seconds without a byte after which a server is given up


@dataclass(frozen=True, eq=False, kw_only=True)
class Input:
    """An input that FFmpeg can open as often as needed: "file:PATH" or a binary file."""

    file: str | BinaryIO
    name: str  # what errors call it
    path: Path | None  # the user's own file, from which sound may be copied later
    suffix: str  # of its name, in small letters; "" where there is no name
    close: Callable[[], None]

    @contextmanager
    def rewound(self) -> Iterator[BinaryIO]:
        """The bytes from the beginning; a file that is open stands afterwards where it stood."""
        if isinstance(self.file, str):
            with open(self.file.removeprefix("file:"), "rb") as opened:
                yield opened
            return
        at = self.file.tell()
        self.file.seek(0)
        yield self.file
        self.file.seek(at)

    def head(self, length: int = 32) -> bytes:
        """The first bytes."""
        with self.rewound() as file:
            return file.read(length)

    def size(self) -> int:
        """How many bytes there are."""
        with self.rewound() as file:
            return file.seek(0, io.SEEK_END)

    def fingerprint(self) -> str:
        """A hash of how many bytes there are, and of the first and the last of them."""
        with self.rewound() as file:
            size = file.seek(0, io.SEEK_END)
            ends = [file.read(_ENDS) for at in (0, max(0, size - _ENDS)) if file.seek(at) == at]
        return hash_parts([str(size), *ends])[:32]


def open_input(given: VideoInput) -> Input:
    """Open a path, an address, "-" (standard input), bytes or a binary file.

    Only a `str` can be an address, and only if there is no file of that name. Raises
    FileNotFoundError or OSError where nothing can be read, ValueError for what is not an input.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return _held(io.BytesIO(given), "the data given")
    if hasattr(given, "read"):
        return _open_file(given)
    if not isinstance(given, str | os.PathLike):
        raise ValueError(
            f"a video is read from a path, an address, bytes or a binary file, not from a "
            f"{type(given).__name__} (reeltok.Video.of takes arrays and tensors)"
        )
    check_path(given, "a video")
    if str(given) == "-":
        return _open_file(standard_input(), "standard input")
    if is_address(given):
        return _fetched(str(given))
    return _open_path(Path(given))


def is_address(given: object) -> bool:
    """Whether it is the address of something that would be fetched."""
    return isinstance(given, str) and bool(_ADDRESS.match(given)) and not os.path.exists(given)


def _open_path(path: Path) -> Input:
    try:
        os.stat(path)
    except FileNotFoundError as error:
        hint = ""
        if _ADDRESS.match(str(path).replace(":/", "://", 1)):
            hint = ": an address is given as a str, not as a Path"
        raise FileNotFoundError(f"there is no file {path}{hint}") from error
    except (OSError, ValueError) as error:  # a name that no file can have
        raise FileNotFoundError(f"there is no file {str(path)[:200]!r}") from error
    suffix = path.suffix.lower()
    if is_pipe(path):
        with path.open("rb") as pipe:
            return _held(_spooled(pipe, str(path)), str(path), suffix)
    if set("%*?{[") & set(path.name):  # FFmpeg would take it for a pattern of many files
        file = os.fdopen(os.open(path, os.O_RDONLY), "rb")  # which has no name
        return _held(file, str(path), suffix, path)
    # "file:" keeps a name such as "a:b.mp4" from being taken for an address.
    return Input(file=f"file:{path}", name=str(path), path=path, suffix=suffix, close=lambda: None)


def _open_file(file: Any, name: str | None = None) -> Input:
    """A file object of the user's: read from its beginning, never closed; a pipe is spooled."""
    said = getattr(file, "name", None)
    said = said if isinstance(said, str) else None
    name = name or said or f"the {type(file).__name__} given"
    if isinstance(file.read(0), str):
        raise ValueError(f"{name} is open as text: open it with mode 'rb'")
    suffix = Path(said).suffix.lower() if said else ""
    if _seekable(file):
        return Input(file=file, name=name, path=None, suffix=suffix, close=lambda: None)
    return _held(_spooled(file, name), name, suffix)


def _seekable(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except AttributeError:
        return False


def _held(file: BinaryIO, name: str, suffix: str = "", path: Path | None = None) -> Input:
    """A file of our own, closed with the input."""
    return Input(file=file, name=name, path=path, suffix=suffix, close=file.close)


def _spooled(pipe: Any, name: str) -> BinaryIO:
    """A temporary file with all that is left in a pipe, at its beginning."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 (the input closes it)
    try:
        shutil.copyfileobj(pipe, spool, 1 << 20)
    except OSError as error:
        spool.close()
        if error.errno != errno.ENOSPC:
            raise
        place = tempfile.gettempdir()
        raise OSError(
            f"{name} does not fit into {place}: free some space, or set TMPDIR"
        ) from error
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool


# --- addresses ------------------------------------------------------------------------------------


def _fetched(address: str) -> Input:
    """What lies at an address, as a temporary file that is gone once it is closed."""
    parts = urlsplit(address)
    if parts.scheme.lower() == "file" and "::" not in address:
        return _open_path(Path(url2pathname(parts.path)))
    # Neither a password nor the signature of a signed address belongs into a message.
    name = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    suffix = Path(parts.path).suffix.lower()
    if parts.scheme.lower() in ("http", "https") and "::" not in address:
        return _held(_fetch_http(address, name), name, suffix)
    return _held(_fetch_other(address, name), name, suffix)


def _fetch_http(address: str, name: str) -> BinaryIO:
    request = Request(address, headers={"User-Agent": "reeltok"})
    try:
        with urlopen(request, timeout=_WAIT) as reply:
            spool = _spooled(reply, name)
            promised = reply.headers.get("Content-Length")
    except HTTPError as error:
        error.close()
        kind = FileNotFoundError if error.code in (404, 410) else OSError
        raise kind(f"{name} cannot be fetched: {error.code} {error.reason}") from error
    except (URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            reason = f"it does not answer within {_WAIT:.0f} s"
        raise OSError(f"{name} cannot be fetched: {reason}") from error
    found = spool.seek(0, io.SEEK_END)
    if promised and found != int(promised):
        spool.close()
        raise OSError(f"{name} cannot be fetched: {found:,} of {int(promised):,} bytes arrived")
    spool.seek(0)
    return spool


def _fetch_other(address: str, name: str) -> BinaryIO:
    """Through fsspec: s3://, gs://, hf://, memory:// and whatever else is installed for it."""
    import fsspec

    try:
        with answer_within(_WAIT, fsspec.open(address, "rb").open, name) as remote, closing(remote):
            return _spooled(PatientFile(remote, _WAIT, name), name)
    except UnansweredError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {name}") from error
    except ImportError as error:
        raise ValueError(f"{name} cannot be fetched: {how_to_open(address, error)}") from error
    except Exception as error:  # each of fsspec's many backends has errors of its own
        raise OSError(f"{name} cannot be fetched: {str(error) or type(error).__name__}") from error


def how_to_open(address: str, error: Exception) -> str:
    """What is missing where fsspec cannot open a kind of address, and how to install it."""
    kind = address.partition("::")[0].partition("://")[0].lower()
    if isinstance(error, ImportError) and kind in PACKAGES:
        return f"{kind}:// needs {PACKAGES[kind]}, which is not here: pip install {PACKAGES[kind]}"
    return str(error)  # fsspec's own words
