"""Embeddings of captions: a file for each clip, in a folder beside the data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reeltok.corpus.row import FLOATS
from reeltok.files.hashes import hash_parts
from reeltok.files.parsing import first_error, read_array

SUFFIXES = (".safetensors", ".npy")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """A folder of embeddings, and what tells them from those of another encoder.

    `clips` of the data have one, `width` numbers wide; `digest` is of their names and of the first
    one's values. Of corpora of earlier versions no more is known than that there are some.
    """

    folder: str
    clips: int = 0
    width: int = 0
    digest: str = ""

    @property
    def record(self) -> dict[str, Any] | bool:
        """What a plan says of them."""
        about = {"clips": self.clips, "width": self.width, "digest": self.digest}
        return about if self.digest else True


def find_texts(folder: str | Path, stems: Iterable[str]) -> Texts:
    """The embeddings of clips. FileNotFoundError where there is no folder, or no clip has one.

    ValueError where none can be read.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of embeddings")
    stems = list(stems)
    held = [stem for stem in stems if text_path(place, stem) is not None]
    if not held:
        raise FileNotFoundError(
            f"the folder {folder} holds no embedding of any clip: name them as the clips, "
            f"{stems[0]}.npy or {stems[0]}.safetensors"
        )
    first = _first_text(place, held)
    values = first.contiguous().view(torch.uint8).numpy().data
    about = hash_parts([repr((held, str(first.dtype), tuple(first.shape))), values])
    return Texts(folder=str(folder), clips=len(held), width=first.shape[1], digest=about)


def _first_text(folder: Path, stems: Sequence[str]) -> Tensor:
    """The first that can be read: a damaged one is a failure of its clip alone."""
    errors = list[ValueError]()
    for stem in stems:
        try:
            found = read_text(folder, stem)
        except ValueError as error:
            errors.append(error)
            continue
        assert found is not None
        return found
    raise errors[0]


def text_path(folder: Path, stem: str) -> Path | None:
    """The file of a clip's embedding; None where there is none."""
    paths = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read_text(folder: Path, stem: str) -> Tensor | None:
    """The embedding "l d" of the clip `stem`; None where there is no file of that name.

    STEM.npy, or STEM.safetensors with one tensor. ValueError for other shapes and types.
    """
    path = text_path(folder, stem)
    return None if path is None else _checked(_load(path), path)


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
