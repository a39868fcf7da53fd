"""What every study shares: train its rows or find them trained, and judge them.

A row of a table is a chain of recipes (`stages`), each beginning with the weights of the one before
it. A stage lies in a folder named after a hash of its chain, so a study that was stopped goes on
where it was, and rows share the stages that they have in common.
"""

import csv
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from judging import Judge, Scores, Seen, flop_counter, judge, look
from points import Points, read_points, record_points

from reeltok import zoo
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.devices import pick_device
from reeltok.files.atomic import cache_folder
from reeltok.parallel import init_distributed
from reeltok.train.build import build_model
from reeltok.train.checkpoint import find_checkpoints
from reeltok.train.checks import require_groups
from reeltok.train.clips import ClipBatch, DataConfig, Window
from reeltok.train.data import ClipSource
from reeltok.train.frames import ClipFrames, open_clips
from reeltok.train.launch import reconstruction
from reeltok.train.loader import Loader
from reeltok.train.logbook import read_lines
from reeltok.train.loop import run_task
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.recipes import (
    GROUPS,
    VIDTOK_LOSSES,
    Recipe,
    as_json,
    vidtok_stage1,
    vidtok_stage2,
)
from reeltok.train.run import LoopConfig

# ---------------------------------------------------------------- what is trained

TINY_BODY: dict[str, Any] = {
    "width": 32,
    "patch": (2, 4, 4),
    "multipliers": (1, 2),
    "blocks": (1, 1),
    "space_down": (0,),
    "space_up": (1,),
    "time_down": (0,),
    "time_up": (1,),
    "edge": "past-first",
    "block": "light",
    "sampler": "plain",
    "middle": "none",
}
"""A 4x8x8 network of the VidTok family behind a Haar front, for steps of a fraction of a second."""


def tiny(
    name: str, model: str, *, seed: int, steps: int = 100, size: int = 32, **body: Any
) -> Recipe:
    """`model`'s quantizer in a tiny body, trained in some ten seconds of one core.

    8 clips of 9 frames at `size` pixels, cropped at up to twice that scale; VidTok's losses but for
    LPIPS and the discriminator, which its first 10,000 steps do not have either. `body` replaces
    values of `TINY_BODY`.
    """
    window = Window(frames=9, size=size, batch=8)
    return Recipe(
        name=name,
        model=model,
        settings={**TINY_BODY, **body},
        data=DataConfig(
            windows=(window,),
            weights=GROUPS,
            other=0.1,
            strides=(1, 2),
            scale=(size / 64, min(1.0, size / 32)),
            holdout=0.2,
            validation=replace(window, batch=24),
            cache_size=64,
        ),
        losses=replace(VIDTOK_LOSSES, perceptual=0.0, discriminator=None),
        loop=LoopConfig(
            seed=seed,
            optimizer=OptimizerConfig(
                kind="muon", lr=2e-3, betas=(0.9, 0.99), plain=plain_parts(model, body)
            ),
            schedule=ScheduleConfig(steps=steps, warmup=10, cooldown=0.5),
            grad_clip=20.0,
            ema=0.98,
            validate_every=steps,
            minutes=2.0,
            keep=1,
        ),
    )


def plain_parts(model: str, settings: dict[str, Any]) -> tuple[str, ...]:
    """What AdamW moves: the last layer, and a codebook that is learned."""
    kind = settings.get("quantizer", {}).get("kind") or quantizer_of(model)
    return ("decoder.conv_out", "quantizer") if kind == "vq" else ("decoder.conv_out",)


def quantizer_of(model: str) -> str | None:
    """The kind of a preset's quantizer."""
    quantizer = zoo.described(model)[1].quantizer
    return None if quantizer is None else quantizer.kind


def full(name: str, model: str, *, seed: int, frames: int = 17) -> tuple[Recipe, Recipe]:
    """VidTok's two published stages of `model`, for a GPU; 16 frames where it is not causal."""
    stages = []
    for stage in (vidtok_stage1(), vidtok_stage2()):
        windows = tuple(replace(w, frames=frames) for w in stage.data.windows)
        judged = Window(frames=frames, size=256, batch=24)
        data = replace(stage.data, windows=windows, validation=judged)
        loop = replace(stage.loop, seed=seed)
        stages.append(replace(stage, name=name, model=model, data=data, loop=loop))
    return stages[0], stages[1]


