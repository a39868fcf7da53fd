"""`compare`: tokenizers, peers and codecs under one protocol, as a report to look at."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import evaluate as judging
from reeltok.cli import options as given
from reeltok.cli.report import Report, note
from reeltok.files.places import check_place
from reeltok.wording import count

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reeltok.evaluate.candidates.candidate import Candidate
    from reeltok.evaluate.labels import Labelled
    from reeltok.evaluate.protocols import Protocol
    from reeltok.evaluate.report.build import Media
    from reeltok.evaluate.results import Result
    from reeltok.evaluate.run import OnClip

# In the terminal.
SHOWN = ["psnr", "ssim", "lpips-alex", "flicker", "bits_per_pixel", "stored_bits_per_pixel"]


def compare(
    what: Annotated[list[str], typer.Argument(metavar="MODEL... DATA", show_default=False)],
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Folder to write the report to; open index.html in it."
        ),
    ] = Path("report"),
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to compare with: a codec (h264, h265, av1, vp9), resize, "
            "diffusers:FOLDER, cosmos:FOLDER or module:function; may be repeated; by default none.",
        ),
    ] = None,
    protocol: judging.PlanOption = judging.PROTOCOL,
    root: judging.RootOption = None,
    max_broken: judging.BrokenOption = 5,
    work: judging.WorkOption = None,
    again: judging.AgainOption = False,
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    refine: given.RefineOption = 0,
    rate_weight: given.RateWeightOption = 0.0,
    chunk: given.ChunkOption = None,
    tile: given.TileOption = None,
    force: given.ForceOption = False,
) -> Report:
    """Compare tokenizers and other coders on the same clips, and write a report with videos.

    MODEL is a preset, a folder, a repository, or a result that `evaluate --out` wrote; if all are
    results, leave DATA out. The label of a folder is its run (runs/a/model is "a"); LABEL=MODEL
    chooses another. Codecs are matched to the nominal bits of the first MODEL in two ways, each
    clip at its own bits and one quality for all clips; the report also shows points of their
    curves.
    """
    words, data = split_words(what)
    check_report(out, data, force=force)
    from reeltok.evaluate.candidates.own import open_own
    from reeltok.evaluate.comparison import Comparison
    from reeltok.evaluate.labels import label_models
    from reeltok.evaluate.protocols import find_protocol
    from reeltok.evaluate.report.build import Media
    from reeltok.parallel import gloo_group, rank_and_world

    plan, media = find_protocol(protocol), Media(out)
    named = label_models(words)
    check_names([each.source for each in named], peer or (), weights, refine)
    if all(each.source.endswith(".json") for each in named):
        idle: dict[str, Any] = {"weights": weights, "chunk": chunk, "tile": tile}
        idle |= {"refine": refine or None, "rate_weight": rate_weight or None}
        given.require_use("tokenizers that are judged now", **idle, dtype=unless("fp32", dtype))
        if data is not None and not peer:
            raise ValueError(f"all models are results and there is no --peer: leave {data} out")
    if data is None:
        idle = {"device": unless("auto", device), "protocol": unless(judging.PROTOCOL, protocol)}
        given.require_use("what is judged now, on DATA", peer=peer, root=root, **idle)
    kept = None if again else judging.place_work(work)
    how: dict[str, Any] = {"weights": weights, "device": device, "chunk": chunk, "tile": tile}
    how |= {"dtype": given.parse_dtype(dtype), "sample": plan.latent == "sample"}
    how |= {"refine": refine, "rate_weight": rate_weight}
    known = [load_result(each, words) if each.source.endswith(".json") else None for each in named]
    results = [result for result in known if result is not None]
    check_judged(plan, named, results, peer or (), how)
    with gloo_group():
        if data is not None:
            run = Comparison(plan, data, media, device, root, kept, max_broken, watch=show_judging)
            results = [
                result or run.judge(open_own(each.source, label=each.label, **how))
                for each, result in zip(named, known, strict=True)
            ]
            results += run.judge_peers(peer or (), results)
        if rank_and_world()[0] > 0:
            return Report(data={}, text="")
        return report_comparison(results, out, media)


def check_rated(names: list[str], rate_weight: float, how: dict[str, Any]) -> None:
    """ValueError, before any is judged, for a model whose bits cannot be weighed, where they are to
    be."""
    from reeltok.evaluate.candidates.own import open_own

    for name in names if rate_weight else ():
        if not name.endswith(".json"):
            open_own(name, **how)


def check_judged(
    plan: "Protocol",
    named: "list[Labelled]",
    results: "list[Result]",
    peers: Iterable[str],
    how: dict[str, Any],
) -> None:
    """ValueError, before any is judged, where what is to be would not compare: results of another
    protocol, or kinds of tokenizers that the protocol gives other clips; or where bits that are to
    be weighed cannot be."""
    from reeltok.evaluate.candidates.own import open_own
    from reeltok.evaluate.candidates.peers import open_peers
    from reeltok.evaluate.comparable import PlannedResult, check_planned
    from reeltok.models.foreign.names import parse_foreign

    check_rated([each.source for each in named], how["rate_weight"], how)
    planned = [PlannedResult.of(result) for result in results]
    words = [each for each in named if not each.source.endswith(".json")]
    if plan.clip_frames(causal=True) == plan.clip_frames(causal=False):
        kinds = [(name, True) for name in [*(each.label for each in words), *peers][:1]]
    else:  # only then are models opened twice
        opened: list[Candidate] = [open_own(each.source, label=each.label, **how) for each in words]
        opened += [one for name in peers if parse_foreign(name) for one in open_peers(name)]
        kinds = [(one.name, one.causal) for one in opened]
    planned += [PlannedResult(model=name, protocol=plan, causal=kind) for name, kind in kinds]
    check_planned(planned)


def unless(usual: str, value: str) -> str | None:
    """The value of an option; None where it is the usual one."""
    return None if value == usual else value


def show_judging(name: str) -> "AbstractContextManager[OnClip]":
    """Inside, a bar shows how far the judging of one candidate is."""
    return judging.show_progress(f"judging {name}", 1)


def load_result(named: "Labelled", words: list[str]) -> "Result":
    """The result of a file, called as it was asked for."""
    from reeltok.evaluate.results import Result

    result = Result.load(named.source)
    return result if named.source in words else replace(result, model=named.label)


def check_names(
    names: list[str], peers: Iterable[str], weights: str | None, refine: int = 0
) -> None:
    """ValueError or FileNotFoundError for a model or peer that is none, before any is judged.

    ValueError too for one whose latents cannot be refined, where they are to be.
    """
    from reeltok import zoo
    from reeltok.evaluate.candidates.peers import find_peer
    from reeltok.models.foreign.names import parse_foreign

    for name in names:
        if not name.endswith(".json"):
            zoo.check_name(name, weights=weights)
            if refine and parse_foreign(name) is not None:
                raise ValueError(f"the latents of {name} cannot be refined: leave out --refine")
    for name in peers:
        find_peer(name)


def check_report(out: Path, data: str | None, *, force: bool) -> None:
    """ValueError where `out` lies in what is read, or holds a page that is not a report.

    OSError where it cannot be written.
    """
    from reeltok.data.find import looks_into

    if data is not None and looks_into(data, out):
        raise ValueError(
            f"the report's videos in {out} would be among the clips of {data}: name another --out"
        )
    if (out / "index.html").exists() and not (force or (out / "results").is_dir()):
        raise ValueError(f"{out} holds another page: give another --out, or --force")
    check_place(str(out))


def report_comparison(results: "list[Result]", out: Path, media: "Media") -> Report:
    """Write the page, and say what stands in its table."""
    from reeltok.evaluate.report.build import write_report
    from reeltok.evaluate.results import build_table

    tell_broken(results)
    rows = [r for r in results if r.settings.get("role") != "curve"]
    title = f"{count(len(rows), 'result')} on {count(build_table(results).clips, 'clip')}"
    index = write_report(out, results, media, title=title)
    table = replace(build_table(rows), columns=SHOWN)
    return Report(
        data={"report": str(index), "results": [r.as_dict() for r in results]},
        text=f"{table.text()}\n\nreport: {index}",
    )


def tell_broken(results: "list[Result]") -> None:
    """A note for each clip that broke, for whichever results it did."""
    from reeltok.data.clip import said_of

    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for clip in result.broken.items():
            found.setdefault(clip, []).append(result.model)
    for (name, why), models in found.items():
        whom = "all" if len(models) == len(results) else ", ".join(models)
        note(f"{name} left out for {whom}: {said_of(name, why)}")


def split_words(words: list[str]) -> tuple[list[str], str | None]:
    """Models and data. ValueError where one of the two is lacking."""
    if all(word.endswith(".json") for word in words):
        return words, None
    if len(words) < 2:
        raise ValueError(f"compare takes MODEL... DATA, but was given {words[0]} alone")
    return words[:-1], words[-1]
