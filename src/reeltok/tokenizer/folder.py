"""A model on disk: a folder with config.json and model.safetensors, and the hash of its weights."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypeVar

import torch
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, with_config
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from reeltok.files.atomic import replacing, write_file
from reeltok.files.hashes import hash_parts
from reeltok.files.parsing import read_object
from reeltok.tokenizer.card import CARD

Network = TypeVar("Network", bound=nn.Module)
SCALE = ".row-scale"  # behind a tensor's name: its rows' scales
MOST = 10**11  # parameters
SHORT = ~0xFFF  # keeps 12 significant bits of a float32: 127 times such a number is exact


@with_config(ConfigDict(extra="forbid"))
class ChannelStatistics(TypedDict):
    """Mean and standard deviation of every channel of latents."""

    mean: list[FiniteFloat]
    std: list[FiniteFloat]


@with_config(ConfigDict(extra="forbid"))
class LatentStatistics(ChannelStatistics):
    """Those of all latents; where the first step stands alone, of first and later ones apart."""

    first: NotRequired[ChannelStatistics]
    later: NotRequired[ChannelStatistics]


@dataclass(frozen=True, kw_only=True)
class Base:
    """The preset that a folder takes all other layers from, and the SHA-256 of its weights."""

    name: str
    weights: str


@dataclass(frozen=True, kw_only=True)
class ConfigExtras:
    """What config.json may hold beside the configuration.

    `reads` are hashes of other weights that make the same tokens. `earlier` names, by the hash of
    weights that this model had before, the commit of reeltok that still comes with them.
    """

    statistics: LatentStatistics | None = None
    reads: tuple[str, ...] | None = None
    earlier: dict[str, str] | None = None
    base: Base | None = None


def config_record(tokenizer: Any) -> dict[str, Any]:
    """What config.json says of a `Tokenizer`: family, name, configuration, and what else it has."""
    beside = {name: getattr(tokenizer, name) for name in ("statistics", "reads", "earlier")}
    record = {"family": tokenizer.family, "name": tokenizer.name}
    return (
        record | {"config": dump_config(tokenizer.config)} | {k: v for k, v in beside.items() if v}
    )


def write_folder(
    folder: str | Path,
    record: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    small: bool = False,
    card: str | None = None,
) -> Path:
    """Write `record` and `weights` into `folder`, each file whole or not at all.

    `small`: the matrices as 8-bit numbers (`pack_rows`). `card` is README.md, where there is none.
    """
    weights = pack_rows(weights) if small else weights
    folder = Path(folder)
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    text = json.dumps(record, indent=2) + "\n"
    if folder.is_dir():
        with replacing(folder / "model.safetensors") as part:
            save_file(tensors, part)
        write_file(folder / "config.json", text)
        if card is not None and not (folder / CARD).exists():
            write_file(folder / CARD, card)
    else:  # half a model is none
        with replacing(folder, folder=True) as part:
            save_file(tensors, part / "model.safetensors")
            (part / "config.json").write_text(text)
            if card is not None:
                (part / CARD).write_text(card)
    return folder


def add_statistics(folder: Path, statistics: LatentStatistics) -> None:
    """Keep the statistics of a model's latents in the config.json of its folder."""
    record = read_object(folder / "config.json") | {"statistics": statistics}
    write_file(folder / "config.json", json.dumps(record, indent=2) + "\n")


def pack_rows(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 beside a float32 scale for each row, the output channel; vectors as is.

    What was packed once is packed again without loss: a row's largest step is 127, and its scale is
    so short that 127 times it, divided by 127, is the same.
    """
    packed = dict(weights)
    for name, tensor in weights.items():
        if tensor.ndim > 1 and tensor.is_floating_point():
            rows = tensor.detach().float().flatten(1)
            scale = (rows.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
            scale = (scale.view(torch.int32) & SHORT).view(torch.float32)
            steps = (rows / scale[:, None]).round().clamp(-127, 127)
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


def dump_config(config: Any) -> dict[str, Any]:
    """A configuration as what JSON can hold."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def build_empty(build: Callable[[], Network], what: str) -> Network:
    """The network that `build` makes, on the meta device: without memory.

    ValueError that begins with `what` for a configuration whose parts do not fit together, and for
    one that no machine holds.
    """
    try:
        with torch.device("meta"):
            network = build()
    except (ValueError, RuntimeError, LookupError, ArithmeticError, TypeError) as error:
        # A constructor fails in any of these ways, deep inside of torch.
        raise ValueError(f"{what}: no network is of this configuration ({error})") from error
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > MOST:
        raise ValueError(f"{what}: its network would have {count:,} parameters, over {MOST:,}")
    return network


def hash_weights(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    return hash_parts(part for name in sorted(weights) for part in _parts_of(name, weights[name]))


def _parts_of(name: str, tensor: Tensor) -> Iterator[str | memoryview]:
    yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
    yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
