"""Checkpoints of a run: a flat dictionary of tensors, written by torch's distributed checkpoint.

    RUN/checkpoints/step-00001200/  __0_0.distcp, .metadata, run.json (numbers), sums.json (sha256)

A checkpoint is written under a temporary name and renamed when complete, so a name always stands
for a whole one. Any number of processes can read what any other number wrote.
"""

import fcntl
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.optim import Optimizer

from reeltok.files.hashes import hash_files
from reeltok.files.parsing import read_object
from reeltok.files.text import printable
from reeltok.parallel import rank_and_world
from reeltok.train.stored import METADATA, Reader, read_metadata

PART = ".part"
HELD = ".lock"  # in the folder of a run, locked while it is trained
NAME = re.compile(r"step-\d{1,15}")
ADDED = {
    "ema.": "loop.ema",
    "model.log_variance": "losses.log_variance",
    "discriminator.": "losses.discriminator",
    "lecam.": "losses.discriminator",
}
"""What a checkpoint has only of a run with that setting."""
ADAM, MUON = {"step", "exp_avg", "exp_avg_sq"}, {"momentum"}  # what the optimizers keep


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint on disk, made after `step` steps."""

    folder: Path
    step: int


def find_checkpoints(run: Path) -> list[Checkpoint]:
    """The whole checkpoints of a run, oldest first."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        if NAME.fullmatch(folder.name) and (folder / "sums.json").is_file():
            found.append(Checkpoint(folder=folder, step=int(folder.name.removeprefix("step-"))))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def unfinished(run: Path) -> list[Path]:
    """The checkpoints that are being written, or that a killed run left so."""
    return list((run / "checkpoints").glob(f"*{PART}"))


def named_tensors(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, list[Optimizer]]
) -> dict[str, Tensor]:
    """All tensors of modules (`name.parameter`) and optimizers (`name@parameter@state`)."""
    tensors: dict[str, Tensor] = {}
    for key, module in modules.items():
        tensors |= {f"{key}.{name}": value for name, value in module.state_dict().items()}
    for key, chosen in optimizers.items():
        names: dict[Tensor, str] = {w: name for name, w in modules[key].named_parameters()}
        for optimizer in chosen:
            for weight, state in optimizer.state.items():
                own = {
                    f"{key}@{names[weight]}@{k}": v
                    for k, v in state.items()
                    if isinstance(v, Tensor)
                }
                tensors |= own
    return tensors


def allocate_states(
    checkpoint: Checkpoint,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, list[Optimizer]],
) -> None:
    """Give fresh optimizers empty states of the stored shapes, to be filled by `load_tensors`.

    ValueError where the states are those of another model or kind of optimizer.
    """
    stored = stored_tensors(checkpoint)
    for key, chosen in optimizers.items():
        weights = dict(modules[key].named_parameters())
        owners = {w: o for o in chosen for group in o.param_groups for w in group["params"]}
        for entry, shape in stored.items():
            owner, _, rest = entry.partition("@")
            name, _, field = rest.rpartition("@")
            if owner != key or weights.get(name) not in owners:
                continue
            weight, dtype = weights[name], shape.properties.dtype
            alike = tuple(shape.size) == tuple(weight.shape) and weight.ndim > 0
            if not (alike or not shape.size) or not dtype.is_floating_point:
                raise ValueError(
                    f"{checkpoint.folder} is a checkpoint of another model: {entry} has shape "
                    f"{tuple(shape.size)}, its weight {tuple(weight.shape)} here"
                )
            # As torch keeps it: the step of a fused optimizer lies beside the weight.
            place = weight.device if owners[weight].defaults.get("fused") else "cpu"
            fresh = torch.zeros_like(weight) if alike else torch.zeros((), device=place)
            owners[weight].state[weight][field] = fresh.to(dtype)
        for optimizer in chosen:
            require_fields(checkpoint, optimizer)


