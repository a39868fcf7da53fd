"""Episodes of the pushing world as files: a lossless clip, its actions, and true positions beside.

NAME.mkv and NAME.actions.npy are in the form that `reeltok data bair` writes.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reeltok.data.clip import Clip
from reeltok.data.find import MANIFEST
from reeltok.data.lists import COLUMNS, WRITTEN, read_rows, write_list
from reeltok.data.push import read_truth, truth_path
from reeltok.files.atomic import write_file
from reeltok.files.parsing import read_object
from reeltok.video.record import Video, write
from reeltok.worlds.push import open_mujoco, play
from reeltok.worlds.scene import FPS

if TYPE_CHECKING:
    from reeltok.worlds.pictures import Camera

SETTINGS = "push.json"
SIDES = (16, 512)  # pixels of a picture that make sense


@dataclass(frozen=True, kw_only=True)
class PushPlan:
    """Which episodes a folder is to hold: numbers 0 to `episodes` of a `seed`."""

    folder: Path
    episodes: int
    frames: int = 30
    size: int = 64
    seed: int = 0
    shadows: bool = True

    def __post_init__(self) -> None:
        least = {"episodes": 1, "frames": 2, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"--{name} {getattr(self, name)} is too few: give {low} or more")
        if not SIDES[0] <= self.size <= SIDES[1] or self.size % 2:
            raise ValueError(
                f"`size` {self.size} is not a size of pictures here: give an even number of pixels "
                f"from {SIDES[0]} to {SIDES[1]}"
            )

    def clip(self, number: int) -> Path:
        """The file of an episode."""
        return self.folder / f"push-{self.seed}-{number:05d}.mkv"

    @property
    def settings(self) -> dict[str, object]:
        """What all clips of a folder have in common."""
        return {"frames": self.frames, "size": self.size, "shadows": self.shadows}


@dataclass(frozen=True, kw_only=True)
class Made:
    """How many episodes were written, and how many were there before."""

    written: int
    kept: int


def make_episodes(
    plan: PushPlan,
    *,
    jobs: int = 1,
    replace: bool = False,
    on_frames: Callable[[int, int], object] = lambda frames, of: None,
    on_episode: Callable[[], object] = lambda: None,
) -> Made:
    """Write the episodes that are missing, by `jobs` processes; then the list of all clips there.

    Those that are there are kept, unless `replace`. ValueError where the folder holds episodes of
    other settings or a list of others; ImportError without MuJoCo or OpenGL; OSError where a
    process was killed.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` {jobs} does nothing: give 1 or more")
    open_mujoco()
    missing = [n for n in range(plan.episodes) if replace or not plan.clip(n).exists()]
    if missing:
        camera_of(plan.size)  # where nothing draws, what is there stays
    if not replace:
        _check_manifest(plan.folder / MANIFEST)
    _check_settings(plan, replace=replace)
    for _ in range(plan.episodes - len(missing)):
        on_episode()
    try:
        with closing(_in_processes(plan, missing, jobs)) as done:
            for _ in done:
                on_frames(plan.frames, plan.frames)
                on_episode()
    finally:  # also of those that were written before an interruption
        write_manifest(plan.folder)
    return Made(written=len(missing), kept=plan.episodes - len(missing))


def _check_settings(plan: PushPlan, *, replace: bool) -> None:
    """Write the settings. Where they replace others, no episode of those stays."""
    path = plan.folder / SETTINGS
    begun = path.exists() or any(plan.folder.glob("push-*.mkv"))
    found = read_object(path) if path.exists() else {}
    if begun and found != plan.settings:
        if not replace:
            raise ValueError(
                f"{plan.folder} holds episodes with {_told(found)}, asked for are those with "
                f"{_told(plan.settings)}: give another folder, or `force` to make them again"
            )
        mine = {plan.clip(number) for number in range(plan.episodes)}
        if others := sorted(set(plan.folder.glob("push-*.mkv")) - mine):
            raise ValueError(
                f"{plan.folder} holds {others[0].name} with {_told(found)}, which is not among the "
                "episodes to make again: give another folder, or delete it"
            )
        for clip in mine:
            clip.unlink(missing_ok=True)
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(plan.settings))


def _told(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "unknown settings"


def _check_manifest(path: Path) -> None:
    """ValueError where the list that would be replaced holds more than `write_manifest` writes."""
    for row in read_rows(path) if path.exists() else []:
        name = row.get(COLUMNS[0], "")
        ours = Path(name).match("push-*.mkv") and Path(name).name == name
        if not {*row} <= {COLUMNS[0], *WRITTEN} or not ours:  # an earlier version wrote fewer
            raise ValueError(
                f"{path} is a list of other clips, or was changed, and would be replaced: give "
                "another folder, or `force` to replace it"
            )


def write_manifest(folder: Path) -> Path:
    """The list of all clips in a folder, their number of objects as group; its path."""
    clips, side = [], read_object(folder / SETTINGS)["size"]
    for path in sorted(folder.glob("push-*.mkv")):
        truth = read_truth(path)
        clips.append(
            Clip(
                path=path,
                group=f"{len(truth.shapes)} objects",
                frames=len(truth.gripper),
                fps=FPS,
                height=side,
                width=side,
            )
        )
    write_list(folder / MANIFEST, clips)
    return folder / MANIFEST


# ---------------------------------------------------------------- processes


def _in_processes(plan: PushPlan, numbers: list[int], jobs: int) -> Generator[int, None, None]:
    """Write episodes, by this process alone for one job; their numbers as they are done."""
    workers = min(jobs, len(numbers))
    if workers <= 1:
        for number in numbers:
            write_episode(plan, number)
            yield number
        return
    context = multiprocessing.get_context("spawn")  # OpenGL and torch do not survive a fork
    pool = ProcessPoolExecutor(workers, context, _begin)
    try:
        for done in as_completed([pool.submit(_write_in_pool, plan, n) for n in numbers]):
            yield done.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a process that wrote episodes was killed: fewer `jobs` take less memory; run it "
            "again, what is done stays"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


WRITING = threading.Lock()


def _begin() -> None:
    """What a process does first: leave Ctrl-C to the one that started it, and use one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["LP_NUM_THREADS"] = "0"  # Mesa's renderer
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process, between two episodes, where its parent was killed; else it would wait."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "processes of a pool have one"
    parent.join()
    with WRITING:
        os._exit(1)


def _write_in_pool(plan: PushPlan, number: int) -> int:
    """`write_episode`, which the end of the parent does not cut short."""
    with WRITING:
        return write_episode(plan, number)


def write_episode(plan: PushPlan, number: int) -> int:
    """Play an episode and write its files, the clip last; its number."""
    shadows = 512 if plan.shadows else 0
    episode = play(
        plan.seed,
        number,
        frames=plan.frames,
        side=plan.size,
        shadows=shadows,
        picture=camera_of(plan.size),
    )
    assert episode.frames is not None, "a camera was given"
    clip, held = plan.clip(number), BytesIO()
    np.save(held, episode.actions)
    episode.truth.save(truth_path(clip))
    write_file(clip.with_suffix(".actions.npy"), held.getvalue())
    write(Video.of(episode.frames, fps=FPS), clip, lossless=True)
    return number


CAMERAS = threading.local()  # OpenGL's context belongs to the thread that made it


def camera_of(side: int) -> "Camera":
    """The one camera of this thread for pictures of `side` pixels."""
    from reeltok.worlds.pictures import Camera

    held: dict[int, Camera] = CAMERAS.__dict__.setdefault("held", {})
    if side not in held:
        held[side] = Camera(side)
    return held[side]
