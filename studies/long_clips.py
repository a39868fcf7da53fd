"""CoordTok's figure 1 and table 3: memory of training on long clips, and what 128 frames cost.

    python studies/long_clips.py [--frames 16 32 64 128 256] [--size 64] [--out FOLDER]

Every measurement runs in a process of its own, on noise and random weights: one training step
(forward and backward) of one clip, or one sample of 128 frames. Memory is the peak above what the
process held before the step. On a GPU it is that of the device.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from display import finish
from matplotlib.figure import Figure

from reeltok import load
from reeltok.devices import describe_machine, peak_memory, pick_device, reset_peak_memory
from reeltok.evaluate.published import PUBLISHED
from reeltok.generate import flow, masked, sit
from reeltok.generate.latents import FlowTask, Latents, measure_moments
from reeltok.generate.prior import Prior
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.coordtok.sizes import COMPACT, PRESETS
from reeltok.train.clips import ClipBatch
from reeltok.train.patches import PatchConfig, Patches
from reeltok.train.reconstruct import LossConfig, Reconstruct

PATCHES = 256  # asked of a clip in a training step: an eighth of 32 frames of 64 pixels
WAYS = ("CoordTok, random patches", "CoordTok, whole clip", "VidTok, whole clip")
CELLS = (1280, 3072, 8192)
SIT = {"width": 192, "depth": 6, "heads": 6}  # as recipe `sit_cpu`
SAMPLERS = ("SiT on planes, 250 steps", "SiT on planes, 50 steps (Heun)", "prior, 9 blocks of 16")


def step_of(way: str, frames: int, size: int) -> Callable[[], object]:
    """A training step on one clip, ready to be taken."""
    x = torch.rand(1, 3, frames, size, size) * 2 - 1
    if way.startswith("VidTok"):
        task = Reconstruct(load("default", weights="random").train(), LossConfig(pixel="l2"))
        x = torch.cat([x, x[:, :, :1]], dim=2)  # the first frame stands alone
    else:
        config = replace(COMPACT, size=(frames, size, size))
        share = PATCHES / (frames * (size // 8) ** 2) if "random" in way else 1.0
        task = Patches(CoordTok(config).train(), PatchConfig(share=share))
    batch = ClipBatch(x=x, names=("",), groups=("",))
    return lambda: task.loss(batch, 0, torch.Generator().manual_seed(0)).total.backward()


def flow_step(cells: int) -> Callable[[], object]:
    """A training step of the transformer on four clips of so many cells."""
    with torch.device("meta"):
        tokenizer = CoordTok(PRESETS[f"coordtok_s_{cells}"])
    config = flow.config_for(CoordTok(tokenizer.config), **SIT)
    latents = Latents(torch.randn(4, config.channels, config.cells), torch.zeros(4).long())
    task = FlowTask(sit.Flow(replace(config, statistics=measure_moments(latents, config))))
    return lambda: task.loss(latents, 0, torch.Generator().manual_seed(0)).total.backward()


def sample_of(way: str) -> Callable[[], object]:
    """128 frames of 64 pixels out of noise, decoded."""
    if way.startswith("SiT"):
        planes = load("coordtok-default", weights="random")
        config = flow.config_for(planes, **SIT)
        some = Latents(torch.randn(8, config.channels, config.cells), torch.zeros(8).long())
        model = sit.Flow(replace(config, statistics=measure_moments(some, config))).eval()
        steps, sampler = (50, "heun") if "Heun" in way else (250, "euler-maruyama")
        options = {"steps": steps, "sampler": sampler}
        return lambda: planes.decode(flow.generate(model, planes, **options), slices=16)
    tok = load("reftok-robot", weights="random")
    prior = Prior(
        masked.config_for(tok, frames=15, size=(64, 64), width=256, depth=6, heads=8)
    ).eval()
    first = torch.zeros(1, 3, 1, 64, 64)
    return lambda: sum(part.shape[2] for part in masked.roll_out(prior, tok, first, clips=9))


def taken(act: Callable[[], object]) -> dict[str, float]:
    """Seconds and MiB of one call."""
    device = pick_device("auto")
    reset_peak_memory(device)
    before, began = peak_memory(device), time.process_time()
    act()
    grown = max(0, peak_memory(device) - before)
    return {"processor_s": time.process_time() - began, "mib": grown / 2**20}


def apart(*words: str) -> dict[str, float]:
    """One measurement in a fresh process; {} where it ran out of memory or time."""
    command = [sys.executable, __file__, "--one", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{words}: {(error.stderr or str(error))[-300:]}", flush=True)
        return {}
    print(words, done.stdout.strip(), flush=True)
    return json.loads(done.stdout)


def one(words: list[str], size: int) -> None:
    """What a fresh process is asked for: `step WAY FRAMES`, `flow CELLS` or `sample WAY`."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    kind, *rest = words
    made = {
        "step": lambda: step_of(rest[0], int(rest[1]), size),
        "flow": lambda: flow_step(int(rest[0])),
        "sample": lambda: torch.inference_mode()(sample_of(rest[0])),
    }[kind]()
    print(json.dumps(taken(made)))


