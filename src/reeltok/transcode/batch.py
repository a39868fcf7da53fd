"""The files of a plan made one after another or several at once; what is there and fits is kept."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal

import torch

from reeltok.files.atomic import REASONS, cannot_write
from reeltok.transcode.options import OnProgress, Watcher
from reeltok.transcode.plan import Job, OutputPlan
from reeltok.wording import left_out, one_line

MakeFile = Callable[[Job, OnProgress], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job: its numbers, or why it failed."""

    job: Job
    state: Literal["written", "kept", "failed"]
    record: dict[str, Any] = field(default_factory=dict)


class Stopped(Exception):  # noqa: N818 (it is not an error)
    """The work was given up elsewhere."""


def until(ended: Event, on_progress: OnProgress | None) -> OnProgress:
    """`on_progress` until `ended`, from when on it raises `Stopped`: nothing is left half done."""

    def advance(done: int, total: int) -> None:
        if ended.is_set():
            raise Stopped
        if on_progress is not None:
            on_progress(done, total)

    return advance


def run_plan(
    plan: OutputPlan,
    work: MakeFile,
    *,
    fits: Callable[[Job], bool],
    jobs: int = 1,
    force: bool = False,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Do every job, `jobs` at a time; outputs for which `fits` holds are kept as they are.

    Where outputs were not named one by one, a failure is warned of and the others go on; a full
    disk stops all. What else is raised ends the work on all files, and leaves none half written.
    ValueError for `jobs` below 1.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` {jobs} does nothing: give 1 or more")

    ended = Event()

    def do(job: Job) -> Outcome:
        on_progress = until(ended, None if watcher is None else watcher.of_file())
        on_progress(0, 1)
        try:
            if not plan.named and not force and Path(job.target).exists():
                if fits(job):
                    return Outcome(job=job, state="kept")
                raise FileExistsError(
                    f"{job.target} exists already and was made differently: "
                    "give `force` to replace it"
                )
            return Outcome(job=job, state="written", record=work(job, on_progress))
        except (ValueError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in REASONS
            if full and isinstance(error, OSError) and error.strerror:  # the system names no file
                raise cannot_write(job.target, error) from error
            if plan.named or full:
                raise
            warnings.warn(left_out(job.source, one_line(error)), UserWarning, stacklevel=2)
            return Outcome(job=job, state="failed", record={"error": one_line(error)})
        finally:
            if watcher is not None:
                watcher.finish_file()

    workers = min(jobs, len(plan.jobs))
    if workers <= 1:
        return [do(job) for job in plan.jobs]
    with shared_threads(workers) as pool:
        try:
            futures = [pool.submit(do, job) for job in plan.jobs]
            wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in futures if future.done()]
        finally:
            ended.set()  # before the pool waits for those that still work


@contextmanager
def shared_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Workers among which torch's threads are shared out; all are this thread's again at the end.

    A count that is set counts for the thread that sets it and for those started later, so each
    worker sets its own.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, "work", torch.set_num_threads, (share,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
