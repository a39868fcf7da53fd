"""`find_clips`: from what a user names to the clips that are meant. Nothing is decoded.

Every command that takes videos finds them here, so that all take the same.
"""

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reeltok.arguments import check_path
from reeltok.data.clip import Clip
from reeltok.data.kinds import (
    CORPUS_PLAN,
    MANIFEST,
    files_below,
    is_hidden,
    is_list,
    is_moving,
    is_picture,
    is_record,
    is_shard,
    is_video,
)
from reeltok.data.lerobot import is_lerobot, read_episodes
from reeltok.data.lists import GROUP, read_list
from reeltok.data.tar import HERE, members_of
from reeltok.video.inputs import is_address

PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")  # refused, and told why
SIGNS = re.compile(r"[*?\[{]")  # of a pattern


def find_clips(
    data: str | Path, *, root: str | Path | None = None, column: str = GROUP
) -> list[Clip]:
    """The clips of a folder, a pattern, a list, a tar shard, a TFRecord file, or one video.

    A pattern is a shell's, with ** for any depth and webdataset's {000..012}. A list is .csv, .tsv,
    .json, .jsonl or .txt; its files lie in `root`, by default beside it, and `column` holds their
    group, which for others is their first folder. A file of another name is one video, and so is
    an address, which has to be a str.
    Raises FileNotFoundError or ValueError where there is nothing; a file that only a list names
    is looked for when it is opened.
    """
    check_path(data, "a video, folder, pattern or list")
    path = Path(data)
    if path.exists() or path.is_symlink():
        clips = _clips_at(path, "", column, root)
    elif is_address(data):
        parts = PurePosixPath(urlsplit(str(data)).path)
        clips = [Clip(path=Path(parts), address=str(data), name=parts.name)]
    elif is_pattern(str(data)):
        clips = _clips_like(str(data), column, root)
    else:
        raise FileNotFoundError(
            f"there is no file or folder {path}: name a video, folder, pattern, list or .tar"
        )
    return distinct(clips, str(data))


def folder_of(data: str | Path) -> Path:
    """The folder in which data lies, for what is written beside it; here for an address."""
    path = Path(data)
    if path.is_dir() or path.exists():
        return path if path.is_dir() else path.parent
    return _top(str(data)) if is_pattern(str(data)) else Path()


def looks_into(data: str | Path, place: Path) -> bool:
    """Whether `find_clips(data)` would find what lies in the folder `place`, there or not yet."""
    path, target = Path(data), place.resolve()
    named = path.is_file() or (path / MANIFEST).is_file() or (path.is_dir() and is_lerobot(path))
    top = path if path.is_dir() else _top(str(data))
    if named or not target.is_relative_to(top.resolve()):
        return False
    inner = target.relative_to(top.resolve())
    if is_hidden(inner):
        return False
    if path.is_dir():
        return True
    parts = (*inner.parts, "x", "x", "x.mp4")
    patterns = [Path(text).parts[len(top.parts) :] for text in expand_braces(str(data))]
    return is_pattern(str(data)) and any(
        "**" in wanted or (len(wanted) <= len(parts) and all(map(fnmatch, parts, wanted)))
        for wanted in patterns
    )


def find_reels(data: str | Path) -> list[Clip]:
    """The .reel files of a folder at any depth or of a pattern, or one file of any name."""
    path = Path(data)
    if path.is_dir():
        inner = sorted(file for file in files_below(path) if file.suffix == ".reel")
        if not inner:
            raise FileNotFoundError(f"the folder {path} holds no .reel files")
        return [Clip(path=path / file, name=file.as_posix()) for file in inner]
    if path.exists() or not is_pattern(str(data)):
        return [Clip(path=path)]
    top, found = _top(str(data)), _matching(str(data))
    return [Clip(path=file, name=file.relative_to(top).as_posix()) for file in found]


def is_pattern(text: str) -> bool:
    """Whether a name that does not exist stands for others."""
    return glob.has_magic(text) or len(expand_braces(text)) > 1


