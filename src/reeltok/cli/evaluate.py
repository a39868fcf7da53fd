"""`evaluate`: judge one tokenizer, peer or codec under a protocol."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, note
from reeltok.files.places import check_result
from reeltok.wording import left_out, plain

if TYPE_CHECKING:
    from reeltok.evaluate.results import Result
    from reeltok.evaluate.run import ClipProgress, OnClip

DataArgument = Annotated[str, typer.Argument(metavar="DATA", show_default=False)]
PROTOCOL = "shared-eval"  # unless another is asked for
PlanOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Protocol that says which clips and metrics are measured, and how "
        "(docs/protocols.md).",
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder that the file names of a list are relative to; by default the folder "
        "of the list.",
    ),
]
BrokenOption = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Number of clips that may fail to decode before the command fails.",
    ),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder that keeps the results of finished clips; by default in the cache.",
    ),
]
AgainOption = Annotated[
    bool,
    typer.Option("--again", help="Measure all clips again, also those that were finished before."),
]


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    data: DataArgument,
    *,
    protocol: PlanOption = PROTOCOL,
    out: given.ResultOption = None,
    root: RootOption = None,
    max_broken: BrokenOption = 5,
    work: WorkOption = None,
    again: AgainOption = False,
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    refine: given.RefineOption = 0,
    rate_weight: given.RateWeightOption = 0.0,
    chunk: given.ChunkOption = None,
    tile: given.TileOption = None,
    force: given.ForceOption = False,
) -> Report:
    """Evaluate a tokenizer on the clips of DATA: a folder, a pattern, a list or a .tar shard.

    MODEL is a preset, a folder or a repository. Prints every metric of the protocol with its 95 %
    interval over clips; a metric whose network has no weight file reads "no weights" with the
    reason. An interrupted run continues where it stopped. Under torchrun each process takes a
    share.
    """
    check_result(out, force=force, inputs=[model, data, weights])
    from reeltok.evaluate import run
    from reeltok.evaluate.candidates.own import open_own
    from reeltok.evaluate.protocols import find_protocol
    from reeltok.parallel import gloo_group, rank_and_world

    plan = find_protocol(protocol)
    with gloo_group(), show_progress(f"judging {model}", 1) as progress:
        candidate = open_own(
            model,
            weights=weights,
            device=device,
            dtype=given.parse_dtype(dtype),
            refine=refine,
            rate_weight=rate_weight,
            chunk=chunk,
            tile=tile,
            sample=plan.latent == "sample",
        )
        result = run.evaluate(
            candidate,
            data,
            protocol=plan,
            root=root,
            device=candidate.tokenizer.device,
            work=None if again else place_work(work),
            max_broken=max_broken,
            progress=progress,
        )
        if rank_and_world()[0] > 0:
            return Report(data=result.as_dict(), text="")
    return report_result(result, out)


def report_result(result: "Result", out: Path | None) -> Report:
    """Say what broke, save the record where it is wanted, and what people read of it."""
    for name, why in result.broken.items():
        note(left_out(name, why))
    if out is not None:
        result.save(out)
    return Report(data=result.as_dict(), text=result_text(result))


def place_work(asked: Path | None) -> Path:
    """Where finished clips are kept."""
    from reeltok.files.atomic import cache_folder

    return asked or cache_folder("judged")


@contextmanager
def show_progress(what: str, candidates: int) -> "Iterator[OnClip]":
    """Inside, a bar shows how far the judging is, with the time left."""
    passed: dict[str, int] = {}
    bar: Progress | None = None

    def progress(watched: "ClipProgress") -> None:
        nonlocal bar
        if bar is None:
            bar = Progress(what, candidates * watched.total).__enter__()
        for _ in range(watched.done - passed.get(watched.candidate, 0)):
            bar.finish_file()
        passed[watched.candidate] = watched.done
        bar.advance(watched.frames, of=10**9)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)


def result_text(result: "Result") -> str:
    """A result for people: a metric a line."""
    from reeltok.evaluate.notes import note_left_out
    from reeltok.evaluate.results import describe_data, find_metric, format_value

    lines = [
        f"{result.model} under {result.protocol.name} (version {result.protocol.version}): "
        f"{describe_data([result], len(result.clips))}" + say_losses(result),
        "",
    ]
    rows = [(key, value.mean, value.low, value.high) for key, value in result.summary.items()]
    rows += [(key, value, None, None) for key, value in result.extra.items()]
    width = max(len(key) for key in (*(row[0] for row in rows), *result.missing))
    for key, mean, low, high in rows:
        metric = find_metric(key)
        shown = format_value(key, mean) if metric.definition else plain(mean)
        ends = (
            ""
            if low is None or high is None
            else f"{format_value(key, low)}, {format_value(key, high)}"
        )
        interval = f"  [{ends}]" if ends else ""
        better = f"  {metric.better} is better" if metric.better else ""
        lines.append(f"{key:<{width}}  {shown:>10} {metric.unit:<3}{interval}{better}".rstrip())
    for why in sorted(set(result.missing.values())):
        names = [key for key, reason in result.missing.items() if reason == why]
        lines += [f"{key:<{width}}  no weights" for key in names] + [f"  ({why})"]
    lines += ["", *left] if (left := note_left_out(result.left_out, len(result.clips))) else []
    return "\n".join(lines)


def say_losses(result: "Result") -> str:
    """What is not among the clips, or not as it was."""
    parts = []
    if result.left_out:
        parts.append(f"{len(result.left_out)} left out by the protocol's rule")
    if result.broken:
        parts.append(f"{len(result.broken)} broken")
    if result.filled:
        parts.append(f"{result.filled} filled by repeating their last frame")
    return f" ({', '.join(parts)})" if parts else ""
