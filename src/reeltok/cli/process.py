"""The process that a command runs in: its pipes, the signals that end it."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from reeltok.files.atomic import naming

# Pipes.


def fill_descriptors() -> None:
    """Let closed descriptors 0, 1 and 2 lead nowhere: the next file would get their number.

    What Python found closed stays None in `sys`, but for standard error, which takes anything.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)


def print_out(text: str, *, to_error: bool = False) -> None:
    """Print to standard output (or error); OSError, in a sentence, where it takes nothing."""
    if not to_error:
        require_output()
    with naming("standard error" if to_error else "standard output"):
        print(text, file=sys.stderr if to_error else sys.stdout, flush=True)


def require_output() -> None:
    """OSError where standard output is closed."""
    if sys.stdout is None:
        raise OSError("standard output is closed: the output is lost")


def print_error(text: str) -> None:
    """Print to standard error, if it takes anything."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def drop_unsaid() -> None:
    """Forget what standard output does not take: Python would complain of it at its end."""
    with suppress(AttributeError):  # closed from the beginning
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Signals.


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by another signal than Ctrl-C's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number  # as shells say it


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and a terminal that closes end the work as Ctrl-C does: cleaned up."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup, for one, has its own
                before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # once more would cut the cleaning up short
    raise Terminated(number)
