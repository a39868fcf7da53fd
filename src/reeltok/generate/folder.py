"""A generator as a folder on disk or bundled by name, and the tokenizer that belongs to it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from reeltok import zoo
from reeltok.devices import pick_device
from reeltok.files.checkpoints import find_file, load_weights
from reeltok.files.parsing import parse_config, read_object
from reeltok.files.text import printable
from reeltok.generate.clip_spec import ClipSpec
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import build_empty, dump_config, write_folder
from reeltok.tokenizer.rows import Bits, read_packed

BUNDLED = zoo.BUNDLED / "generators"
STARTS = "starts"  # in the folder of a prior: clips of one frame to begin with, and their actions
Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


def bundled_generators() -> list[str]:
    """The names of the generators that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def find_generator(name: str | Path) -> Path:
    """The folder of a generator: itself, or that of the bundled one of this name.

    FileNotFoundError where there is neither.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    known = bundled_generators()
    if str(name) in known:
        return BUNDLED / str(name)
    named = f", or one of {', '.join(known)}" if known else ""
    found = "there is no config.json in" if Path(name).is_dir() else "there is no generator"
    raise FileNotFoundError(f"{found} {name}: give a generator's folder, such as RUN/model{named}")


def save_generator(
    model: nn.Module, folder: str | Path, *, family: str, bits: Bits | None = None
) -> Path:
    """Write config.json and model.safetensors into `folder`, made if need be.

    `bits`: the matrices as such small numbers.
    """
    record = {"family": family, "config": dump_config(model.config)}
    return write_folder(folder, record, model.state_dict(), bits=bits)


def load_generator(
    folder: str | Path,
    kind: type[Config],
    network: Callable[[Config], Network],
    *,
    family: str,
    noun: str,
    device: torch.device | str | None = None,
) -> Network:
    """A generator of `family`, called a `noun` in errors, on `device` and in evaluation mode.

    FileNotFoundError where it is not there, ValueError where the folder holds something else.
    """
    folder = find_generator(folder)
    record = read_object(folder / "config.json")
    if record.get("family") != family:
        said = str(record.get("family"))[:80]
        raise ValueError(f"{folder} holds a {said!r}, not a {noun}: choose another")
    config = parse_config(record.get("config"), kind, str(folder / "config.json"))
    path = find_file(folder)
    weights = read_packed(path)
    if device is not None:
        device = pick_device(device)
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
    model = build_empty(lambda: network(config), str(folder))
    load_weights(model, weights, what=str(path))
    return model.eval()


def family_of(folder: str | Path) -> str:
    """The kind of generator in a folder. FileNotFoundError or ValueError where there is none."""
    folder = find_generator(folder)
    family = read_object(folder / "config.json").get("family")
    if family not in ("flow", "masked"):
        raise ValueError(
            f"{folder} holds a {printable(family)[:80]} and no generator: give the folder of one, "
            "such as RUN/model of `reeltok train sit_cpu` or `prior_cpu`"
        )
    return family


def open_tokenizer(
    folder: str | Path, clip: ClipSpec | None, asked: str | None, device: torch.device | str
) -> Tokenizer:
    """The tokenizer of a generator: the one asked for, the run's own, or the one of its name."""
    own = find_generator(folder).parent / "tokenizer"
    here = asked is None and (own / "config.json").is_file()
    named = None if clip is None else clip.tokenizer
    name = asked or (str(own) if here else named)
    if name is None:
        raise ValueError(f"{folder} does not name its tokenizer: give it with `tokenizer`")
    try:  # what config.json names is a preset's name: it never decides what else is opened
        load = partial(zoo.load, code=asked is not None) if asked or here else zoo.load_preset
        return load(name, device=device, dtype=torch.float32)
    except (ValueError, OSError) as error:
        if asked:
            raise
        either = "or " if name in zoo.PRESETS else ""
        raise ValueError(
            f"{folder} needs the tokenizer {name!r}: {error}; {either}name its folder with "
            "`tokenizer`"
        ) from error
