"""Processes that decode clips ahead of an encoder."""

import multiprocessing
import os
import queue
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reeltok.corpus.build import Found, find_windows
from reeltok.corpus.plan import Plan
from reeltok.corpus.sources import ListedClip
from reeltok.tokenizer.spec import Spec
from reeltok.wording import one_line

AHEAD = 16  # windows that wait in each process's queue
WAIT = 0.5  # seconds between looks at whether the other side still lives


class Decoders:
    """`count` processes, between which clips are dealt out one by one; a `Decode` function.

    Clips and windows come in their order, whatever the number of processes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.spawn = multiprocessing.get_context("spawn")
        self.workers: list[Any] = []
        self.tasks: list[Any] = []
        self.found: list[Any] = []

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.join()
        for tasks in self.tasks:
            tasks.cancel_join_thread()  # nobody reads what is left: its thread would wait for ever

    def __call__(
        self, plan: Plan, spec: Spec, sources: Sequence[ListedClip]
    ) -> Iterator[Iterator[Found]]:
        """What is found in each clip, in their order. OSError where a process ended."""
        if not self.workers:
            self._start(plan, spec)
        for number, source in enumerate(sources):
            self.tasks[number % self.count].put(source)
        for number in range(len(sources)):
            yield self._of_clip(number % self.count)

    def _start(self, plan: Plan, spec: Spec) -> None:
        slim = Plan(model=plan.model, shaping=plan.shaping, coding=plan.coding, sources=())
        for number in range(self.count):
            self.tasks.append(self.spawn.Queue())
            self.found.append(self.spawn.Queue(AHEAD))
            given = (slim, spec, self.tasks[-1], self.found[-1])
            worker = self.spawn.Process(
                target=decode_all, args=given, name=f"decoder-{number}", daemon=True
            )
            worker.start()
            self.workers.append(worker)

    def _of_clip(self, number: int) -> Iterator[Found]:
        """What one process found in its next clip."""
        while True:
            try:
                kind, what = self.found[number].get(timeout=WAIT)
            except queue.Empty:
                if not self.workers[number].is_alive():
                    raise OSError(
                        "a decoding process ended: it may lack memory; give fewer `decoders`, and "
                        "run it again"
                    ) from None
                continue
            if kind == "error":
                raise OSError(what)
            if kind == "end":
                return
            if kind == "note":
                warnings.warn(what, UserWarning, stacklevel=2)
            else:
                yield what


def hand_on_notes(tell: Callable[[str], None]) -> None:
    """From here on what this process warns of is told to its parent, which says it."""

    def say(message: Warning | str, *where: Any, **more: Any) -> None:
        tell(str(message))

    warnings.simplefilter("ignore")
    warnings.simplefilter("default", UserWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags, which are left out
    warnings.showwarning = say


def decode_all(plan: Plan, spec: Spec, tasks: Any, found: Any) -> None:
    """What a process does: clip after clip, until its parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    parent = multiprocessing.parent_process()

    def tell(kind: str, what: Any = None) -> None:
        while True:
            try:
                found.put((kind, what), timeout=WAIT)
                return
            except queue.Full:
                if parent is not None and not parent.is_alive():
                    os._exit(1)

    hand_on_notes(lambda note: tell("note", note))
    while parent is None or parent.is_alive():
        try:
            source = tasks.get(timeout=WAIT)
        except queue.Empty:
            continue
        try:
            for each in find_windows(plan, spec, source):
                tell("window", each)
            tell("end")
        except (OSError, RuntimeError, MemoryError) as error:
            tell("error", one_line(error))
    os._exit(1)
