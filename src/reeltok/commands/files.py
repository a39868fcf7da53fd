"""Many files in, many out: what becomes what, what is there already, and doing it in parallel."""

import errno
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reeltok.commands.progress import Progress
from reeltok.commands.report import Report, note, one_line, table

PIPE = "-"  # standard input or output


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file to make from another; "-" is a pipe."""

    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All files to make. `named`: the one target was named, not derived from its source."""

    jobs: tuple[Job, ...]
    named: bool

    @property
    def named_targets(self) -> list[str]:
        """What the user named as output."""
        return [job.target for job in self.jobs if self.named]

    @property
    def piped(self) -> bool:
        """Whether standard output carries what is made."""
        return self.jobs[0].target == PIPE


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job: its numbers, or why it failed."""

    job: Job
    state: Literal["written", "kept", "failed"]
    record: dict[str, Any] = field(default_factory=dict)


SHOWN = ("output", "frames", "size", "fps", "bits_per_pixel", "bytes", "seconds", "rate")
"""Of a file that was made, what people see; programs see everything."""
Find = Callable[[Path], list[Path]]
Work = Callable[[Job, Progress], dict[str, Any]]


# What becomes what.


def plan_files(
    inputs: Sequence[str], out: str, *, suffix: str, find: Find, folder: bool = False
) -> Plan:
    """Which file becomes which; looks for files, but opens none.

    An input is a file, "-", a pattern, or a folder of which `find` gives the files. A single one
    may become the file `out`, or lie in the folder `out` (a name without suffix) under its own name
    with `suffix`; more always do. `folder`: a single one may also become a folder. Raises
    FileNotFoundError or ValueError where there is nothing, or two would become one.
    """
    found = [entry for text in inputs for entry in _expand(text, find)]
    many = len(found) > 1 or any(_holds_many(text, find) for text in inputs)
    bare = not Path(out).suffix and out != PIPE
    inside = Path(out).is_dir() or out.endswith("/") or (bare and not folder)
    if not many and (folder or not inside):
        job = Job(source=found[0][0], target=out)
        check_place(out)
        return Plan(jobs=(job,), named=True)
    if out == PIPE or Path(out).is_file() or (Path(out).suffix and not inside):
        raise ValueError(f"{len(found)} files do not go into {out}: name a folder (such as out/)")
    if PIPE in inputs:
        raise ValueError("standard input has no name to go by in a folder: name the output file")
    check_place(out)
    jobs: dict[str, Job] = {}
    for source, inner in found:
        target = str(Path(out) / inner.with_suffix(suffix))
        if target in jobs:
            raise ValueError(
                f"{jobs[target].source} and {source} would both become {target}: "
                "give them different folders"
            )
        jobs[target] = Job(source=source, target=target)
    return Plan(jobs=tuple(jobs.values()), named=False)


def _expand(text: str, find: Find) -> Iterator[tuple[str, Path]]:
    """The files that an input stands for, each with the name that it has in a folder."""
    path = Path(text)
    if text == PIPE or path.is_file():
        yield text, Path(path.name)
    elif path.is_dir():
        for file in find(path):
            yield str(file), Path(path.resolve().name) if file == path else file.relative_to(path)
    elif glob.has_magic(text):
        matching = sorted(glob.glob(text, recursive=True))
        if not matching:
            raise FileNotFoundError(f"no file matches {text}")
        for each in matching:
            yield each, Path(Path(each).name)
    else:
        raise FileNotFoundError(f"there is no file {text}")


def _holds_many(text: str, find: Find) -> bool:
    path = Path(text)
    return find(path) != [path] if path.is_dir() else not path.exists() and glob.has_magic(text)


def check_place(*outputs: str) -> None:
    """OSError unless something can be made under these names."""
    for out in outputs:
        parent = Path(out).absolute().parent
        if out != PIPE and not parent.is_dir():
            raise FileNotFoundError(f"there is no folder {parent} to write {Path(out).name} into")
        if out != PIPE and not os.access(parent, os.W_OK):
            raise PermissionError(f"the folder {parent} is not writable: choose another")


def find_videos(folder: Path) -> list[Path]:
    """The videos below a folder at any depth; a folder that holds images alone is one video."""
    from reeltok.media.images import IMAGES


    files = [file for file in sorted(folder.rglob("*")) if not file.name.startswith(".")]
    videos = [file for file in files if file.suffix.lower() in VIDEOS]
    if not videos:
        videos = sorted({file.parent for file in files if file.suffix.lower() in IMAGES})
    if not videos:
        raise FileNotFoundError(f"the folder {folder} holds neither videos nor images")
    return videos


def find_reels(folder: Path) -> list[Path]:
    """The .reel files below a folder at any depth."""
    found = sorted(folder.rglob("*.reel"))
    if not found:
        raise FileNotFoundError(f"the folder {folder} holds no .reel files")
    return found


# Doing it.


def check_free(targets: Sequence[str], *, force: bool) -> None:
    """FileExistsError where a named output is there already and is not to be replaced."""
    for target in targets:
        if not force and target != PIPE and os.path.lexists(target):
            raise FileExistsError(f"{target} exists already: give --force to replace it")


def is_older(target: str, source: str) -> bool:
    """Whether `target` was made before `source` was last changed."""
    return source == PIPE or os.stat(target).st_mtime < os.stat(source).st_mtime


def run_plan(
    plan: Plan,
    work: Work,
    *,
    what: str,
    parallel: int = 1,
    force: bool = False,
    fits: Callable[[Job], bool],
) -> list[Outcome]:
    """Do every job, `parallel` at a time; outputs for which `fits` holds are kept as they are.

    Where outputs were not named one by one, a failure is noted and the others go on; a full disk
    stops all.
    """
    if parallel < 1:
        raise ValueError(f"--jobs {parallel} does nothing: give 1 or more")

    def do(job: Job, progress: Progress) -> Outcome:
        progress.advance(0, of=1)
        try:
            if not plan.named and not force and Path(job.target).exists():
                if fits(job):
                    return Outcome(job=job, state="kept")
                raise FileExistsError(
                    f"{job.target} exists already and is not this: give --force to replace it"
                )
            if not plan.named:
                Path(job.target).parent.mkdir(parents=True, exist_ok=True)
            return Outcome(job=job, state="written", record=work(job, progress))
        except (ValueError, OSError) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            if full and getattr(error, "strerror", None):  # the system's words name no file
                sentence = f"cannot write {job.target}: the disk is full; free some space"
                raise OSError(sentence) from error
            if plan.named or full:
                raise
            note(f"{job.source} left out: {one_line(error)}")
            return Outcome(job=job, state="failed", record={"error": one_line(error)})
        finally:
            progress.finish_file()

    if parallel == 1 or len(plan.jobs) == 1:
        with Progress(what, len(plan.jobs)) as progress:
            return [do(job, progress) for job in plan.jobs]
    with (
        ThreadPoolExecutor(parallel, initializer=_share_cores, initargs=(parallel,)) as pool,
        Progress(what, len(plan.jobs)) as progress,
    ):
        futures = [pool.submit(do, job, progress) for job in plan.jobs]
        wait(futures, return_when=FIRST_EXCEPTION)
        return [future.result() for future in futures if future.done()]


def _share_cores(parallel: int) -> None:
    """Each thread computes with its share of the cores."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // parallel))


def summarize(outcomes: Sequence[Outcome], *, done: str) -> Report:
    """The report of many files: a table of what was made, and how many were kept or failed."""
    counts = dict.fromkeys(("written", "kept", "failed"), 0)
    for outcome in outcomes:
        counts[outcome.state] += 1
    made = [outcome.record for outcome in outcomes if outcome.state == "written"]
    rows = [{name: row[name] for name in SHOWN if name in row} for row in made]
    lines = [table(rows)] if rows else []
    if counts["kept"]:
        lines.append(f"{counts['kept']} of {len(outcomes)} were there already and fit: kept")
    entries = [
        {"input": o.job.source, "output": o.job.target, "state": o.state, **o.record}
        for o in outcomes
    ]
    failed = f"{counts['failed']} of {len(outcomes)} files could not be {done}"
    return Report(
        data={"files": entries, **counts},
        text="\n".join(lines),
        failed=failed if counts["failed"] else None,
    )
