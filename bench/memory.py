"""Does memory grow with the length of a video? Peak of encode + decode by the default, as ratios.

    python bench/memory.py [--frames 64 256 1024] [--size 128] [--model default]

Every length runs in a process of its own: frames are made one chunk at a time, encoded and decoded
as streams, and thrown away. The ratio is to the shortest; flat means within 5 %.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator

import torch
from machine import describe, peak_mib

import reeltok
from reeltok.video.record import Video

CHUNK = 16


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--model", default="default")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.model, options.run, options.size)
        return
    peaks = {}
    for frames in options.frames:
        command = [sys.executable, __file__, "--run", str(frames), "--size", str(options.size)]
        command += ["--model", options.model]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[frames] = int(done.stdout)
    first = peaks[options.frames[0]]
    rows = {n: {"peak MiB": round(p), "ratio": round(p / first, 4)} for n, p in peaks.items()}
    print(json.dumps({"machine": describe(), "model": options.model, "frames": rows}, indent=1))


if __name__ == "__main__":
    main()
