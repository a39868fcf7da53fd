"""torchtitan: tokens.bin, the ids as uint32, and document_offsets.npy, where each clip begins.

pytorch/torchtitan at b5bcd76. Offsets count ids, and the last is the number of all.
"""

from pathlib import Path

import numpy as np
import torch

from reeltok.corpus.formats.megatron import refuse_dtype
from reeltok.corpus.formats.source import ExportSource


def write(source: ExportSource, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a corpus of ids into `folder`. ValueError for a vocabulary beyond 32 bits."""
    source.require("ids")
    refuse_dtype(source, dtype)
    vocabulary = source.corpus.tokenizer["vocabulary"]
    if vocabulary > 2**32:
        raise ValueError(
            f"torchtitan holds ids in 32 bits, and {source.corpus.tokenizer['name']} has a "
            f"vocabulary of {vocabulary:,}: train on the corpus itself"
        )
    offsets = [0]
    with (folder / "tokens.bin").open("wb") as file:
        for row in source.rows():
            ids = source.ids(row).numpy().astype("<u4")
            file.write(ids.tobytes())
            offsets.append(offsets[-1] + len(ids))
    np.save(folder / "document_offsets.npy", np.array(offsets, "<i8"))
