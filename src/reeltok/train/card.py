"""The model card of a trained tokenizer: what it is, how it was trained, what it scores."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from reeltok.configuration import parse
from reeltok.files.parsing import read_object
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.logbook import Line, read_lines
from reeltok.train.recipe import Recipe
from reeltok.train.recipes import RECIPES, as_json
from reeltok.wording import duration, plain

ROWS = 10  # of the curve, at most
SCORES = {"psnr": "PSNR", "ssim": "SSIM", "lpips_alex": "LPIPS (alex)", "flicker": "flicker"}
RESULTS = {
    "psnr": ("PSNR", "dB"),
    "ssim": ("SSIM", ""),
    "lpips-alex": ("LPIPS (alex)", ""),
    "flicker": ("flicker", ""),
    "bits_per_pixel": ("bits per pixel", ""),
    "perplexity": ("perplexity", ""),
}


def write_card(
    model: Tokenizer,
    run: Path,
    folder: Path,
    *,
    hardware: str,
    results: Sequence[str | Path] = (),
    notes: Sequence[str] = (),
    bits: int = 8,
) -> str:
    """The card of the model in `folder`, in rows of `bits`, trained by `run` on `hardware`.

    `results` are files that `reeltok evaluate --out` wrote, `notes` paragraphs for its end.
    ValueError where the log or a result is damaged.
    """
    lines = read_lines(run / "log.jsonl")
    path = run / "recipe.json"  # of an earlier version: keys that it lacks have their defaults
    recipe = json.loads(as_json(parse(read_object(path), str(path), Recipe)))
    parts = [
        f"# Model card: `{model.name}`",
        wrap_lines(describe(model, folder, bits)),
        wrap_lines(f"**Training.** {course_of_run(model, recipe, lines, hardware)}"),
        f"    {command(recipe)}",
        *([curve(lines)] if any(line.get("validation") for line in lines) else []),
        *(result(model, path) for path in results),
        *(wrap_lines(note) for note in notes),
    ]
    return "\n\n".join(parts) + "\n"


def wrap_lines(text: str) -> str:
    """A paragraph in lines of 110 characters."""
    return fill(text, 110, break_long_words=False, break_on_hyphens=False)


def describe(model: Tokenizer, folder: Path, bits: int) -> str:
    """What the model is, and what its folder stores."""
    spec = model.spec
    causal = "causal" if spec.causal else "non-causal"
    tokens = (
        f"{spec.channels} continuous channels"
        if spec.vocabulary is None
        else f"one id of {spec.bits} bits ({spec.vocabulary:,} codes)"
    )
    held = f"{(folder / 'model.safetensors').stat().st_size / 2**20:.1f} MiB in rows of {bits} bits"
    if base := read_object(folder / "config.json").get("base"):
        held += f" (what differs from `{base['name']}`)"
    kind = "continuous" if spec.vocabulary is None else "discrete"
    return (
        f"A {causal}, {kind} video tokenizer of the family {spec.family}: "
        f"{plain(spec.factors)}, {tokens} a token. {spec.parameters / 1e6:.2f} M parameters, "
        f"{held}, MIT licence. Configuration: `config.json`."
    )


def course_of_run(
    model: Tokenizer, recipe: dict[str, Any], lines: Sequence[Line], hardware: str
) -> str:
    """How a run went, in sentences."""
    data, loop = recipe["data"], recipe["loop"]
    begun = {"trained": f"from the trained `{Path(recipe['model']).name}`"}.get(recipe["start"])
    begun = f"warm from the trained `{recipe['warm']}`" if recipe["warm"] else begun or "fresh"
    steps = max((line["step"] for line in lines), default=0)
    windows = ", ".join(
        f"{w['batch']} clips of {w['frames']}x{w['size']}x{w['size']}"
        + (f" ({w['share']:.0%})" if len(data["windows"]) > 1 else "")
        for w in data["windows"]
    )
    rests = f" Held: {', '.join(loop['freeze'])}." if loop["freeze"] else ""
    optimizer = loop["optimizer"]
    return (
        f"Recipe `{recipe['name']}`, {begun}, {steps:,} steps on {hardware}, "
        f"{duration(seconds_of(lines))}. A step: {windows}; {used_precision(lines, loop)}, "
        f"{optimizer['kind']} at rate {optimizer['lr']:g}.{rests} Loss: "
        f"{losses(recipe, model, steps)}. {held_out(lines, data['holdout'], 'sources')}"
    )


def held_out(lines: Sequence[Line], share: float, of: str) -> str:
    """What a run held out: by the counts of its log, in those of earlier versions by `share`."""
    counts = counts_of(lines)
    if counts is None:
        return f"{share:.0%} of the {of} were held out."
    if not counts["held_out_size"]:
        return "Nothing was held out."
    return (
        f"{counts['held_out_size']:,} of {sum(counts.values()):,} were held out, by their sources."
    )


def used_precision(lines: Sequence[Line], loop: dict[str, Any]) -> str:
    """In what a run was computed, by its log; in that of an earlier version, what was asked."""
    found = dict.fromkeys(line["precision"] for line in lines if "precision" in line)
    return ", then ".join(found) or loop["precision"]


def counts_of(lines: Sequence[Line]) -> dict[str, int] | None:
    """How many were trained on and held out, as a run's log says; None where it does not."""
    names = ("train_size", "held_out_size")
    found = [{name: line[name] for name in names} for line in lines if names[0] in line]
    return found[-1] if found else None


