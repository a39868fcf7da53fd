"""How numbers, names and errors are said to people, in commands and on pages."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from reeltok.files.text import printable

EXTRAS = {
    "matplotlib": "plot",
    "tensorboard": "tensorboard",
    "diffusers": "diffusers",
    "ray": "ray",
    "gradio": "ui",
    "fsspec": "remote",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "mujoco": "sim",
    "pyarrow": "corpus",
    "scenedetect": "scenes",
}
"""Packages that a command may miss, and the extra of reeltok that brings them."""
LESS = {
    "chunk": "a smaller `chunk`",
    "tile": "`tile=256`",
    "batch": "a smaller `batch`",
    "size": "a smaller `size`",
    "changes": "a smaller batch (`changes` data.windows.0.batch=1)",
    "jobs": "`jobs=1`",
    "memory": "a lower `memory`",
}
"""By the name of an option, how it saves memory."""
ARGUMENT = re.compile(r"`(\w+)(?:=([^`]*))?`")  # of a function, as errors name it
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # torch's RuntimeErrors


# Numbers and names.


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
    if seconds == 0:
        return "0 seconds"
    units = {"days": 86400, "hours": 3600, "minutes": 60}
    for name, length in units.items():
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"


def rate(frames: float, seconds: float) -> str:
    """Frames per second for people: one decimal, or two digits that count where it is slow."""
    value = frames / max(seconds, 1e-9)
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def left_out(name: str, why: str) -> str:
    """That something was left out and why, without its name twice."""
    from reeltok.data.clip import said_of

    said = said_of(name, why)
    return f"{name} left out: {said}" if said != why or name not in why else f"left out: {why}"


# Errors.


def one_line(error: BaseException) -> str:
    """What an error says, on one line and without numbers of the system."""
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's: a list of what is wrong and where
        first = details()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        return printable(f"{place}: {said}" if place else said)
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return printable(" ".join(text.split())) or type(error).__name__


def explain(error: BaseException, options: Collection[str] = ()) -> str | None:
    """One sentence for what a user can mend; None for what only a programmer can.

    `options` are the names of those that the user's command has, and that may help.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        extra = EXTRAS[error.name]
        return f"this needs {error.name}, which is not here: pip install 'reeltok[{extra}]'"
    if (
        isinstance(error, ImportError) and error.name is None
    ):  # not Python's own: a sentence of ours
        return one_line(error)
    if isinstance(error, MemoryError) and ARGUMENT.search(str(error)):
        return one_line(error)
    if lacks_memory(error):
        return advise(options)
    if isinstance(error, ValueError | OSError):
        return one_line(error) if "damage" in options else without_choice(one_line(error))
    return None


def as_options(sentence: str, options: Mapping[str, str]) -> str:
    """A sentence of the library for people at a command: its arguments as the command's options.

    The library writes an argument `name` or `name=value` in backquotes; `options` are the flags by
    the names of arguments. What the command has no option for stays as it is.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found[1], (found[2] or "").strip("'\"")
        said = f"{options[name]} {value}".rstrip() if name in options else found[0]
        return said

    return ARGUMENT.sub(flag, sentence)


def without_choice(sentence: str) -> str:
    """What is said of damage to a command that has no such choice."""
    from reeltok.video.decode import CHOICE

    return sentence.replace(f": {CHOICE}", "")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, or one of torch's."""
    said = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(words in said for words in NO_MEMORY))
    )


def advise(options: Collection[str]) -> str:
    """What to do when memory ran out in a command of these options, in one sentence."""
    ways = [LESS[name] for name in LESS if name in options]
    if not ways:
        return "out of memory: free some, or use a machine or device with more"
    *others, last = ways[:2]
    return f"out of memory: give {', '.join([*others, ''])}{'or ' if others else ''}{last}"
