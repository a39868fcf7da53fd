"""A model on disk: a folder with config.json and model.safetensors, and the hash of its weights."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

FULL = 2**16  # bytes; with fewer left, a write that failed is put down to the full disk
SCALE = ".row-scale"  # behind a tensor's name: its rows' scales
SMALLEST = 2**-24  # above zero in float16


def write_folder(
    folder: str | Path,
    record: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    small: bool = False,
) -> Path:
    """Write `record` and `weights` into `folder`, each file whole or not at all.

    `small`: the matrices as 8-bit numbers (`pack_rows`).
    """
    weights = pack_rows(weights) if small else weights
    folder = Path(folder)
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    text = json.dumps(record, indent=2) + "\n"
    try:
        replace_file(folder / "model.safetensors", lambda beside: save_file(tensors, beside))
        replace_file(folder / "config.json", lambda beside: beside.write_text(text))
    except OSError:
        if fresh:  # half a model is none
            shutil.rmtree(folder)
        raise
    return folder


def pack_rows(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 beside a float16 scale for each row, the output channel; vectors as is."""
    packed = dict(weights)
    for name, tensor in weights.items():
        if tensor.ndim > 1 and tensor.is_floating_point():
            rows = tensor.detach().float().flatten(1)
            scale = (rows.abs().amax(1) / 127).half().clamp(min=SMALLEST)
            steps = (rows / scale.float()[:, None]).round().clamp(-127, 127)
            packed[name] = steps.to(torch.int8).view(tensor.shape)
            packed[name + SCALE] = scale
    return packed


def unpack_rows(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as float32 where `pack_rows` packed them; all others as they are."""
    plain = {name: tensor for name, tensor in weights.items() if not name.endswith(SCALE)}
    for name in plain:
        if name + SCALE in weights:
            rows = plain[name].float().flatten(1) * weights[name + SCALE].float()[:, None]
            plain[name] = rows.view(plain[name].shape)
    return plain


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file beside `path`, then give it that name. OSError where it cannot."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        beside.chmod(0o644)  # safetensors lets only the owner read
        beside.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
        full = shutil.disk_usage(path.parent).free < FULL
        reason = "the disk is full; free some space or write elsewhere" if full else str(error)
        plain = OSError(f"cannot write {path}: {reason}")
        plain.errno = errno.ENOSPC if full else getattr(error, "errno", None)
        raise plain from error
    finally:
        beside.unlink(missing_ok=True)


def dump_config(config: Any) -> dict[str, Any]:
    """A configuration as what JSON can hold."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def hash_weights(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
