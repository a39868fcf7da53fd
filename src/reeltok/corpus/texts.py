"""Embeddings of captions: a file for each clip, in a folder beside the data."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reeltok.corpus.row import FLOATS
from reeltok.files.parsing import first_error, read_array

SUFFIXES = (".safetensors", ".npy")


def read_text(folder: Path, stem: str) -> Tensor | None:
    """The embedding "l d" of the clip `stem`; None where there is no file of that name.

    STEM.npy, or STEM.safetensors with one tensor. ValueError for other shapes and types.
    """
    for suffix in SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return _checked(_load(path), path)
    return None


def _load(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.array(read_array(path)))
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({first_error(error)}): make it again") from error
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} tensors: an embedding is one, of shape l d")
    return next(iter(found.values()))


def _checked(text: Tensor, path: Path) -> Tensor:
    if text.ndim == 3 and len(text) == 1:
        text = text[0]
    if text.ndim != 2 or text.dtype not in FLOATS.values():
        raise ValueError(
            f"{path} is {text.dtype} of shape {tuple(text.shape)}: an embedding is l d, in "
            f"{', '.join(FLOATS)}"
        )
    return text.contiguous()
