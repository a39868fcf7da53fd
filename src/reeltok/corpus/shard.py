"""One file of rows: a parquet file, written row group by row group and read the same way.

Every row group holds rows of one bucket, about 4 MB of them and at least 8 but for a bucket's last
group. Bytes are stored as they are, so that a reader can map them; the other columns are packed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from reeltok.corpus.plan import VERSION
from reeltok.corpus.row import (
    BESIDE,
    ENDS,
    EXTRAS,
    PAYLOADS,
    PLAIN,
    TEXT,
    Row,
    of_columns,
    to_columns,
)
from reeltok.files.parsing import parse_json
from reeltok.files.patience import UnansweredError
from reeltok.tokens.packing.model import PackingModel

KEY = b"reeltok"  # of the file's metadata
GROUP_BYTES = 4_000_000  # of a row group
GROUP_ROWS = 8  # at least
FILE_ROWS = 10_000
FILE_BYTES = 512_000_000
BINARY = ("ids_bytes", "latents_bytes", "log_variance_bytes", "text_bytes", EXTRAS, BESIDE)
KINDS = {"string": pa.string(), "float64": pa.float64(), "int32": pa.int32()}
TABLES = {
    "index": pa.schema(
        [
            ("id", pa.string()),
            ("shard", pa.int32()),
            ("part", pa.int32()),
            ("row", pa.int32()),
            ("bucket", pa.string()),
            ("frames", pa.int32()),
        ]
    ),
    "failed": pa.schema([("source", pa.string()), ("shard", pa.int32()), ("reason", pa.string())]),
}
"""The tables that are made of all sidecars."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which columns the shards of a corpus have: what is kept, and what else is carried along.

    `packing` is what packs the ids; None: they are in the bits of the vocabulary.
    """

    keep: str
    vocabulary: int | None
    packing: PackingModel | None = None
    extras: bool = False
    beside: bool = False
    text: bool = False
    further: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns in their order."""
        fields = [(name, KINDS[kind]) for name, kind in PLAIN.items()]
        names = [*PAYLOADS[self.keep], *([ENDS] if self.packing is not None else ())]
        names += [EXTRAS] if self.extras else []
        names += [BESIDE] if self.beside else []
        names += TEXT if self.text else ()
        fields += [(name, _kind_of(name)) for name in names]
        return pa.schema(fields + [(name, pa.string()) for name in self.further])


def _kind_of(name: str) -> pa.DataType:
    if name in BINARY:
        return pa.binary()
    return pa.list_(pa.int32()) if name.endswith(("_shape", "_ends")) else pa.string()


def file_name(shard: int, part: int = 0) -> str:
    """shard-000012.parquet, and shard-000012-1.parquet for what did not fit into it."""
    return f"shard-{shard:06d}{f'-{part}' if part else ''}.parquet"


def sidecar_name(shard: int) -> str:
    """shard-000012.json"""
    return f"shard-{shard:06d}.json"


class FileWriter:
    """Takes rows and writes them to one parquet file, in row groups of one bucket each.

    `order` lists the rows by (id, bucket, frames) as they lie in the file.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout, self.schema = layout, layout.schema
        packed = {f.name: "NONE" if f.name in BINARY else "ZSTD" for f in self.schema}
        named = [f.name for f in self.schema if f.type == pa.string()]
        self.writer = pq.ParquetWriter(
            path, self.schema, compression=packed, use_dictionary=named, write_statistics=named
        )
        self.waiting: dict[str, list[dict[str, Any]]] = {}
        self.held: dict[str, int] = {}
        self.order: list[tuple[str, str, int]] = []
        self.rows, self.bytes, self.id_bytes = 0, 0, 0

    @property
    def full(self) -> bool:
        """Whether another file should be begun."""
        return self.rows >= FILE_ROWS or self.bytes >= FILE_BYTES

    def add(self, row: Row) -> None:
        """Take a row; it is written with others of its bucket."""
        layout = self.layout
        values = to_columns(row, vocabulary=layout.vocabulary, packing=layout.packing)
        size = sum(len(values[name]) for name in BINARY if values.get(name) is not None)
        self.id_bytes += len(values.get("ids_bytes") or b"")
        waiting = self.waiting.setdefault(row.bucket, [])
        waiting.append(values)
        self.held[row.bucket] = self.held.get(row.bucket, 0) + size
        self.rows, self.bytes = self.rows + 1, self.bytes + size
        if self.held[row.bucket] >= GROUP_BYTES and len(waiting) >= GROUP_ROWS:
            self._flush(row.bucket)

    def _flush(self, bucket: str) -> None:
        rows, self.held[bucket] = self.waiting.pop(bucket), 0
        columns = {f.name: [row.get(f.name) for row in rows] for f in self.schema}
        self.writer.write_table(pa.table(columns, self.schema), row_group_size=len(rows))
        self.order += [(row["id"], row["bucket"], row["frames"]) for row in rows]

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write what is waiting, bucket by bucket, what the file says of itself, and its end."""
        for bucket in sorted(self.waiting):
            self._flush(bucket)
        self.writer.add_key_value_metadata({KEY: json.dumps(dict(about), sort_keys=True).encode()})
        self.writer.close()

    def abandon(self) -> None:
        """Let go of a file that is not to be."""
        self.writer.close()


# ---------------------------------------------------------------- reading


class FileReader:
    """An open shard file: its metadata, and its rows by row group; `packing` reads packed ids.

    ValueError for no such file.
    """

    def __init__(self, file: Any, name: str, packing: PackingModel | None = None) -> None:
        self.name, self.packing = name, packing
        try:
            self.parquet = pq.ParquetFile(file)
        except UnansweredError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{name} is not a shard of a corpus, or damaged: build it again"
            ) from error
        said = (self.parquet.metadata.metadata or {}).get(KEY)
        if said is None:
            raise ValueError(f"{name} is a parquet file, but no shard of a corpus")
        self.about: dict[str, Any] = parse_json(said, name)
        if self.about.get("version", VERSION) > VERSION:
            raise ValueError(
                f"{name} has version {self.about['version']} and this reeltok reads up to "
                f"{VERSION}: upgrade reeltok to read it"
            )
        self.vocabulary = self.about["tokenizer"]["vocabulary"]

    @cached_property
    def ends(self) -> Int64[np.ndarray, "g"]:
        """The row after which each row group ends."""
        meta = self.parquet.metadata
        rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        return np.cumsum(rows, dtype=np.int64)

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group."""
        try:
            return self.parquet.read_row_group(number, columns)
        except UnansweredError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.name} was altered ({error}): build it again") from error

    def rows(self) -> Iterator[Row]:
        """All rows in their order, a row group in memory at a time."""
        for number in range(self.parquet.metadata.num_row_groups):
            for values in self.group(number).to_pylist():
                yield of_columns(values, vocabulary=self.vocabulary, packing=self.packing)
