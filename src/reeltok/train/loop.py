"""The training loop: runs any `Task`, knows no model.

A step is a function of (seed, step): `feed(step)` gives the batch, and the random state is set
from (seed, step, rank). So a run that was killed and resumed repeats its steps exactly.
"""

import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from reeltok.files.text import hint
from reeltok.parallel import Rank, any_rank
from reeltok.train import checkpoint as checkpoints
from reeltok.train.logbook import Log, say
from reeltok.train.optimizers import set_lr
from reeltok.train.parallel import no_sync
from reeltok.train.run import LoopConfig, Run, Task

BatchSource = Callable[[int], Any]
"""From a step's number to its batch, which may have `to(device)`.

To accumulate gradients it needs a length and rows, too.
"""


@runtime_checkable
class Facts(Protocol):
    """How much data there is to train on and hold out, and in short what is validated on.

    A run that goes on with the latter otherwise begins `best/` anew.
    """

    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def judged(self) -> str | None: ...


def split_batch(batch: Any, parts: int) -> list[Any]:
    """`parts` batches, of as many rows each where these divide; too few rows come again.

    However many clips of its share a process lost, it takes its part in every sum over processes.
    """
    return [batch[rows] for rows in rows_of_parts(len(batch), parts)]


def rows_of_parts(count: int, parts: int) -> list[Tensor]:
    """Which of `count` rows make each of `parts` parts."""
    return list((torch.arange(max(parts, count)) % count).tensor_split(parts))


def divisors(count: int, parts: int) -> list[float]:
    """What the mean over each part is divided by, so that all `count` rows weigh the same."""
    split = rows_of_parts(count, parts)
    times = torch.cat(split).bincount().tolist()
    return [count * times[int(rows[0])] / len(rows) for rows in split]


def train_step(run: Run, batch: Any) -> dict[str, float]:
    """One step of the generator on its losses, then of the discriminator on what that made."""
    config, step = run.config, run.step
    factor = run.schedule.factor(step)
    set_lr(run.optimizers["model"], config.optimizer.lr * factor)
    parts, over = [batch], [1.0]
    if config.accumulate > 1:
        parts = split_batch(batch, config.accumulate)
        over = divisors(len(batch), config.accumulate)
    terms, made = Terms(), []
    with still(run.discriminator):
        for number, part in enumerate(parts):
            generator = run.seeded(number)
            with no_sync(run.loss, last=number + 1 == len(parts)):
                with run.autocast():
                    losses = run.loss(part, step, generator)
                run.scaler.scale(losses.total / over[number]).backward()
            terms.add(losses, over[number])
            made.append(getattr(losses, "made", None))
    result = run.optimizer_step("model")
    finite, norms = result.finite, {"norm": result.norm}
    if finite and run.adversarial_active():
        set_lr(run.optimizers["discriminator"], config.discriminator.lr * factor)
        for number, part in enumerate(made):
            with no_sync(run.discriminator_loss, last=number + 1 == len(made)):
                with run.autocast():
                    losses = run.discriminator_loss(part, step)
                run.scaler.scale(losses.total / over[number]).backward()
            terms.add(losses, over[number], total="discriminator_loss")
        other = run.optimizer_step("discriminator")
        finite = other.finite
        norms |= {"discriminator_norm": other.norm}
    if run.scaler.is_enabled():
        run.scaler.update()
    if result.finite and run.ema:
        run.ema.update(run.model, step)
    run.count(finite)
    return terms.numbers() | norms | {"lr": config.optimizer.lr * factor}


class Terms:
    """Named losses of a step, summed over the parts of the batch."""

    def __init__(self) -> None:
        self.sums = dict[str, Tensor]()

    def add(self, losses: Any, over: float, *, total: str = "loss") -> None:
        """Count one part's losses, divided by `over`."""
        for name, value in {total: losses.total, **losses.terms}.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() / over

    def numbers(self) -> dict[str, float]:
        """All of them, fetched at once: each fetch waits for the device."""
        if not self.sums:
            return {}
        values = torch.stack([value.reshape(()) for value in self.sums.values()])
        return dict(zip(self.sums, values.tolist(), strict=True))


@contextmanager
def still(module: nn.Module | None) -> Iterator[None]:
    """Inside, gradients pass through `module` but do not collect in it."""
    if module is None:
        yield
        return
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def run_task(
    task: Task,
    feed: BatchSource,
    config: LoopConfig,
    *,
    out: str | Path,
    resume: bool = False,
    at: Rank | None = None,
    ready: Callable[[], object] = lambda: None,
    facts: Facts | None = None,
    held: bool = False,
) -> Run:
    """Train `task` on `feed(step)` to the last step; log and checkpoints go to the folder `out`.

    `ready` is called before the first step, once nothing can be refused any more. The log begins,
    also where a run goes on, with the precision and the counts of the data's `facts`. With
    `held`, the caller holds the folder (`held_alone`).
    SIGTERM saves a checkpoint and exits with `config.exit_on_term`; in a thread it does what it did
    before. Raises ValueError where gradients stay not finite for `bad_steps` steps, OSError where a
    checkpoint cannot be written, or another process trains in `out`.
    """
    out = Path(out)
    torch.set_flush_denormal(True)  # softmax over a codebook makes them: 170 times slower on a CPU
    torch.backends.cudnn.benchmark = True  # batches have few shapes
    run = Run(task, config, at, facts.judged if facts else None)
    newest = checkpoints.newest_step(out)
    last = last_checkpoint(out) if resume else None
    if last is not None:
        run.load(last)
    elif resume:
        warnings.warn(f"{out} has no checkpoint yet: it begins anew", stacklevel=2)
    counts = facts.counts if facts else {}
    checkpoints.require_space(out, run.tensors(), resumed=last is not None)
    with checkpoints.held_alone(out, newest, first=run.at.first and not held):
        ready()
        saver = checkpoints.Saver(out, keep=config.keep, background=config.save_async)
        with Log(out, run, since=run.step) as log, asked_to_stop() as stop:
            began = {"resumed": True} if run.step else {}
            log.event(run.step, **began, precision=run.precision, **counts)
            if run.at.first:
                tell_changes(run)
            try:
                take_steps(run, feed, saver, log, stop)
                finish_checkpoint(run, saver)
            finally:
                saver.finish()  # also of a run that fails
    if run.step < config.schedule.steps:
        raise SystemExit(config.exit_on_term)
    return run


