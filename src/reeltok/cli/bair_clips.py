"""`data bair`: BAIR's TFRecord files as clips to train on, each with its actions beside it."""

from pathlib import Path
from typing import Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report
from reeltok.files.places import check_place
from reeltok.wording import count


def unpack_bair(
    data: Annotated[Path, typer.Argument(metavar="TFRECORDS", show_default=False)],
    *,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder to write the clips to; required.")
    ],
    force: given.ForceOption = False,
) -> Report:
    """Unpack BAIR's TFRecord files: each record becomes a clip and a file of its actions.

    TFRECORDS is a file or a folder. FOLDER/NAME-0000.mkv is lossless, 10 frames per second;
    NAME-0000.actions.npy holds 4 numbers per frame, which `reeltok train prior_cpu --set
    actions=4` reads. Clips that exist are kept.
    """
    from reeltok.data.bair import unpack_motions
    from reeltok.data.find import find_clips

    files = sorted({clip.path for clip in find_clips(data) if clip.record is not None})
    if not files:
        raise ValueError(f"there are no .tfrecords files in {data}: give BAIR's folder")
    check_place(str(out))
    out.mkdir(parents=True, exist_ok=True)
    written = kept = 0
    with Progress("unpacking", len(files)) as progress:
        for file in files:
            found = unpack_motions(file, out, replace=force)
            written, kept = written + found.written, kept + found.kept
            progress.finish_file()
    record = {"folder": str(out), "written": written, "kept": kept}
    return Report(data=record, text=f"{count(written, 'clip')} written to {out}, {kept} were there")
