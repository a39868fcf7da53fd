"""A model on disk: a folder with config.json and model.safetensors, and the hash of its weights."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

Kind = TypeVar("Kind")
FULL = 2**16  # bytes; with fewer left, a write that failed is put down to the full disk


def write_folder(
    folder: str | Path, record: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Path:
    """Write `record` and `weights` into `folder`, each file whole or not at all."""
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


def parse_config(values: Any, kind: type[Kind], what: str) -> Kind:
    """A configuration from what JSON holds. ValueError names `what` and the value that is wrong."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{what}: {place}: {first['msg']}") from error


def hash_weights(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
