"""The process that a command runs in: its pipes, the signals that end it."""

import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

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


@dataclass
class Ending:
    """Which signal asked the process to end, the first if there were several; None: none did."""

    number: int | None = None

    @property
    def code(self) -> int:
        """The exit code, as shells say it."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def said(self) -> str:
        """What is said of it."""
        how = "interrupted" if self.code == 128 + signal.SIGINT else "terminated"
        return f"{how}; nothing half-written is left"


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """Inside, SIGTERM and a terminal that closes end the work as Ctrl-C does: cleaned up.

    What is raised then may be replaced by an error of what it went through (torch says that a
    checkpoint is damaged), so the signal is also noted in what this gives.
    """
    ending, before = Ending(), dict[int, Any]()
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    usual |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    if threading.current_thread() is threading.main_thread():
        handler = _handler(ending)
        for number, known in usual.items():
            if signal.getsignal(number) == known:  # nohup, for one, has its own
                before[number] = signal.signal(number, handler)
    try:
        yield ending
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier)


def _handler(ending: Ending) -> Callable[[int, object], None]:
    """A handler that notes the signal, and raises what ends the work."""
    raised: Callable[[], Terminated | None] = lambda: None

    def end(number: int, frame: object) -> None:
        nonlocal raised
        ending.number = ending.number or number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if raised() is not None:
            gc.collect()  # it may have been swallowed, and held by a cycle alone
        if raised() is None:  # once more would cut the cleaning up short
            error = Terminated()
            raised = weakref.ref(error)
            try:
                raise error
            finally:
                del error  # else its traceback holds it

    return end
