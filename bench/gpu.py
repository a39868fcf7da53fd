"""What a GPU makes of it: speed against diffusers, streaming steps, data sets, training, memory.

    python bench/gpu.py [--parts vidtok stream corpus train memory] [--rounds 10] [--out FILE]

Without a GPU everything is so small that a processor rehearses it in minutes.
Each part runs in a process of its own and is written to `--out` as soon as it is there, so that one
that fails, or a machine that is taken back, costs no other. Times are medians of `--rounds`, after
two calls that do not count, with the device waited for. All weights are random but the default's.

- vidtok: VidTok v1.1 4x8x8 on 17 frames of 256x256, as it is and compiled, in bfloat16 and
  float16, against diffusers with the same weights in the same way; errors are to its float32.
- stream: the default's streaming steps on 256x256, eager and replayed as a CUDA graph.
- corpus: clips per second of `reeltok corpus build`, one encoder, and the share outside it.
- train: steps per second and memory of `default_gpu` (`reeltok train default_gpu --dry-run`).
- memory: peak of encode and decode of 17 frames of 1920x1080, streamed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import corpus
import torch
import vidtok_speed
from machine import describe

import reeltok
from reeltok.devices import peak_memory, pick_device, reset_peak_memory
from reeltok.export.graphs import Graph, graphs_of
from reeltok.recipes import find_recipe
from reeltok.train.trial import dry_run
from reeltok.video.record import Video


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """The median time of a call, once two have woken the kernels."""
    found = []
    for turn in range(rounds + 2):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        if turn >= 2:
            found.append(1000 * (time.perf_counter() - began))
    return statistics.median(found)


# ---------------------------------------------------------------- the parts


@torch.no_grad()
def vidtok(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Encode and decode: ours and diffusers', as they are and compiled, in half precision."""
    size, width, frames = (32, 32, 5) if options.small else (256, 128, 17)
    backend = "aot_eager" if options.small else "inductor"  # traced alike, and compiled in seconds
    x = vidtok_speed.clip(frames, size).to(device)
    theirs = vidtok_speed.build_theirs(width)
    ours = vidtok_speed.build_ours(theirs, width, torch.float32).to(device)
    theirs = theirs.to(device)
    padded = torch.cat([x[:, :, :1].expand(-1, -1, 3, -1, -1), x], dim=2)
    z = theirs.encode(padded).latent_dist.mode()
    wanted = theirs.decode(z)
    rows: dict[str, Any] = {}
    halves = {"bf16": torch.bfloat16}
    if device.type != "cpu":  # whose pooling knows no fp16
        halves["fp16"] = torch.float16
    for name, dtype in halves.items():
        theirs, ours = theirs.to(dtype), ours.to(dtype)
        calls = {
            "diffusers encode": lambda y, m=theirs: m.encode(y).latent_dist.mode(),
            "diffusers decode": lambda y, m=theirs: m.decode(y),
            "reeltok encode": lambda y, m=ours: m.encode_part(y).z,
            "reeltok decode": lambda y, m=ours: m.decode_part(y),
        }
        given = {"diffusers encode": padded, "reeltok encode": x}
        for label, call in calls.items():
            y = given.get(label, z).to(dtype)
            error = vidtok_speed.error(call(y).float(), wanted if "decode" in label else z)
            fast = torch.compile(call, dynamic=False, backend=backend)
            rows[f"{label} {name}"] = {
                "eager ms": milliseconds(lambda c=call, v=y: c(v), device, options.rounds),
                "compiled ms": milliseconds(lambda c=fast, v=y: c(v), device, options.rounds),
                "error": error,
            }
    for name in halves:
        for part in ("encode", "decode"):
            a, b = rows[f"diffusers {part} {name}"], rows[f"reeltok {part} {name}"]
            rows[f"ratio {part} {name}"] = {k: a[k] / b[k] for k in ("eager ms", "compiled ms")}
    return {"frames": frames, "size": size, "ways": rows}


