"""FastVideo: parquet files of raw latents and text embeddings, as its t2v schema names them.

hao-ai-lab/FastVideo at 2f3d407, fastvideo/dataset/dataloader/schema.py and dataset/utils.py. Its
reader walks a folder, takes every payload for float32 whatever the column of types says, loads a
whole row group for one row, and stacks what it draws: rows of one folder are of one shape.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from reeltok.corpus.formats.source import ExportSource
from reeltok.corpus.row import Row

FILE_ROWS = 1_000
GROUP_ROWS = 8  # a read of one row loads these
TENSORS = ("vae_latent", "text_embedding")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        *(
            field
            for name in TENSORS
            for field in (
                (f"{name}_bytes", pa.binary()),
                (f"{name}_shape", pa.list_(pa.int64())),
                (f"{name}_dtype", pa.string()),
            )
        ),
        ("file_name", pa.string()),
        ("caption", pa.string()),
        ("media_type", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("num_frames", pa.int64()),
        ("duration_sec", pa.float64()),
        ("fps", pa.float64()),
    ]
)


class BucketFiles:
    """The parquet files of one bucket, each of at most `FILE_ROWS` rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.waiting, self.files, self.rows = folder, [], 0, 0
        self.writer: pq.ParquetWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    waiting: list[dict[str, Any]]

    def add(self, record: dict[str, Any]) -> None:
        """Take a row; it is written with others."""
        self.waiting.append(record)
        self.rows += 1
        if len(self.waiting) == GROUP_ROWS:
            self.flush()
        if self.rows % FILE_ROWS == 0:
            self.close()

    def flush(self) -> None:
        """Write what is waiting as a row group."""
        if not self.waiting:
            return
        if self.writer is None:
            path = self.folder / f"data_chunk_{self.files}.parquet"
            self.writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
            self.files += 1
        self.writer.write_table(pa.Table.from_pylist(self.waiting, SCHEMA))
        self.waiting = []

    def close(self) -> None:
        """End the present file."""
        self.flush()
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def write(source: ExportSource, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a corpus of latents into `folder`; with several buckets, each into a folder of its own.

    ValueError for another type than float32, which the reader would take for float32 all the same.
    """
    source.require("latents")
    if dtype not in (None, torch.float32):
        raise ValueError(
            f"FastVideo's reader takes all bytes for float32, so it cannot hold "
            f"{str(dtype).removeprefix('torch.')}: leave `dtype` out"
        )
    buckets = source.corpus.bucket_names
    files = {
        name: BucketFiles((folder / name if len(buckets) > 1 else folder) / "worker_0")
        for name in buckets
    }
    for row in source.rows():
        files[row.bucket].add(columns_of(source, row))
    for each in files.values():
        each.close()
    source.note("latents are raw: FastVideo normalises them by its model's own figures")
    source.say_first()
    source.say_text(f"zeros [1, {source.text_width}] stand there")
    if len(buckets) > 1:
        source.note(
            f"{len(buckets)} buckets are {len(buckets)} folders: a batch has one shape, so give "
            "FastVideo one of them"
        )


def columns_of(source: ExportSource, row: Row) -> dict[str, Any]:
    """The columns of one row."""
    latents, rate = source.latents(row), row.fps or 0.0
    return {
        "id": row.id,
        **columns("vae_latent", latents),
        **columns("text_embedding", source.text(row)),
        "file_name": row.source,
        "caption": row.caption or "",
        "media_type": "image" if row.fps is None and row.frames == 1 else "video",
        "width": row.width,
        "height": row.height,
        "num_frames": latents.shape[1],
        "duration_sec": row.frames / rate if rate else 0.0,
        "fps": rate,
    }


def columns(name: str, tensor: Tensor) -> dict[str, Any]:
    """A tensor as bytes, shape and type."""
    array = np.ascontiguousarray(tensor.numpy(), dtype="<f4")
    return {
        f"{name}_bytes": array.tobytes(),
        f"{name}_shape": list(array.shape),
        f"{name}_dtype": "float32",
    }
