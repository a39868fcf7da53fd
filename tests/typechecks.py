"""The checker of types that jaxtyping's import hook puts around functions while tests run."""

from collections.abc import Callable
from typing import IO, Any, BinaryIO

from beartype import BeartypeConf, FrozenDict, beartype

# A binary file is whatever is read like one: beartype asks for all methods and for `mode`, which
# io.BytesIO has not.
FILES = FrozenDict({BinaryIO: object, IO[bytes]: object})
# An int may stand for a float.
with_checks = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FILES))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its types checked; how is made out at its first call.

    To make it out for the whole package takes ten seconds, and most tests call little of it.
    """
    ready: list[Callable[..., Any]] = []

    def check(*args: Any, **named: Any) -> Any:
        if not ready:
            ready.append(with_checks(function))
        return ready[0](*args, **named)

    return check
