"""What a measurement must say about where it was made."""

import gc
import os
import platform
import resource
import subprocess
from contextlib import suppress
from pathlib import Path

import torch


def forget_peak() -> None:
    """Let the peak of this process's memory count from here on (Linux; elsewhere nothing)."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> int:
    """The peak resident memory of this process in MiB, since `forget_peak` where there was one."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kib = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return (kib or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])[0] // 1024


def describe() -> dict[str, object]:
    """Processor, cores, versions and commit."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": commit,
    }
