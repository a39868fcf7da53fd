"""How fast are VidTok and its peers, each alone, and how near to what the processor can do?

    python bench/peers.py [--ways WAY ...] [--size 64] [--rounds 3] [--out FILE]

Encode and decode of one clip of 17 frames by one thread: each way in a fresh process, the ways in
turn in every round, once a clip of 5 frames has woken the kernels. All weights are random. The
tokenizers differ in compression and size, which the record says: only the ways of VidTok v1.1
compute the same. Operations are counted from shapes as if every convolution were direct, two for a
multiplication with its addition; so Winograd's way can pass the peak, which is measured in
processes of its own: a convolution of 3x3 and a product of matrices. Seconds are processor seconds.
With `--out` rounds are added to those that the file holds; each row keeps its machine and commit,
and medians are over the rows of the present ones.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import vidtok_speed
from machine import describe, forget_peak, peak_mib
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import reeltok
from reeltok.allocator import keep_freed

FRAMES, WARM = 17, 5
PEAKS = {"peak fp32": torch.float32, "peak bf16": torch.bfloat16}


@dataclass(frozen=True)
class Coder:
    """A tokenizer in one process; `encode` gives what `decode` takes."""

    network: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    dtype: torch.dtype = torch.float32


def ours(name: str, dtype: torch.dtype = torch.float32) -> Coder:
    """One of our presets. Codes are looked up before decoding, as a file's ids are."""
    network = reeltok.load(name, weights="random").to(dtype)
    discrete = network.spec.vocabulary is not None

    def encode(x: Tensor) -> Tensor:
        found = network.encode_part(x)
        return network.lookup(found.ids) if discrete else found.z

    return Coder(network, encode, network.decode_part, dtype)


def theirs(kind: str) -> Coder:
    """An autoencoder of diffusers as its constructor makes it: the published configuration."""
    import diffusers

    if kind == "AutoencoderVidTok":
        network: Any = vidtok_speed.build_theirs(128)

        def whole(x: Tensor) -> Tensor:  # it does not complete the first group itself
            return torch.cat([x[:, :, :1].expand(-1, -1, 3, -1, -1), x], dim=2)

        return Coder(network, lambda x: network.encode(whole(x)).latent_dist.mode(), network.decode)
    torch.manual_seed(0)
    network = getattr(diffusers, kind)().eval()

    def decode(z: Tensor) -> Tensor:
        return network.decode(z).sample

    return Coder(network, lambda x: network.encode(x).latent_dist.mode(), decode)


KL = "vidtok_kl_causal_488_4chn"
WAYS: dict[str, Callable[[], Coder]] = {
    "diffusers VidTok v1.1 KL": lambda: theirs("AutoencoderVidTok"),
    "reeltok VidTok v1.1 KL": lambda: ours(f"{KL}_v1_1"),
    "reeltok VidTok v1.1 KL bf16": lambda: ours(f"{KL}_v1_1", torch.bfloat16),
    "reeltok VidTok v1.0 KL": lambda: ours(KL),
    "reeltok VidTok v1.1 FSQ": lambda: ours("vidtok_fsq_causal_488_32768_v1_1"),
    "reeltok default": lambda: ours("default"),
    "diffusers Wan 2.1": lambda: theirs("AutoencoderKLWan"),
    "diffusers CogVideoX": lambda: theirs("AutoencoderKLCogVideoX"),
    "diffusers Cosmos CV 8x8x8": lambda: theirs("AutoencoderKLCosmos"),
}


@torch.no_grad()
def measure_way(way: str, size: int) -> dict[str, Any]:
    """One way, alone in this process. Ours keeps freed memory, as our commands do."""
    if way.startswith("reeltok"):
        keep_freed()
    coder = WAYS[way]()
    x = vidtok_speed.clip(FRAMES, size).to(coder.dtype)
    coder.decode(coder.encode(x[:, :, :WARM]))
    forget_peak()
    z, encode, _ = vidtok_speed.timed(lambda: coder.encode(x))
    y, decode, _ = vidtok_speed.timed(lambda: coder.decode(z))
    row = {"encode s": encode, "decode s": decode, "peak MiB": peak_mib()}
    return row | {"latent": list(z.shape[1:]), "frames": y.shape[2]} | count(coder, x, z)


