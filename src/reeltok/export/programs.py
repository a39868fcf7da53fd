"""Graphs as files: programs of torch.export (.pt2) or ONNX models, each compared with the model.

Batch, height and width are free, the number of frames is not. `graphs.json` says what each file
takes and gives; nothing in it or in the files needs this package.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from reeltok.export.graphs import OTHER, Graph, agreement_of, graphs_of
from reeltok.files.atomic import replacing
from reeltok.files.checkpoints import name_some
from reeltok.files.parsing import read_object
from reeltok.files.places import check_replaced
from reeltok.tokenizer.contract import Tokenizer

RECORD = "graphs.json"
SUFFIXES: dict[str, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
CLOSE, SAME = 1e-4, 0.95
"""A graph whose values differ by more from those of its model, or fewer of whose ids are the same,
is not written: arithmetic in another order explains less."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One file: a graph's name, its inputs' shapes, its outputs, its agreement with the model.

    `difference` is the largest of frames and of latents where ids are the same, `state_difference`
    that of states; `same` is the share of ids that are, None without ids.
    """

    name: str
    file: str
    inputs: dict[str, dict[str, Any]]
    outputs: list[str]
    difference: float
    state_difference: float
    same: float | None


def export_programs(
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    to: str,
    frames: int = 17,
    on_graph: Callable[[int, int], None] | None = None,
) -> list[Program]:
    """Write the graphs of `tokenizer` (graphs.py) into the folder `out`, with graphs.json.

    Clips have `frames` frames, made up to whole groups. `on_graph` is called with the graphs that
    are done and their number. Each is run at another batch and size and compared with the model.
    ValueError for a folder of other files, for a tokenizer that torch.export cannot trace and for
    ONNX in bfloat16, ImportError without the packages.
    """
    if to not in SUFFIXES:
        raise ValueError(f"`to` {to} is not known: give {' or '.join(SUFFIXES)}")
    if to == "onnx":
        import onnxruntime  # noqa: F401  what compares them is missed now, not at the end
        import onnxscript  # noqa: F401

        require_comparable(tokenizer)
    check_graphs_folder(out)
    made: list[Program] = []
    with evaluating(tokenizer), replacing(out, folder=True) as folder:
        graphs = graphs_of(tokenizer, frames)
        for graph in graphs:
            made.append(write_program(graph, trace(graph, tokenizer), folder, to))
            if on_graph is not None:
                on_graph(len(made), len(graphs))
        spec = tokenizer.spec
        about = {
            "tokenizer": tokenizer.name,
            "weights": tokenizer.hash(),
            "frames": spec.frames(spec.steps(spec.window or frames)),
            "factors": spec.factors,
            "first_frames": spec.first_frames,
            "frames_per_group": spec.frames_per_group,
            "vocabulary": spec.vocabulary,
            "graphs": [vars(program) for program in made],
        }
        (folder / RECORD).write_text(json.dumps(about, indent=1) + "\n")
    return made


def require_comparable(tokenizer: Tokenizer) -> None:
    """ValueError for a type whose numbers onnxruntime and numpy do not have."""
    if tokenizer.dtype == torch.bfloat16:
        raise ValueError(
            f"{tokenizer.name} is in bfloat16, in which ONNX models cannot be compared with it: "
            "load it in float32, or give another `to`"
        )


def check_graphs_folder(out: str | Path, *, inputs: Sequence[str | Path | None] = ()) -> None:
    """Errors of `check_replaced` for a folder of graphs that is to be made anew.

    ValueError also where it holds something beside graphs.json and the files that this names.
    """
    check_replaced(out, record=RECORD, inputs=inputs)
    if not (Path(out) / RECORD).is_file():
        return
    try:
        files = {str(graph["file"]) for graph in read_object(Path(out) / RECORD)["graphs"]}
    except (ValueError, LookupError, TypeError):  # not one of ours: it names nothing
        files = set()
    known = {RECORD, *files, *(f"{file}.data" for file in files)}  # .data: of large ONNX models
    others = sorted(path.name for path in Path(out).iterdir() if path.name not in known)
    if others:
        raise ValueError(
            f"the folder {out} holds {name_some(others)}, which {RECORD} there does not name and "
            "which would be lost: move it, or name a new folder"
        )


@contextlib.contextmanager
def evaluating(tokenizer: Tokenizer) -> Iterator[None]:
    """Inside, `tokenizer` is in evaluation mode; behind, each part of it in its own again."""
    before = [(part, part.training) for part in tokenizer.modules()]
    try:
        tokenizer.eval()
        yield
    finally:
        for part, training in before:
            part.training = training


@torch.no_grad()
def trace(graph: Graph, tokenizer: Tokenizer) -> ExportedProgram:
    """The program of a graph. ValueError for a network that cannot be traced."""
    try:
        with silent():
            return torch.export.export(
                graph.module, tuple(graph.inputs.values()), dynamic_shapes=dimensions(graph)
            )
    except (RuntimeError, ValueError, TypeError) as error:  # torch's own errors are of any kind
        said = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"torch.export cannot trace the {graph.name} of {tokenizer.name} ({said[:200]}): "
            "give another tokenizer"
        ) from error


def dimensions(graph: Graph) -> Any:
    """The free axes of each input, in the structure of the module's arguments."""
    names = {size for axes in graph.sizes.values() for size, _ in axes.values()}
    free = {name: Dim(name, min=1) for name in sorted(names)}
    axes = [
        {axis: free[size] * factor for axis, (size, factor) in graph.sizes[name].items()}
        for name in graph.inputs
    ]
    return (axes[0],) if len(axes) == 1 else (axes[0], tuple(axes[1:]))


@torch.no_grad()
def write_program(graph: Graph, program: ExportedProgram, folder: Path, to: str) -> Program:
    """A program's file, and how far it is from the model at another batch and size."""
    path = folder / f"{graph.name}{SUFFIXES[to]}"
    inputs = graph.examples(OTHER)
    wanted = graph.module(*inputs.values())
    if to == "onnx":
        save_onnx(graph, program, path)
        made = run_onnx(path, list(inputs.values()))
    else:
        held = io.BytesIO()
        torch.export.save(program, held)  # into a file it would not say why it could not
        path.write_bytes(held.getvalue())
        made = torch.export.load(path).module()(*inputs.values())
    found = agreement_of(graph.outputs, made, wanted)
    far = max(found.outputs, found.states)
    if far > CLOSE or (found.ids is not None and found.ids < SAME):
        ids = "" if found.ids is None else f", and {1 - found.ids:.1%} of its ids"
        raise ValueError(
            f"the {graph.name} differs by {far:.2g}{ids} from the model that it was made of: give "
            "another `to`"
        )
    return Program(
        name=graph.name,
        file=path.name,
        inputs={
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": graph.shape_of(name)}
            for name, tensor in graph.inputs.items()
        },
        outputs=list(graph.outputs),
        difference=found.outputs,
        state_difference=found.states,
        same=found.ids,
    )


def save_onnx(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """A program as an ONNX model whose inputs and outputs have the graph's names."""
    with silent():
        model = torch.onnx.export(
            program,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=dimensions(graph),
            dynamo=True,
            verbose=False,
        )
        assert model is not None
        model.save(path)


def run_onnx(path: Path, inputs: list[Tensor]) -> list[Any]:
    """What onnxruntime makes of the inputs, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = [each.name for each in session.get_inputs()]
    return session.run(None, {n: x.numpy() for n, x in zip(given, inputs, strict=True)})


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Inside, torch's exporters say nothing of their progress or of packages that are not here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
