"""Does memory grow with a video's length, or with its size?

    python bench/memory.py [--frames 64 256 1024] [--size 128] [--model default]
    python bench/memory.py --sizes 64x64 1080x1920 [--works encode decode reconstruct]
        [--whole 12] [--frames 9] [--model default] [--out docs/memory.json]

By length: peak of encode + decode as streams. Every length runs in a process of its own: frames are
made one chunk at a time, encoded and decoded, and thrown away. The ratio is to the shortest; flat
means within 5 %.

By size (height x width): peak and processor seconds of whole commands without any option, in GB
(10^9 bytes), and what they say of their budget. `--whole`: each also with so many GB, in which
frames are not cut; the ratio of seconds is to that.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import describe, peak_mib

import reeltok
from reeltok.video.record import Video

CHUNK = 16
WORKS = ("encode", "decode", "reconstruct")
NOISE = 4  # levels, so that files are as large as those of cameras
NOTE = re.compile(r"strips of (\d+) pixels to stay within ([\d.]+) GB")
WAIT = re.compile(r"([\d.]+) GB wait in a temporary file")


def made(frames: int, size: int) -> Iterator[Video]:
    """Moving noise, a chunk at a time."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=generator)
    for start in range(0, frames, CHUNK):
        count = min(CHUNK, frames - start)
        yield Video(torch.stack([still.roll(start + i, 0) for i in range(count)]), fps=24.0)


def run(model: str, frames: int, size: int) -> None:
    warnings.simplefilter("ignore")
    tok = reeltok.load(model, weights="random")
    shown = sum(len(part) for part in tok.stream_decode(tok.stream_encode(made(frames, size))))
    assert shown == frames
    print(peak_mib())


def by_length(options: argparse.Namespace) -> dict[str, Any]:
    peaks = {}
    for frames in options.frames or [64, 256, 1024]:
        command = [sys.executable, __file__, "--run", str(frames), "--size", str(options.size)]
        command += ["--model", options.model]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[frames] = int(done.stdout)
    first = next(iter(peaks.values()))
    return {n: {"peak MiB": round(p), "ratio": round(p / first, 4)} for n, p in peaks.items()}


def shown(frames: int, height: int, width: int) -> Iterator[Video]:
    """A smooth picture that moves, with noise, a frame at a time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 9, 16, generator=generator) * 255
    size = (height + 2 * frames, width)
    still = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0)
    for i in range(frames):
        noise = NOISE * torch.randn(height, width, 3, generator=generator)
        frame = (still[2 * i : 2 * i + height] + noise).clamp(0, 255).round().byte()
        yield Video(frame[None], fps=24.0)


def command(arguments: list[str]) -> dict[str, Any]:
    """Peak, processor seconds and notes of one command."""
    full = [sys.executable, "-m", "reeltok", *arguments, "--force"]
    started = subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    said = started.stderr.read()
    _, status, used = os.wait4(started.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(full)}: {said}")
    strips, wait = NOTE.search(said), WAIT.search(said)
    seconds = round(used.ru_utime + used.ru_stime, 2)
    found: dict[str, Any] = {"peak GB": round(used.ru_maxrss * 1024 / 1e9, 3), "s": seconds}
    if strips:
        found |= {"strips": int(strips[1]), "told GB": float(strips[2])}
    return found | ({"in a file GB": float(wait[1])} if wait else {})


def by_size(options: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    frames = (options.frames or [9])[0]
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            clip, reel, out = (str(Path(folder) / n) for n in ("a.mp4", "a.reel", "b.mp4"))
            reeltok.write(shown(frames, height, width), clip)
            model = ["--model", options.model]
            ways = {
                "encode": ["encode", clip, reel, *model],
                "decode": ["decode", reel, out],
                "reconstruct": ["reconstruct", clip, out, *model],
            }
            if "encode" not in options.works:
                command(ways["encode"])
            for work in options.works:
                row = rows[f"{work} {size}, {frames} frames"] = command(ways[work])
                if options.whole:
                    whole = command([*ways[work], "--memory", str(options.whole)])
                    row |= {f"{key}, whole": whole[key] for key in ("peak GB", "s")}
                    row["s, ratio"] = round(row["s"] / whole["s"], 3)
                print(work, size, row, file=sys.stderr, flush=True)
                keep(options, "size", rows)
    return rows


def keep(options: argparse.Namespace, way: str, rows: dict[str, Any]) -> None:
    """Write rows to the record that was asked for, beside others that it holds, of any machine.

    Rows that do not name their machine are of the one that the record names.
    """
    if options.out is None:
        return
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    machine = describe()
    part = result.setdefault(options.model, {}).setdefault(way, {})
    part |= {str(name): {**row, "machine": machine} for name, row in rows.items()}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--sizes", nargs="+", help="by size: heights x widths in pixels")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--whole", type=float, help="GB in which frames are not cut")
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, help="JSON to write; other rows that it holds stay")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.model, options.run, options.size)
        return
    rows = by_size(options) if options.sizes else by_length(options)
    keep(options, "size" if options.sizes else "frames", rows)
    print(json.dumps({"machine": describe(), "model": options.model, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
