"""What the folder of a generator holds, checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from reeltok.devices import pick_device
from reeltok.files.checkpoints import find_file, read_checkpoint
from reeltok.files.parsing import parse_config, read_object

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Saved(Generic[Kind]):
    """A generator's configuration and weights, and the file that they came from."""

    config: Kind
    weights: dict[str, Tensor]
    path: Path


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
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"there is no config.json in {folder}: give a generator's folder")
    record = read_object(folder / "config.json")
    if record.get("family") != family:
        said = str(record.get("family"))[:80]
        raise ValueError(f"{folder} holds a {said!r}, not a {noun}: choose another")
    config = parse_config(record.get("config"), kind, str(folder / "config.json"))
    path = find_file(folder)
    weights = read_checkpoint(path)
    if device is not None:
        device = pick_device(device)
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
    return Saved(config=config, weights=weights, path=path)
