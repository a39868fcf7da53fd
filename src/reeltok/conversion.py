"""Files of public checkpoints as models, and models as such files.

How the keys of one layout become those of the other stands with the models
(`models/convert.py`, `generate/public.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from reeltok import zoo
from reeltok.configuration import full_path, override
from reeltok.files.atomic import replacing
from reeltok.files.checkpoints import read_checkpoint, unused
from reeltok.files.parsing import parse_config
from reeltok.files.text import printable
from reeltok.generate import flow
from reeltok.generate.public import public_arguments, sit_name
from reeltok.generate.sit import Flow
from reeltok.models.convert import from_public, is_public, public_names, to_public
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import dump_config, read_whole

FPS = 25.0  # UCF-101's rate, at which CoordTok's public code plays what it made
LAYOUTS = (".safetensors", ".ckpt")

Model = TypeVar("Model")


@dataclass(frozen=True, kw_only=True, eq=False)
class Converted(Generic[Model]):
    """A model that was read from a checkpoint, and the keys there that it has no use for."""

    model: Model
    dropped: list[str]


def read_public(
    source: str | Path, preset: str | None = None, changes: Mapping[str, str] | None = None
) -> Converted[Tokenizer]:
    """The tokenizer of a checkpoint with the configuration `preset`, or of a folder.

    `changes` are values of the configuration as `change_config` takes them. Raises
    FileNotFoundError for what is not there, ValueError for a checkpoint of another configuration,
    one without a preset, a folder with one, and weights that are not finite.
    """
    if Path(source).is_dir():
        if preset or changes:
            raise ValueError(f"{source} is a folder and brings its configuration: no `preset`")
        tokenizer = zoo.load_folder(Path(source))
        require_finite_weights(tokenizer.state_dict(), source)
        return Converted(model=tokenizer, dropped=[])
    weights = read_whole(source)
    if preset is None:
        raise ValueError("name the configuration of the checkpoint: `preset` NAME")
    family, config = zoo.described(preset)
    config = change_config(config, changes or {})
    tokenizer = zoo.build_from_state(family, config, Path(preset).name, weights, source=str(source))
    public = is_public(family, weights)
    known = public_names(tokenizer) if public else tokenizer.state_dict()
    return _converted(tokenizer, weights, unused(weights, known), source)


def read_coordtok(source: str | Path, arguments: Mapping[str, Any]) -> Converted[Tokenizer]:
    """The tokenizer of a checkpoint of CoordTok's public code.

    `arguments` are those of its constructor, as far as the checkpoint does not show them.
    ValueError for keys and shapes that do not fit them.
    """
    weights = read_checkpoint(source)
    model = from_public("coordtok", weights, dict(arguments))
    return _converted(model, weights, unused(weights, public_names(model)), source)


def read_sit(
    source: str | Path, arguments: Mapping[str, Any], tokenizer: str | None = None
) -> Converted[Flow]:
    """The generator of a checkpoint of CoordTok's public code: a SiT, its mean weights if it has
    them.

    `tokenizer` names what reads its latents, by which its clips are known. ValueError for keys and
    shapes that do not fit, and for a tokenizer of other latents.
    """
    weights = read_checkpoint(source)
    model = flow.generator_from_public(weights, public_arguments(weights) | dict(arguments))
    if tokenizer is not None:
        clip = replace(flow.pick_clip(model.config, zoo.load(tokenizer)), fps=FPS)
        model.config = replace(model.config, clip=clip)
    known = {sit_name(key) for key in model.state_dict()}
    return _converted(model, weights, unused(weights, known, means=True), source)


def _converted(
    model: Model, weights: Mapping[str, Tensor], dropped: list[str], source: str | Path
) -> Converted[Model]:
    """A model with what its checkpoint holds beside. ValueError where its weights have no value."""
    idle = set(dropped)
    require_finite_weights({name: x for name, x in weights.items() if name not in idle}, source)
    return Converted(model=model, dropped=dropped)


def require_finite_weights(weights: Mapping[str, Tensor], what: str | Path) -> None:
    """ValueError that names the first of these weights that has NaN or infinity as a float32."""
    for name, weight in weights.items():
        if weight.is_floating_point() and not weight.float().isfinite().all():
            raise ValueError(
                f"{printable(name)} in {what} holds NaN or infinity: give weights that were saved "
                "before training failed"
            )


def change_config(config: Any, changes: Mapping[str, str]) -> Any:
    """The configuration with other values, by their dotted paths, or by names that are unique.

    ValueError that names the nearest key for an unknown one.
    """
    tree = dump_config(config)
    paths = {full_path(tree, key): text for key, text in changes.items()}
    tree = override(tree, paths, what="a configuration", network=True)
    return parse_config(tree, type(config), "the changed configuration")


def check_layout(path: str | Path) -> None:
    """ValueError for a name that no public checkpoint has."""
    if Path(path).suffix not in LAYOUTS:
        raise ValueError(f"{path} must be named .safetensors or .ckpt to hold a public checkpoint")


def write_public(tokenizer: Tokenizer, path: str | Path) -> int:
    """Write a model in the public layout; how many tensors it has.

    `path` ends in .safetensors, or in .ckpt for a file of torch that holds {"state_dict": ...}.
    ValueError for other names, for families without a public layout and for weights that are not
    finite, OSError where nothing can be written.
    """
    check_layout(path)
    weights = to_public(tokenizer)
    require_finite_weights(weights, tokenizer.name)
    with replacing(Path(path)) as part:
        if Path(path).suffix == ".ckpt":
            torch.save({"state_dict": weights}, part)
        else:
            save_file(weights, part)
    return len(weights)
