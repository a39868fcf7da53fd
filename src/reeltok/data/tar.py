"""Tar shards, webdataset's too: where the files in one lie, so that each is read in place."""

import posixpath
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from reeltok.data.kinds import is_hidden, is_picture, is_video
from reeltok.files.text import printable

HERE = "."  # the member that stands for the pictures at the top of a shard
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
    """The files of an uncompressed tar archive by name; ValueError for anything else."""
    try:
        with tarfile.open(shard, "r:") as tar:
            files = [file for file in tar if file.isfile()]
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, RecursionError) as error:
        if getattr(error, "filename", None) is not None:  # it cannot be opened at all
            raise
        raise ValueError(f"{shard} is not a readable tar archive ({_why(shard, error)})") from error
    end = shard.stat().st_size
    for file in files:
        if file.size < 0 or file.offset_data + file.size > end:
            raise ValueError(
                f"{shard} is cut off or damaged: it ends within {printable(file.name)}"
            )
    parts = (TarMember(name=member_name(f.name), begin=f.offset_data, size=f.size) for f in files)
    return {part.name: part for part in parts if not is_hidden(part.name)}


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
    with such company (a caption, a label) is a clip of its own and no frame of a video.
    """
    parts = index_shard(shard)
    found = [Member(name=name, parts=(part,)) for name, part in parts.items() if is_video(name)]
    busy = {above for member in found for above in PurePosixPath(member.name).parents}
    samples = _samples(parts)
    for name, part in parts.items():
        if is_picture(name) and _key(name) in samples:
            found.append(Member(name=name, parts=(part,)))
    for folder, pictures in _pictures(parts, samples).items():
        if folder not in busy:
            found.append(Member(name=str(folder), parts=tuple(pictures)))
    order = {name: number for number, name in enumerate(parts)}
    return sorted(found, key=lambda member: order[member.parts[0].name])


def find_member(shard: Path, name: str) -> tuple[TarMember, ...]:
    """The files of one clip in a shard. FileNotFoundError where it is not in there."""
    parts, name = index_shard(shard), member_name(name)
    if name in parts:
        return (parts[name],)
    pictures = _pictures(parts, set()).get(PurePosixPath(name))
    if pictures is None:
        raise FileNotFoundError(f"there is no {name} in {shard}")
    return tuple(pictures)


def unpack_shard(shard: Path, parts: Iterable[TarMember], folder: Path) -> None:
    """Write files of a shard into `folder`, under their own names."""
    with shard.open("rb") as file:
        for part in parts:
            file.seek(part.begin)
            (folder / PurePosixPath(part.name).name).write_bytes(file.read(part.size))


def _key(name: str) -> str:
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.split(".")[0])


def _samples(parts: dict[str, TarMember]) -> set[str]:
    """The names that a picture shares with a file that is not a picture, but with no video."""
    films = {_key(name) for name in parts if is_video(name)}
    return {_key(name) for name in parts if not is_picture(name)} - films


def _pictures(
    parts: dict[str, TarMember], samples: set[str]
) -> dict[PurePosixPath, list[TarMember]]:
    """The pictures that are frames, by their inner folder."""
    found: dict[PurePosixPath, list[TarMember]] = {}
    for name, part in parts.items():
        if is_picture(name) and _key(name) not in samples:
            found.setdefault(PurePosixPath(name).parent, []).append(part)
    return found
