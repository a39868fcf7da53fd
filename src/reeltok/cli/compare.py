"""`compare`: tokenizers, peers and codecs under one protocol, as a report to look at."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import evaluate as judging
from reeltok.cli import options as given
from reeltok.cli.report import Report, note
from reeltok.files.places import check_place

if TYPE_CHECKING:
    from reeltok.evaluate.candidates.codecs import Yardstick
    from reeltok.evaluate.candidates.subjects import Subject
    from reeltok.evaluate.clips import Clip
    from reeltok.evaluate.labels import Labelled
    from reeltok.evaluate.protocols import Protocol
    from reeltok.evaluate.report.build import Media
    from reeltok.evaluate.results import Result
    from reeltok.evaluate.scores import Scorer

SHOWN = ["psnr", "ssim", "lpips-alex", "flicker", "bits_per_pixel"]  # in the terminal
CURVE = ("psnr", "psnr-uint8", "lpips-alex")  # what points of a codec's curve are judged by


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
            "diffusers:CLASS=FOLDER or module:function; may be repeated; by default none.",
        ),
    ] = None,
    protocol: judging.Plan = "shared-eval",
    root: judging.Root = None,
    max_broken: judging.Broken = 5,
    work: judging.Work = None,
    again: judging.Again = False,
    weights: given.Weights = None,
    device: given.Device = "auto",
    dtype: given.Dtype = "fp32",
    chunk: given.Chunk = None,
    tile: given.Tile = None,
    force: given.Force = False,
) -> Report:
    """Compare tokenizers and other coders on the same clips, and write a report with videos.

    MODEL is a preset, a folder, a repository, or a result that `evaluate --out` wrote; if all are
    results, leave DATA out. The label of a folder is its run (runs/a/model is "a"); LABEL=MODEL
    chooses another. Codecs are matched to the bits of the first MODEL in two ways, each clip at its
    own bits and one quality for all clips; the report also shows points of their curves.
    """
    words, data = split_words(what)
    check_report(out, force=force)
    from reeltok.evaluate.labels import label_models
    from reeltok.evaluate.protocols import find_protocol
    from reeltok.evaluate.report.build import Media
    from reeltok.evaluate.run import place

    plan, media = find_protocol(protocol), Media(out)
    named = label_models(words)
    check_names([each.source for each in named], peer or (), weights)
    kept = None if again else judging.place_work(work)
    sample = plan.latent == "sample"
    results = [load_result(each, words) for each in named if each.source.endswith(".json")]
    with judging.ranks():
        if data is not None:
            run = Comparison(plan, data, media, device, root, kept, max_broken)
            for each in named:
                if not each.source.endswith(".json"):
                    how = (weights, device, dtype, chunk, tile)
                    own = judging.open_own(each.source, *how, sample=sample, label=each.label)
                    results.append(run.judge(own))
            results += run.judge_peers(peer or (), results)
        if place()[0] > 0:
            return Report(data={}, text="")
        return report_on(results, out, media)


def load_result(named: "Labelled", words: list[str]) -> "Result":
    """The result of a file, called as it was asked for."""
    from reeltok.evaluate.results import Result

    result = Result.load(named.source)
    return result if named.source in words else replace(result, model=named.label)


def check_names(names: list[str], peers: Iterable[str], weights: str | None) -> None:
    """ValueError or FileNotFoundError for a model or peer that is none, before any is judged."""
    from reeltok import zoo
    from reeltok.evaluate.candidates.peers import find_peer

    for name in names:
        if not name.endswith(".json"):
            zoo.check_name(name, weights=weights)
    for name in peers:
        find_peer(name)


def check_report(out: Path, *, force: bool) -> None:
    """ValueError where `out` cannot be written, or holds a page that is no report."""
    if (out / "index.html").exists() and not (force or (out / "results").is_dir()):
        raise ValueError(f"{out} holds another page: give another --out, or --force")
    check_place(str(out))


def report_on(results: "list[Result]", out: Path, media: "Media") -> Report:
    """Write the page, and say what stands in its table."""
    from reeltok.evaluate.report.build import write_report
    from reeltok.evaluate.results import tabulate

    tell_broken(results)
    rows = [r for r in results if r.settings.get("role") != "curve"]
    title = f"{len(rows)} results on {len(results[0].clips)} clips"
    index = write_report(out, results, media, title=title)
    table = replace(tabulate(rows), columns=SHOWN)
    return Report(
        data={"report": str(index), "results": [judging.flat(r) for r in results]},
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


class Comparison:
    """What all subjects of a comparison share: clips, judges, the folder of the report."""

    def __init__(
        self,
        plan: "Protocol",
        data: str,
        media: "Media",
        device: str,
        root: Path | None,
        work: Path | None,
        max_broken: int,
    ) -> None:
        from reeltok.devices import pick_device
        from reeltok.evaluate.clips import ClipCache
        from reeltok.evaluate.scores import open_scorer

        self.plan, self.data, self.media, self.root = plan, data, media, root
        self.device = pick_device(device)
        self.work, self.max_broken = work, max_broken
        self.cache = ClipCache()
        self.full = open_scorer(plan.metrics, frames=plan.fvd_frames, device=self.device)
        found = tuple(key for key in CURVE if key in plan.metrics)
        self.brief: Scorer = replace(self.full, metrics=found, extractors={}, missing={})

    def judge(self, subject: "Subject") -> "Result":
        """One subject's result; its videos go into the report, but for points of a curve."""
        from reeltok.evaluate.run import evaluate

        brief = subject.settings.get("role") == "curve"
        more: dict[str, Any] = {}
        if not brief:
            more["keep"] = self.media.keep(subject)
            more["kept"] = self.media.kept(subject)
        with judging.shown(f"judging {subject.name}", 1) as progress:
            return evaluate(
                subject,
                self.data,
                protocol=self.plan,
                root=self.root,
                scorer=self.brief if brief else self.full,
                work=self.work,
                max_broken=self.max_broken,
                progress=progress,
                cache=self.cache,
                **more,
            )

    def judge_peers(self, names: "Iterable[str]", results: "list[Result]") -> "list[Result]":
        """The results of all subjects that these names stand for, matched to those before."""
        from reeltok.evaluate.candidates.peers import open_peers

        like = self.yardstick(results)
        return [
            self.judge(one) for name in names for one in open_peers(name, like, device=self.device)
        ]

    def yardstick(self, results: "list[Result]") -> "Yardstick":
        """What peers are matched to: the first result that counted bits."""
        from reeltok.evaluate.candidates.codecs import Yardstick

        for result in results:
            bits = {c["name"]: c["bits"] for c in result.clips if c["bits"] is not None}
            factors = result.settings.get("factors")
            if bits and factors:
                return Yardstick(
                    bits=bits,
                    factors=tuple(factors),
                    clips=partial(self._clips, result.causal),
                    causal=result.causal,
                )
        return Yardstick(clips=partial(self._clips, True))

    def _clips(self, causal: bool) -> "Iterable[Clip]":
        from reeltok.evaluate.clips import clips
        from reeltok.evaluate.run import place

        return clips(
            self.plan, self.data, root=self.root, causal=causal, shard=place(), cache=self.cache
        )
