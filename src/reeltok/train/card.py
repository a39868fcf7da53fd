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
        *(result(model.name, read_object(Path(path))) for path in results),
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
        f"{duration(seconds_of(lines))}. A step: {windows}; {loop['precision']}, "
        f"{optimizer['kind']} at rate {optimizer['lr']:g}.{rests} Loss: "
        f"{losses(recipe, model)}. {data['holdout']:.0%} of the sources were held out."
    )


def losses(recipe: dict[str, Any], model: Tokenizer) -> str:
    """What was minimised."""
    if patches := recipe.get("patches"):
        found = [f"squared error of {patches['share']:.1%} of the clip ({patches['sampling']})"]
        if patches["perceptual"]:
            found.append(f"{patches['perceptual']:g} LPIPS ({patches['net']})")
        return " + ".join(found)
    config = recipe["losses"]
    found = [config["pixel"]]
    if model.spec.vocabulary is None:
        found.append(f"{config['terms'].get('kl', 1.0):g} KL")
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
    total, before = 0.0, 0.0
    for line in lines:
        now = float(line.get("time", before))
        total += now - before if now >= before else now
        before = now
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
    return f"On held-out sources, mean weights (before they were stored in few bits):\n\n{shown}"


def result(name: str, record: dict[str, Any]) -> str:
    """What an evaluation of the model `name` found, with intervals."""
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
    return f"{heading}\n\n    reeltok evaluate {name} DATA --protocol {protocol['name']}"