def count(coder: Coder, x: Tensor, z: Tensor) -> dict[str, float]:
    """Parameters, and billions of operations of both ways, from shapes alone."""
    weights = sum(parameter.numel() for parameter in coder.network.parameters())
    coder.network.to("meta")
    found: dict[str, float] = {"parameters": weights}
    for name, call, given in (("encode", coder.encode, x), ("decode", coder.decode, z)):
        with FlopCounterMode(display=False) as counter:
            call(given.to("meta"))
        found[f"{name} GFLOP"] = counter.get_total_flops() / 1e9
    return found


@torch.no_grad()
def measure_peak(dtype: torch.dtype) -> dict[str, float]:
    """Billions of operations a second of a 3x3 convolution and of a product, best of five."""
    keep_freed()
    x = torch.randn(8, 256, 64, 64).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).to(dtype, memory_format=torch.channels_last)
    square = torch.randn(2048, 2048).to(dtype)
    calls = {
        "convolution GFLOP/s": (lambda: F.conv2d(x, weight, padding=1), 2 * 9 * 256**2 * 8 * 64**2),
        "product GFLOP/s": (lambda: square @ square, 2 * 2048**3),
    }
    found = {}
    for name, (call, operations) in calls.items():
        call()
        best = min(vidtok_speed.timed(call)[1] for _ in range(5))
        found[name] = operations / best / 1e9
    return found


# ---------------------------------------------------------------- rounds and tables


def summarize(rows: dict[str, list[dict[str, Any]]], machine: dict[str, str]) -> dict[str, Any]:
    """Medians over rounds, what is achieved of operations, and the ratio to the first way.

    Only of rows of this machine and commit; the machine is not said again.
    """
    said: dict[str, Any] = {}
    for way, every in rows.items():
        found = [without(row, "machine") for row in every if row.get("machine") == machine]
        if not found:
            continue
        numbers = {k for k, v in found[0].items() if isinstance(v, int | float)}
        row = {k: statistics.median(r[k] for r in found) for k in found[0] if k in numbers}
        row |= {k: v for k, v in found[0].items() if k not in numbers}
        if way in WAYS:
            for part in ("encode", "decode"):
                row[f"{part} GFLOP/s"] = row[f"{part} GFLOP"] / row[f"{part} s"]
        said[way] = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
    first = said.get(next(iter(WAYS)))
    for way in said:
        if first is not None and way in WAYS:
            total = sum(said[way][f"{part} s"] for part in ("encode", "decode"))
            said[way]["ratio"] = round((first["encode s"] + first["decode s"]) / total, 3)
    return said


def without(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *PEAKS], default=[*WAYS, *PEAKS])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.alone:
        alone = options.alone
        peak = alone in PEAKS
        found = measure_peak(PEAKS[alone]) if peak else measure_way(alone, options.size)
        print(json.dumps(found))
        return
    held = options.out is not None and options.out.exists()
    whole = json.loads(options.out.read_text()) if held else {}
    name = f"{FRAMES}x{options.size}x{options.size}"
    rows, machine = whole.setdefault(name, {}).get("rows", {}), describe()
    for _ in range(options.rounds):
        for way in options.ways:
            began = time.monotonic()
            command = [sys.executable, __file__, "--alone", way, "--size", str(options.size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1]) | {"machine": machine}
            rows.setdefault(way, []).append(row)
            print(way, f"{time.monotonic() - began:.1f} s", row, file=sys.stderr)
            whole[name] = {"machine": machine, "ways": summarize(rows, machine), "rows": rows}
            if options.out is not None:
                options.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()
