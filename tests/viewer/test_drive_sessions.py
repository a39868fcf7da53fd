"""Drives in a world that is no network: what fails, what is kept, what a recording takes."""

import json
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reeltok
from reeltok.viewer.drive import sessions, world
from reeltok.viewer.drive.server import Pages
from reeltok.viewer.drive.sessions import LONGEST, Sessions
from reeltok.viewer.drive.world import Frame, Start, WorldModel

SIDE = 16


class Brighter(WorldModel):
    """Every frame is a level brighter than the one before."""

    def __init__(self) -> None:
        self.side, self.fps, self.new = SIDE, 10.0, 4

    def go_on(self, frame: Frame, action: np.ndarray, seed: int, *, start: Frame) -> np.ndarray:
        return np.stack([frame + n for n in range(1, self.new + 1)])


@pytest.fixture
def pages() -> Iterator[Pages]:
    start = Start(name="dark", frame=np.zeros((SIDE, SIDE, 3), np.uint8), origin=(0, 0))
    found = Pages(Sessions(Brighter(), [start]))
    yield found
    found.sessions.close()


def post(pages: Pages, path: str, **value: Any) -> dict[str, Any]:
    return json.loads(pages.answer("POST", path, json.dumps(value).encode()).data)


class Blind(world.Simulated):
    """A simulator that is there, and fails only when it is to draw."""

    def __init__(self, seed: int, number: int, side: int) -> None: ...

    @property
    def frame(self) -> Frame:
        raise ImportError("glfw does not draw")


@pytest.fixture(autouse=True)
def _blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reeltok.viewer.drive.sessions.Simulated", Blind)


def test_a_simulator_that_does_not_draw_is_left_out(pages: Pages) -> None:
    begun = post(pages, "/begin")
    assert (begun["truths"], begun["why"]) == ([], "glfw does not draw")
    assert post(pages, "/move", session=begun["session"], action=[0, 0, 0, 0])["frames"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ArithmeticError("1 / 0"), "this went wrong inside reeltok: its terminal shows where"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_fails_inside_is_a_sentence(
    pages: Pages,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    def fail(*words: Any) -> None:
        raise error

    monkeypatch.setattr(pages.sessions, "_begin", fail)
    answer = pages.answer("POST", "/begin", b"{}")
    assert (answer.status, json.loads(answer.data)) == (500, {"error": said})
    assert ("Traceback" in capfd.readouterr().err) == isinstance(error, ArithmeticError)


def test_the_oldest_frames_of_a_long_drive_go(pages: Pages) -> None:
    key, session = pages.sessions.begin(0)
    session.frames = [np.full((SIDE, SIDE, 3), 9, np.uint8)] * (LONGEST - 1)
    session.truths = list(session.frames)
    pages.sessions.move(key, [0, 0, 0, 0])
    assert len(session.frames) == LONGEST == 3000
    assert [int(frame[0, 0, 0]) for frame in session.frames[-5:]] == [9, 10, 11, 12, 13]


def test_a_recording_is_enlarged_in_parts(pages: Pages, tmp_path: Path) -> None:
    key, session = pages.sessions.begin(0)
    levels = range(20, 220)
    session.frames = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels]
    session.truths = [255 - frame for frame in session.frames]
    tracemalloc.start()
    data = pages.sessions.record(key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = len(levels) * 4 * SIDE * 8 * SIDE * 3
    assert peak < whole / 2
    (tmp_path / "drive.mp4").write_bytes(data)
    frames = reeltok.read(tmp_path / "drive.mp4").frames.float()
    assert frames.shape == (len(levels), 4 * SIDE, 8 * SIDE, 3)
    for number, level in enumerate(levels):
        assert abs(frames[number, :, : 4 * SIDE].mean() - level) < 4
        assert abs(frames[number, :, 4 * SIDE :].mean() - (255 - level)) < 4


def test_recordings_are_written_one_after_another(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, at_once, most = pages.sessions.begin(0)[0], 0, 0

    def write(parts: Iterable[reeltok.Video], path: Path, **options: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        path.write_bytes(b"")
        at_once -= 1

    monkeypatch.setattr(sessions, "write", write)
    with ThreadPoolExecutor(6) as visitors:
        list(visitors.map(lambda number: pages.sessions.record(key), range(6)))
    assert most == 1
