"""Does CoordTok's decoder in little memory cost time, and what do slices save?

    python bench/coordtok_speed.py [--frames 64] [--size s] [--out FILE.json]

Decodes a whole clip of 128x128 with random weights in three ways: `plain` (SDPA, every layer at
once), `fast` (what `decode` does: the same attention, projections and MLPs in chunks) and `slices`
(fast, 16 slices). Each runs in a process of its own, in turns, so that its peak memory is its own:
activations are the peak minus what the process held before the call. On a machine with other work
the ratios of CPU time say more than those of the clock. Writes JSON and prints it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

BARS = {"time": 1.0, "memory": 0.6, "error": 1e-4, "slices": 5.0}


def work(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement: seconds, bytes of activations; the pixels go to a file."""
    import torch

    from reeltok.devices import peak_memory
    from reeltok.models.coordtok.network import decode_box
    from reeltok.models.coordtok.sizes import PRESETS
    from reeltok.models.coordtok.triplane import TriplaneDecoder

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = PRESETS[f"coordtok_{arguments.size}_1280"]
    device = torch.device(arguments.device)
    decoder = TriplaneDecoder(config).to(device).eval()
    planes = {
        name: torch.randn(1, *grid, config.channels, device=device)
        for name, grid in config.grids.items()
    }

    def run(frames: int, slices: int) -> torch.Tensor:
        box = ((0, frames), (0, 128), (0, 128))
        return decode_box(
            decoder,
            planes,
            box,
            frames=frames,
            slices=slices,
            budget=None if way == "plain" else 64 * 2**20,
        )

    with torch.no_grad():
        run(max(1, arguments.frames // 16), 1)  # as long as a slice: kernels of its shapes wake up
        before = held(device)
        began, worked = time.perf_counter(), time.process_time()
        x = run(arguments.frames, 16 if way == "slices" else 1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    torch.save(x[:, :, :: max(1, arguments.frames // 8)].cpu(), arguments.pixels)
    return {"seconds": seconds, "cpu": cpu, "activations": peak_memory(device) - before}


def held(device: Any) -> int:
    """Bytes in use now, by this process or on its accelerator."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def spawn(way: str, pixels: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--pixels", str(pixels)]
    for name in ("frames", "size", "threads", "device"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements, the best of each way, and the ratios against `plain`."""
    import torch

    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "fast": [], "slices": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            for way, found in runs.items():
                found.append(spawn(way, Path(folder) / f"{way}.pt", arguments))
                print(way, found[-1], file=sys.stderr)
        plain, fast = (torch.load(Path(folder) / f"{way}.pt") for way in ("plain", "fast"))
    best = {way: min(run["seconds"] for run in found) for way, found in runs.items()}
    cpu = {way: min(run["cpu"] for run in found) for way, found in runs.items()}
    memory = {way: min(run["activations"] for run in found) for way, found in runs.items()}
    ratios = {
        "time": best["plain"] / best["fast"],
        "memory": memory["fast"] / memory["plain"],
        "error": (plain - fast).abs().max().item(),
        "slices": best["fast"] / best["slices"],
    }
    holds = {
        name: value >= BARS[name] if name in ("time", "slices") else value <= BARS[name]
        for name, value in ratios.items()
    }
    return {
        "machine": describe(),
        **{name: getattr(arguments, name) for name in ("size", "frames", "threads", "repeats")},
        "seconds": best,
        "cpu_seconds": cpu,
        "cpu_ratios": {"time": cpu["plain"] / cpu["fast"], "slices": cpu["fast"] / cpu["slices"]},
        "activations_mib": {way: round(value / 2**20, 1) for way, value in memory.items()},
        "ratios": ratios,
        "bars": BARS,
        "holds": holds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", default="s", choices=("s", "b", "l"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--pixels", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(work(arguments.way, arguments)))
        return
    report = json.dumps(compare(arguments), indent=2)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(report + "\n")
    print(report)


if __name__ == "__main__":
    main()
