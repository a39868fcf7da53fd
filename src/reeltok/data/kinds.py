"""What a file is, by its name: a video, a picture, a shard, a list, or hidden."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

from reeltok.video.images import IMAGES
from reeltok.video.raw import RAW

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv"),
    *(".f4v", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".ts", ".m2ts", ".mts", ".vob", ".mxf"),
    *(".3gp", ".3g2", ".ogv", ".ogm", ".rm", ".rmvb", ".nut", ".dv", ".gif", ".apng", ".mjpeg"),
    *(".mjpg", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf", ".obu", ".y4m", *RAW),
)
SHARD = ".tar"
RECORDS = (".tfrecord", ".tfrecords")
PARQUET = ".parquet"
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".lst", ".list", PARQUET)
MANIFEST = "manifest.csv"  # in a folder, the list of what is in it
CORPUS_PLAN = "plan.json"  # in a folder, that it holds a corpus of tokens
FOREIGN = ("__MACOSX",)  # what archivers leave beside files; names with a dot in front are hidden


def is_video(name: str | PurePath) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEOS


def is_picture(name: str | PurePath) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGES


def is_moving(path: Path) -> bool:
    """Whether a file is an animated WebP, by its name and first bytes: a clip, as a GIF is."""
    if path.suffix.lower() != ".webp" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(21)  # the extended header; its second bit is "animation"
    return len(head) == 21 and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def is_hidden(name: str | PurePath) -> bool:
    """Whether a file, or a folder above it, is none of the user's: `._x`, `.ipynb_checkpoints`."""
    parts = PurePosixPath(name).parts
    return any(part in FOREIGN or (part.startswith(".") and part != "..") for part in parts)


def is_shard(name: str | PurePath) -> bool:
    return PurePosixPath(name).suffix.lower() == SHARD


def is_record(name: str | PurePath) -> bool:
    return PurePosixPath(name).suffix.lower() in RECORDS


def is_list(name: str | PurePath) -> bool:
    return PurePosixPath(name).suffix.lower() in LISTS


def files_below(folder: Path) -> Iterator[Path]:
    """The files below a folder, by their paths within it; hidden ones are left out."""
    seen = set[str]()

    def fail(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else [name for name in folders if not is_hidden(name)]
        if real not in seen:
            inner = Path(here).relative_to(folder)
            yield from (inner / name for name in names if not is_hidden(name))
        seen.add(real)
