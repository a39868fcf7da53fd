"""`probe`: what tokens hold for understanding."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import evaluate as judging
from reeltok.cli import options as given
from reeltok.cli.report import Report, facts, note
from reeltok.wording import left_out

if TYPE_CHECKING:
    from reeltok.evaluate.probe import Probe


def probe(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    data: judging.DataArgument,
    *,
    labels: Annotated[
        str,
        typer.Option(
            metavar="LIST.csv:COLUMN",
            help="List of labels and the column to read, required; the list may lie in DATA. A"
            " corpus has columns itself: give COLUMN alone.",
        ),
    ],
    protocol: judging.PlanOption = judging.PROTOCOL,
    root: judging.RootOption = None,
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
) -> Report:
    """Train a linear classifier on the tokens of labelled clips, and print its accuracy.

    Cross-validation in five folds: each clip is classified by a model that was not trained on it,
    nor on others of its source, such as parts of one file. Labels of fewer than five sources are
    left out. Chance is the share of the most frequent label.
    DATA may be a corpus of the model's tokens: then nothing is encoded, and a clip is the mean of
    its windows.
    """
    from reeltok.corpus.read import is_corpus

    if is_corpus(data):
        named_one = None if protocol == judging.PROTOCOL else protocol
        given.require_use("clips, and DATA is a corpus", protocol=named_one, root=root)
        return probe_corpus(model, data, labels, weights=weights, device=device, dtype=dtype)
    from reeltok.evaluate import probe as probing
    from reeltok.evaluate.clips import clips

    named = probing.read_labels(labels, data)
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype)
    found = clips(protocol, data, root=root, causal=tokenizer.spec.causal)
    described = probing.collect_features(tokenizer, found, named)
    result = probing.run_probe(described)
    passed = {**found.left_out, **described.left_out}
    for name, why in found.broken.items():
        note(left_out(name, why))
    about = {"model": model, "protocol": protocol, "broken": found.broken}
    return probe_report(result, passed, about)


def probe_corpus(
    model: str, data: str, labels: str, *, weights: str | None, device: str, dtype: str
) -> Report:
    """The same on the tokens of a corpus, which are the model's."""
    from reeltok.corpus.read import Corpus
    from reeltok.evaluate import probe as probing

    corpus = Corpus(data)
    given_list = ":" in labels
    named = probing.read_labels(labels, data) if given_list else probing.row_labels(corpus, labels)
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype)
    corpus.require_own(tokenizer)
    described = probing.collect_rows(tokenizer, corpus, named)
    about: dict[str, Any] = {"model": model, "protocol": None, "broken": {}}
    return probe_report(probing.run_probe(described), described.left_out, about)


def probe_report(result: "Probe", passed: dict[str, str], about: dict[str, Any]) -> Report:
    """What a probe found."""
    counted = sum(result.labels.values())
    text = facts(
        {
            "accuracy": str(result.accuracy),
            "chance": round(result.chance, 4),
            "clips": counted,
            "labels": ", ".join(f"{name} ({n})" for name, n in result.labels.items()),
            "numbers a clip": result.width,
            "left out": f"{len(passed)} clips, {len(result.left_out)} labels",
        }
    )
    data_out = {**asdict(result), **about, "clips": counted, "clips_left_out": passed}
    return Report(data=data_out, text=text)