def require_fields(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """ValueError where the states are not those that this kind of optimizer keeps."""
    wanted = ADAM if isinstance(optimizer, torch.optim.Adam) else MUON
    for state in optimizer.state.values():
        if set(state) != wanted:
            raise ValueError(
                f"{checkpoint.folder} holds {', '.join(sorted(state))} of a weight where "
                f"{type(optimizer).__name__} keeps {', '.join(sorted(wanted))}: resume with the "
                f"loop.optimizer.kind that the run began with"
            )


def stored_tensors(checkpoint: Checkpoint) -> dict[str, TensorStorageMetadata]:
    """What a checkpoint holds: the size and type of every tensor."""
    found = read_metadata(checkpoint.folder).state_dict_metadata
    return {k: v for k, v in found.items() if isinstance(v, TensorStorageMetadata)}


def load_tensors(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Fill `tensors` in place from a checkpoint and return its numbers (`run.json`).

    Raises ValueError where the files were altered or cut (naming the last good checkpoint) and
    where the checkpoint holds another model.
    """
    verify_checkpoint(checkpoint)
    stored = stored_tensors(checkpoint)
    for name, value in tensors.items():
        found = tuple(stored[name].size) if name in stored else None
        if found is None and (setting := added_by(name, stored)):
            raise ValueError(
                f"{checkpoint.folder} has no {name}, which this resume adds by {setting}: resume "
                f"with the {setting} that the run began with, or begin in another folder"
            )
        if found != tuple(value.shape):
            raise ValueError(
                f"{checkpoint.folder} is a checkpoint of another model: {name} has shape "
                f"{tuple(value.shape)} here and {found or 'no entry'} there"
            )
    require_all_wanted(checkpoint, stored, tensors)
    silence_single_process()
    alone = not dist.is_initialized()
    try:
        dcp.load(dict(tensors), storage_reader=Reader(checkpoint.folder), no_dist=alone)
    except CheckpointException as error:
        raise ValueError(f"checkpoint {checkpoint.folder} is damaged: {cause(error)}") from error
    return read_object(checkpoint.folder / "run.json")


def require_all_wanted(
    checkpoint: Checkpoint, stored: Iterable[str], wanted: Iterable[str]
) -> None:
    """ValueError where a checkpoint is of a model with more parts; a setting of a loss may go."""
    own = {name for name in stored if name.startswith("model.")} - ADDED.keys()
    if more := sorted(own - set(wanted)):
        raise ValueError(
            f"{checkpoint.folder} is a checkpoint of another model: it has {more[0]}, which this "
            "one lacks: resume with the settings that the run began with, or begin in another "
            "folder"
        )


def added_by(name: str, stored: Iterable[str]) -> str | None:
    """The setting without which a run has no such tensor; None where it is of the model itself."""
    stored = tuple(stored)
    for start, setting in ADDED.items():
        if name.startswith(start) and not any(other.startswith(start) for other in stored):
            return setting
    return "loop.freeze" if name.startswith("ema.") and f"model.{name[4:]}" in stored else None


def damage(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint cannot be trusted (a file is missing or its sha256 differs), or None."""
    try:
        sums = read_object(checkpoint.folder / "sums.json")
    except ValueError as error:
        return str(error)
    for name in (METADATA, "run.json"):
        if name not in sums:
            return f"sums.json does not name {name}"
    for name, expected in sums.items():
        file = checkpoint.folder / Path(name).name
        if file.name != name or not file.is_file():
            return f"{name} is missing"
        if hash_files(file) != expected:
            return f"{name} was cut or altered"
    return None


def verify_checkpoint(checkpoint: Checkpoint) -> None:
    """Raise ValueError where a checkpoint is damaged, with the name of the last good one."""
    reason = damage(checkpoint)
    if reason is None:
        return
    siblings = find_checkpoints(checkpoint.folder.parent.parent)
    good = [c for c in siblings if c.step != checkpoint.step and damage(c) is None]
    way = (
        f"delete that folder and resume, from the last good one, {good[-1].folder.name}"
        if good
        else "no good one is left: start again in another folder"
    )
    raise ValueError(f"checkpoint {checkpoint.folder} is damaged: {reason}; {way}")


@dataclass(frozen=True)
class CheckpointWriting:
    """A checkpoint on its way to disk; `future`, if any, ends when its tensors are there."""

    folder: Path
    step: int
    numbers: dict[str, Any]
    future: Future[Any] | None = None

    @property
    def part(self) -> Path:
        return self.folder.with_suffix(PART)


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint of a run; 0 where there is none."""
    found = find_checkpoints(run)
    return found[-1].step if found else 0


@contextmanager
def held_alone(run: Path, step: int, *, first: bool = True) -> Iterator[None]:
    """Inside, no other process trains in the folder `run`; of several together the `first` looks.

    Two would remove each other's checkpoints. BlockingIOError where another trains there, and
    FileExistsError where one has come further than `step`, the newest there when this one looked.
    """
    if not first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / HELD).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            said = f"another process trains in {run}: wait for it, or choose another folder"
            raise BlockingIOError(said) from error
        except OSError:
            pass  # a file system without locks
        if (now := newest_step(run)) > step:
            raise FileExistsError(
                f"another process has trained in {run} up to step {now} meanwhile: resume it, or "
                "choose another folder"
            )
        yield


class Saver:
    """Writes checkpoints of a run, at once or in the background, and removes old ones.

    Called by all processes together. With `background`, tensors are copied first; the checkpoint
    gets its name by `finish`, at the latest at the next call, so at most one is on its way. OSError
    where one cannot be written; the earlier ones stay.
    """

    def __init__(self, run: Path, *, keep: int = 2, background: bool = False) -> None:
        self.run, self.keep, self.background = run, keep, background
        self.first = rank_and_world()[0] == 0
        self.writing: CheckpointWriting | None = None
        several = background and dist.is_initialized()
        self.group = dist.new_group(backend="gloo") if several else None
        if self.first:
            for part in unfinished(run):
                shutil.rmtree(part, ignore_errors=True)

    def save(self, step: int, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write a checkpoint after `step` steps."""
        self.finish()
        folder = self.run / "checkpoints" / f"step-{step:08d}"
        now = CheckpointWriting(folder, step, numbers)
        try:
            if self.first:
                shutil.rmtree(now.part, ignore_errors=True)
                now.part.mkdir(parents=True)
            future = self._start(dict(tensors), now.part)
        except (OSError, CheckpointException) as error:
            self._give_up(now, error)
        except BaseException:  # Ctrl-C, or no memory: what is there is not whole
            if self.first:
                shutil.rmtree(now.part, ignore_errors=True)
            raise
        self.writing = replace(now, future=future)  # from here on `finish` may give it its name
        if not self.background:
            self.finish()

    def _start(self, tensors: dict[str, Tensor], part: Path) -> Future[Any] | None:
        silence_single_process()
        if self.background:
            future = dcp.async_save(
                tensors,
                checkpoint_id=part,
                process_group=self.group,
                no_dist=not dist.is_initialized(),
            )
            assert isinstance(future, Future)
            return future
        dcp.save(tensors, checkpoint_id=part, no_dist=not dist.is_initialized())
        return None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is on its way whose tensors are not all there."""
        future = self.writing.future if self.writing is not None else None
        return future is not None and not future.done()

    def finish(self) -> None:
        """Wait for the checkpoint on its way and give it its name."""
        if self.writing is None:
            return
        now = self.writing
        try:
            if now.future is not None:
                now.future.result()
            if self.first:
                numbers = json.dumps({"step": now.step, **now.numbers}) + "\n"
                (now.part / "run.json").write_text(numbers)
                (now.part / "sums.json").unlink(missing_ok=True)  # where this was interrupted
                sums = {file.name: hash_files(file) for file in sorted(now.part.iterdir())}
                (now.part / "sums.json").write_text(json.dumps(sums, indent=1) + "\n")
                shutil.rmtree(now.folder, ignore_errors=True)
                now.part.rename(now.folder)
            self.writing = None
            if self.first:
                for old in find_checkpoints(self.run)[: -self.keep]:
                    shutil.rmtree(old.folder, ignore_errors=True)
        except (OSError, CheckpointException) as error:
            self._give_up(now, error)

    def _give_up(self, now: CheckpointWriting, error: BaseException) -> NoReturn:
        shutil.rmtree(now.part, ignore_errors=True)
        self.writing = None
        for inner in getattr(error, "failures", {}).values():  # torch wraps Ctrl-C, too
            if isinstance(inner[0], KeyboardInterrupt):
                raise inner[0]
        earlier = find_checkpoints(self.run)
        left = f"the last good one is {earlier[-1].folder}" if earlier else "there is none yet"
        raise OSError(f"cannot write checkpoint {now.folder} ({cause(error)}); {left}") from error


def cause(error: BaseException) -> str:
    """The reason inside a failure of several processes, in one line."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def silence_single_process() -> None:
    """A checkpoint of one process is meant so: keep torch, also in its threads, from warning."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def require_space(run: Path, tensors: dict[str, Tensor], *, resumed: bool = False) -> None:
    """OSError where the disk cannot hold two checkpoints with two optimizer moments.

    Of a run that goes on, one more as it is: its tensors hold the moments, and its last is there.
    """
    place = next(folder for folder in (run.absolute(), *run.absolute().parents) if folder.is_dir())
    held = sum(t.numel() * t.element_size() for t in tensors.values())
    needed, taken = 6 * held, "two checkpoints take"
    if resumed:
        needed, taken = held, "one more checkpoint takes"
    free = shutil.disk_usage(place).free
    if free < needed:
        way = "free some" if resumed else "free some, or choose another folder"
        raise OSError(f"{run} has {free / 1e6:,.1f} MB free, {taken} {needed / 1e6:,.1f} MB: {way}")
