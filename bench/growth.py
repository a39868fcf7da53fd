"""What does more work cost? Seconds, memory and bytes against the amount of work, with slopes.

    python bench/growth.py [PART ...] [--model default] [--out docs/growth.json]

Parts: frames, sizes, batch, reel, report, train, checkpoint; all without one. Inputs are synthetic.
Every amount runs in a process of its own, which keeps freed memory as commands do; seconds are its
processor seconds, without what it takes to start. A slope is that of the line through the
logarithms (1: twice the work, twice the cost), once through all amounts and once through the two
largest, where what is constant weighs least.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import CPU, describe, forget_peak, peak_mib
from torch import Tensor

import reeltok
from reeltok.allocator import suit_commands
from reeltok.evaluate.candidates.own import open_own
from reeltok.evaluate.protocols import Protocol
from reeltok.evaluate.report.build import Media, write_report
from reeltok.evaluate.run import evaluate
from reeltok.models.presets import PRESETS
from reeltok.models.vidtok.network import VidTok
from reeltok.parallel import Rank
from reeltok.recipes import find_recipe
from reeltok.tokenizer.packing import packing_for
from reeltok.tokens.header import SEGMENT
from reeltok.tokens.packing.model import PackingModel
from reeltok.tokens.packing.segments import Packer
from reeltok.tokens.reel import Reel, ReelWriter
from reeltok.train.checkpoint import Saver, find_checkpoints
from reeltok.train.clips import Window
from reeltok.train.data import ClipSource
from reeltok.train.launch import open_clip_source, reconstruction
from reeltok.train.run import LoopConfig, Run
from reeltok.transcode import decode_file, encode_file
from reeltok.transcode.facts import reel_facts
from reeltok.video.record import Video

FPS = 24
HOUR = 3600 * FPS  # frames
SMALL, TINY = 64, 32  # pixels a side
RANGE = 17  # frames decoded from the middle of a file
JUDGED = Protocol(
    name="growth", data="synthetic", source="this project", frames=5, metrics=("psnr", "ssim")
)
Costs = dict[str, float]


# ---------------------------------------------------------------- inputs and clocks


def moving(frames: int, height: int, width: int) -> Iterator[Video]:
    """A still that moves, 16 frames at a time."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, 8, 8, generator=generator)
    still = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")[0]
    still = (still.clamp(0, 1).permute(1, 2, 0) * 255).to(torch.uint8)
    for start in range(0, frames, 16):
        stop = min(frames, start + 16)
        yield Video(torch.stack([still.roll(i, 1) for i in range(start, stop)]), fps=float(FPS))


@contextmanager
def clocked(costs: Costs, name: str) -> Iterator[None]:
    """The processor seconds of what is done inside, under `name`."""
    began = time.process_time()
    yield
    costs[f"{name}, s"] = round(time.process_time() - began, 4)


def bytes_read() -> int:
    """Bytes that this process has read from files (Linux; elsewhere 0)."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["rchar"])


def open_files() -> int:
    """Files that this process holds open (Linux; elsewhere 0)."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@torch.no_grad()
def awake(model: str) -> Any:
    """A tokenizer whose kernels were used once."""
    tokenizer = reeltok.load(model)
    tokenizer.decode(tokenizer.encode(torch.zeros(1, 3, 9, SMALL, SMALL)))
    return tokenizer


# ---------------------------------------------------------------- the parts


def code_video(model: str, folder: Path, frames: int, height: int, width: int) -> Costs:
    """`encode_file` and `decode_file` of one video, as commands call them."""
    film, reel, costs = folder / "film.mp4", folder / "film.reel", Costs()
    reeltok.write(moving(frames, height, width), film, preset="ultrafast")
    tokenizer = awake(model)
    for name, work in {
        "encode": lambda: encode_file(tokenizer, film, reel),
        "decode": lambda: decode_file(tokenizer, reel, folder / "again.mp4"),
    }.items():
        forget_peak()
        with clocked(costs, name):
            work()
        costs[f"{name}, MiB"] = peak_mib()
    return costs | {"file, bytes": reel.stat().st_size}


def frames(model: str, folder: Path, work: int) -> Costs:
    """Videos of more and more frames of 64x64."""
    return code_video(model, folder, work, SMALL, SMALL)


def sizes(model: str, folder: Path, work: tuple[int, int]) -> Costs:
    """Five frames, of more and more pixels."""
    height, width = work
    return code_video(model, folder, 5, height, width)