def tell_changes(run: Run) -> None:
    """Say what is not as the recipe or the run before has it."""
    if run.precision != run.config.precision:
        say(
            f"note: this processor lacks {run.config.precision}, in which it would be many times "
            "slower: everything is computed in fp32"
        )
    if run.judged_anew:
        say(
            "note: scores are of other held-out clips, or of another kind, than before: the next "
            "one replaces best/ whatever it is"
        )


def take_steps(
    run: Run, feed: BatchSource, saver: checkpoints.Saver, log: Log, stop: "StopFlag"
) -> None:
    """The steps that are left, or those until someone asks to stop; with all that falls due."""
    config, saved = run.config, time.monotonic()
    if run.step == config.schedule.steps:
        run.export(saver.run / "model")  # a kill may have come between it and the last checkpoint
    while run.step < config.schedule.steps:
        timed_step(run, feed, log)
        guard(run)
        last = run.step == config.schedule.steps
        try:
            if last or run.step % config.validate_every == 0:
                validate(run, log, saver.run)
        finally:  # a validation that fails loses no step
            late = time.monotonic() - saved > 60 * config.minutes
            stopping, late, busy = any_rank(run.at, stop.is_set(), late, saver.busy)
            if not busy:
                finish_checkpoint(run, saver)
            if last or stopping or late or run.step % (config.save_every or sys.maxsize) == 0:
                save_checkpoint(run, saver)
                saved = time.monotonic()
        if stopping and not last:
            log.event(run.step, stopped="SIGTERM")
            return


def save_checkpoint(run: Run, saver: checkpoints.Saver) -> None:
    """Write a checkpoint; where that goes on in the background, `finish_checkpoint` follows."""
    finish_checkpoint(run, saver)
    saver.save(run.step, run.tensors(), run.numbers())
    if saver.writing is None:
        run.export(saver.run / "model")


def finish_checkpoint(run: Run, saver: checkpoints.Saver) -> None:
    """Name the checkpoint on its way, if any; then the model with its mean weights, in `model/`.

    So a folder with a model has had a checkpoint.
    """
    if saver.writing is not None:
        saver.finish()
        run.export(saver.run / "model")


def last_checkpoint(out: Path) -> checkpoints.Checkpoint | None:
    """Where a run left off; None where it was killed before its first checkpoint.

    FileNotFoundError where there was no run, or where its checkpoints are gone.
    """
    found = checkpoints.find_checkpoints(out)
    if found:
        return found[-1]
    if not (out / "recipe.json").is_file():
        raise FileNotFoundError(
            f"no checkpoint to resume in {out}/checkpoints: start without resume, and in another "
            f"folder if this one holds a log"
        )
    if (out / "model").exists() and not checkpoints.unfinished(out):
        raise FileNotFoundError(
            f"no checkpoint to resume in {out}/checkpoints, though the run has written one before: "
            f"put it back, or begin in another folder with model={out / 'model'} and start=trained"
        )
    return None


def timed_step(run: Run, feed: BatchSource, log: Log) -> None:
    """Fetch a batch, train on it, log both with their times."""
    began = time.monotonic()
    batch = feed(run.step)
    waited = time.monotonic() - began
    if hasattr(batch, "to"):
        batch = batch.to(run.at.device)
    numbers = train_step(run, batch)
    log.step(run.step, numbers, seconds=time.monotonic() - began, waited=waited)


def guard(run: Run) -> None:
    """Stop a run whose gradients are not finite for too long."""
    if run.bad < run.config.bad_steps:
        return
    config, discriminator = run.config, run.discriminator is not None
    way = f"lower loop.optimizer.lr ({config.optimizer.lr})"
    way += f" or loop.discriminator.lr ({config.discriminator.lr})" if discriminator else ""
    way += "" if config.precision == "fp32" else ", or set loop.precision=fp32"
    raise ValueError(
        f"gradients were not finite for {run.bad} steps running, the last at step {run.step}: "
        f"{way}, and resume from the last checkpoint"
    )


def validate(run: Run, log: Log, out: Path) -> None:
    """Score the mean weights on held-out data; keep the best model in `best/`."""
    scores = run.validate()
    if not scores:
        return
    log.scores(run.step, scores)
    name = run.config.best.removeprefix("-")
    sign = -1 if run.config.best.startswith("-") else 1
    if name not in scores:
        warnings.warn(
            f"loop.best={run.config.best} is no score of this run, which keeps no best/: "
            f"{hint(name, scores)}",
            stacklevel=2,
        )
        return
    score = scores[name]
    if math.isfinite(score) and (run.best is None or sign * score > sign * run.best):
        run.best = score
        run.export(out / "best")


@contextmanager
def asked_to_stop() -> Iterator["StopFlag"]:
    """A flag that SIGTERM sets while this lasts; in the main thread, which alone is told of it."""
    stop = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


class StopFlag:
    """Whether the run was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def set(self, number: int, frame: Any) -> None:
        self.asked = True

    def is_set(self) -> bool:
        return self.asked
