"""Many files at a time: threads are shared out among workers, and given back."""

from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Event

import pytest
import torch

from reeltok.transcode.batch import run_plan
from reeltok.transcode.options import OnProgress
from reeltok.transcode.plan import Job, OutputPlan, plan_files


@pytest.fixture
def sixteen() -> Iterator[None]:
    """Sixteen threads, as on a larger machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    yield
    torch.set_num_threads(before)


def seen(workers: int, jobs: int) -> list[int]:
    """The threads that each job sees, all workers at work together."""
    plan = OutputPlan(
        jobs=tuple(Job(source=f"{i}", target=f"{i}.out") for i in range(jobs)), named=False
    )
    together = Barrier(min(workers, jobs))

    def work(job: Job, on_progress: OnProgress) -> dict:
        together.wait(10)
        return {"threads": torch.get_num_threads()}

    done = run_plan(plan, work, jobs=workers, fits=lambda job: False)
    return [outcome.record["threads"] for outcome in done]


@pytest.mark.parametrize(
    ("workers", "jobs", "threads"),
    [(4, 4, 4), (4, 8, 4), (3, 3, 5), (32, 2, 8), (16, 32, 1), (1, 3, 16), (4, 1, 16)],
)
def test_threads_are_shared_out_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sixteen: None,
    workers: int,
    jobs: int,
    threads: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert seen(workers, jobs) == [threads] * jobs
    assert torch.get_num_threads() == 16


def test_threads_are_given_back_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sixteen: None
) -> None:
    def work(job: Job, on_progress: OnProgress) -> dict:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    plan = OutputPlan(jobs=(Job(source="a", target="b"), Job(source="c", target="d")), named=False)
    with pytest.raises(OSError, match=r"cannot write [bd]: the disk is full"):
        run_plan(plan, work, jobs=2, fits=lambda job: False)
    assert torch.get_num_threads() == 16


def test_an_error_stops_the_files_that_others_work_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = Event(), []

    def work(job: Job, on_progress: OnProgress) -> dict:
        if job.source == "a":
            begun.wait(10)
            raise OSError(28, "No space left on device")
        begun.set()
        try:
            for done in range(10**9):
                on_progress(done, 10**9)
        finally:
            ended.append(job.source)
        return {}

    monkeypatch.chdir(tmp_path)
    plan = OutputPlan(jobs=(Job(source="a", target="b"), Job(source="c", target="d")), named=False)
    with pytest.raises(OSError, match="cannot write b: the disk is full"):
        run_plan(plan, work, jobs=2, fits=lambda job: False)
    assert ended == ["c"]


def test_a_failure_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(job: Job, on_progress: OnProgress) -> dict:
        if job.source == "a":
            raise ValueError("a is not a video")
        return {"frames": 3}

    monkeypatch.chdir(tmp_path)
    plan = OutputPlan(jobs=(Job(source="a", target="b"), Job(source="c", target="d")), named=False)
    with pytest.warns(UserWarning, match="a left out: it is not a video"):
        done = run_plan(plan, work, fits=lambda job: False)
    assert [each.state for each in done] == ["failed", "written"]


def test_an_empty_name_is_not_the_folder_that_one_is_in() -> None:
    with pytest.raises(ValueError, match="what is written has a name, a str or a Path, found ''"):
        plan_files(["clip.mp4"], "", suffix=".reel", find=lambda text: [])
