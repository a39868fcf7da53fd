"""`corpus export`: a corpus in the layout that a trainer reads."""

from typing import Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, note_all
from reeltok.files.places import check_apart, check_free, check_place
from reeltok.wording import count


def corpus_export(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", show_default=False)],
    out: Annotated[str, typer.Argument(metavar="OUT", show_default=False)],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Layout to write (required): fastvideo, energon, megatron, torchtitan or ltx.",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Precision of latents: fp32, bf16 or fp16; by default the format's.",
        ),
    ] = None,
    force: given.ForceOption = False,
) -> Report:
    """Write a finished corpus in the layout that a trainer reads.

    CORPUS is what `reeltok corpus build` made, OUT a folder. fastvideo (parquet), energon (tar
    shards of webdataset) and ltx (.precomputed) take latents: raw ones for fastvideo, normalised
    ones for the others. megatron (.bin and .idx) and torchtitan (tokens.bin) take ids.
    """
    from reeltok.corpus.formats.export import export_corpus

    check_place(out)
    check_apart(corpus, out, inside=True)
    check_free([out], force=force)
    kind = None if dtype is None else given.parse_dtype(dtype)
    with Progress("exporting", unit="rows") as progress:
        made = export_corpus(corpus, out, to=to, dtype=kind, on_row=progress.of_file())
    note_all(made.notes)
    said = f"{count(made.rows, 'row')} for {to} in {out}: {count(made.files, 'file')}, "
    said += f"{made.bytes:,} bytes\nnext: {made.next}"
    return Report(data={**vars(made), "folder": str(made.folder)}, text=said)
