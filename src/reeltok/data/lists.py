"""Lists of clips: CSV and TSV, JSON and JSON lines, plain text, UCF-101's and Kinetics' own."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from math import inf
from os.path import commonpath
from pathlib import Path, PurePosixPath
from typing import Any

from reeltok.data.clip import Clip
from reeltok.data.kinds import PARQUET, files_below, is_video
from reeltok.files.atomic import replacing
from reeltok.files.text import hint, printable

COLUMNS = (
    *("file", "filename", "file_name", "filepath", "file_path", "video", "videos", "video_path"),
    *("path", "url", "video_url", "uri", "name"),
)
"""Columns that may hold the file, the best first; capitals do not matter."""
WRITTEN = (
    *("member", "record", "start", "end", "group", "source", "frames", "fps", "height", "width"),
)
GROUP = "group"  # the column of the groups, unless told otherwise
KINETICS = {"youtube_id", "time_start", "time_end"}  # the columns of its own lists
Row = Mapping[str, str]


def read_list(path: Path, *, root: Path, column: str) -> list[Clip]:
    """The clips that a list names, whether or not they are there; `column` holds their group.

    Files lie in `root`. Optional columns: `member` (of a tar shard), `record` (of a TFRecord file,
    the byte at which it begins), `start` and `end` in seconds, `repo` and `path` or `source` (what
    is held out together); capitals do not matter. Raises ValueError for what is not such a list,
    and for a `column` that it lacks, unless that is "group".
    """
    rows = read_rows(path)
    if not rows:
        return []
    names = list(dict.fromkeys(key for row in rows for key in row))
    known = by_small_letters(names)
    if set(names) >= KINETICS and COLUMNS[0] not in known:
        return _of_kinetics(rows, root, path, column_of(names, column, path) or "label")
    if names == [""]:
        return _of_text(rows, root)
    columns = Columns(file_column(names, path), column_of(names, column, path), known)
    clips = [_of_row(row, columns, root, f"{path}, row {n}") for n, row in enumerate(rows, 1)]
    return _named_within(clips)


def column_of(names: list[str], column: str, path: Path) -> str | None:
    """The column of groups as the list `path` writes it; ValueError if one is asked and lacks."""
    found = column if column in names else by_small_letters(names).get(column.lower())
    if found is None and column != GROUP:
        near = hint(printable(column), map(printable, names))
        raise ValueError(f"the list {path} has no column {printable(column)!r} of groups: {near}")
    return found


def write_list(path: Path, clips: Iterable[Clip]) -> None:
    """Write clips as a CSV that `read_list` reads back; those beside it by their relative names.

    Further columns of the lists that they are from are kept.
    """
    clips = list(clips)
    further = list(dict.fromkeys(name for clip in clips for name in further_columns(clip.row)))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([COLUMNS[0], *WRITTEN, *further])
        for clip in clips:
            near = clip.path.is_relative_to(path.parent)
            place = clip.path.relative_to(path.parent) if near else clip.path.resolve()
            values = (getattr(clip, column) for column in WRITTEN)
            said = ("" if value is None else value for value in values)
            rest = (clip.row.get(column, "") for column in further)
            table.writerow([clip.address or place, *said, *rest])


def further_columns(row: Row) -> list[str]:
    """The columns of a row that a written list does not have by itself."""
    known = by_small_letters(row)
    named = next((name for name in COLUMNS if name in known), COLUMNS[0])
    return [name for name in row if name.strip().lower() not in (COLUMNS[0], named, *WRITTEN)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a list by column; of plain text the column is "". ValueError if it is none."""
    if path.suffix.lower() == PARQUET:
        return [_plain_row(row, path) for row in _parquet_rows(path)]
    try:
        given = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {path} is not UTF-8 text ({error.reason})") from error
    suffix, text = path.suffix.lower(), given.replace("\r\n", "\n").replace("\r", "\n")
    if suffix in (".csv", ".tsv"):
        return _csv_rows(given, path)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return [_plain_row(value, path) for value in _json_values(text, path)]
    lines = (line.strip() for line in text.split("\n"))
    return [{"": line} for line in lines if line and not line.startswith("#")]


