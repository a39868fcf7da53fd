"""What each visitor drives: frames so far, the simulator beside them, and a recording."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from reeltok.data.actions import ACTION
from reeltok.files.atomic import scratch
from reeltok.video.record import Video, write
from reeltok.viewer.drive.world import Frame, Simulated, Start, WorldModel, same_picture

MOST = 16  # visitors at a time; the one who did nothing for longest goes
LONGEST = 3000  # frames of a recording, five minutes: the oldest go
PART = 16  # frames of a recording that are enlarged at a time

T = TypeVar("T")


@dataclass(eq=False, kw_only=True)
class Session:
    """One drive from `start` on: what is predicted, and what truly follows.

    Where nothing is simulated, `simulated` is None and `why` says why.
    """

    start: Frame
    frames: list[Frame]
    truths: list[Frame]
    simulated: Simulated | None
    why: str = ""
    steps: int = 0
    seen: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What an action led to, and the seconds that predicting it took."""

    frames: list[Frame]
    truths: list[Frame]
    seconds: float


class Sessions:
    """The drives of all visitors. All work is done by one thread: OpenGL belongs to it."""

    def __init__(self, world: WorldModel, starts: list[Start], *, seed: int = 0) -> None:
        self.world, self.starts, self.seed = world, starts, seed
        self.held: dict[str, Session] = {}
        self.worker = ThreadPoolExecutor(1, "drive")
        self.recording = Lock()

    def work(self, function: Callable[..., T], *values: Any) -> T:
        """Do something in the one thread, and wait for it."""
        return self.worker.submit(function, *values).result()

    def begin(self, number: int) -> tuple[str, Session]:
        """A new drive from one of the starts; its key. ValueError for a start that is not there."""
        if not 0 <= number < len(self.starts):
            raise ValueError(f"there is no start {number}: there are {len(self.starts)}, from 0")
        return self.work(self._begin, self.starts[number])

    def _begin(self, start: Start) -> tuple[str, Session]:
        simulated, why = self._simulate(start)
        truths = [] if simulated is None else [simulated.frame]
        first = start.frame
        session = Session(start=first, frames=[first], truths=truths, simulated=simulated, why=why)
        while len(self.held) >= MOST:
            del self.held[min(self.held, key=lambda key: self.held[key].seen)]
        key = token_hex(16)
        self.held[key] = session
        return key, session

    def _simulate(self, start: Start) -> tuple[Simulated | None, str]:
        """The simulator's world that begins with this frame, or None and why there is none."""
        if start.origin is None:
            return None, f"{start.name} is not named as an episode of `reeltok data push`"
        try:
            simulated = Simulated(*start.origin, self.world.side)
            same = same_picture(simulated.frame, start.frame)  # here it is drawn
        except ImportError as error:
            return None, str(error)
        if not same:
            return None, f"{start.name} does not begin as the episode of its name is simulated"
        return simulated, ""

    def session(self, key: str) -> Session:
        """A drive by its key. ValueError where it is gone."""
        session = self.held.get(key)
        if session is None:
            raise ValueError("this drive is no longer kept: begin again")
        session.seen = time.monotonic()
        return session

    def move(self, key: str, action: list[float]) -> Moved:
        """Go on by an action. ValueError for one that is not four numbers from -1 to 1."""
        session, values = self.session(key), np.asarray(action, np.float64)
        if values.shape != (ACTION,) or not (np.abs(values) <= 1).all():
            raise ValueError(f"an action is {ACTION} numbers from -1 to 1, given was {action}")
        return self.work(self._move, session, values)

    def _move(self, session: Session, action: np.ndarray) -> Moved:
        began = time.perf_counter()
        frame, seed = session.frames[-1], self.seed + session.steps
        made = list(self.world.go_on(frame, action, seed, start=session.start))
        seconds, truths = time.perf_counter() - began, []
        if session.simulated is not None:
            truths = list(session.simulated.go_on(action, len(made)))
        session.steps += 1
        session.frames = [*session.frames, *made][-LONGEST:]
        session.truths = [*session.truths, *truths][-LONGEST:]
        return Moved(frames=made, truths=truths, seconds=seconds)

    def record(self, key: str) -> bytes:
        """The drive so far as an mp4, beside the truth where there is any; enlarged four times."""
        session = self.session(key)
        frames, truths = self.work(lambda: (session.frames, session.truths))  # between two moves
        columns = [frames, truths] if len(truths) == len(frames) else [frames]
        with self.recording, scratch() as folder:  # one at a time: encoders take memory
            path = Path(folder) / "drive.mp4"
            write(enlarged(columns, fps=self.world.fps), path, crf=12)
            return path.read_bytes()

    def close(self) -> None:
        """Forget all drives, and end the thread."""
        self.held.clear()
        self.worker.shutdown(cancel_futures=True)


def enlarged(columns: list[list[Frame]], *, fps: float) -> Iterator[Video]:
    """Columns of frames side by side, four times as large, a part at a time."""
    for first in range(0, len(columns[0]), PART):
        parts = [np.stack(column[first : first + PART]) for column in columns]
        wide = np.concatenate(parts, axis=2)
        yield Video.of(wide.repeat(4, axis=1).repeat(4, axis=2), fps=fps)
