"""Many files in, many out: what becomes what."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from itertools import count as count_up
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from reeltok.arguments import check_path
from reeltok.files.atomic import is_pipe
from reeltok.files.places import PIPE, check_apart, check_place
from reeltok.wording import count

if TYPE_CHECKING:
    from reeltok.data.clip import Clip

Find = Callable[[str], "list[Clip]"]


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
class OutputPlan:
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


def plan_files(
    inputs: Sequence[str], out: str, *, suffix: str, find: Find, folder: bool = False
) -> OutputPlan:
    """Which file becomes which; looks for files, but opens none.

    An input is "-" or whatever `find` finds files in. A single one may become the file
    `out`, or lie in the folder `out` (a name without suffix) under its own name with `suffix`; more
    always do. `folder`: a single one may also become a folder. Raises FileNotFoundError or
    ValueError where there is nothing.
    """
    check_path(out, "what is written")
    found = [job for text in inputs for job in _expand(text, find)]
    one = len(found) == 1 and (found[0].source == inputs[0] or bool(Path(out).suffix))
    bare = not Path(out).suffix and out != PIPE
    inside = Path(out).is_dir() or out.endswith("/") or (bare and not folder)
    check_place(out)
    if one and (folder or not inside):
        return OutputPlan(jobs=(replace(found[0], target=out),), named=True)
    if out == PIPE or Path(out).is_file() or (Path(out).suffix and not inside):
        raise ValueError(
            f"{count(len(found), 'file')} {'does' if len(found) == 1 else 'do'} not go into {out}: "
            "name a folder (such as out/)"
        )
    if PIPE in inputs:
        raise ValueError("standard input has no name for a file in a folder: name the output file")
    return OutputPlan(jobs=tuple(_placed(found, Path(out), suffix)), named=False)


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

    Names that would meet keep the suffix of their source (one.mkv.reel), or else its folders;
    clips of one file that still meet are numbered.
    """
    unique = list({(_identity(job), job.target): job for job in jobs}.values())
    if len(unique) < len(jobs):
        warnings.warn(
            f"{len(jobs) - len(unique)} of {len(jobs)} inputs were given twice: each is done once",
            UserWarning,
            stacklevel=2,
        )
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
        replace(job, target=str(out / f"{place}{suffix}"))
        for job, place in zip(unique, _numbered(map(_inside, places)), strict=True)
    ]


def _identity(job: Job) -> object:
    """What tells the source of a job from others."""
    return job.source if job.clip is None else job.clip.identity


def _numbered(places: Iterable[PurePosixPath]) -> list[str]:
    """The places as text, with a number behind one that an earlier one has."""
    kept: dict[str, None] = {}
    for place in places:
        again = (f"{place} ({number})" for number in count_up(2))
        kept[next(text for text in chain([str(place)], again) if text not in kept)] = None
    return list(kept)


def _stem(job: Job) -> str:
    return Path(job.target).stem if job.clip is None else job.clip.stem


def _inside(name: str) -> PurePosixPath:
    """A name that leads out of no folder."""
    return PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))


def own_share(plan: OutputPlan) -> OutputPlan:
    """The files of this process where torchrun started several: every process has its own."""
    rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return replace(plan, jobs=plan.jobs[rank::world])
