"""Where tensors live: a device by its name, how much memory was used on it, and what machine it is.

A device that is not here is one sentence that says why not.
"""

import os
import platform
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from reeltok.version import __version__

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
PROCESSOR = Path("/proc/cpuinfo")
MATMUL = "REELTOK_MATMUL"  # mkl or onednn
CONVOLUTION = "REELTOK_CONVOLUTION"  # direct or winograd
WIDE = ("AVX2", "AVX512")  # instructions by which Winograd's products are faster than direct ones
KINDS = ("cpu", "cuda", "mps", "xpu")  # that networks run on; torch knows more, such as meta
HALVES = {  # features of processors that multiply these types in hardware, as torch names them
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}
_DIRECT = ContextVar("direct_convolutions", default=False)


def pick_device(device: Any) -> torch.device:
    """A device by name; "auto" is cuda, mps or cpu, the first that is there.

    Under torchrun "cuda" is the process's own. ValueError for a name that no device has, or whose
    device is not here.
    """
    mps = torch.backends.mps.is_available()
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise unknown(device) from error
    if found.type not in KINDS:
        raise unknown(device)
    counts = {"cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    here = counts.get(found.type, 1)
    if (found.index or 0) >= here:
        many = "1 device" if here == 1 else f"{here} devices"
        raise ValueError(
            f"device {device}: torch sees {many} of type {found.type} here; give cpu or auto"
        )
    if found.type == "cuda" and found.index is None and "LOCAL_RANK" in os.environ:
        found = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % here)
    if found.type == "mps" and not mps:
        raise ValueError(f"device {device}: there is no Metal device here; give cpu or auto")
    return found


def unknown(device: object) -> ValueError:
    """The error for what names no device."""
    return ValueError(f"there is no device {str(device)!r}: give auto, cpu, cuda, cuda:0 or mps")


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` count from here on, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR.exists():
        CLEAR.write_text("5")  # proc(5): resets the peak of resident memory


def peak_memory(device: torch.device) -> int:
    """Bytes at most since `reset_peak_memory`, or so far: of the GPU, or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def processor(fact: str) -> str | None:
    """A fact of the first processor, such as its "model name" or "vendor_id" (Linux)."""
    lines = PROCESSOR.read_text().splitlines() if PROCESSOR.is_file() else []
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == fact), None)


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `device` computes products of `dtype` at least as fast as those of float32.

    A CPU without bfloat16 or float16 in hardware takes 8 to 40 times as long for a product and 100
    times as long for a convolution (AVX2 alone); a GPU is taken to have both.
    """
    return device.type != "cpu" or dtype not in HALVES or _has_half(dtype)


def warn_slow(dtype: torch.dtype, device: torch.device, *, stacklevel: int) -> None:
    """Say so where a network of `dtype` is slower on `device` than one of float32."""
    if not multiplies(dtype, device):
        warnings.warn(
            f"this processor lacks {str(dtype).removeprefix('torch.')}: float32 is many times "
            "faster here",
            stacklevel=stacklevel + 1,
        )


@cache
def _has_half(dtype: torch.dtype) -> bool:
    onednn = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    if not getattr(onednn, f"_is_mkldnn_{name}_supported", bool)():
        return False
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else None
    return features is None or any(features.get(feature) for feature in HALVES[dtype])


def matmul() -> Literal["mkl", "onednn"]:
    """By what float32 products with weights are computed on the CPU, without gradients.

    oneDNN on AMD's processors with AVX-512, where MKL reaches half its speed, and MKL (or what
    torch has in its place) elsewhere: a fixed rule, so that all processes of a machine give the
    same values. `REELTOK_MATMUL` says otherwise. ValueError for another word, or without oneDNN.
    """
    asked = os.environ.get(MATMUL)
    if not asked:
        return _usual_matmul()
    if asked not in ("mkl", "onednn"):
        raise ValueError(f"{MATMUL}={asked} is not known: give mkl or onednn")
    if asked == "onednn" and not has_onednn():
        raise ValueError(f"{MATMUL}=onednn needs a torch that was built with oneDNN: give mkl")
    return "mkl" if asked == "mkl" else "onednn"


def has_onednn() -> bool:
    """Whether this torch has oneDNN's product with a weight."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _usual_matmul() -> Literal["mkl", "onednn"]:
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    amd = wide and processor("vendor_id") == "AuthenticAMD"
    return "onednn" if amd and has_onednn() else "mkl"


def convolution() -> Literal["direct", "winograd"]:
    """How wide 3x3 convolutions of float32 are computed on the CPU, without gradients.

    With fewer products on processors with AVX2 or AVX-512, directly elsewhere: a fixed rule, as
    `matmul`'s. `REELTOK_CONVOLUTION` says otherwise. ValueError for another word.
    """
    asked = "direct" if _DIRECT.get() else os.environ.get(CONVOLUTION)
    if asked and asked not in ("direct", "winograd"):
        raise ValueError(f"{CONVOLUTION}={asked} is not known: give direct or winograd")
    wide = torch.backends.cpu.get_cpu_capability() in WIDE
    return "winograd" if asked == "winograd" or (wide and not asked) else "direct"


@contextmanager
def direct_convolutions() -> Iterator[None]:
    """Inside, this thread computes convolutions directly, whatever the processor would gain."""
    before = _DIRECT.set(True)
    try:
        yield
    finally:
        _DIRECT.reset(before)


def slower_ways() -> list[str]:
    """What torch computes in a slower way on this machine, and why: a line each.

    Only what nobody asked for; what `REELTOK_MATMUL` and `REELTOK_CONVOLUTION` ask for is not here.
    """
    has, found = torch.backends.cpu.get_cpu_capability(), []
    if has not in WIDE and not os.environ.get(CONVOLUTION):
        found.append(
            f"no AVX2 in this processor or torch ({has}): wide convolutions in float32 are "
            "computed directly, with 2.25 times the products of Winograd's way"
        )
    if not multiplies(torch.bfloat16, torch.device("cpu")):
        found.append(
            f"no bfloat16 in this processor or torch ({has}): training in bf16 is computed in fp32"
        )
    if not torch.backends.mkldnn.is_available():
        found.append("this torch was built without oneDNN: convolutions take its plain kernels")
    amd = has == "AVX512" and processor("vendor_id") == "AuthenticAMD"
    if amd and not has_onednn() and not os.environ.get(MATMUL):
        found.append("no product of oneDNN in this torch: MKL's is slower on AMD's processors")
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        found.append("torch sees no GPU (CUDA or Metal) here: the device auto is the CPU")
    return found


def describe_machine() -> dict[str, str]:
    """What a speed was measured on; no names of people or hosts."""
    name = processor("model name") or platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": name or platform.machine(),
        "cores": str(cores),
        "threads": str(torch.get_num_threads()),
        "matmul": matmul(),
        "convolution": convolution(),
        "gpu": gpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "reeltok": __version__,
    }
