"""Who makes which shard on this machine: this process, or several that share the work.

On the CPU every worker is a process that makes whole shards; with accelerators there is one process
for each device. Processes that decode ahead may stand beside each of them (`ahead`).
"""

import multiprocessing
import os
import queue
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from reeltok.corpus.ahead import Decoders, hand_on_notes
from reeltok.corpus.build import OnClips, build_shard, decode_here
from reeltok.corpus.opening import Open
from reeltok.corpus.place import Place
from reeltok.corpus.plan import Plan
from reeltok.devices import pick_device
from reeltok.files.atomic import sweep
from reeltok.wording import one_line

WAIT = 0.5  # seconds between looks at whether the others still live


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How many shards are made at a time (`jobs`), on which device, and who decodes ahead.

    `decoders` processes decode for each of them; 0: each decodes for itself. None: as many jobs as
    there are accelerators, or 1; and decoders for what accelerators need.
    """

    device: str = "auto"
    jobs: int | None = None
    decoders: int | None = None

    def __post_init__(self) -> None:
        if (self.jobs or 1) < 1 or (self.decoders or 0) < 0:
            raise ValueError(
                f"`jobs` {self.jobs} with `decoders` {self.decoders} does nothing: give 1 or more"
            )

    def devices(self) -> list[str]:
        """The device of each job."""
        chosen = pick_device(self.device)
        if chosen.type != "cuda" or chosen.index is not None:
            return [str(chosen)] * (self.jobs or 1)
        here = torch.cuda.device_count()
        local = os.environ.get("LOCAL_RANK")
        if local is not None:  # a rank has its own
            return [f"cuda:{int(local) % here}"] * (self.jobs or 1)
        return [f"cuda:{i % here}" for i in range(self.jobs or here)]

    def ahead(self, devices: Sequence[str]) -> int:
        """Processes that decode for each job."""
        if self.decoders is not None:
            return self.decoders
        if devices[0] == "cpu":
            return 0
        return max(1, min(8, (os.cpu_count() or 1) // len(devices) - 1))


def run_shards(
    plan: Plan,
    numbers: Sequence[int],
    opener: Open,
    place: Place,
    engine: Engine,
    *,
    on_clips: OnClips | None = None,
) -> None:
    """Make the shards of these numbers. OSError where one cannot be written, or a worker ended."""
    if not numbers:
        return
    devices = engine.devices()[: len(numbers)]
    decoders = engine.ahead(devices)
    if len(devices) == 1:
        make_all(plan, iter(numbers), opener, place, devices[0], decoders, on_clips)
    else:
        share_out(plan, numbers, opener, place, devices, decoders, on_clips)


def make_all(
    plan: Plan,
    numbers: Any,
    opener: Open,
    place: Place,
    device: str,
    decoders: int,
    on_clips: OnClips | None,
) -> None:
    """Make shards one after another in this process."""
    tokenizer = opener(device)
    with ExitStack() as stack:
        decode = stack.enter_context(Decoders(decoders)) if decoders else decode_here
        for number in numbers:
            build_shard(plan, number, tokenizer, place, decode=decode, on_clips=on_clips)


# ---------------------------------------------------------------- several processes


def share_out(
    plan: Plan,
    numbers: Sequence[int],
    opener: Open,
    place: Place,
    devices: Sequence[str],
    decoders: int,
    on_clips: OnClips | None,
) -> None:
    """Processes that each take the next shard when they are done with one."""
    spawn = multiprocessing.get_context("spawn")
    tasks, messages = spawn.Queue(), spawn.Queue()
    for number in [*numbers, *(None for _ in devices)]:
        tasks.put(number)
    workers = []
    try:
        for device in devices:
            given = (plan, opener, str(place), device, decoders, tasks, messages)
            worker = spawn.Process(target=work, args=given, name=f"corpus-{device}")
            worker.start()
            workers.append(worker)
        watch(workers, messages, on_clips)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        tasks.cancel_join_thread()  # nobody reads what is left: its thread would wait for ever
        if place.folder is not None:
            sweep(place.folder)  # a worker that is ended removes nothing itself


def work(
    plan: Plan, opener: Open, place: str, device: str, decoders: int, tasks: Any, messages: Any
) -> None:
    """What a process does: shards, until there are no more. Errors are among the messages."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process

    def done(clips: int) -> None:
        end_with_parent()
        messages.put(("clips", clips))

    try:
        torch.set_num_threads(plan.coding.threads)
        hand_on_notes(lambda note: messages.put(("note", note)))
        make_all(plan, numbers_of(tasks), opener, Place(place), device, decoders, done)
        messages.put(("done", None))
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError) as error:
        messages.put(("error", one_line(error)))


def end_with_parent() -> None:
    """End this process where its parent has gone: nobody waits for what is made here."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def numbers_of(tasks: Any) -> Iterator[int]:
    """The shards that a process is given, one after another."""
    while True:
        try:
            number = tasks.get(timeout=WAIT)
        except queue.Empty:
            end_with_parent()
            continue
        if number is None:
            return
        yield number


def watch(workers: Sequence[Any], messages: Any, on_clips: OnClips | None) -> None:
    """Wait until all are done. OSError for what a worker says, or where it ended without a word."""
    left = len(workers)
    while left:
        try:
            kind, what = messages.get(timeout=WAIT)
        except queue.Empty:
            ended = [w for w in workers if w.exitcode not in (None, 0)]
            if ended:
                raise OSError(
                    f"a worker ended ({_why(ended[0].exitcode)}): fewer `jobs` take less memory; "
                    "run it again, what is done stays"
                ) from None
            continue
        if kind == "error":
            raise OSError(what)
        if kind == "note":
            warnings.warn(what, UserWarning, stacklevel=2)
        left -= kind == "done"
        if kind == "clips" and on_clips is not None:
            on_clips(what)


def _why(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def share_of(numbers: Sequence[int], index: int, count: int) -> list[int]:
    """The shards of one rank of `count`: every count-th. ValueError for a rank that is none."""
    if not 0 <= index < count:
        raise ValueError(f"`shard` {index}/{count} is none: give 0/{count} to {count - 1}/{count}")
    return [number for number in numbers if number % count == index]


def rank_here(environment: Callable[[str], str | None] = os.environ.get) -> tuple[int, int]:
    """(rank, ranks) as torchrun, SLURM or an indexed Kubernetes job say; (0, 1) without them.

    A batch script of SLURM that calls no `srun` is one process, whatever its number of tasks.
    """
    for rank, world, also in (
        ("RANK", "WORLD_SIZE", "RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"),
        ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "JOB_COMPLETIONS"),
    ):
        said = [environment(name) or "" for name in (rank, world, also)]
        if all(each.isdecimal() for each in said):
            return int(said[0]), int(said[1])
    return 0, 1
