"""What a measurement must say about where it was made."""

import gc
import subprocess
from pathlib import Path

import torch

from reeltok.devices import describe_machine, peak_memory, reset_peak_memory

CPU = torch.device("cpu")


def forget_peak() -> None:
    """Let the peak of this process's memory count from here on (Linux; elsewhere nothing)."""
    gc.collect()
    reset_peak_memory(CPU)


def peak_mib() -> int:
    """The peak resident memory of this process in MiB, since `forget_peak` where there was one."""
    return peak_memory(CPU) // 2**20


def describe() -> dict[str, str]:
    """Processor, cores, versions and commit, "dirty" where more than records and pages changed."""
    git = ["git", "-C", str(Path(__file__).parent)]
    command = [*git, "describe", "--always"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    changed = [*git, "diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)docs"]
    dirty = subprocess.run(changed, capture_output=True, check=False).returncode == 1
    return {**describe_machine(), "commit": commit + "-dirty" * dirty}
