"""Files that may be damaged, JSON and arrays: what they hold, or one sentence with their name."""

import json
import math
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

from reeltok.files.text import printable

if TYPE_CHECKING:
    import numpy

Kind = TypeVar("Kind")
DEEPEST = 64  # lists and objects inside one another: far more than any record of ours has
NO_ARRAY = (
    *(ValueError, TypeError, OverflowError, EOFError, SyntaxError, RecursionError, MemoryError),
    tokenize.TokenError,
)
"""What numpy raises for a damaged file: its header is a Python literal."""
LARGEST = 2**63 - 1  # what a 64-bit integer holds


def parse_json(text: str | bytes, what: str | Path) -> Any:
    """The value of a JSON text (UTF-8). ValueError that begins with `what`, the text's name.

    Refused too, although Python reads them: repeated keys, NaN and infinity, integers of more than
    64 bits, more than DEEPEST levels.
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8-sig"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
        _require_shallow(value)
    except RecursionError:
        reason = f"it is nested more than {DEEPEST} levels deep"
        raise ValueError(f"{what} is damaged ({reason}): copy it again") from None
    except ValueError as error:
        raise ValueError(f"{what} is damaged ({error}): copy it again") from error
    return value


def finite(value: Any) -> Any:
    """The same without infinity and NaN, which JSON does not have: null stands for them."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | Path) -> Any:
    """The value in a JSON file. OSError where it cannot be read, ValueError where it is damaged."""
    return parse_json(Path(path).read_bytes(), path)


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. ValueError also for a list, a number or text."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object): copy it again")
    return value


def read_array(path: str | Path) -> "numpy.ndarray":
    """The array of a .npy file, mapped: it takes no memory, whatever size the file declares.

    ValueError for what is not such a file, or is cut off.
    """
    import numpy as np

    try:
        return np.lib.format.open_memmap(path, mode="r")
    except NO_ARRAY as error:
        raise ValueError(
            f"{path} is not a .npy file of numbers ({first_error(error)}): make it again"
        ) from error


@overload
def parse_config(values: Any, kind: type[Kind], what: str, *, strict: bool = False) -> Kind: ...
@overload  # dict[str, int] and the like, which only pydantic calls types
def parse_config(values: Any, kind: Any, what: str, *, strict: bool = False) -> Any: ...
def parse_config(values: Any, kind: Any, what: str, *, strict: bool = False) -> Any:
    """A record of `kind` from what JSON holds. ValueError names `what` and the value that is wrong.

    `strict` takes no number for a text, nor the other way round.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=strict or None)
    except ValidationError as error:
        raise ValueError(f"{what}: {first_error(error)}") from error


def first_error(error: Exception) -> str:
    """The first thing that is wrong with a record, and where it stands."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        return printable(f"{place}: {said}" if place else said)
    said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return printable(said or type(error).__name__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = iter(found)  # in the order of the pairs, each once
        twice = next(name for name, _ in pairs if name != next(names, None))
        raise ValueError(f"the key {twice[:80]!r} stands in it twice")
    return found


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else LARGEST + 1
    if -LARGEST <= value <= LARGEST:
        return value
    raise ValueError("an integer in it has more than 64 bits")


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is not a JSON number")
    return float(text)


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [
            part for each in inner for part in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")