def file_column(names: Iterable[str], path: Path) -> str:
    """The column that holds the files. ValueError, which names the columns, where there is none."""
    known = by_small_letters(names := list(names))
    for name in COLUMNS:
        if name in known:
            return known[name]
    raise ValueError(
        f"the list {path} has the columns {printable(', '.join(names)) or '(none)'}: one of "
        f"{', '.join(COLUMNS)} must name the videos"
    )


def by_small_letters(names: Iterable[str]) -> dict[str, str]:
    """The columns by their names in small letters; of several, the one that is written so."""
    names = list(names)
    found = {name.strip().lower(): name for name in reversed(names)}
    return found | {name: name for name in names if name in found}


def _csv_rows(text: str, path: Path) -> list[dict[str, str]]:
    header = text.partition("\n")[0]
    mark = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        given = list(reader)
    except csv.Error as error:
        raise ValueError(
            f"the list {path} is not a CSV file ({error}, line {reader.line_num}): close each "
            'quote that opens a value, and write one within it as ""'
        ) from error
    for number, row in enumerate(given, 1):
        if any(row.get(None, ())):
            raise ValueError(
                f"{path}, row {number}: it has more values than the header has columns: put a "
                f"value that holds {reader.reader.dialect.delimiter!r} in quotes"
            )
    rows = [{key: value or "" for key, value in row.items() if key} for row in given]
    if reader.fieldnames and not rows:
        file_column(reader.fieldnames, path)  # a wrong list says so, an empty one is empty
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"the list {path} is not a parquet file, or damaged: copy it again"
        ) from error
    if not len(table):
        file_column(table.column_names, path)
    return table.to_pylist()


def _json_values(text: str, path: Path) -> list[Any]:
    lines = text.split("\n") if path.suffix.lower() != ".json" else [text]
    values = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"line {number} of the list {path} is not JSON ({printable(error)})"
            ) from error
    if path.suffix.lower() == ".json":
        if not values or not isinstance(values[0], list):
            raise ValueError(f"{path} is not a list of clips: JSON of clips is [{{...}}, {{...}}]")
        return values[0]
    return values


def _plain_row(value: Any, path: Path) -> dict[str, str]:
    if isinstance(value, str):
        return {COLUMNS[0]: value}
    if not isinstance(value, dict):
        raise ValueError(f"an entry of the list {path} is {value!r}: give objects or names")
    texts = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in value.items()}
    return {key: "" if value[key] is None else text for key, text in texts.items()}


@dataclass(frozen=True)
class Columns:
    """Which column of a list holds the file, which the group, and all by their small letters."""

    file: str
    group: str | None
    known: Mapping[str, str]


def _of_row(given: Row, columns: Columns, root: Path, where: str) -> Clip:
    key = columns.file
    row = {word: given[name] for word, name in columns.known.items() if name in given}
    name = given.get(key, "")
    if name != name.strip() and not (name.strip() and (root / name).exists()):
        name = name.strip()
    if not name:
        raise ValueError(f"{where}: the column {key} is empty, it must name a video")
    path = root / name
    start, end = _seconds(row, "start", where) or 0.0, _seconds(row, "end", where)
    if end is not None and end <= start:
        raise ValueError(f"{where}: it ends at {end:g} s, before it starts at {start:g} s")
    origin = "/".join(row[k] for k in ("repo", "path") if row.get(k) and columns.known[k] != key)
    member, record = row.get("member", ""), row.get("record", "").strip()
    member = member if member.strip() else ""  # else as it is: a name may end in a space
    if record and not record.isdecimal():
        raise ValueError(
            f"{where}: `record` is the byte at which one begins, not {record!r}: give a "
            "whole number"
        )
    if not PurePosixPath(name).name:  # the folder of the list, whose pictures are the clip
        name = (root / name).resolve().name
    return Clip(
        path=path,
        name=f"{name}/{member}" if member else f"{name}#{record}" if record else name,
        member=member,
        record=int(record) if record.isdecimal() else None,
        start=start,
        end=end,
        group=given.get(columns.group or "", ""),
        source=origin or row.get("source") or (f"{name}/{member}" if member else name),
        row=given,
    )


