"""Megatron-Energon (NeMo DFM): tar shards of webdataset with normalised latents and text.

NVIDIA/megatron-energon at bef8be2. A sample is KEY.pth (latents c t h w), KEY.pickle (text l d) and
KEY.json, next to one another. `energon prepare` indexes the folder. Its split is by tar, it takes
fewer than 10,000, and NeMo DFM leaves out samples that reach beyond 1,000.
"""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import torch

from reeltok.corpus.formats.source import ExportSource, saved
from reeltok.corpus.row import Row
from reeltok.wording import count

SHARDS = 9_999
SHARD_ROWS = 1_000  # at least, but for the last
LARGEST = 1_000.0  # of what NeMo DFM takes
PREPARE = (
    "energon prepare {folder} --non-interactive --split-ratio 1,0,0 "
    "--sample-type CrudeWebdataset --no-progress"
)


def write(source: ExportSource, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a corpus of latents into `folder` as shard-000000.tar and so on."""
    source.require("latents")
    each = max(SHARD_ROWS, -(-len(source.corpus) // SHARDS))
    beyond = 0
    tar: tarfile.TarFile | None = None
    try:
        for number, row in enumerate(source.rows()):
            if number % each == 0:
                if tar is not None:
                    tar.close()
                tar = tarfile.open(folder / f"shard-{number // each:06d}.tar", "w")  # noqa: SIM115
            assert tar is not None
            z = source.normalised(row)
            beyond += bool((z.abs() > LARGEST).any())
            z = source.cast(z, torch.bfloat16 if dtype is None else dtype, row)
            add_file(tar, f"{number:09d}.pth", saved(z.contiguous()))
            add_file(tar, f"{number:09d}.pickle", pickle.dumps(source.text(row)))
            add_file(
                tar, f"{number:09d}.json", json.dumps(metadata_of(row), sort_keys=True).encode()
            )
    finally:
        if tar is not None:
            tar.close()
    source.say_scale()
    source.say_first()
    source.say_text(f"zeros [1, {source.text_width}] stand there")
    if beyond:
        source.note(f"{count(beyond, 'row')} beyond {LARGEST:,.0f}: NeMo DFM leaves such out")
    if len(source.corpus.bucket_names) > 1:
        source.note("there are several buckets: give batches of one, or of size 1")


def metadata_of(row: Row) -> dict[str, Any]:
    """What is said of a row beside its tensors."""
    further = {name: value for name, value in row.further.items() if value is not None}
    names = ("id", "source", "group", "start", "fps", "frames", "height", "width", "bucket")
    found = {name: getattr(row, name) for name in names}
    return {**further, **found, "caption": row.caption or "", "has_text": row.text is not None}


def add_file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Put bytes into a tar under a name, without owner and time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