def losses(recipe: dict[str, Any], model: Tokenizer, steps: int) -> str:
    """What was minimised in so many steps."""
    if patches := recipe.get("patches"):
        found = [f"squared error of {patches['share']:.1%} of the clip ({patches['sampling']})"]
        if patches["perceptual"]:
            found.append(f"{patches['perceptual']:g} LPIPS ({patches['net']})")
        return " + ".join(found)
    config = recipe["losses"]
    found = [config["pixel"]]
    if first := config["l1_steps"] if config["pixel"] != "l1" else 0:
        found = ["l1" if steps <= first else f"l1 for {first:,} steps, then {config['pixel']}"]
    if model.spec.vocabulary is None:
        found.append(f"{config['terms'].get('kl', 1.0):g} KL")
    if even := getattr(getattr(model.config, "quantizer", None), "even", 0.0):
        found.append(f"{even:g} unevenness of the codes")
    if config["perceptual"]:
        found.append(f"{config['perceptual']:g} LPIPS ({config['net']})")
    if config["flicker"]:
        found.append(f"{config['flicker']:g} error of frame differences")
    adversary = config["discriminator"]
    if adversary:
        found.append(
            f"{adversary['weight']:g} {adversary['generator_loss']} against a discriminator of "
            f"{adversary['kind']} from step {adversary['first']:,}"
        )
    return " + ".join(found)


def seconds_of(lines: Sequence[Line]) -> float:
    """How long a run took in all; the clock of the log begins anew with each resume."""
    total, before, ended = 0.0, 0.0, False
    for line in lines:
        now = float(line.get("time", before))
        anew = ended or now < before or "resumed" in line
        total += now if anew else now - before
        before, ended = now, "stopped" in line
    return total


def command(recipe: dict[str, Any], recipes: Mapping[str, Callable[[], Any]] = RECIPES) -> str:
    """The command that trains by this recipe, with all that differs from the one of its name."""
    words = ["reeltok", "train", str(recipe["name"]), "--data", "CLIPS", "--out", "RUN"]
    make = recipes.get(recipe["name"])
    if make is None:
        words[2] = "recipe.json"
        return shlex.join(words)
    given = json.loads(as_json(make()))
    for path, value in changes(given, recipe):
        said = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words += ["--set", f"{path}={said}"]
    return shlex.join(words)


def changes(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested tables that differ, by their paths; lists are leaves."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before != after:
            yield path, after
        return
    for key in after:
        yield from changes(before.get(key), after[key], f"{path}.{key}" if path else key)


def curve(lines: Sequence[Line], scores: Mapping[str, str] = SCORES) -> str:
    """A table of scores on held-out clips over the steps; `scores` are their headings."""
    held = [line for line in lines if line.get("validation")]
    chosen = [held[round(i * (len(held) - 1) / max(1, ROWS - 1))] for i in range(ROWS)]
    rows = list({line["step"]: line for line in chosen}.values())
    names = [name for name in scores if all(name in line for line in rows)]
    table = [["step", *(scores[name] for name in names)], ["---"] * (1 + len(names))]
    table += [[f"{line['step']:,}", *(f"{line[n]:.4g}" for n in names)] for line in rows]
    shown = "\n".join(f"| {' | '.join(row)} |" for row in table)
    counts = counts_of(lines)
    seen = "what was trained on" if counts and not counts["held_out_size"] else "held-out sources"
    return f"On {seen}, mean weights (before they were stored in few bits):\n\n{shown}"


def result(model: Tokenizer, path: str | Path) -> str:
    """What the evaluation in `path` found, with intervals. ValueError for that of other weights."""
    record = read_object(Path(path))
    if (found := record.get("weights")) != model.hash():
        raise ValueError(
            f"{path} is of {record.get('model')!r} with weights {str(found)[:12]}, this is "
            f"{model.name!r} with {model.hash()[:12]}: bundle without it, evaluate what was "
            "bundled, and bundle again with that"
        )
    summary, protocol = record["summary"], record["protocol"]
    found = []
    for key, (said, unit) in RESULTS.items():
        if key in summary:
            mean, low, high = (summary[key].get(k) for k in ("mean", "low", "high"))
            interval = (
                "" if low is None or key == "bits_per_pixel" else f" ({low:.4g} to {high:.4g})"
            )
            found.append(f"{said} {mean:.4g}{f' {unit}' if unit else ''}{interval}")
    clips = len(record["clips"])
    heading = wrap_lines(
        f"**Result.** Protocol `{protocol['name']}`, {clips} clips, 95 % intervals over clips: "
        f"{', '.join(found)}."
    )
    return f"{heading}\n\n    reeltok evaluate {model.name} DATA --protocol {protocol['name']}"