def _seconds(row: Row, column: str, where: str) -> float | None:
    """A time of a row; None where it says none."""
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < inf:
        raise ValueError(f"{where}: `{column}` is in seconds, not {text!r}")
    return seconds


def _named_within(clips: list[Clip]) -> list[Clip]:
    """The clips; absolute names begin below the folder that all of those have in common."""
    folders = [str(PurePosixPath(c.name).parent) for c in clips if c.name.startswith("/")]
    if not folders:
        return clips
    top = commonpath(folders)
    within = lambda name: str(PurePosixPath(name).relative_to(top)) if name[0] == "/" else name
    return [replace(clip, name=within(clip.name)) for clip in clips]


def _of_kinetics(rows: list[dict[str, str]], root: Path, where: Path, group: str) -> list[Clip]:
    """Kinetics' own lists: files are named by video and seconds, in folders of any depth."""
    places = _places(root)
    clips = []
    for number, row in enumerate(rows, 1):
        try:
            start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
        except (KeyError, ValueError, OverflowError):
            raise ValueError(
                f"{where}, row {number}: Kinetics' time_start and time_end are seconds, such as 10"
            ) from None
        name = row.get("youtube_id", "")
        stem = f"{name}_{start:06d}_{end:06d}"
        clip = Clip(
            path=places.get(stem, [root / f"{stem}.mp4"])[-1],
            name=stem,
            group=row.get(group, ""),
            source=name,
            row=row,
        )
        if stem not in places and name in places:  # the whole video, of which this is a part
            if not 0 <= start < end:
                raise ValueError(
                    f"{where}, row {number}: {name} cannot be cut from {start} to {end} s: let "
                    "time_end lie behind time_start"
                )
            clip = replace(clip, path=places[name][-1], start=float(start), end=float(end))
        clips.append(clip)
    return clips


def _of_text(rows: list[dict[str, str]], root: Path) -> list[Clip]:
    """A file a line, with or without a label behind it: UCF-101's lists, and plain ones."""
    places: dict[str, list[Path]] | None = None
    clips = []
    for line in (row[""] for row in rows):
        head, _, tail = line.rpartition(" ")
        labelled = head and tail.isdigit() and not (root / line).exists()
        name, label = (head, tail) if labelled else (line, "")
        target = root / name
        if not target.exists():  # the list lies elsewhere than the videos do
            places = _places(root) if places is None else places
            target = _only_place(name, places) or target
        row = {"label": label} if label else {}
        clips.append(Clip(path=target, name=name, group=label, source=name, row=row))
    return _named_within(clips)


def _only_place(name: str, places: Mapping[str, list[Path]]) -> Path | None:
    """The one video whose path ends in this name, whatever its suffix; None where several do."""
    wanted = Path(name)
    stem = wanted.stem if is_video(name) else wanted.name
    folders = wanted.parent.parts
    near = [
        path
        for path in places.get(stem, ())
        if not folders or path.parent.parts[-len(folders) :] == folders
    ]
    found = [path for path in near if path.name == wanted.name] or near
    return found[0] if len(found) == 1 else None


def _places(root: Path) -> dict[str, list[Path]]:
    """The videos below a folder by their names without suffix."""
    places: dict[str, list[Path]] = {}
    for file in filter(is_video, (root / inner for inner in sorted(files_below(root)))):
        places.setdefault(file.stem, []).append(file)
    return places