def shortened(recipe: Recipe, steps: int, *, points: int | None = None) -> Recipe:
    """The same recipe in `steps` steps, and what changes on the way in proportion to them.

    With `points`, it is validated so many times; else as often as before.
    """
    loop, before = recipe.loop, recipe.loop.schedule.steps
    scaled = lambda step: max(1, round(step * steps / before))
    every = scaled(loop.validate_every) if points is None else max(1, steps // points)
    windows = tuple(
        replace(w, since=scaled(w.since) if w.since else 0, until=w.until and scaled(w.until))
        for w in recipe.data.windows
    )
    losses = recipe.losses
    if losses.motion is not None:
        losses = replace(losses, motion=replace(losses.motion, until=scaled(losses.motion.until)))
    schedule = replace(loop.schedule, steps=steps)
    return replace(
        recipe,
        losses=losses,
        data=replace(recipe.data, windows=windows),
        loop=replace(loop, schedule=schedule, validate_every=every),
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a study's table; `published` is the paper's line that stands beside it.

    `follow`: every validation scores the held-out clips as `judge` says, and keeps each one's
    scores (points.py).
    """

    name: str
    stages: tuple[Recipe, ...]
    judge: Judge
    published: str | None = None
    follow: bool = False


# ---------------------------------------------------------------- a study


@dataclass(frozen=True, kw_only=True)
class Study:
    """A claim of a paper to test: which rows, how many seeds, which published tables beside them.

    `rows(setting, seed)` gives the lines. `columns` are those of the table. `fits` picks the clips
    that all rows can use. `draw(lab, results)` draws the figure and what else there is to see.
    `more(lab, result)` are scores that take more than judging; `simulated` is what the setting
    "push" runs.
    """

    name: str
    title: str
    published: tuple[str, ...]
    rows: Callable[[str, int], list[Row]]
    seeds: int
    columns: tuple[str, ...]
    fits: Callable[[Clip], bool] = lambda clip: True
    draw: Callable[["Lab", "list[Result]"], None]
    more: Callable[["Lab", "Result"], Scores] = lambda lab, result: {}
    simulated: "Study | None" = None


@dataclass(kw_only=True)
class Result:
    """What one row came to with one seed: scores and costs; its stages' folders and TFLOP.

    `points` are the scores of every held-out clip during training, where the row is followed.
    """

    row: Row
    seed: int
    scores: Scores
    stages: list[tuple[Path, float]]
    points: Points = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the trained model lies."""
        return self.stages[-1][0]


@dataclass(kw_only=True)
class Lab:
    """Where a study runs: its data (opened once), its folder, its device."""

    study: Study
    data: Path
    out: Path
    setting: str
    device: str | None = None
    steps: int | None = None
    opened: dict[Clip, ClipFrames] = field(default_factory=dict)
    seen: dict[Judge, Seen] = field(default_factory=dict)

    def source(self, recipe: Recipe) -> ClipSource:
        """The clips as a recipe draws them; they are opened at the first call."""
        if not self.opened:
            opened, broken = open_clips(
                find_clips(self.data), recipe.data, cache=cache_folder("decoded")
            )
            for bad in broken:
                print(f"left out: {bad}", flush=True)
            self.opened = {clip: f for clip, f in opened.items() if self.study.fits(clip)}
        return ClipSource(self.opened, recipe.data, seed=recipe.loop.seed)

    def measure(self, row: Row, seed: int) -> Result:
        """Train what is not trained yet, judge what is not judged yet."""
        chain, folder, spent, stages = "", None, Scores(), []
        for stage in row.stages:
            recipe = shortened(stage, self.steps) if self.steps else stage
            chain = hashlib.sha256((chain + as_json(recipe)).encode()).hexdigest()
            if folder is not None:
                recipe = replace(recipe, model=str(folder / "model"), start="trained")
            folder = self.out / "runs" / f"{recipe.name.replace(' ', '-')}-{chain[:8]}"
            cost = self.trained(recipe, folder, row)
            spent = {k: cost[k] + spent[k] for k in cost if k in spent} if spent else cost
            stages.append((folder, cost["tflop"]))
        assert folder is not None
        scores = self.judged(row, recipe, folder)
        points, scores = read_points(folder), {**spent, **scores}
        result = Result(row=row, seed=seed, scores=scores, stages=stages, points=points)
        result.scores |= self.study.more(self, result)
        return result

    def clear(self) -> set[str]:
        """The names of the clips that may be shown: those the manifest marks `clear=yes`."""
        listed = self.data / "manifest.csv"
        if not listed.is_file():
            return set()
        with listed.open(newline="", encoding="utf-8") as file:
            return {r["file"] for r in csv.DictReader(file) if r.get("clear") == "yes"}

    def trained(self, recipe: Recipe, folder: Path, row: Row) -> Scores:
        """Train a stage, or go on with it, or find it done; what it cost."""
        done = folder / "cost.json"
        if done.is_file():
            return json.loads(done.read_text())
        resume = bool(find_checkpoints(folder))
        if not resume and folder.exists():
            shutil.rmtree(folder)  # it was stopped before its first checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(as_json(recipe))
        source, began = self.source(recipe), time.process_time()
        with init_distributed(self.device) as at:
            model = build_model(recipe)
            require_groups(recipe, model)
            task: Any = reconstruction()(model, recipe, source)
            if row.follow:
                seen = self.shown(row.judge, recipe)
                task.validate = record_points(model, seen, row.judge, folder)
            task.to(at.device)
            flops = count_flops(task, recipe, at.device)
            loader = Loader(source)
            spent, before = folder / "processor_s.txt", 0.0
            if spent.is_file():
                before = float(spent.read_text())
            try:
                run_task(task, loader, recipe.loop, out=folder, resume=resume, at=at)
            finally:  # also where it was asked to stop, and will go on
                loader.close()
                spent.write_text(f"{before + time.process_time() - began:.1f}")
        steps = recipe.loop.schedule.steps
        cost = {"tflop": flops * steps / 1e12, "clock_s": clock(folder, steps)}
        cost["processor_s"] = float(spent.read_text())
        done.write_text(json.dumps(cost))
        return cost

    def shown(self, how: Judge, recipe: Recipe) -> Seen:
        """What a judge looks at; found once."""
        if how not in self.seen:
            self.seen[how] = look(self.source(recipe), how)
        return self.seen[how]

    def judged(self, row: Row, recipe: Recipe, folder: Path) -> Scores:
        """The scores of the last stage's mean weights, kept beside it."""
        key = hashlib.sha256(repr(row.judge).encode()).hexdigest()[:8]
        kept = folder / f"scores-{key}.json"
        if not kept.is_file():
            model = zoo.load(folder / "model")
            device = pick_device(self.device or "auto")
            found = judge(model.to(device), self.shown(row.judge, recipe), row.judge, device)
            kept.write_text(json.dumps(found))
        return json.loads(kept.read_text())


def clock(folder: Path, steps: int) -> float:
    """Seconds on the clock that the steps of a run took, from its log."""
    lines = [line for line in read_lines(folder / "log.jsonl") if "seconds" in line]
    edges = [0, *(line["step"] for line in lines)]
    return sum(
        line["seconds"] * (line["step"] - before)
        for line, before in zip(lines, edges, strict=False)
        if line["step"] <= steps
    )


def count_flops(task: Any, recipe: Recipe, device: torch.device) -> float:
    """Floating-point operations of one training step: forward and backward, no optimizer."""
    window = recipe.data.windows[0]
    frozen = [p for name, p in task.parameters().named_parameters() if is_frozen(name, recipe)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    x = torch.zeros(1, 3, window.frames, window.size, window.size, device=device)
    with flop_counter() as counter:
        task.loss(ClipBatch(x=x, names=("",), groups=("",)), 0, None).total.backward()
    task.parameters().zero_grad(set_to_none=True)
    return counter.get_total_flops() * window.batch


def is_frozen(name: str, recipe: Recipe) -> bool:
    return any(f".{part}." in f".{name}" for part in recipe.loop.freeze)
