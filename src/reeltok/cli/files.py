"""Many files in, many out: what becomes what, what is there already, and doing it in parallel."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, note, table
from reeltok.files.atomic import REASONS, cannot_write, is_pipe, same_file
from reeltok.wording import count, left_out, one_line

if TYPE_CHECKING:
    from reeltok.data.clip import Clip

PIPE = "-"  # standard input or output


def check_apart(source: str | Path, target: str | Path, *, inside: bool = False) -> None:
    """ValueError where writing `target` would replace `source`, whatever the two are called.

    `inside`: also where `source` is a folder and `target` would be in it.
    """
    if PIPE in (str(source), str(target)):
        return
    if same_file(source, target):
        raise ValueError(f"{target} is what is read ({source}): name another output")
    if inside and Path(source).is_dir():
        place = Path(target).resolve()
        if place.is_relative_to(Path(source).resolve()):
            raise ValueError(f"{target} lies in what is read ({source}): name another output")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file to make from another; "-" is a pipe. `clip` is the source where it was found."""

    source: str
    target: str
    clip: "Clip | None" = None

    @property
    def opened(self) -> "str | Clip":
        """What is opened: the clip where one was found."""
        return self.source if self.clip is None else self.clip

    @property
    def older(self) -> bool:
        """Whether the target was made before the source was last changed."""
        if self.clip is None:
            return True  # a pipe: nobody knows
        return os.stat(self.target).st_mtime_ns < self.clip.changed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All files to make. `named`: the one target was named, not derived from its source."""

    jobs: tuple[Job, ...]
    named: bool

    def __post_init__(self) -> None:
        for job in self.jobs:
            source = job.source if job.clip is None else job.clip.path
            check_apart(source, job.target, inside=True)

    @property
    def named_targets(self) -> list[str]:
        """What the user named as output."""
        return [job.target for job in self.jobs if self.named]

    @property
    def piped(self) -> bool:
        """Whether standard output carries what is made."""
        return any(job.target == PIPE for job in self.jobs)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job: its numbers, or why it failed."""

    job: Job
    state: Literal["written", "kept", "failed"]
    record: dict[str, Any] = field(default_factory=dict)


SHOWN = ("output", "frames", "size", "fps", "bits_per_pixel", "bytes", "seconds", "rate")
"""Of a file that was made, what people see; programs see everything."""
Find = Callable[[str], "list[Clip]"]
Work = Callable[[Job, Progress], dict[str, Any]]


# What becomes what.


def plan_files(
    inputs: Sequence[str], out: str, *, suffix: str, find: Find, folder: bool = False
) -> Plan:
    """Which file becomes which; looks for files, but opens none.

    An input is "-" or whatever `find` finds files in. A single one may become the file
    `out`, or lie in the folder `out` (a name without suffix) under its own name with `suffix`; more
    always do. `folder`: a single one may also become a folder. Raises FileNotFoundError or
    ValueError where there is nothing.
    """
    found = [job for text in inputs for job in _expand(text, find)]
    one = len(found) == 1 and (found[0].source == inputs[0] or bool(Path(out).suffix))
    bare = not Path(out).suffix and out != PIPE
    inside = Path(out).is_dir() or out.endswith("/") or (bare and not folder)
    check_place(out)
    if one and (folder or not inside):
        return Plan(jobs=(replace(found[0], target=out),), named=True)
    if out == PIPE or Path(out).is_file() or (Path(out).suffix and not inside):
        raise ValueError(
            f"{count(len(found), 'file')} {'does' if len(found) == 1 else 'do'} not go into {out}: "
            "name a folder (such as out/)"
        )
    if PIPE in inputs:
        raise ValueError("standard input has no name to go by in a folder: name the output file")
    return Plan(jobs=tuple(_placed(found, Path(out), suffix)), named=False)