def expand_braces(pattern: str) -> list[str]:
    """The patterns that {a,b} and {000..012} stand for, as in a shell."""
    found = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", pattern)
    if not found:
        return [pattern]
    steps = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    choices = found[1].split(",")
    if steps:
        low, high = int(steps[1]), int(steps[2])
        choices = [f"{n:0{len(steps[1])}d}" for n in range(low, high + 1)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [text for choice in choices for text in expand_braces(f"{before}{choice}{after}")]


def distinct(clips: Sequence[Clip], what: str) -> list[Clip]:
    """The clips, each once (a note says so), with a number behind a name that several have."""
    once: dict[tuple[Any, ...], Clip] = {}
    for clip in clips:
        once.setdefault(clip.identity, clip)
    if len(once) < len(clips):
        often = Counter(clip.identity for clip in clips).most_common(1)[0][0]
        warnings.warn(
            f"{what} names {len(clips) - len(once)} of {len(clips)} clips again, such as "
            f"{once[often].name}: each is taken once",
            stacklevel=3,
        )
    seen, kept = Counter[str](), []
    for clip in once.values():
        seen[clip.name] += 1
        again = f"{clip.name} ({seen[clip.name]})" if seen[clip.name] > 1 else clip.name
        kept.append(replace(clip, name=again))
    return kept


# One thing that is there.


def _clips_at(path: Path, label: str, column: str, root: str | Path | None) -> list[Clip]:
    """The clips of a file or folder; `label` is its name among others of a pattern, or ""."""
    if path.is_dir():
        found = _clips_in(path, label, column, root)
        if not found and (path / CORPUS_PLAN).is_file():
            raise ValueError(
                f"the folder {path} is a corpus of tokens and holds neither videos nor images: "
                "give clips, as tokenizers encode them and are trained on them"
            )
        if not found:
            raise ValueError(
                f"the folder {path} holds neither videos nor images: name files of unusual kinds "
                "by a pattern or a list"
            )
        return found
    if is_list(path):
        found = read_list(path, root=Path(root or path.parent), column=column)
        if not found:
            raise ValueError(f"the list {path} names no videos")
        return _clips_among(found)
    clips = _clips_of(_entry(path, label or path.name))
    if not clips:
        raise ValueError(f"the shard {path} holds neither videos nor images")
    return clips


def _entry(path: Path, name: str) -> Clip:
    """A file under its name among others, whose first folder is its group."""
    group = PurePosixPath(name).parts[0] if "/" in name else ""
    return Clip(path=path, name=name, group=group, source=name)


def _clips_of(entry: Clip) -> list[Clip]:
    """The clips of one file: itself, or all that a shard or a TFRecord file holds."""
    path, name = entry.path, entry.name
    if entry.member or entry.record is not None:
        return [entry]
    if is_record(path):
        from reeltok.data.bair import record_offsets

        names = [(f"{name}#{i}", at) for i, at in enumerate(record_offsets(path))]
        return [replace(entry, name=n, source=n, record=at) for n, at in names]
    if not (is_shard(path) or path.name.lower().endswith(PACKED)):
        return [entry]
    said = {key.strip().lower() for key, value in entry.row.items() if value.strip()}
    own = entry.source if said & {"repo", "source"} else ""
    return [
        replace(
            entry,
            name=f"{name}/{member.name}".removesuffix(f"/{HERE}"),
            member=member.name,
            parts=member.parts,
            group=(entry.group if entry.row else "") or path.stem,
            source=own or f"{path.name}/{member.name}",
        )
        for member in members_of(path)
    ]


def _clips_among(
    entries: Sequence[Clip], read: Callable[[Clip], list[Clip]] = _clips_of
) -> list[Clip]:
    """The clips of several files, as `read` finds those of one.

    A shard that cannot be read is itself a clip, which cannot be opened, and a warning says why;
    ValueError where there is nothing else.
    """
    clips, errors = list[Clip](), list[ValueError]()
    for entry in entries:
        try:
            clips += read(entry)
        except ValueError as error:
            if entry.path.is_dir() or is_list(entry.path):
                raise
            clips.append(entry)
            errors.append(error)
    if errors and len(errors) == len(entries):
        raise errors[0]
    for each in errors:
        warnings.warn(str(each), stacklevel=3)
    return clips


def _clips_in(folder: Path, label: str, column: str, root: str | Path | None) -> list[Clip]:
    """The clips below a folder at any depth, or those that its manifest names.

    A folder of pictures is one clip, unless videos lie in it or below it, whose thumbnails they
    then are; animated ones (WebP) are clips there. What is hidden is left out.
    """
    if (folder / MANIFEST).is_file():
        found = _clips_at(folder / MANIFEST, "", column, root)
        return [replace(c, name=f"{label}/{c.name}") for c in found] if label else found
    if is_lerobot(folder):
        found = read_episodes(folder)
        return [replace(c, name=f"{label}/{c.name}") for c in found] if label else found
    files = list(files_below(folder))
    films = [file for file in files if _holds_clips(file)]
    pictures = [file for file in files if is_picture(file)]
    if films or all(is_moving(folder / file) for file in pictures):  # beside frames it is one
        films += [file for file in pictures if is_moving(folder / file)]
    busy = {above for file in films for above in file.parents}
    shown = {file.parent for file in pictures} - busy
    entries: list[Clip] = []
    for inner in sorted([*films, *shown]):
        parts = PurePosixPath(label, inner).parts
        name = "/".join(parts) or folder.resolve().name
        group = parts[0] if parts[1:] or (parts and inner in shown) else ""
        entries.append(Clip(path=folder / inner, name=name, group=group, source=name))
    return _clips_among(entries)


# Patterns.


def _clips_like(pattern: str, column: str, root: str | Path | None) -> list[Clip]:
    """The clips of all that matches: videos and folders, else pictures, else whatever it is."""
    top, found = _top(pattern), _matching(pattern)
    folders = {path for path in found if path.is_dir()}
    outer = [path for path in found if not folders & set(path.parents)]
    kinds = (lambda path: path in folders or _holds_clips(path), is_picture, is_list, Path.exists)
    chosen = next((some for fits in kinds if (some := [p for p in outer if fits(p)])), [])
    if any(_holds_clips(path) for path in chosen):
        chosen = [path for path in outer if path in chosen or is_moving(path)]

    def read(entry: Clip) -> list[Clip]:
        label = "" if entry.path == top else entry.source
        return (_clips_in if entry.path in folders else _clips_at)(entry.path, label, column, root)

    names = [path.relative_to(top).as_posix() for path in chosen]
    clips = _clips_among([_entry(*each) for each in zip(chosen, names, strict=True)], read)
    if not clips:
        raise FileNotFoundError(f"what matches {pattern} are folders without videos or images")
    return clips


def _top(pattern: str) -> Path:
    """The folder in which a pattern looks: what stands before its first sign."""
    return Path(*takewhile(lambda part: not SIGNS.search(part), Path(pattern).parent.parts))


def _matching(pattern: str) -> list[Path]:
    """What matches a pattern and is not hidden; FileNotFoundError where nothing does."""
    top = _top(pattern)
    matches = {match for text in expand_braces(pattern) for match in _matches(text)}
    found = [path for path in sorted(matches) if not is_hidden(path.relative_to(top))]
    if not found:
        raise FileNotFoundError(f"no file matches {pattern}")
    return found


def _matches(text: str) -> set[Path]:
    """What matches a pattern without braces; a plain name must be there."""
    if not glob.has_magic(text) and not os.path.lexists(text):
        raise FileNotFoundError(f"there is no {text}, which a pattern in braces names")
    return {Path(match) for match in glob.glob(text, recursive=True)}


def _holds_clips(path: Path) -> bool:
    return is_video(path) or is_shard(path) or is_record(path)
