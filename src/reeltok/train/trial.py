"""A dry run: what training by a recipe needs, from a few steps on noise.

A batch that is too large to be tried is estimated from two small ones: what a step takes beside its
clips, and what each clip adds, in seconds and in memory.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from reeltok import zoo
from reeltok.devices import peak_memory
from reeltok.metrics.lpips import random_lpips
from reeltok.parallel import Rank, init_distributed
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.build import build_model
from reeltok.train.checks import require_shares
from reeltok.train.clips import ClipBatch, Window
from reeltok.train.launch import MakeTask, reconstruction
from reeltok.train.loop import train_step
from reeltok.train.recipe import Recipe
from reeltok.train.run import LoopConfig, Run, Task

LARGE = 2**21  # pixels of all frames of a batch; one that has more is estimated


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run needs: trained parameters, peak memory in GB, steps per second.

    `measured` are the clips of the batches that were tried on each process: the whole one, or
    small ones that the rest is estimated from. `clips` are those of a whole one.
    """

    parameters: int
    memory_gb: float
    steps_per_second: float
    frames_per_second: float
    measured: tuple[int, ...]
    clips: int

    @property
    def estimated(self) -> bool:
        return self.clips not in self.measured


def tokenizer_to_try(name: str) -> Tokenizer:
    """The tokenizer that a recipe names; with random weights where there are none."""
    try:
        return zoo.load(name, code=False)
    except FileNotFoundError:
        return zoo.load(name, weights="random", code=False)


@dataclass(frozen=True, kw_only=True)
class TimedBatch:
    """How long a step of `clips` clips took, and the most memory up to its end."""

    clips: int
    seconds: float
    memory_gb: float


def dry_run(
    recipe: Recipe, *, device: str | None = None, make_task: MakeTask | None = None
) -> DryRun:
    """The last steps of a recipe, on noise of its largest kind of batch: what a run will need.

    Weights that are not here are random: of the model, and of LPIPS. On a CPU the memory is that
    of the whole process.
    """
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        window = max(recipe.data.windows, key=lambda w: w.batch * w.frames * w.size**2)
        try:
            tokenizer = build_model(recipe)
        except FileNotFoundError:
            tokenizer = build_model(replace(recipe, start="fresh", warm=None))
        task = (make_task or reconstruction(lpips=random_lpips))(tokenizer, recipe, None)

        def noise(clips: int) -> ClipBatch:
            shape = (clips, 3, window.frames, window.size, window.size)
            return ClipBatch(x=torch.rand(shape) * 2 - 1, names=("",) * clips, groups=("",) * clips)

        return try_steps(task, noise, recipe.loop, at, window)


def try_steps(
    task: Task, noise: Callable[[int], Any], config: LoopConfig, at: Rank, window: Window
) -> DryRun:
    """The last steps of a task, with all its losses; `noise(clips)` is a batch of one process.

    Every clip of `window` is a batch's over all processes.
    """
    if hasattr(task, "to"):
        task.to(at.device)
    run = Run(task, replace(config, compile=()), at)
    run.step = max(0, config.schedule.steps - 2)  # what joins late costs memory, too
    share, least = window.batch // at.world, config.accumulate
    few = share * window.frames * window.size**2 <= LARGE or share <= 2 * least
    sizes = [share, share] if few else [least, 2 * least]  # the first step is slower than others
    tried = [try_batch(run, noise(clips)) for clips in sizes]
    found = tried[-1] if few else extrapolate(*tried, clips=share)
    return DryRun(
        parameters=sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        memory_gb=found.memory_gb,
        steps_per_second=1 / found.seconds,
        frames_per_second=window.batch * window.frames / found.seconds,
        measured=tuple(dict.fromkeys(sizes)),
        clips=share,
    )


def try_batch(run: Run, batch: Any) -> TimedBatch:
    """A step on a batch."""
    began = time.monotonic()
    train_step(run, batch.to(run.at.device))  # reads its loss, so it has ended
    seconds = time.monotonic() - began
    memory_gb = peak_memory(run.at.device) / 1e9
    return TimedBatch(clips=len(batch), seconds=seconds, memory_gb=memory_gb)


def extrapolate(small: TimedBatch, large: TimedBatch, *, clips: int) -> TimedBatch:
    """What a step of `clips` clips will take, from steps of fewer.

    Timings of busy machines cross: a clip is taken to cost at least half of its share in `large`.
    """
    more = large.clips - small.clips
    each = max((large.seconds - small.seconds) / more, large.seconds / large.clips / 2)
    each_gb = max(0.0, large.memory_gb - small.memory_gb) / more
    left = clips - large.clips
    return TimedBatch(
        clips=clips,
        seconds=large.seconds + left * each,
        memory_gb=large.memory_gb + left * each_gb,
    )
