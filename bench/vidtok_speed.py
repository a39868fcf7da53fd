"""Is VidTok faster here than in diffusers? Same random weights, one run, ratios.

    python bench/vidtok_speed.py [--sizes 64 128] [--width 128] [--rounds 5] [--frames 17]

Encode and decode apart, each way alone in a fresh process, the ways in turn in every round; a
clip of 5 frames wakes the kernels. diffusers as a user gets it, and with freed memory kept
(`reeltok.allocator`), as our commands keep it. Seconds are the processor seconds of the process,
which other work on the machine disturbs less than the clock; a ratio is the median over rounds of
theirs to ours, and errors are shares of the range of theirs.
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

import torch
from machine import describe, forget_peak, peak_mib

from reeltok.allocator import keep_freed, return_freed
from reeltok.models.convert import vidtok_from_public
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok

WAYS = ("diffusers fp32", "diffusers fp32 kept", "reeltok fp32", "reeltok bf16")
PARTS = {"whole": ("encode", "decode"), "encode": ("encode",), "decode": ("decode",)}


def build_theirs(width: int) -> torch.nn.Module:
    """diffusers' model with random weights, every norm and bias and mix of which matters."""
    from diffusers import AutoencoderVidTok

    torch.manual_seed(0)
    model = AutoencoderVidTok(ch=width, z_channels=4, double_z=True, regularizer="kl").eval()
    for name, parameter in model.named_parameters():
        if "mix_factor" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.7)
        elif parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
        elif ".up_temporal" in name or ".down_temporal" in name:
            torch.nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)
    return model


def build_ours(theirs: torch.nn.Module, width: int, dtype: torch.dtype) -> VidTok:
    config = replace(VIDTOK["vidtok_kl_causal_488_4chn_v1_1"], width=width)
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    return vidtok_from_public(weights, config).to(dtype)


def functions(
    way: str, width: int, x: torch.Tensor
) -> tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Encode (to the mode) and decode of one way, from and to float32."""
    theirs = build_theirs(width)
    if way.startswith("diffusers"):
        first = x[:, :, :1].expand(-1, -1, 3, -1, -1)

        def encode() -> torch.Tensor:  # it does not complete the first group itself
            return theirs.encode(torch.cat([first, x], dim=2)).latent_dist.mode()

        return encode, theirs.decode
    ours = build_ours(theirs, width, torch.bfloat16 if way.endswith("bf16") else torch.float32)
    return (
        lambda: ours.encode_part(x.to(ours.dtype)).z.float(),
        lambda z: ours.decode_part(z.to(ours.dtype)).float(),
    )


def timed(call: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float]:
    clock, processor = time.perf_counter(), time.process_time()
    out = call()
    return out, time.process_time() - processor, time.perf_counter() - clock


@torch.no_grad()
def work(options: argparse.Namespace) -> dict[str, float]:
    """One way, alone in this process: seconds, errors, the peak of memory with weights.

    The first process of a size, without `z.pt`, leaves what the others are compared with.
    """
    way, size, folder = options.way, options.sizes[0], Path(options.folder)
    x = clip(options.frames, size)
    encode, decode = functions(way, options.width, clip(min(5, options.frames), size))
    decode(encode())
    encode, decode = functions(way, options.width, x)
    if way != WAYS[0]:
        return_freed()  # what building theirs, to copy its weights, has left
        keep_freed()
    forget_peak()
    latent, encode_cpu, encode_wall = timed(encode)
    first = not (folder / "z.pt").exists()
    z = latent if first else torch.load(folder / "z.pt")
    out, decode_cpu, decode_wall = timed(lambda: decode(z))
    if first:
        torch.save(z, folder / "z.pt")
        torch.save(out, folder / "frames.pt")
    frames = torch.load(folder / "frames.pt")
    return {
        "encode": encode_cpu,
        "decode": decode_cpu,
        "encode wall": encode_wall,
        "decode wall": decode_wall,
        "peak MiB": peak_mib(),
        "latent error": error(latent, z),
        "frame error": error(out, frames),
    }


def clip(frames: int, size: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference as a share of the reference's range."""
    return ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()


def measure(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, ratios, memory and errors of all ways at one size."""
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way, found in rows.items():
                command = [sys.executable, __file__, "--way", way, "--folder", folder]
                command += ["--sizes", str(size), "--width", str(options.width)]
                command += ["--frames", str(options.frames)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.append(json.loads(done.stdout))
                print(way, found[-1], file=sys.stderr)
    return {way: summarize(found, rows) for way, found in rows.items()}


def summarize(
    found: list[dict[str, float]], rows: dict[str, list[dict[str, float]]]
) -> dict[str, float]:
    """Medians over rounds, and the ratios of diffusers, both ways, to this one."""
    said = {key: statistics.median(row[key] for row in found) for key in found[0]}
    for base in WAYS[:2]:
        for name, parts in PARTS.items():
            pairs = zip(rows[base], found, strict=True)
            ratios = [sum(a[p] for p in parts) / sum(b[p] for p in parts) for a, b in pairs]
            said[f"{name} ratio to {base}"] = statistics.median(ratios)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.way:
        print(json.dumps(work(options)))
        return
    result: dict[str, Any] = {"machine": describe(), "width": options.width}
    for size in options.sizes:
        result[f"{options.frames}x{size}x{size}"] = measure(size, options)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
