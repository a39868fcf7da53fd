"""How a study is shown: a Markdown table with the published lines beside ours, and figures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Lab, Result
from matplotlib.figure import Figure

from reeltok.evaluate.published import PUBLISHED, PublishedRow

CAPTIONS = {
    "tiny": "At small scale: tiny networks, minutes of training, our clips. Compare the order and "
    "the differences of lines with the paper's, never the values.",
    "full": "Published sizes and steps, our clips and hardware.",
    "push": "In simulation: small networks on episodes of the pushing world. Compare the order and "
    "the differences of lines with the paper's, never the values.",
}


@dataclass(frozen=True)
class Column:
    """How one number is printed: its title, its digits, and a factor (100 for per cent)."""

    title: str
    digits: int
    factor: float = 1.0


COLUMNS = {
    "psnr": Column("PSNR", 2),
    "psnr@3": Column("PSNR at 3 fps", 2),
    "psnr@8": Column("PSNR at 8 fps", 2),
    "ssim": Column("SSIM", 3),
    "lpips": Column("LPIPS", 3),
    "detail": Column("detail", 2),
    "bits": Column("bits a clip", 0),
    "packed": Column("packed bits", 0),
    "flicker": Column("flicker", 2),
    "flicker@3": Column("flicker at 3 fps", 2),
    "fvd": Column("FVD", 0),
    "utilization": Column("codes used, %", 1, 100),
    "uniform": Column("by uniform draws, %", 1, 100),
    "perplexity": Column("perplexity", 0),
    "parameters_m": Column("parameters, M", 2),
    "gmacs": Column("GMAC a clip", 2),
    "macs_t": Column("TMAC a clip", 2),
    "tflop": Column("training, TFLOP", 2),
    "processor_s": Column("processor s", 0),
    "a100_hours": Column("A100 hours", 0),
}


def find_published(tables: Sequence[str], model: str | None) -> PublishedRow | None:
    """The published line of that model in one of the tables."""
    found = [row for name in tables for row in PUBLISHED[name].rows if row.model == model]
    if model is not None and not found:
        raise ValueError(f"no published line {model!r} in {', '.join(tables)}")
    return found[0] if found else None


def by_row(results: Sequence[Result]) -> Mapping[str, list[Result]]:
    """The results of all seeds of each line, in the order of the table."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.row.name, []).append(result)
    return found


def values_of(results: Sequence[Result], key: str) -> list[float]:
    return [r.scores[key] for r in results if key in r.scores]


def number(values: Sequence[float], column: Column) -> str:
    """A mean, with the standard deviation over seeds where there are several."""
    if not values:
        return ""
    scaled = [value * column.factor for value in values]
    text = f"{statistics.fmean(scaled):.{column.digits}f}"
    if len(scaled) > 1 and (spread := statistics.stdev(scaled)) > 0:
        text += f" ± {spread:.{column.digits}f}"
    return text


def table(
    results: Sequence[Result], columns: Sequence[str], tables: Sequence[str], setting: str
) -> str:
    """The table in Markdown, with its caption. Paper columns are those that a line of ours has."""
    groups = by_row(results)
    beside = {n: find_published(tables, g[0].row.published) for n, g in groups.items()}
    order = [key for name in tables for key in PUBLISHED[name].columns]
    given = [k for k in dict.fromkeys(order) if any(r and k in r.values for r in beside.values())]
    titles = [COLUMNS[key].title for key in columns]
    if tables:
        titles += ["paper's line"] + [f"{COLUMNS[key].title} (paper)" for key in given]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, group in groups.items():
        row = beside[name]
        cells = [name, *(number(values_of(group, key), COLUMNS[key]) for key in columns)]
        if tables:
            cells += ["" if row is None else f"{row.model}{f' ({row.note})' if row.note else ''}"]
        for key in given:
            known = row is not None and key in row.values
            cells.append(number([row.values[key]], COLUMNS[key]) if row and known else "")
        lines.append("| " + " | ".join(cells) + " |")
    counts = {len(group) for group in groups.values()}
    seeds = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{counts.pop()}"
    sources = "; ".join(PUBLISHED[name].source for name in tables)
    caption = f"{CAPTIONS[setting]} Seeds a line: {seeds}."
    caption += f" Published: {sources}." if tables else ""
    return "\n".join([*lines, "", caption, ""])


def draw_dots(lab: Lab, results: Sequence[Result], keys: Sequence[str]) -> None:
    """One line a row: every seed a dot, a bar at their mean; then the paper's PSNR, if any."""
    groups, tables = by_row(results), lab.study.published
    beside = {n: find_published(tables, g[0].row.published) for n, g in groups.items()}
    count = len(keys) + bool(tables)
    figure = Figure(figsize=(3 + 2.6 * count, 0.9 + 0.32 * max(3, len(groups))), dpi=80)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, keys, strict=False):
        factor = COLUMNS[key].factor
        for place, group in enumerate(groups.values()):
            values = [factor * value for value in values_of(group, key)]
            axes.plot(values, [place] * len(values), "o", color="tab:blue", ms=4, alpha=0.7)
            if values:
                axes.plot([statistics.fmean(values)], [place], "|", color="black", ms=12)
        axes.set_title(f"{COLUMNS[key].title}, ours", fontsize=8)
    for place, row in enumerate(beside.values()):
        if row is not None and "psnr" in row.values:
            panels[-1].plot([row.values["psnr"]], [place], "D", color="tab:orange", ms=5)
    if tables:
        panels[-1].set_title("PSNR, paper", fontsize=8)
    panels[0].set_yticks(range(len(groups)), list(groups), fontsize=8)
    panels[0].invert_yaxis()
    panels[0].margins(y=0.2)
    for axes in panels:
        axes.locator_params(axis="x", nbins=5)
    figure.suptitle(CAPTIONS[lab.setting].partition(":")[0], fontsize=9)
    finish(figure, panels, lab.out / f"{lab.study.name}.png")


def finish(figure: Any, panels: Sequence[Any], target: Path) -> None:
    """Grid, small labels, and the file."""
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def running_sum(values: Sequence[float]) -> list[float]:
    """Partial sums, beginning with zero."""
    return [math.fsum(values[:i]) for i in range(len(values) + 1)]
