"""A file of tensors, read without running code, each in memory that begins where torch's does."""

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from reeltok.files.text import printable

ALIGNMENT = 64  # bytes: where torch's own memory begins
POINTER = b"version https://git-lfs"


def read_tensors(path: str | Path, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file on `device` (the CPU), each in memory of its own.

    safetensors hands out views of the file that begin anywhere. A copy begins where torch's own
    tensors do: matrix products are faster there, and their last bits depend on it.
    """
    found = load_file(path)
    if device is not None and torch.device(device).type != "cpu":
        return {name: tensor.to(device) for name, tensor in found.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def read_content(path: Path) -> Any:
    """What a file of weights holds. ValueError where that cannot be read safely."""
    try:
        with path.open("rb") as file:
            start = file.read(len(POINTER))
        if start == POINTER:
            raise ValueError("it is a pointer of Git LFS, not the file: run git lfs pull")
        if path.suffix == ".safetensors" or start[8:9] == b"{":
            return read_tensors(path)
        with torch.serialization.safe_globals(plain_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # an unpickler fails in any way on bytes that are not a pickle
        raise ValueError(
            f"{path} is not a checkpoint that can be read safely ({reason(error)}): copy it again, "
            "or save its state dict alone"
        ) from error
    return content


def plain_types() -> list[Any]:
    """What checkpoints hold beside tensors and is a plain value: argparse's options, numpy's."""
    makers = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    names = [
        (maker, f"{module}.multiarray.{name}")
        for name, maker in makers.items()
        for module in ("numpy.core", "numpy._core")  # before and since numpy 2
    ]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFD"}
    return [Namespace, np.ndarray, np.dtype, *kinds, *names]


def reason(error: Exception) -> str:
    """Why a file cannot be read: the object that it would need, or the first line of the error."""
    text = str(error)
    needed = re.search(r"GLOBAL ([\w.]+)", text)
    if needed:
        return f"it holds a {needed[1]}, and to make one could run any code"
    if "weights_only" in text:  # a paragraph of advice, which is for files that one trusts
        return "it is not a file of torch or safetensors"
    first = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().partition("\n")[0]
    return printable(f"{type(error).__name__}: {first}" if first else type(error).__name__)


def align_memory(tensor: Tensor) -> Tensor:
    """The same values in memory that begins where torch's own does."""
    lies = tensor.layout != torch.strided or tensor.data_ptr() % ALIGNMENT == 0
    return tensor if lies else tensor.clone()