def _expand(text: str, find: Find) -> list[Job]:
    """The files that an input stands for, each with the name that it has in a folder."""
    if text == PIPE or is_pipe(text):
        return [Job(source=text, target=Path(text).name)]
    clips = find(text)
    alone = len(clips) == 1 and clips[0].place in (text, str(Path(text)))
    return [
        Job(source=text if alone else clip.place, target=clip.name, clip=clip) for clip in clips
    ]


def _placed(jobs: Sequence[Job], out: Path, suffix: str) -> list[Job]:
    """The jobs with their targets below `out`, in the tree of their sources.

    Names that would meet keep the suffix of their source (one.mkv.reel), or else its folders.
    """
    unique = list({(job.source, job.target): job for job in jobs}.values())
    if len(unique) < len(jobs):
        note(f"{len(jobs) - len(unique)} of {len(jobs)} inputs were given twice: each is done once")
    top = os.path.commonpath([os.path.dirname(os.path.abspath(job.source)) for job in unique])
    paths = [PurePosixPath(os.path.relpath(job.source, top)) for job in unique]
    names = [
        (_stem(job), job.target, str(path.with_suffix("")), str(path))
        for job, path in zip(unique, paths, strict=True)
    ]
    places = [name[0] for name in names]
    for depth in (1, 2, 3):
        often = Counter(places)
        places = [n[depth] if often[p] > 1 else p for n, p in zip(names, places, strict=True)]
    return [
        replace(job, target=str(out / f"{_inside(place)}{suffix}"))
        for job, place in zip(unique, places, strict=True)
    ]


def _stem(job: Job) -> str:
    return Path(job.target).stem if job.clip is None else job.clip.stem


def _inside(name: str) -> PurePosixPath:
    """A name that leads out of no folder."""
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))


def share_of(plan: Plan) -> Plan:
    """The files of this process where torchrun started several: every process has its own."""
    rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return replace(plan, jobs=plan.jobs[rank::world])


def check_place(*outputs: str) -> None:
    """OSError unless something can be made under these names, with the folders above them."""
    for out in outputs:
        above = next(folder for folder in Path(out).absolute().parents if os.path.lexists(folder))
        if out != PIPE and not above.is_dir():
            raise NotADirectoryError(f"{above} is no folder, so {out} cannot be made")
        if out != PIPE and not os.access(above, os.W_OK):
            raise PermissionError(f"the folder {above} is not writable: choose another")


# Doing it.


def check_free(
    targets: Sequence[str], *, force: bool, inputs: Sequence[str | Path | None] = ()
) -> None:
    """FileExistsError where a named output is there already and is not to be replaced.

    ValueError where one would replace something that is read, `force` or not.
    """
    for target in targets:
        for source in inputs:
            if source is not None:
                check_apart(source, target)
        if not force and target != PIPE and os.path.lexists(target):
            raise FileExistsError(f"{target} exists already: give --force to replace it")


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
            return Outcome(job=job, state="written", record=work(job, progress))
        except (ValueError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in REASONS
            if full and isinstance(error, OSError) and error.strerror:  # the system names no file
                raise cannot_write(job.target, error) from error
            if plan.named or full:
                raise
            note(left_out(job.source, one_line(error)))
            return Outcome(job=job, state="failed", record={"error": one_line(error)})
        finally:
            progress.finish_file()

    workers = min(parallel, len(plan.jobs))
    if workers == 1:
        with Progress(what, len(plan.jobs)) as progress:
            return [do(job, progress) for job in plan.jobs]
    with shared_threads(workers) as pool, Progress(what, len(plan.jobs)) as progress:
        futures = [pool.submit(do, job, progress) for job in plan.jobs]
        wait(futures, return_when=FIRST_EXCEPTION)
        return [future.result() for future in futures if future.done()]


@contextmanager
def shared_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Workers among which torch's threads are shared out; all are this thread's again at the end.

    A count that is set counts for the thread that sets it and for those started later, so each
    worker sets its own.
    """
    import torch

    threads = torch.get_num_threads()
    share = max(1, threads // workers)
    try:
        with ThreadPoolExecutor(workers, "work", torch.set_num_threads, (share,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


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
