"""`probe`: what tokens hold for understanding."""

from dataclasses import asdict
from typing import Annotated

import typer

from reeltok.cli import evaluate as judging
from reeltok.cli import options as given
from reeltok.cli.report import Report, facts, note
from reeltok.wording import left_out


def probe(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    data: judging.DataArgument,
    *,
    labels: Annotated[
        str,
        typer.Option(
            metavar="LIST.csv:COLUMN",
            help="List of labels and the column to read, required; the list may lie in DATA.",
        ),
    ],
    protocol: judging.PlanOption = "shared-eval",
    root: judging.RootOption = None,
    weights: given.WeightsOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
) -> Report:
    """Train a linear classifier on the tokens of labelled clips, and print its accuracy.

    Cross-validation in five folds: each clip is classified by a model that was not trained on it.
    Labels of fewer than five clips are left out. Chance is the share of the most frequent label.
    """
    from reeltok.evaluate import probe as probing
    from reeltok.evaluate.clips import clips

    named = probing.read_labels(labels, data)
    tokenizer = given.open_model(model, weights=weights, device=device, dtype=dtype)
    found = clips(protocol, data, root=root, causal=tokenizer.spec.causal)
    x, y, unnamed = probing.collect_features(tokenizer, found, named)
    result = probing.run_probe(x, y)
    passed = {**found.left_out, **unnamed}
    for name, why in found.broken.items():
        note(left_out(name, why))
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
    data_out = {**asdict(result), "model": model, "protocol": protocol, "clips": counted}
    return Report(data={**data_out, "clips_left_out": passed, "broken": found.broken}, text=text)
