"""Megatron-LM: tokens.bin, the ids one after another, and tokens.idx, where each clip begins.

NVIDIA/Megatron-LM at 00caa53, megatron/core/datasets/indexed_dataset.py (read with core 0.16.1). A
clip is a sequence and a document. `--data-path` takes OUT/tokens.
"""

import struct
from pathlib import Path

import numpy as np
import torch

from reeltok.corpus.formats.source import ExportSource

HEADER = b"MMIDIDX\x00\x00"
VERSION = 1
CODES = {np.dtype("<i4"): 4, np.dtype("<u2"): 8}
SMALL = 65_500  # below which Megatron holds ids in 16 bits


def write(source: ExportSource, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a corpus of ids into `folder`. ValueError for a vocabulary beyond 31 bits."""
    source.require("ids")
    refuse_dtype(source, dtype)
    vocabulary = source.corpus.tokenizer["vocabulary"]
    if vocabulary > 2**31:
        raise ValueError(
            f"Megatron holds ids in 31 bits, and {source.corpus.tokenizer['name']} has a "
            f"vocabulary of {vocabulary:,}: use `to` torchtitan, which has 32"
        )
    kind = np.dtype("<u2") if vocabulary < SMALL else np.dtype("<i4")
    lengths: list[int] = []
    with (folder / "tokens.bin").open("wb") as file:
        for row in source.rows():
            ids = source.ids(row).numpy().astype(kind)
            file.write(ids.tobytes())
            lengths.append(len(ids))
    (folder / "tokens.idx").write_bytes(index(np.array(lengths, "<i4"), kind))


def index(lengths: np.ndarray, kind: np.dtype) -> bytes:
    """The index of sequences of so many ids of a type, each a document of its own."""
    ends = np.cumsum(lengths.astype("<i8")) * kind.itemsize
    starts = np.concatenate([np.zeros(1, "<i8"), ends[:-1]])
    documents = np.arange(len(lengths) + 1, dtype="<i8")
    head = struct.pack("<QBQQ", VERSION, CODES[kind], len(lengths), len(documents))
    arrays = (lengths, starts.astype("<i8"), documents)
    return HEADER + head + b"".join(array.tobytes() for array in arrays)


def refuse_dtype(source: ExportSource, dtype: torch.dtype | None) -> None:
    """ValueError where a type of latents is asked of a format of ids."""
    if dtype is not None:
        raise ValueError(f"{source.format} holds ids, which have no `dtype`: leave it out")
