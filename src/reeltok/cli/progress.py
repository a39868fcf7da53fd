"""A progress bar on a terminal for what takes longer than two seconds."""

import sys
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from reeltok.wording import rate

PATIENCE = 2.0  # seconds before a bar appears


class Progress:
    """Counts frames, or another `unit`, over `files` files; shows the rate and the time left.

    Threads may share it. It is a `Watcher` of `reeltok.transcode`.
    """

    def __init__(self, what: str, files: int = 1, *, unit: str = "frames") -> None:
        self.what, self.files, self.unit = what, files, unit
        self.frames, self.done = 0, 0.0
        self._finished = 0
        self.began = time.monotonic()
        self._lock = Lock()
        self._bar: Any = None

    def advance(self, frames: int, *, of: int) -> None:
        """Count `frames` more frames of a file that has `of`."""
        with self._lock:
            self.frames += frames
            self.done += frames / max(1, of)
            if self._bar is None and self.seconds > PATIENCE and sys.stderr.isatty():
                self._bar = _start_bar(self.what, self.files)
            if self._bar is not None:
                self._bar.update(0, completed=self.done, told=self._tell())

    def of_file(self) -> Callable[[int, int], None]:
        """What counts the frames of one more file, told how many are done and how many there are.

        These are the callbacks that `reeltok.transcode` takes.
        """
        before = 0

        def advance(done: int, total: int) -> None:
            nonlocal before
            more, before = done - before, done
            self.advance(more, of=total)

        return advance

    def finish_file(self) -> None:
        """Count a file as done, however far it got."""
        self.finish_files(1)

    def finish_files(self, files: int) -> None:
        """Count files as done, of which nothing else is known."""
        with self._lock:
            self._finished += files
            self.done = max(self.done, self._finished)
        self.advance(0, of=1)

    def _tell(self) -> str:
        """How far it is: what was counted, or the files where nothing in them was."""
        if self.frames == 0 and self._finished:
            return f"{self._finished:,} of {self.files:,}"
        return f"{self.frames:,} {self.unit}, {rate(self.frames, self.seconds)} per second"

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Frames per second so far."""
        return self.frames / max(self.seconds, 1e-9)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.stop()


def _start_bar(what: str, files: int) -> Any:
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[told]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task(what, total=files, told="")
    bar.start()
    return bar