def said(found: dict[str, float], key: str, digits: int) -> str:
    return f"{found[key]:,.{digits}f}" if found else "failed"


def tables(record: dict[str, dict[str, dict[str, float]]], frames: list[int]) -> str:
    """Three tables in Markdown."""
    lines = ["| a training step of one clip, MiB | " + " | ".join(map(str, frames)) + " frames |"]
    lines += ["|---" * (len(frames) + 1) + "|"]
    for way in WAYS:
        cells = [said(record["step"][f"{way} {n}"], "mib", 0) for n in frames]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| a training step of the transformer, 4 clips | MiB | processor s |",
        "|---|---|---|",
    ]
    for cells in CELLS:
        found = record["flow"][str(cells)]
        lines.append(
            f"| {cells:,} cells | {said(found, 'mib', 0)} | {said(found, 'processor_s', 2)} |"
        )
    lines += ["", "| 128 frames of 64x64 | MiB | processor s |", "|---|---|---|"]
    for way in SAMPLERS:
        found = record["sample"][way]
        lines.append(f"| {way} | {said(found, 'mib', 0)} | {said(found, 'processor_s', 1)} |")
    published = PUBLISHED["coordtok-3"]
    lines += [
        "",
        f"Published ({published.source}; one 128-frame sample of 128x128 on an RTX 4090):",
    ]
    lines += [
        f"{row.model} {row.values['seconds']:g} s, {row.values['gb']:g} GB;"
        for row in published.rows
    ]
    return "\n".join(lines) + "\n"


def draw(record: dict[str, dict[str, float]], frames: list[int], target: Path) -> None:
    """Peak memory against the length of the clip."""
    figure = Figure(figsize=(5, 3), dpi=80)
    axes = figure.subplots()
    for way in WAYS:
        found = [(n, record[f"{way} {n}"].get("mib")) for n in frames]
        known = [(n, mib) for n, mib in found if mib is not None]
        axes.plot(*zip(*known, strict=True), marker="o", ms=3, label=way)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("frames of a clip", fontsize=8)
    axes.set_ylabel("peak memory of a step, MiB", fontsize=8)
    axes.legend(fontsize=7)
    finish(figure, [axes], target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/studies/long_clips"))
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one, asked.size)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    record = {
        "step": {f"{way} {n}": apart("step", way, str(n)) for way in WAYS for n in asked.frames},
        "flow": {str(cells): apart("flow", str(cells)) for cells in CELLS},
        "sample": {way: apart("sample", way) for way in SAMPLERS},
    }
    text = tables(record, asked.frames)
    draw(record["step"], asked.frames, asked.out / "long_clips.png")
    whole = {"machine": describe_machine(), **record}
    (asked.out / "record.json").write_text(json.dumps(whole, indent=1) + "\n")
    (asked.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
