"""What a command says when it is done: data for programs, lines for people."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reeltok.files.text import printable
from reeltok.wording import plain

if TYPE_CHECKING:
    from reeltok.transcode.batch import Outcome


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a command: `data` is the JSON object of --json, `text` what people read.

    `piped`: standard output carries a video or tokens, so the report goes to standard error.
    `failed`: one sentence, where a part of the work could not be done (exit code 2).
    """

    data: Mapping[str, Any]
    text: str
    piped: bool = False
    failed: str | None = None


def note(message: str) -> None:
    """Say something on the way: one line on standard error."""
    warnings.warn(message, UserWarning, stacklevel=2)


def note_all(messages: Iterable[str]) -> None:
    """Say each of these."""
    for message in messages:
        note(message)


def facts(pairs: Mapping[str, Any]) -> str:
    """One fact a line, the values under one another; None is left out."""
    shown = {printable(name): plain(value) for name, value in pairs.items() if value is not None}
    width = max((len(name) for name in shown), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of one kind under their names; numbers to the right, None is a dash."""
    rows = list(rows)
    if not rows:
        return ""
    columns = [_column(name, [row[name] for row in rows]) for name in rows[0]]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def _column(name: str, values: Sequence[Any]) -> list[str]:
    numbers = all(value is None or isinstance(value, int | float) for value in values)
    cells = [printable(name), *("-" if value is None else plain(value) for value in values)]
    width = max(map(len, cells))
    return [cell.rjust(width) if numbers else cell.ljust(width) for cell in cells]


def lost(keys: Sequence[str]) -> list[str]:
    """The line that says which keys of a checkpoint were dropped, by their first names, if any."""
    counts = Counter(key.split(".")[0] for key in keys)
    parts = ", ".join(f"{printable(name)}.* ({count})" for name, count in sorted(counts.items()))
    return [f"dropped {len(keys)} keys that are not the network's: {parts}"] if keys else []


def save_record(record: dict[str, Any], out: Path) -> None:
    """Write a record as JSON, whole or not at all; null stands for infinity and NaN."""
    import json

    from reeltok.files.atomic import write_file
    from reeltok.files.parsing import finite

    write_file(out, json.dumps(finite(record), indent=1, allow_nan=False) + "\n")


SHOWN = ("output", "frames", "size", "fps", "bits_per_pixel", "bytes", "seconds", "rate")
"""Of a file that was made, what people see; programs see everything."""


def summarize(outcomes: "Sequence[Outcome]", *, done: str) -> Report:
    """The report of many files: a table of what was made, and how many were kept or failed."""
    counts = dict.fromkeys(("written", "kept", "failed"), 0)
    for outcome in outcomes:
        counts[outcome.state] += 1
    made = [outcome.record for outcome in outcomes if outcome.state == "written"]
    rows = [{name: row[name] for name in SHOWN if name in row} for row in made]
    lines = [table(rows)] if rows else []
    if counts["kept"]:
        lines.append(f"{counts['kept']} of {len(outcomes)} were there already and fit: kept")
    entries = [
        {"input": o.job.source, "output": o.job.target, "state": o.state, **o.record}
        for o in outcomes
    ]
    failed = f"{counts['failed']} of {len(outcomes)} files could not be {done}"
    return Report(
        data={"files": entries, **counts},
        text="\n".join(lines),
        failed=failed if counts["failed"] else None,
    )
