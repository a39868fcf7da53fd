"""Where the time goes in a chain of generators."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

Part = TypeVar("Part")


class Clock:
    """Seconds spent in each stage of a chain of generators, without those that it pulls from."""

    def __init__(self, stage: str) -> None:
        self.seconds = defaultdict[str, float](float)
        self.stage, self.since = stage, monotonic()

    def switch(self, stage: str) -> None:
        """From now on the time belongs to `stage`."""
        now = monotonic()
        self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now

    def around(self, stage: str, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts as they are; what it takes to make each belongs to `stage`."""
        rest = iter(parts)
        while True:
            outer = self.stage
            self.switch(stage)
            try:
                part = next(rest)
            except StopIteration:
                return
            finally:
                self.switch(outer)
            yield part
            del part  # before the next is made
