"""What a corpus is built from: clips with their captions, classes and what else is said of them.

A list says it in its columns, a tar shard in the files of a sample (key.txt, key.json, key.cls), a
folder in a text beside the video (a.mp4, a.txt).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reeltok.corpus.row import TAKEN
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.data.kinds import is_picture, is_shard, is_video
from reeltok.data.lists import COLUMNS, GROUP, by_small_letters
from reeltok.data.tar import TarMember, index_shard
from reeltok.files.hashes import hash_text
from reeltok.files.text import hint, printable
from reeltok.video.inputs import is_address

CAPTIONS = ("caption", "captions", "text", "prompt")
"""Columns that may hold the caption, the best first."""
CLASSES = ("group", "class", "label")
"""Columns that may hold the class where none is named."""
USED = ("start", "end", "member", "record")  # columns that say where a clip lies


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """A clip, its class and caption, and the other columns of its manifest."""

    clip: Clip
    group: str = ""
    caption: str | None = None
    further: Mapping[str, str | None] = field(default_factory=dict)
    number: int = 1  # of those of one address

    @property
    def name(self) -> str:
        """How the data name it: a path in them, or an address, with a number where several do."""
        name = self.clip.address or self.clip.name
        return f"{name} ({self.number})" if self.number > 1 else name

    @property
    def mark(self) -> str:
        """A text that differs between clips, or where other things are said of one."""
        clip = self.clip
        where = (self.name, clip.member, clip.record, clip.start, clip.end)
        return repr((where, self.group, self.caption, sorted(self.further.items())))


def find_sources(
    data: str | Path, *, root: str | Path | None = None, column: str | None = None
) -> list[ListedClip]:
    """The clips of `data`, those of one file together; `column` of a list holds their class.

    Raises FileNotFoundError or ValueError as `find_clips` does; ValueError too where no clip has
    the `column`, or two columns would get one name.
    """
    clips = find_clips(data, root=root, column=column or GROUP)
    said = _Samples()
    sources = [_source(clip, column, said) for clip in clips]
    own = column is None or column.lower() in said.columns
    if not own and not (column == GROUP and any(source.group for source in sources)):
        near = hint(printable(column), map(printable, said.columns.values()))
        raise ValueError(f"no clip of {data} has the column {printable(column)!r}: {near}")
    names = sorted({name for source in sources for name in source.further})
    places = {source.clip.path: number for number, source in reversed([*enumerate(sources)])}
    ordered = sorted(sources, key=lambda source: places[source.clip.path])
    seen, found = Counter[str](), []
    for source in ordered:
        seen[source.name] += 1
        further = {name: source.further.get(name) for name in names}
        found.append(replace(source, further=further, number=seen[source.name]))
    return found


def digest_of(sources: Iterable[ListedClip]) -> str:
    """A text that stands for all clips and what is said of them."""
    return hash_text("\n".join(source.mark for source in sources), 64)


def _source(clip: Clip, column: str | None, samples: "_Samples") -> ListedClip:
    listed = {key: value for key, value in clip.row.items() if key}
    inside = bool(clip.member) and clip.group == clip.path.stem  # a shard's name is no class
    row = with_samples(listed, samples.said_of(clip), inside)
    lower = by_small_letters(row)
    samples.columns |= lower
    first = lambda names: next((lower[name] for name in names if name in lower), None)
    file, caption = first(COLUMNS), first(CAPTIONS)
    classes = column if column in row else lower.get((column or "").lower()) or first(CLASSES)
    used = {caption, classes}
    if listed:  # a sample of a shard lies there, whatever it says of where it is from
        used |= {file, *(lower.get(name) for name in USED)}
    named = listed[file].strip() if file in listed else clip.name  # a plain list has no columns
    if is_address(named):
        clip = replace(clip, address=named, path=Path(PurePosixPath(urlsplit(named).path)))
    own = listed and clip.group and not inside
    return ListedClip(
        clip=clip,
        group=clip.group if classes is None or own else row[classes],
        caption=(row[caption] or None) if caption else None,
        further={samples.name(key): value for key, value in row.items() if key not in used},
    )


def with_samples(
    listed: Mapping[str, str], said: Mapping[str, str], inside: bool
) -> dict[str, str]:
    """What a list says of a clip, and what lies beside the clip where the list says nothing.

    `inside`: what the list has as the group is only the name of the clip's shard.
    """
    spoken = {key.strip().lower() for key, value in listed.items() if value.strip()}
    spoken -= {GROUP} if inside else set()
    left_out = {*COLUMNS, *USED} if listed else set()
    for names in (CAPTIONS, CLASSES):
        left_out |= set(names) if spoken.intersection(names) else set()
    more = {key: value for key, value in said.items() if key.lower() not in left_out | spoken}
    known = {key.lower() for key in more}
    kept = {key: value for key, value in listed.items() if key.strip().lower() not in known}
    return {**kept, **more}


def further_name(name: str) -> str:
    """A further column under its own name, or another where shards have one of that name."""
    return f"given_{name}" if name in TAKEN else name


class _Samples:
    """What tar shards and folders say of their clips; every shard is gone through once.

    `columns` are those that clips have, by small letters; `named` are the further ones.
    """

    def __init__(self) -> None:
        self.shards: dict[Path, dict[str, list[TarMember]]] = {}
        self.columns: dict[str, str] = {}
        self.named: dict[str, str] = {}

    def name(self, column: str) -> str:
        """The name of a further column. ValueError where another column has it."""
        name = further_name(column)
        other = self.named.setdefault(name, column)
        if other != column:
            one, two, both = map(printable, (other, column, name))
            raise ValueError(f"the columns {one} and {two} would both be {both}: rename one")
        return name

    def said_of(self, clip: Clip) -> dict[str, str]:
        if clip.member and is_shard(clip.path):
            return self._in_shard(clip)
        if clip.address or clip.member or clip.record is not None or not clip.path.is_file():
            return {}
        beside = clip.path.with_suffix(".txt")
        if not beside.is_file():
            return {}
        return {"caption": _text_of(beside.read_bytes(), beside).strip()}

    def _in_shard(self, clip: Clip) -> dict[str, str]:
        if clip.path not in self.shards:
            found: dict[str, list[TarMember]] = {}
            for name, part in index_shard(clip.path).items():
                found.setdefault(_key(name), []).append(part)
            self.shards = {clip.path: found}  # clips of one shard come together
        files = self.shards[clip.path].get(_key(clip.member), [])
        row: dict[str, str] = {}
        for suffix, column in ((".json", ""), (".txt", "caption"), (".cls", "group")):
            if (beside := _beside(files, clip.member, suffix)) is not None:
                place = clip.path / beside.name
                text = _text_of(_bytes_of(clip.path, beside), place)
                row |= {column: text.strip()} if column else _said_in(text, place)
        return row


def _beside(files: Sequence[TarMember], member: str, suffix: str) -> TarMember | None:
    """Of the files of a key the one with that suffix which speaks of the clip `member`.

    It has the clip's whole name, or just the key; or it is the only one, of the only clip.
    """
    known = {_stem(f.name): f for f in files if PurePosixPath(f.name).suffix.lower() == suffix}
    for name in (member, _stem(member), _key(member)):
        if name in known:
            return known[name]
    clips = [file for file in files if is_video(file.name) or is_picture(file.name)]
    return next(iter(known.values())) if len(known) == 1 and len(clips) <= 1 else None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).parent / PurePosixPath(name).stem)


def _text_of(data: bytes, place: Path) -> str:
    """Text of somebody's; ValueError for what is not UTF-8, since nothing is to be lost of it."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{printable(place)} is not UTF-8 text ({error.reason}): save it as UTF-8, or remove it"
        ) from error


def _said_in(text: str, place: Path) -> dict[str, str]:
    """The values of a sample's JSON; those of programs that write NaN say nothing there."""
    import json

    try:
        held = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{printable(place)} is not JSON ({printable(error)}): mend it, or remove it"
        ) from error
    return _texts(held) if isinstance(held, dict) else {}


def _key(name: str) -> str:
    """What the files of one sample share: the name up to its first dot; "." is no such name."""
    path = PurePosixPath(name)
    return str(path.parent / (path.name.split(".")[0] or path.name))


def _bytes_of(shard: Path, part: TarMember) -> bytes:
    with shard.open("rb") as file:
        file.seek(part.begin)
        return file.read(part.size)


def _texts(values: dict[str, Any]) -> dict[str, str]:
    """Values as a list has them: text."""
    import json

    plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return {key: "" if values[key] is None else text for key, text in plain.items()}
