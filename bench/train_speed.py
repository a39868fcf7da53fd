"""What does the training loop cost? Steps per second and memory against a plain eager loop.

    python bench/train_speed.py --data CLIPS [--steps 6] [--set data.windows.0.batch=2 ...]

The same model (the default), batches and losses in turn: a plain loop (forward, backward, AdamW),
and the loop of `reeltok train` with AdamW, with mean weights, with Muon. Seconds are the
processor's; each way's peak memory comes from a process of its own. `waiting` is the share of the
clock that a real run spent on waiting for data.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from machine import describe, peak_mib

from reeltok.recipes import find_recipe
from reeltok.train import Recipe, change, train
from reeltok.train.build import build_model
from reeltok.train.clips import ClipBatch
from reeltok.train.launch import reconstruction
from reeltok.train.logbook import read_lines
from reeltok.train.loop import train_step
from reeltok.train.run import Run

WAYS = ("plain", "loop", "loop, mean weights", "loop, mean weights, Muon")


def recipe_of(way: str, recipe: Recipe) -> Recipe:
    kind = "muon" if "Muon" in way else "adamw"
    optimizer = replace(recipe.loop.optimizer, kind=kind)
    ema = recipe.loop.ema if "mean" in way else None
    return replace(recipe, loop=replace(recipe.loop, optimizer=optimizer, ema=ema))


def stepper(way: str, recipe: Recipe) -> Callable[[ClipBatch], object]:
    """One step of a way."""
    recipe = recipe_of(way, recipe)
    task = reconstruction()(build_model(recipe), recipe, None)
    if way != "plain":
        run = Run(task, recipe.loop)
        return lambda batch: train_step(run, batch)
    weights = list(task.parameters().parameters())
    optimizer = torch.optim.AdamW(weights, lr=recipe.loop.optimizer.lr)

    def step(batch: ClipBatch) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = task.loss(batch, 10_000, None).total
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def noise(recipe: Recipe) -> ClipBatch:
    window = recipe.data.windows[0]
    x = torch.rand(window.batch, 3, window.frames, window.size, window.size) * 2 - 1
    return ClipBatch(x=x, names=("",) * window.batch, groups=("",) * window.batch)


def seconds(recipe: Recipe, steps: int) -> dict[str, list[float]]:
    """Processor seconds of every step of every way, in turn; the first turn does not count."""
    ways, batch = {way: stepper(way, recipe) for way in WAYS}, noise(recipe)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(steps + 1):
        for way, step in ways.items():
            began = time.process_time()
            step(batch)
            if turn:
                found[way].append(time.process_time() - began)
    return found


def waiting(recipe: Recipe, data: str, steps: int) -> float:
    """The share of a real run's time that went into waiting for batches."""
    short = replace(recipe.loop, schedule=replace(recipe.loop.schedule, steps=2 * steps))
    recipe = replace(recipe, loop=replace(short, log_every=1, validate_every=10**9))
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, data=data, out=Path(folder) / "run", device="cpu")
        lines = [line for line in read_lines(Path(folder) / "run" / "log.jsonl") if "loss" in line]
    return sum(line["waited"] for line in lines[2:]) / sum(line["seconds"] for line in lines[2:])


def peak(way: str, recipe: Recipe) -> None:
    step, batch = stepper(way, recipe), noise(recipe)
    for _ in range(2):
        step(batch)
    print(peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--set", nargs="*", default=[], dest="changes")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    changes = {"settings.quantizer.rounding_from": "0", "losses.l1_steps": "0"}
    changes |= dict(entry.split("=", 1) for entry in options.changes)
    recipe = change(find_recipe("default_cpu"), changes)
    if options.peak:
        peak(options.peak, recipe)
        return
    found = seconds(recipe, options.steps)
    rows = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--peak", way, "--set", *options.changes]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        pairs = zip(found["plain"], found[way], strict=True)
        rows[way] = {
            "seconds": round(statistics.median(found[way]), 3),
            "speed to plain": round(statistics.median(a / b for a, b in pairs), 3),
            "peak MiB": int(said),
        }
    report = {"machine": describe(), "window": repr(recipe.data.windows[0]), "ways": rows}
    if options.data:
        report["waiting"] = round(waiting(recipe, options.data, options.steps), 4)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
