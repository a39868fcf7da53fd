"""Tar shards, webdataset's too: where the files in one lie, so that each is read in place."""

import posixpath
import tarfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from reeltok.data.kinds import is_hidden, is_picture, is_video
from reeltok.files.text import printable

HERE = "."  # the member that stands for the pictures at the top of a shard
_PIECE = 2**20  # bytes that are copied at a time
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstandard


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """One file in a shard: its name, where its bytes begin, and how many they are."""

    name: str
    begin: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Member:
    """One clip in a shard: a file, or the pictures of an inner folder in one video."""

    name: str
    parts: tuple[TarMember, ...]


def index_shard(shard: Path) -> dict[str, TarMember]:
    """The files of an uncompressed tar archive by name; ValueError for anything else.

    A link is the file that it leads to, under its own name; one that leads to none is left out.
    """
    return _indexed(shard)[0]


def _indexed(shard: Path) -> tuple[dict[str, TarMember], list[str]]:
    """The files by name, and the names of videos and pictures that are links to nothing."""
    found: dict[str, TarMember | str] = {}  # or the name that a link leads to
    end = shard.stat().st_size
    for entry in _entries(shard):
        name = member_name(entry.name)
        if entry.issparse():
            raise ValueError(
                f"{shard} holds {printable(entry.name)} without its empty parts, and clips are "
                "read in place: make the archive without tar's option --sparse (-S)"
            )
        if not entry.isfile():
            above = "" if entry.islnk() else posixpath.dirname(name)
            found[name] = member_name(posixpath.join(above, entry.linkname))
        elif entry.size < 0 or entry.offset_data + entry.size > end:
            raise ValueError(
                f"{shard} is cut off or damaged: it ends within {printable(entry.name)}"
            )
        else:
            found[name] = TarMember(name=name, begin=entry.offset_data, size=entry.size)
    shown = {name: _followed(found, name) for name in found if not is_hidden(name)}
    lost = [n for n, part in shown.items() if not part and (is_video(n) or is_picture(n))]
    return {name: replace(part, name=name) for name, part in shown.items() if part}, lost


def _entries(shard: Path) -> list[tarfile.TarInfo]:
    """The files and links of an archive, in its order."""
    try:
        with tarfile.open(shard, "r:") as tar:
            return [entry for entry in tar if entry.isfile() or entry.islnk() or entry.issym()]
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, RecursionError) as error:
        if getattr(error, "filename", None) is not None:  # it cannot be opened at all
            raise
        raise ValueError(f"{shard} is not a readable tar archive ({_why(shard, error)})") from error


def _followed(found: Mapping[str, TarMember | str], name: str) -> TarMember | None:
    """The file that a name, or a chain of links, leads to; None where it leads to none."""
    at, passed = found.get(name), set[str]()
    while isinstance(at, str) and at not in passed:
        passed.add(at)
        at = found.get(at)
    return None if isinstance(at, str) else at


def _why(shard: Path, error: Exception) -> str:
    with shard.open("rb") as file:
        packed = file.read(6).startswith(COMPRESSED)
    return "it is compressed: unpack it first, clips are read in place" if packed else str(error)


def member_name(name: str) -> str:
    """A member's name without "./" in front, as every archiver may write it."""
    return posixpath.normpath(name).lstrip("/")


def members_of(shard: Path) -> list[Member]:
    """The clips in a shard, found as in a folder: see `find.clips_in`.

    In webdataset's shards a sample is the files that share a name up to the first dot; a picture
    with such company (a caption, a label) is a clip of its own and no frame of a video, and so are
    those beside it that lack it.
    """
    parts, lost = _indexed(shard)
    if lost:
        warnings.warn(
            f"{shard} holds {len(lost)} {'links' if len(lost) > 1 else 'link'} to files that are "
            f"not in it, such as {printable(lost[0])}: left out",
            stacklevel=3,
        )
    found = [Member(name=name, parts=(part,)) for name, part in parts.items() if is_video(name)]
    busy = {above for member in found for above in PurePosixPath(member.name).parents}
    samples = _samples(parts)
    alone = {name for name in parts if is_picture(name) and _key(name) in samples}
    apart = {PurePosixPath(name).parent for name in alone}  # where no picture is a frame
    for name, part in parts.items():
        if name in alone or (is_picture(name) and PurePosixPath(name).parent in apart):
            found.append(Member(name=name, parts=(part,)))
    for folder, pictures in _pictures(parts).items():
        if folder not in busy | apart:
            found.append(Member(name=str(folder), parts=tuple(pictures)))
    order = {name: number for number, name in enumerate(parts)}
    return sorted(found, key=lambda member: order[member.parts[0].name])


def find_member(shard: Path, name: str) -> tuple[TarMember, ...]:
    """The files of one clip in a shard. FileNotFoundError where it is not in there."""
    parts = index_shard(shard)
    pictures = _pictures(parts)
    for tried in (member_name(name), member_name(name.strip())):  # written by hand, with spaces
        if tried in parts:
            return (parts[tried],)
        if PurePosixPath(tried) in pictures:
            return tuple(pictures[PurePosixPath(tried)])
    raise FileNotFoundError(f"there is no {name} in {shard}")


def unpack_shard(shard: Path, parts: Iterable[TarMember], folder: Path) -> None:
    """Write files of a shard into `folder`, under their own names."""
    with shard.open("rb") as file:
        for part in parts:
            file.seek(part.begin)
            with (folder / PurePosixPath(part.name).name).open("wb") as out:
                for left in range(part.size, 0, -_PIECE):
                    out.write(file.read(min(left, _PIECE)))


def _key(name: str) -> str:
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.split(".")[0])


def _samples(parts: dict[str, TarMember]) -> set[str]:
    """The names that a picture shares with a file that is not a picture, but with no video."""
    films = {_key(name) for name in parts if is_video(name)}
    return {_key(name) for name in parts if not is_picture(name)} - films


def _pictures(parts: dict[str, TarMember]) -> dict[PurePosixPath, list[TarMember]]:
    """The pictures by their inner folder, which may be frames."""
    found: dict[PurePosixPath, list[TarMember]] = {}
    for name, part in parts.items():
        if is_picture(name):
            found.setdefault(PurePosixPath(name).parent, []).append(part)
    return found
