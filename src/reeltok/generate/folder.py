"""What the folder of a generator holds, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from reeltok.parsing import parse_config, read_object

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Saved(Generic[Kind]):
    """A generator's configuration and weights."""

    config: Kind
    weights: dict[str, Tensor]


def read_saved(
    folder: str | Path,
    kind: type[Kind],
    *,
    family: str,
    noun: str,
    device: torch.device | str | None = None,
) -> Saved[Kind]:
    """A generator of `family`, called a `noun` in errors, with its weights on `device`.

    FileNotFoundError where it is not there, ValueError where the folder holds something else.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no {name} in {folder}: give a generator's folder")
    record = read_object(folder / "config.json")
    if record.get("family") != family:
        raise ValueError(f"{folder} holds a {record.get('family')!r}, not a {noun}: choose another")
    config = parse_config(record["config"], kind, f"config.json in {folder}")
    return Saved(config, load_file(folder / "model.safetensors", device=str(device or "cpu")))
