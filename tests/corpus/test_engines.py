"""Whoever makes the shards, they have the same bytes: processes, decoders, ranks; after kills."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from corpus_clips import build, opener, write_clips

from reeltok.cli.corpus import build_report
from reeltok.corpus import Engine, Shaping, WindowCoding, cluster, engines, plan_corpus
from reeltok.corpus.engines import rank_here, share_of
from reeltok.corpus.finish import finish_corpus
from reeltok.corpus.place import Place

SHAPING = Shaping(frames=9)
LENGTHS = (18, 9, 3, 27, 9, 9, 18, 9)


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_clips(tmp_path_factory.mktemp("clips") / "clips", LENGTHS)
    (folder / "broken.mp4").write_bytes(b"nothing")
    return folder


def test_any_number_of_ranks_finishes_what_another_began(clips: Path, tmp_path: Path) -> None:
    build(clips, tmp_path / "whole", SHAPING, clips_each=2)
    first = build(clips, tmp_path / "ranks", SHAPING, clips_each=2, share=(1, 3))
    assert (first.made, first.missing, first.manifest) == (2, 3, None)
    with pytest.raises(ValueError, match=r"3 of 5 shards are missing \(0, 2, 3\)"):
        finish_corpus(Place(tmp_path / "ranks"))
    second = build(clips, tmp_path / "ranks", SHAPING, clips_each=2, share=(1, 2))
    assert (second.made, second.missing) == (1, 2)
    last = build(clips, tmp_path / "ranks", SHAPING, clips_each=2, share=(0, 2))
    assert (last.made, last.missing) == (2, 0)
    assert files_of(tmp_path / "ranks") == files_of(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"`shard` 3/2 is none"):
        build(clips, tmp_path / "ranks", SHAPING, clips_each=2, share=(3, 2))


def test_a_clip_that_was_replaced_is_told_of(clips: Path, tmp_path: Path) -> None:
    data = shutil.copytree(clips, tmp_path / "clips")
    assert not build(data, tmp_path / "out", SHAPING, clips_each=2, share=(0, 2)).stale
    (data / "1.mkv").write_bytes((data / "0.mkv").read_bytes())
    soon = time.time() + 60  # clocks of file systems are coarse
    os.utime(data / "1.mkv", (soon, soon))
    again = build(data, tmp_path / "out", SHAPING, clips_each=2)
    assert (again.made, again.stale) == (2, {0: ["1.mkv"]})
    with pytest.warns(UserWarning, match=r"1 clip of 1 shard, such as 1.mkv of shard-000000.json"):
        build_report(again)


def test_launchers_say_which_rank_this_is() -> None:
    step = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0"}
    assert rank_here({**step, "RANK": "2", "WORLD_SIZE": "4"}.get) == (2, 4)
    assert rank_here(step.get) == (5, 8)
    script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}  # nobody started the other seven
    assert rank_here(script.get) == (0, 1)
    indexed = {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "3"}
    assert rank_here(indexed.get) == (1, 3)
    assert rank_here({}.get) == (0, 1)
    assert sorted(n for rank in range(3) for n in share_of(range(7), rank, 3)) == [*range(7)]


def test_ranks_that_disagree_are_found_out(clips: Path, tmp_path: Path) -> None:
    build(clips, tmp_path / "one", SHAPING, clips_each=2, share=(0, 2))
    build(clips, tmp_path / "other", Shaping(frames=5), clips_each=2, share=(1, 2))
    for file in (tmp_path / "other").glob("shard-*"):
        file.rename(tmp_path / "one" / file.name)
    with pytest.raises(ValueError, match=r"shard-000001.json was made by another plan than"):
        build(clips, tmp_path / "one", SHAPING, clips_each=2)


def test_broken_clips_are_tried_again_where_asked(clips: Path, tmp_path: Path) -> None:
    data = tmp_path / "clips"
    data.mkdir()
    for file in clips.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    whole = (data / "3.mkv").read_bytes()
    (data / "3.mkv").write_bytes(whole[:200])
    made = build(data, tmp_path / "out", SHAPING, clips_each=2)
    assert made.manifest is not None
    assert (made.manifest["failed"], made.manifest["rows"]) == (2, 8)
    (data / "3.mkv").write_bytes(whole)
    again = build(data, tmp_path / "out", SHAPING, clips_each=2)
    assert (again.made, again.manifest) == (0, made.manifest)
    tried = build(data, tmp_path / "out", SHAPING, clips_each=2, retry=True)
    assert tried.manifest is not None
    assert (tried.made, tried.manifest["failed"], tried.manifest["rows"]) == (2, 1, 11)
    build(clips, tmp_path / "whole", SHAPING, clips_each=2)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [Engine(jobs=2), Engine(decoders=2), Engine(jobs=2, decoders=1)])
def test_processes_change_no_byte(clips: Path, tmp_path: Path, engine: Engine) -> None:
    build(clips, tmp_path / "alone", SHAPING, clips_each=3)
    done: list[int] = []
    build(clips, tmp_path / "many", SHAPING, clips_each=3, engine=engine, on_clips=done.append)
    assert sum(done) == 9
    assert files_of(tmp_path / "many") == files_of(tmp_path / "alone")


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_and_loses_nothing(
    clips: Path, tmp_path: Path
) -> None:
    def kill(count: int) -> None:
        child = multiprocessing.active_children()[0]
        os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(OSError, match=r"a worker ended \(killed by signal 9\): fewer"):
        build(clips, tmp_path / "out", SHAPING, clips_each=1, engine=Engine(jobs=2), on_clips=kill)
    build(clips, tmp_path / "out", SHAPING, clips_each=1)
    build(clips, tmp_path / "whole", SHAPING, clips_each=1)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_actors_of_a_cluster_leave_its_cpus_to_those_who_decode(
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray is not needed: what is asked of it is written down."""
    asked = dict[str, Any]()
    made = SimpleNamespace(make=SimpleNamespace(remote=lambda number: f"shard {number}"))
    kind = SimpleNamespace(remote=lambda given: made)
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        put=lambda value: value,
        get=lambda value: value,
        wait=lambda running, num_returns: (running[:1], running[1:]),
        remote=lambda **options: asked.update(options) or (lambda actor: kind),
        exceptions=SimpleNamespace(RayTaskError=OSError, RayError=OSError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    held, done = opener(), list[int]()
    plan = plan_corpus(clips, held, shaping=SHAPING, coding=WindowCoding(clips=3))
    on = cluster.Cluster(gpus=2)
    cluster.run_on_ray(plan, range(3), held, Place("out"), on, on_clips=done.append)
    assert (asked["num_gpus"], asked["num_cpus"], done) == (1, 0, [3, 3, 3])


INTERRUPTED = """
import sys, time
from reeltok.corpus.ahead import Decoders

def take_one(tasks, found):
    tasks.get()
    time.sleep(600)

if __name__ == "__main__":
    with Decoders(1) as decoders:
        tasks = decoders.spawn.Queue()
        for number in range(2000):
            tasks.put("x" * 400)
        decoders.tasks.append(tasks)
        worker = decoders.spawn.Process(target=take_one, args=(tasks, None), daemon=True)
        worker.start()
        decoders.workers.append(worker)
        raise KeyboardInterrupt
"""


def test_an_interrupt_ends_while_clips_wait_for_decoders(tmp_path: Path) -> None:
    """More of them than the system's pipe holds: nobody reads the rest."""
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    ended = subprocess.run([sys.executable, program], capture_output=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in ended.stderr


class NoProcess:
    """Of `multiprocessing`: processes that do nothing."""

    def __init__(self, **options: Any) -> None: ...
    def start(self) -> None: ...
    def terminate(self) -> None: ...
    def join(self) -> None: ...


def test_what_workers_that_are_ended_leave_goes(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "out" / ".0123456789ab.part"

    def fail(*_: Any) -> None:
        left.mkdir(parents=True)
        for name in ("new.parquet", "lock"):
            (left / name).touch()
        raise OSError("the disk is full")

    context = SimpleNamespace(Queue=multiprocessing.Queue, Process=NoProcess)
    monkeypatch.setattr(engines.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(engines, "watch", fail)
    with pytest.raises(OSError, match="the disk is full"):
        build(clips, tmp_path / "out", SHAPING, clips_each=1, engine=Engine(jobs=2))
    assert os.listdir(tmp_path / "out") == ["plan.json"]


def test_two_that_begin_a_corpus_differently_at_once(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks before the first has written its plan."""
    build(clips, tmp_path / "out", SHAPING)
    monkeypatch.setattr(Place, "has", lambda place, name: False)
    with pytest.raises(ValueError, match="was begun differently"):
        build(clips, tmp_path / "out", Shaping(frames=5))


RUN = """
import sys
sys.path[:0] = {paths!r}
from corpus_clips import build
from reeltok.cli.corpus import build_report
from reeltok.corpus import Engine, Shaping
print("begun", flush=True)
build({clips!r}, {out!r}, Shaping(frames=9), clips_each=1, engine=Engine(jobs={jobs}))
"""


def killed(clips: Path, out: Path, seconds: float, *, jobs: int = 1) -> bool:
    """Whether a run was killed so many seconds after it began, before it ended."""
    here = Path(__file__).parent
    values: dict[str, Any] = {"paths": [str(here), str(here.parent)], "jobs": jobs}
    text = RUN.format(clips=str(clips), out=str(out), **values)
    run = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    assert run.stdout is not None
    with run.stdout:
        run.stdout.readline()
        try:
            run.wait(seconds)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
        run.wait()
    return run.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_is_killed_at_any_moment_makes_the_same_bytes(
    clips: Path, tmp_path: Path, jobs: int
) -> None:
    """CORPUS_KILLS moments (default 3; the release is tried with 10), drawn anew each time."""
    began = time.monotonic()
    assert not killed(clips, tmp_path / "whole", 600)
    length = time.monotonic() - began
    random.seed(os.environ.get("CORPUS_SEED"))
    kills = int(os.environ.get("CORPUS_KILLS", "3"))
    moments = [random.uniform(0, length / 6) for _ in range(kills)]
    hit = sum(killed(clips, tmp_path / "cut", moment, jobs=jobs) for moment in moments)
    assert not killed(clips, tmp_path / "cut", 600)
    print(f"{hit} of {kills} runs were cut")
    left = {name for name in os.listdir(tmp_path / "cut") if name.endswith(".part")}
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")
    assert left == set()
