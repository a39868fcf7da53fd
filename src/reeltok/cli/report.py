"""What a command says when it is done: data for programs, lines for people."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reeltok.files.text import printable


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


def one_line(error: BaseException) -> str:
    """What an error says, on one line and without numbers of the system."""
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's: a list of what is wrong and where
        first = details()[0]
        place = ".".join(str(part) for part in first["loc"])
        return printable(f"{place}: {first['msg']}" if place else first["msg"])
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split())) or type(error).__name__


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


def plain(value: Any) -> str:
    """A value for people, on one line: four digits of a float, sequences of numbers as 4x8x8."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, tuple | list):
        return printable("x".join(str(part) for part in value))
    return printable(value)


def count(number: int, what: str) -> str:
    """A number of things: 1 frame, 2 frames."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """A time to wait, in the unit that people would give it in."""
    units = {"days": 86400, "hours": 3600, "minutes": 60}
    for name, length in units.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"


def left_out(name: str, why: str) -> str:
    """That something was left out and why, without its name twice."""
    from reeltok.data.clip import said_of

    said = said_of(name, why)
    return f"{name} left out: {said}" if said != why or name not in why else f"left out: {why}"


def rate(frames: float, seconds: float) -> str:
    """Frames per second for people: one decimal, or two digits that count where it is slow."""
    value = frames / max(seconds, 1e-9)
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def lost(keys: Sequence[str]) -> list[str]:
    """The line that says which keys of a checkpoint were dropped, by their first names, if any."""
    counts = Counter(key.split(".")[0] for key in keys)
    parts = ", ".join(f"{printable(name)}.* ({count})" for name, count in sorted(counts.items()))
    return [f"dropped {len(keys)} keys that are not the network's: {parts}"] if keys else []


def save_record(record: dict[str, Any], out: Path) -> None:
    """Write a record as JSON, whole or not at all."""
    import json

    from reeltok.files.atomic import write_file

    write_file(out, json.dumps(record, indent=1) + "\n")
