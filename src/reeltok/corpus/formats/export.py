"""From a corpus to a trainer's own layout: one table of formats, one function."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reeltok.corpus.formats import energon, fastvideo, ltx, megatron, torchtitan
from reeltok.corpus.formats.source import ExportSource
from reeltok.corpus.read import Corpus
from reeltok.files.atomic import replacing
from reeltok.files.places import check_replaced
from reeltok.files.text import nearest

RECORD = "reeltok.json"


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a layout is written, what is done with it next, and whether its latents are raw."""

    write: Callable[[ExportSource, Path, torch.dtype | None], None]
    next: str
    latents: str | None = None


FORMATS = {
    "fastvideo": Format(
        write=fastvideo.write, next="give FastVideo --data-path {folder}", latents="raw"
    ),
    "energon": Format(write=energon.write, next=energon.PREPARE, latents="normalised"),
    "megatron": Format(write=megatron.write, next="give Megatron --data-path {folder}/tokens"),
    "torchtitan": Format(
        write=torchtitan.write, next="tokens.bin is uint32, document_offsets.npy counts its ids"
    ),
    "ltx": Format(
        write=ltx.write,
        next="give the trainer preprocessed_data_root: {folder}",
        latents="normalised",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: its folder, rows, files and bytes; what to know, what to do next."""

    folder: Path
    format: str
    rows: int
    files: int
    bytes: int
    next: str
    notes: list[str] = field(default_factory=list)


def export_corpus(
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    to: str,
    dtype: torch.dtype | None = None,
    on_row: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a finished corpus into the folder `out` in the layout `to`, whole or not at all.

    An earlier export is replaced, with whatever a reader has cached in it. `dtype` is that of
    latents (None: the format's own); `on_row` is called with rows done and their number. Raises
    ValueError for a format that cannot hold what the corpus has, for a folder of other files, and
    what `Corpus` raises.
    """
    if to not in FORMATS:
        near = nearest(to, FORMATS)
        hint = f"did you mean {near}?" if near else f"give one of {', '.join(FORMATS)}"
        raise ValueError(f"there is no format {to!r}: {hint}")
    read = corpus if isinstance(corpus, str | Path) else None
    check_replaced(out, record=RECORD, inputs=[read])
    corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus)
    source, kind = ExportSource(corpus=corpus, format=to, on_row=on_row), FORMATS[to]
    with replacing(out, folder=True) as folder:
        kind.write(source, folder, dtype)
        record = export_record(corpus, to, kind) | {"notes": source.notes}
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        made = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in made)
    return Exported(
        folder=Path(out),
        format=to,
        rows=len(corpus),
        files=len(made),
        bytes=size,
        next=kind.next.format(folder=out),
        notes=source.notes,
    )


def export_record(corpus: Corpus, to: str, kind: Format) -> dict[str, Any]:
    """Where an export comes from, and how its latents lead back to raw ones."""
    named = ("tokenizer", "build", "statistics", "plan", "buckets", "rows")
    held = {name: corpus.manifest[name] for name in named if name in corpus.manifest}
    return {"format": to, "latents": kind.latents, **held}
