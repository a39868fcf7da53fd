"""A finished corpus, to be read: a map-style data set of its rows, and what is said of it."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch.utils.data import Dataset

from reeltok.arguments import is_count, said
from reeltok.corpus.finish import FAILED, INDEX, MANIFEST
from reeltok.corpus.packing import held_packing
from reeltok.corpus.place import Place
from reeltok.corpus.plan import PLAN, use_difference
from reeltok.corpus.row import Row, of_columns, tokens_of
from reeltok.corpus.shard import FileReader
from reeltok.files.parsing import parse_json
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import made_by
from reeltok.tokens.record import Tokens
from reeltok.video.record import Video

if TYPE_CHECKING:
    from reeltok.corpus.batches import Batches

OPEN_FILES = 32  # held at a time
HELD_BYTES, HELD_GROUPS = 256_000_000, 4  # of row groups: so many bytes at most, or so few groups


class Corpus(Dataset):
    """The rows of a finished corpus at `path`, a folder or an address; `corpus[i]` is a `Row`.

    The index is read at once, rows when they are asked for, a row group (4 MB, or 8 larger rows) at
    a time, of which 256 MB are held: rows that follow one another are cheap. It can be pickled, so
    that the workers of a `DataLoader` read too. Packed ids are unpacked. Raises FileNotFoundError
    where there is no corpus, ValueError where it is not finished, or a file of it was altered.
    """

    def __init__(self, path: "str | Path | Place") -> None:
        self.place = path if isinstance(path, Place) else Place(path)
        self.manifest = read_manifest(self.place)
        self.tokenizer: Mapping[str, Any] = self.manifest["tokenizer"]
        self.statistics: dict[str, Any] | None = self.manifest["statistics"]
        packed = self.manifest["build"].get("packing")
        self.packing = None if packed is None else held_packing(self.place, packed)
        self._read_index()
        self._forget()

    def _read_index(self) -> None:
        """Where each row is: the number of its file, and its place there."""
        try:
            table = _read_table(self.place, INDEX, columns=["bucket"], read_dictionary=["bucket"])
        except (pa.ArrowInvalid, FileNotFoundError, KeyError) as error:
            raise ValueError(
                f"{self.place.where(INDEX)} is missing or damaged: `reeltok corpus finish "
                f"{self.place}` makes it again"
            ) from error
        bucket = table["bucket"].combine_chunks()
        self.bucket_names: list[str] = bucket.dictionary.to_pylist() if len(table) else []
        self.bucket_of = (
            bucket.indices.to_numpy() if len(table) else np.empty(0, np.int32)
        )  # of each row, the number of its bucket's name
        names = [file["name"] for file in self.manifest["files"]]
        self.files = names
        rows = np.array([file["rows"] for file in self.manifest["files"]], np.int64)
        self.begins = np.concatenate([[0], np.cumsum(rows)])  # the first row of each file
        if self.begins[-1] != len(table):
            raise ValueError(
                f"{self.place.where(INDEX)} lists {len(table)} rows and {MANIFEST} "
                f"{self.begins[-1]}: `reeltok corpus finish {self.place}` makes both again"
            )

    def _forget(self) -> None:
        self._readers = OrderedDict[int, tuple[FileReader, ExitStack]]()
        self._groups, self._held = OrderedDict[tuple[int, int], pa.Table](), 0

    def __len__(self) -> int:
        return int(self.begins[-1])

    def __repr__(self) -> str:
        shown = ", ".join(self.bucket_names[:3]) + (", ..." if len(self.bucket_names) > 3 else "")
        kept = self.manifest["build"]["keep"]
        return (
            f"Corpus({self.place}: {len(self)} rows of {kept} of {self.tokenizer['name']}, {shown})"
        )

    def __getitem__(self, number: Any) -> Row:
        number = self._numbered(number)
        file = int(np.searchsorted(self.begins, number, side="right")) - 1
        values = self._record(file, number - int(self.begins[file]))
        vocabulary = self.tokenizer["vocabulary"]
        return of_columns(values, vocabulary=vocabulary, packing=self.packing)

    def __iter__(self) -> Iterator[Row]:
        """All rows in the order of the files, a row group in memory at a time."""
        for number in range(len(self.files)):
            reader, stack = self._open(number)
            with stack:
                yield from reader.rows()

    def columns(self, *names: str) -> Iterator[dict[str, Any]]:
        """These columns of all rows, in their order; the others are not read."""
        for number in range(len(self.files)):
            reader, stack = self._open(number)
            with stack:
                for group in range(len(reader.ends)):
                    yield from reader.group(group, names).to_pylist()

    def batches(self, size: int, **options: Any) -> "Batches":
        """Shuffled batches of one bucket each: `Batches` of this corpus."""
        from reeltok.corpus.batches import Batches

        return Batches(self, size, **options)

    def bucket(self, number: Any) -> str:
        """The bucket of a row, without reading it."""
        return self.bucket_names[self.bucket_of[self._numbered(number)]]

    def row_bytes(self) -> Float[np.ndarray, "n"]:
        """About how many bytes each row takes: its file's, shared out by pixels."""
        pixels = np.array([prod(map(int, name.split("x"))) for name in self.bucket_names])
        files = self.manifest["files"]
        file = np.repeat(np.arange(len(files)), np.diff(self.begins))
        of_row = pixels[self.bucket_of].astype(float)
        whole = np.bincount(file, of_row, minlength=len(files))
        return of_row * (np.array([each["bytes"] for each in files]) / np.maximum(whole, 1))[file]

    def _numbered(self, number: Any) -> int:
        """The number of a row, from 0 on. ValueError for what is no number, IndexError past all."""
        if not is_count(number, least=-(2**63)):
            raise ValueError(f"rows have whole numbers, as in corpus[0], not {said(number)}")
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return int(number) % len(self)

    def _record(self, file: int, row: int) -> dict[str, Any]:
        """The columns of a row of a file."""
        reader = self._reader(file)
        ends = reader.ends
        group = int(np.searchsorted(ends, row, side="right"))
        if (file, group) not in self._groups:
            self._groups[file, group] = reader.group(group)
            self._held += self._groups[file, group].nbytes
            while self._held > HELD_BYTES and len(self._groups) > HELD_GROUPS:
                self._held -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end((file, group))
        place = row - (int(ends[group - 1]) if group else 0)
        return self._groups[file, group].slice(place, 1).to_pylist()[0]

    def _reader(self, file: int) -> FileReader:
        if file not in self._readers:
            self._readers[file] = self._open(file)
            while len(self._readers) > OPEN_FILES:
                self._readers.popitem(last=False)[1][1].close()
        self._readers.move_to_end(file)
        return self._readers[file][0]

    def _open(self, file: int) -> tuple[FileReader, ExitStack]:
        """A file of the corpus, and what closes it. FileNotFoundError where it was removed."""
        name = self.files[file]
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(self.place.opened(name))
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{self.place.where(name)} is missing: `reeltok corpus build` from the same "
                    "data makes it again"
                ) from error
            reader = FileReader(opened, self.place.where(name), self.packing)
            return reader, stack.pop_all()

    def groups(self, file: int) -> np.ndarray:
        """The rows of a file after which its row groups end, counted in the file."""
        return self._reader(file).ends

    def close(self) -> None:
        """Let go of open files."""
        for _, stack in self._readers.values():
            stack.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        held = ("_readers", "_groups", "_held")  # each process opens files for itself
        return {name: value for name, value in vars(self).items() if name not in held}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    # Back to frames.

    def load(self, *, weights: str | None = None, device: str | None = None) -> Tokenizer:
        """The tokenizer that made it, as it was used. ValueError where its name loads another."""
        from reeltok import zoo

        # A file may name a tokenizer, but not code to run.
        tokenizer = zoo.load(self.tokenizer["load"], weights=weights, device=device, code=False)
        return self.require_own(tokenizer).under(**self.tokenizer.get("used", {}))

    def require_own(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer, if it is the corpus's own; else ValueError that names both."""
        if not made_by(self.tokenizer["weights"], tokenizer):
            raise ValueError(
                f"{self.place} holds tokens of {self.tokenizer['name']} "
                f"({self.tokenizer['weights'][:12]}), this is {tokenizer.name} "
                f"({tokenizer.hash()[:12]}): give the one that made them"
            )
        held, here = self.tokenizer.get("config"), tokenizer.configuration
        if held is not None and held != here and self.tokenizer["weights"] == tokenizer.hash():
            was, now = use_difference({"config": held}, {"config": here})
            raise ValueError(
                f"{self.place} holds tokens of {self.tokenizer['name']} {was}, this is "
                f"{tokenizer.name} {now}, of equal weights: give the one that made them"
            )
        return tokenizer

    def tokens(self, number: int, tokenizer: Tokenizer | None = None) -> Tokens:
        """The tokens of a row, as `Tokenizer.decode` takes them.

        Latents of a tokenizer that normalises need it: `tokenizer`.
        """
        return tokens_of(
            self[number], self.tokenizer, None if tokenizer is None else tokenizer.scale
        )

    def decode(self, number: int, tokenizer: Tokenizer) -> Video:
        """The frames that a row stands for. ValueError where the tokenizer is another."""
        made = self.require_own(tokenizer).decode(self.tokens(number, tokenizer))
        assert isinstance(made, Video)
        return made


def read_manifest(place: Place) -> dict[str, Any]:
    """The manifest of a finished corpus, in a few sentences where there is none."""
    if not place.has(MANIFEST):
        if place.has(PLAN):
            raise ValueError(
                f"{place} is not finished: `reeltok corpus build` goes on with it, and `reeltok "
                f"corpus finish {place}` says what is missing"
            )
        raise FileNotFoundError(
            f"{place} holds no corpus (no {MANIFEST}): `reeltok corpus build` makes one"
        )
    manifest = parse_json(place.read(MANIFEST), place.where(MANIFEST))
    wanted = {"version", "tokenizer", "build", "columns", "files", "rows", "buckets", "statistics"}
    if not isinstance(manifest, dict) or not wanted <= {*manifest}:
        raise ValueError(
            f"{place.where(MANIFEST)} was altered: `reeltok corpus finish {place}` makes it again"
        )
    return manifest


def read_failures(place: Place) -> list[dict[str, Any]]:
    """The clips of a finished corpus that gave no row: source, shard and reason of each.

    ValueError where their list is missing or damaged.
    """
    try:
        return _read_table(place, FAILED).to_pylist()
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise ValueError(
            f"{place.where(FAILED)} is missing or damaged: `reeltok corpus finish {place}` makes "
            "it again"
        ) from error


def _read_table(place: Place, name: str, **options: Any) -> pa.Table:
    """A whole parquet file, fetched first where it is remote: see `Place.opened`."""
    with place.opened(name) as file:
        local = file if isinstance(file, pa.NativeFile) else pa.BufferReader(file.read())
        return pq.read_table(local, **options)


def is_corpus(path: str | Path) -> bool:
    """Whether a folder or an address holds a finished corpus, or one that was begun."""
    place = Place(path)
    if place.folder is not None:
        return (place.folder / MANIFEST).is_file() or (place.folder / PLAN).is_file()
    return place.has(MANIFEST) or place.has(PLAN)