@torch.no_grad()
def batch(model: str, folder: Path, work: int) -> Costs:
    """Several clips of 17x64x64 at once."""
    tokenizer, costs = awake(model), Costs()
    x = torch.cat([part.tensor() for part in moving(17, SMALL, SMALL)], dim=2)
    forget_peak()
    with clocked(costs, "encode"):
        tokens = tokenizer.encode(x.repeat(work, 1, 1, 1, 1))
    with clocked(costs, "decode"):
        tokenizer.decode(tokens)
    return costs | {"MiB": peak_mib()}


def reel(model: str, folder: Path, work: int) -> Costs:
    """.reel files of so many frames: their header, and 17 frames from the middle.

    Plain ones, such whose rate varies (a time for each frame), and packed ones.
    """
    tokenizer, costs, place = awake(model), Costs(), folder / "file.reel"
    for kind in ("plain", "times", "packed"):
        packing = packing_for(tokenizer) if kind == "packed" else None
        write_ids(tokenizer, place, work, varying=kind == "times", packing=packing)
        before = bytes_read()
        with clocked(costs, f"{kind}: header"):
            reel_facts(place)
        read = bytes_read()
        costs[f"{kind}: header, bytes read"] = read - before
        with clocked(costs, f"{kind}: range"), Reel(place) as opened:
            stop = work // 2 + RANGE
            decode_file(tokenizer, opened, folder / "part.mkv", start=work // 2, stop=stop)
        costs[f"{kind}: range, bytes read"] = bytes_read() - read
        costs[f"{kind}: file, bytes"] = place.stat().st_size
    return costs


class Repeated(Packer):
    """Packs one segment, and gives its bytes again for all others of its shape."""

    shape: tuple[int, ...] = ()
    data = b""

    def pack(self, ids: Tensor) -> bytes:
        if tuple(ids.shape) != self.shape:
            self.shape, self.data = tuple(ids.shape), super().pack(ids)
        else:
            self.ends.append(self.ends[-1] + len(self.data))
        return self.data


def write_ids(
    tokenizer: Any, place: Path, frames: int, *, varying: bool, packing: PackingModel | None
) -> None:
    """A file of ids that nothing encoded, as of a video of `frames` frames of 32x32."""
    pixels = torch.cat([part.frames for part in moving(5, TINY, TINY)])
    like = tokenizer.encode(Video(pixels, fps=float(FPS)))
    steps, rows, columns = tokenizer.grid_for(frames, (TINY, TINY))
    generator = torch.Generator().manual_seed(0)
    shape = (1, SEGMENT, rows, columns)
    segment = torch.randint(0, like.vocabulary, shape, generator=generator)
    with ReelWriter(place) as writer:
        writer.packer = None if packing is None else Repeated(packing)
        for first in range(0, steps, SEGMENT):
            last = min(steps, first + SEGMENT)
            begin, end = (frames * each // steps for each in (first, last))
            ids = segment[:, : last - first]
            times = torch.arange(begin, end, dtype=torch.float64) / FPS if varying else None
            what = {"ids": ids, "latents": None, "grid": tuple(ids.shape[1:]), "times": times}
            writer.write(replace(like, frames=end - begin, **what))


def report(model: str, folder: Path, work: int) -> Costs:
    """Judge so many clips of 5x32x32, and write the page with their videos."""
    clips, out, costs = folder / "clips", folder / "report", Costs()
    clips.mkdir()
    write_clip(clips / "00000.mp4", frames=5)
    copy_clips(clips, work)
    candidate, media = open_own(model), Media(out)
    awake(model)
    with clocked(costs, "judge"):
        keep = media.keep(candidate)
        result = evaluate(candidate, clips, protocol=JUDGED, work=folder / "work", keep=keep)
    with clocked(costs, "again"):
        evaluate(candidate, clips, protocol=JUDGED, work=folder / "work", keep=keep)
    with clocked(costs, "page"):
        page = write_report(out, [result], media)
    return costs | {"page, bytes": page.stat().st_size, "MiB": peak_mib()}


def write_clip(place: Path, frames: int) -> None:
    reeltok.write(moving(frames, TINY, TINY), place, preset="ultrafast")


def copy_clips(folder: Path, count: int) -> None:
    """Further names of the clip in a folder."""
    for number in range(1, count):
        os.link(folder / "00000.mp4", folder / f"{number:05d}.mp4")


def train(model: str, folder: Path, work: int) -> Costs:
    """What training does before its first step, with so many clips of 9x32x32."""
    clips, costs = folder / "clips", Costs()
    os.environ["REELTOK_CACHE"] = str(folder / "cache")
    clips.mkdir()
    write_clip(clips / "00000.mp4", frames=9)
    copy_clips(clips, work)
    window = Window(frames=9, size=TINY, batch=8)
    recipe = find_recipe("default_cpu")
    data = replace(recipe.data, windows=(window,), validation=window, weights={}, other=1.0)
    recipe, at = replace(recipe, data=data), Rank(device=CPU)
    source = None
    for name in ("open", "open again"):
        del source
        with clocked(costs, name):
            source = open_clip_source(recipe, clips, folder, at)
    assert isinstance(source, ClipSource)
    with clocked(costs, "a batch of 8"):
        source.batch(0)
    return costs | {"MiB": peak_mib(), "files held open": open_files()}


def checkpoint(model: str, folder: Path, work: int) -> Costs:
    """A run of the default's network with blocks of so many channels: its checkpoint."""
    costs, config = Costs(), PRESETS["default"][1]
    network = VidTok(replace(config, width=work), "growth")
    run = Run(reconstruction()(network, find_recipe("default_cpu"), None), LoopConfig(ema=0.9))
    for weight in run.model.parameters():
        weight.grad = torch.zeros_like(weight)
    run.optimizer_step("model")
    saver = Saver(folder)
    with clocked(costs, "save"):
        saver.save(0, run.tensors(), run.numbers())
    found = find_checkpoints(folder)[-1]
    with clocked(costs, "load"):
        run.load(found)
    size = sum(file.stat().st_size for file in found.folder.iterdir())
    count = sum(weight.numel() for weight in network.parameters())
    return {"work": count} | costs | {"bytes": size, "MiB": peak_mib()}


@dataclass(frozen=True)
class Part:
    """What grows, in which unit, and by which amounts: numbers, or heights and widths."""

    measure: Callable[[str, Path, Any], Costs]
    unit: str
    amounts: tuple[int, ...] | tuple[tuple[int, int], ...]


SIZES = ((64, 64), (128, 128), (256, 256), (512, 512), (720, 1280), (1080, 1920))
PARTS = {
    "frames": Part(frames, "frames", (17, 65, 257, 1000, 2000)),
    "sizes": Part(sizes, "pixels", SIZES),
    "batch": Part(batch, "clips", (1, 2, 4, 8)),
    "reel": Part(reel, "frames", (HOUR // 64, HOUR // 16, HOUR // 4, HOUR)),
    "report": Part(report, "clips", (25, 50, 100, 200)),
    "train": Part(train, "clips", (312, 1250, 5000, 20_000)),
    "checkpoint": Part(checkpoint, "parameters", (32, 64, 128, 256)),
}


# ---------------------------------------------------------------- slopes


def slopes(works: list[float], costs: list[float]) -> dict[str, float] | None:
    """The slope through all amounts and that of the last two; None where something cost nothing."""
    if min(costs) <= 0 or len(works) < 2:
        return None
    x, y = [math.log(work) for work in works], [math.log(cost) for cost in costs]
    line = statistics.linear_regression(x, y).slope
    return {"all": round(line, 2), "last": round((y[-1] - y[-2]) / (x[-1] - x[-2]), 2)}


def amount_row(amount: int | tuple[int, int]) -> Costs:
    """An amount as a row begins with it: of a height and a width, the pixels are the work."""
    if isinstance(amount, int):
        return {"work": amount}
    height, width = amount
    return {"work": height * width, "height": height, "width": width}


def grow(name: str, model: str) -> dict[str, Any]:
    """All amounts of a part, each in a process of its own, and the slopes of their costs."""
    part, rows, costs = PARTS[name], [], Costs()
    for amount in part.amounts:
        command = [sys.executable, __file__, name, "--model", model, "--run", json.dumps(amount)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        costs = json.loads(done.stdout.splitlines()[-1])
        rows.append(amount_row(amount) | costs)
        print(name, rows[-1], file=sys.stderr)
    works = [row["work"] for row in rows]
    found = {key: slopes(works, [row[key] for row in rows]) for key in costs if key != "work"}
    return {
        "unit": part.unit,
        "what": (part.measure.__doc__ or "").split("\n")[0],
        "rows": rows,
    } | {"slopes": {key: slope for key, slope in found.items() if slope is not None}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, help="JSON to write; parts that it holds stay there")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: choose of {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.run:
        suit_commands()
        with tempfile.TemporaryDirectory() as folder:
            costs = PARTS[options.parts[0]].measure(options.model, Path(folder), options.run)
        print(json.dumps(costs))
        return
    held = options.out is not None and options.out.exists()
    result = json.loads(options.out.read_text()) if held else {}
    for name in options.parts or PARTS:
        result[name] = {"machine": describe(), "model": options.model, **grow(name, options.model)}
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
