"""Is VidTok faster here than in diffusers? Same random weights, one run, ratios.

    python bench/vidtok_speed.py [--sizes 64 128] [--width 128] [--rounds 3]

Encode and decode apart, 17 frames, in turn: diffusers fp32, ours fp32, ours bf16. Seconds are the
processor seconds of the process, which other work on the machine disturbs less than the clock;
the ratio is the median over rounds of theirs to ours. Peak memory comes from a process apart.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from machine import describe, forget_peak, peak_mib

from reeltok.models.convert import vidtok_from_public
from reeltok.models.presets import VIDTOK
from reeltok.models.vidtok.network import VidTok

FRAMES = 17
WAYS = ("diffusers fp32", "reeltok fp32", "reeltok bf16")


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
    if way == "diffusers fp32":
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
def measure(size: int, width: int, rounds: int) -> dict[str, object]:
    """Seconds, ratios and errors of all ways at one size."""
    x = torch.rand(1, 3, FRAMES, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ways = {way: functions(way, width, x) for way in WAYS}
    z, _, _ = timed(ways[WAYS[0]][0])
    frames, _, _ = timed(lambda: ways[WAYS[0]][1](z))
    rows: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for turn in range(rounds + 1):
        for way, (encode, decode) in ways.items():
            latent, encode_cpu, encode_wall = timed(encode)
            out, decode_cpu, decode_wall = timed(lambda: decode(z))  # noqa: B023
            if turn:
                found = {"encode": encode_cpu, "decode": decode_cpu}
                found |= {"encode wall": encode_wall, "decode wall": decode_wall}
                found["latent error"] = error(latent, z)
                found["frame error"] = error(out, frames)
                for key, value in found.items():
                    rows[way].setdefault(key, []).append(value)
    return {way: summarize(rows[way], rows[WAYS[0]]) for way in WAYS}


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference as a share of the reference's range."""
    return ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()


def summarize(row: dict[str, list[float]], base: dict[str, list[float]]) -> dict[str, float]:
    said = {key: statistics.median(values) for key, values in row.items()}
    for part in ("encode", "decode"):
        pairs = zip(base[part], row[part], strict=True)
        said[f"{part} ratio"] = statistics.median(a / b for a, b in pairs)
    both = [sum(row[part][i] for part in ("encode", "decode")) for i in range(len(row["encode"]))]
    whole = [sum(base[part][i] for part in ("encode", "decode")) for i in range(len(both))]
    said["ratio"] = statistics.median(a / b for a, b in zip(whole, both, strict=True))
    return said


@torch.no_grad()
def peak(way: str, size: int, width: int) -> None:
    """Print the peak resident memory of one way's encode and decode, weights included, in MiB."""
    x = torch.rand(1, 3, FRAMES, size, size) * 2 - 1
    encode, decode = functions(way, width, x)
    forget_peak()  # of building theirs to copy its weights
    decode(encode())
    print(peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.peak:
        peak(options.peak, options.sizes[0], options.width)
        return
    result: dict[str, object] = {"machine": describe(), "width": options.width}
    for size in options.sizes:
        rows = measure(size, options.width, options.rounds)
        for way, row in rows.items():
            command = [sys.executable, __file__, "--peak", way, "--sizes", str(size)]
            command += ["--width", str(options.width)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row["peak MiB"] = int(done.stdout)
        result[f"{FRAMES}x{size}x{size}"] = rows
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
