"""What a data set is made of: `find_items` turns a folder or a list into named videos to open.

Known are folders of videos (any depth) or of frame folders (DAVIS, Vid4), CSV lists, the list
files of UCF-101 and Kinetics, and BAIR's TFRecords. Nothing is decoded before an item is opened.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from reeltok.evaluate.bair import FPS, read_push, record_offsets
from reeltok.evaluate.metrics import Box
from reeltok.video import Video, read, stream

VIDEOS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".y4m", ".gif"),
)
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
RECORDS = (".tfrecord", ".tfrecords")
FILE_COLUMNS = ("file", "video", "videos", "path", "filename")


@dataclass(frozen=True, eq=False, kw_only=True)
class Item:
    """One video of a set: a name that is unique in the set, where it lies, what its list says."""

    name: str
    path: Path
    start: float = 0.0  # seconds
    offset: int | None = None  # bytes, where the item is one record of a TFRecord file
    row: dict[str, str] = field(default_factory=dict)  # its line of the list

    def fps(self) -> float | None:
        """Its own rate in pictures per second; None where none is known (frames in a folder)."""
        if self.offset is not None:
            return FPS
        with stream(self.path, start=self.start) as opened:
            return opened.fps

    def first(self, frames: int | None = None, *, fps: float | None = None) -> Video:
        """At most so many pictures from its start (None: all), resampled to `fps`.

        Raises FileNotFoundError, or ValueError for what cannot be read.
        """
        if self.offset is None:
            return read(self.path, start=self.start, frames=frames, fps=fps)
        if fps not in (None, FPS):
            raise ValueError(f"{self.name} was recorded at {FPS} fps and is not resampled to {fps}")
        return Video(read_push(self.path, self.offset).frames[:frames], FPS)

    def parts(self, length: int, *, fps: float | None = None) -> Iterator[Video]:
        """All of it in parts of `length` pictures, the last perhaps shorter; one is held."""
        if self.offset is None:
            yield from stream(self.path, start=self.start, fps=fps, chunk=length)
            return
        whole = self.first(fps=fps)
        yield from (whole[start : start + length] for start in range(0, len(whole), length))

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The named regions of its list's column `boxes`: "text:left,top,width,height; ..."."""
        parts = [part.strip() for part in self.row.get("boxes", "").split(";")]
        return tuple(_box(part, self.name) for part in parts if part)


def _box(text: str, name: str) -> Box:
    label, _, numbers = text.rpartition(":")
    try:
        left, top, width, height = (int(n) for n in numbers.split(","))
    except ValueError:
        raise ValueError(
            f"{name}: a box is written name:left,top,width,height in pixels, not {text!r}"
        ) from None
    return Box(name=label.strip() or "box", left=left, top=top, width=width, height=height)


def find_items(data: str | Path, *, root: str | Path | None = None) -> list[Item]:
    """The videos of a folder, a list (.csv, .txt), a TFRecord file, or one video file, by name.

    `root` is where the files of a list lie (default: beside the list). Raises FileNotFoundError
    or ValueError where there is nothing to take; a missing file of a list shows when it is opened.
    """
    path = Path(data)
    if path.is_dir():
        return _of_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no data at {path}: give a folder, a list or a video")
    suffix = path.suffix.lower()
    if suffix in RECORDS:
        return _of_records(path, path.name)
    if suffix in (".csv", ".txt"):
        found = (_of_csv if suffix == ".csv" else _of_text)(path, Path(root or path.parent))
        if not found:
            raise ValueError(f"the list {path} names no videos")
        return found
    return [Item(name=path.name, path=path)]


def _of_folder(folder: Path) -> list[Item]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    name = lambda file: file.relative_to(folder).as_posix()
    records = [file for file in files if file.suffix.lower() in RECORDS]
    if records:
        return [item for file in records for item in _of_records(file, name(file))]
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    if not videos:  # pictures beside videos are thumbnails; alone they are frames
        videos = sorted({file.parent for file in files if file.suffix.lower() in IMAGES})
    if not videos:
        raise ValueError(
            f"{folder} holds no videos ({', '.join(VIDEOS)}), no folders of frames "
            f"({', '.join(IMAGES)}) and no TFRecords"
        )
    return [Item(name=name(path) if path != folder else folder.name, path=path) for path in videos]


def _of_records(path: Path, name: str) -> list[Item]:
    offsets = record_offsets(path)
    return [Item(name=f"{name}#{i}", path=path, offset=at) for i, at in enumerate(offsets)]


def _of_csv(path: Path, root: Path) -> list[Item]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = tuple(reader.fieldnames or ())
        rows = [{k: v or "" for k, v in row.items() if k} for row in reader]
    if {"youtube_id", "time_start", "time_end"} <= set(columns):
        return _of_kinetics(rows, root)
    column = next((c for c in FILE_COLUMNS if c in columns), None)
    if column is None:
        raise ValueError(
            f"the list {path} has the columns {', '.join(columns) or '(none)'}: one of "
            f"{', '.join(FILE_COLUMNS)} should name the videos"
        )
    return _unique(
        Item(name=row[column], path=root / row[column], start=_seconds(row), row=row)
        for row in rows
    )


def _seconds(row: dict[str, str]) -> float:
    text = row.get("start", "").strip()
    try:
        return float(text or 0)
    except ValueError:
        raise ValueError(f"a list's column `start` is in seconds, not {text!r}") from None


def _of_kinetics(rows: list[dict[str, str]], root: Path) -> list[Item]:
    """Kinetics' own lists: files are named by video and seconds, in folders of any depth."""
    places = _places(root)
    items = []
    for row in rows:
        start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
        stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        path = places.get(stem) or places.get(row["youtube_id"]) or root / f"{stem}.mp4"
        items.append(Item(name=stem, path=path, row=row))
    return _unique(iter(items))


def _of_text(path: Path, root: Path) -> list[Item]:
    """A file a line, with or without a label behind it: UCF-101's lists, and plain ones."""
    places: dict[str, Path] | None = None
    items = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        head, _, tail = line.strip().rpartition(" ")
        name, label = (head, tail) if head and tail.isdigit() else (line.strip(), "")
        target = root / name
        if not target.exists():  # the list lies elsewhere than the videos do
            places = _places(root) if places is None else places
            target = places.get(Path(name).stem, target)
        items.append(Item(name=name, path=target, row={"label": label} if label else {}))
    return _unique(iter(items))


def _places(root: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(root.rglob("*")) if file.suffix.lower() in VIDEOS}


def _unique(items: Iterator[Item]) -> list[Item]:
    """The items, with a number behind a name that a list holds more than once."""
    seen: dict[str, int] = {}
    out = []
    for item in items:
        seen[item.name] = seen.get(item.name, 0) + 1
        again = f"{item.name} ({seen[item.name]})" if seen[item.name] > 1 else item.name
        out.append(replace(item, name=again))
    return out