@torch.no_grad()
def stream(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The next four frames of a stream, eager and as a CUDA graph."""
    tokenizer = reeltok.load("default").to(device)
    cells = 4 if options.small else 32
    steps = [g for g in graphs_of(tokenizer, 17) if g.name.endswith("_step")]
    return {graph.name: stream_step(graph, cells, device, options.rounds) for graph in steps}


def stream_step(graph: Graph, cells: int, device: torch.device, rounds: int) -> dict[str, float]:
    """One streaming step; replayed where the device has CUDA graphs, and held to be equal."""
    inputs = graph.examples({"batch": 1, "rows": cells, "columns": cells})
    given = [tensor.to(device) for tensor in inputs.values()]
    said = {"eager ms": milliseconds(lambda: graph.module(*given), device, rounds)}
    if device.type != "cuda":
        return said
    wanted = graph.module(*given)[0]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            graph.module(*given)
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        made = graph.module(*given)[0]
    said["replayed ms"] = milliseconds(recorded.replay, device, rounds)
    return {**said, "difference": (made.float() - wanted.float()).abs().max().item()}


def build_corpus(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Clips per second of a corpus, and the share of time outside the encoder."""
    count, size = (4, 64) if options.small else (200, 256)
    inside, code = 0.0, reeltok.models.vidtok.network.VidTok.encode

    def clocked(self: Any, *given: Any, **how: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        made = code(self, *given, **how)
        synchronize(device)
        inside += time.perf_counter() - began
        return made

    reeltok.models.vidtok.network.VidTok.encode = clocked
    with tempfile.TemporaryDirectory() as folder:
        clips = corpus.make_clips(Path(folder) / "clips", count, size)
        began = time.perf_counter()
        corpus.build(clips, Path(folder) / "out", "default", size, jobs=1, device=str(device))
        took = time.perf_counter() - began
    return {
        "clips": count,
        "size": size,
        "clips per second": count / took,
        "outside": 1 - inside / took,
    }


def train(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """A step of `default_gpu`: seconds and memory."""
    recipe = find_recipe("default_gpu")
    if options.small:
        windows = (replace(recipe.data.windows[0], frames=5, size=64, batch=2),)
        loop = replace(recipe.loop, compile=())
        recipe = replace(recipe, data=replace(recipe.data, windows=windows), loop=loop)
    return vars(dry_run(recipe, device=str(device)))


@torch.no_grad()
def memory(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The peak of a streamed clip: of the device's memory, or of the process on a CPU."""
    height, width = (96, 128) if options.small else (1080, 1920)
    tokenizer = reeltok.load("default").to(device)
    rng = torch.Generator().manual_seed(0)
    still = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=rng)
    parts = [
        Video(torch.stack([still.roll(4 * n + i, 0) for i in range(4)]), fps=24.0) for n in range(5)
    ]
    said: dict[str, Any] = {"frames": f"{4 * len(parts)}x{height}x{width}"}
    reset_peak_memory(device)
    tokens = list(tokenizer.stream_encode(parts))
    said["encode MiB"] = peak_memory(device) // 2**20
    reset_peak_memory(device)
    for _ in tokenizer.stream_decode(tokens):
        pass
    return {**said, "decode MiB": peak_memory(device) // 2**20}


PARTS: dict[str, Callable[[argparse.Namespace, torch.device], dict[str, Any]]] = {
    "vidtok": vidtok,
    "stream": stream,
    "corpus": build_corpus,
    "train": train,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = pick_device(options.device)
    options.small = device.type == "cpu"
    if options.part:
        warnings.simplefilter("ignore")
        print(json.dumps(PARTS[options.part](options, device)))
        return
    result: dict[str, Any] = {"machine": describe(), "device": str(device), "small": options.small}
    for part in options.parts:
        command = [sys.executable, __file__, "--part", part, "--device", str(device)]
        command += ["--rounds", str(options.rounds)]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        failed = {"failed": done.stderr.strip().splitlines()[-1:]}
        result[part] = failed if done.returncode else json.loads(done.stdout)
        result[part]["seconds"] = round(time.perf_counter() - began, 1)
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
