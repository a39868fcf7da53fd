"""`export`: a tokenizer as graphs for programs that do not have this package."""

from typing import Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, table
from reeltok.files.places import check_apart, check_free, check_place
from reeltok.wording import count


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    out: Annotated[str, typer.Argument(metavar="OUT", show_default=False)],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="torch-export|onnx",
            help="Format to write (required): programs of torch.export (.pt2) or ONNX models.",
            show_default=False,
        ),
    ],
    frames: Annotated[
        int,
        typer.Option(metavar="N", help="Number of frames in a clip, rounded up to whole groups."),
    ] = 17,
    weights: given.WeightsOption = None,
    force: given.ForceOption = False,
) -> Report:
    """Write a tokenizer's encoder and decoder, and one step of a stream, as graphs.

    OUT is a folder: encoder and decoder for clips of --frames frames, for a causal tokenizer also
    what begins a stream and one step of it, and graphs.json, which says what each takes and gives.
    Batch, height and width are free. Each graph is run (ONNX: by onnxruntime) and compared with
    the model.
    """
    from reeltok.export.programs import check_graphs_folder, export_programs

    check_place(out)
    check_apart(model, out, inside=True)
    check_free([out], force=force)
    check_graphs_folder(out, inputs=[model, weights])
    tokenizer = given.open_model(model, weights=weights, device="cpu", dtype="fp32")
    with Progress("exporting", unit="graphs") as progress:
        made = export_programs(tokenizer, out, to=to, frames=frames, on_graph=progress.of_file())
    rows = [
        {"graph": each.name, "inputs": len(each.inputs), "outputs": len(each.outputs)}
        | {"difference": f"{each.difference:.1e}"}
        for each in made
    ]
    text = f"{table(rows)}\n\n{count(len(made), 'graph')} of {tokenizer.name} in {out}"
    return Report(data={"folder": out, "graphs": [vars(each) for each in made]}, text=text)
