"""A model on disk: a folder with config.json and model.safetensors, and the hash of its weights."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NotRequired, TypeVar

import torch
from pydantic import ConfigDict, FiniteFloat, TypeAdapter, with_config
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic takes typing's from Python 3.12 on

from reeltok.arguments import check_path
from reeltok.configuration import KIND
from reeltok.files.atomic import Unfinished, naming, replacing, write_file
from reeltok.files.checkpoints import COMPILED, unwrapped_name
from reeltok.files.hashes import hash_parts
from reeltok.files.parsing import parse_config, read_object
from reeltok.files.text import printable
from reeltok.tokenizer.card import CARD
from reeltok.tokenizer.rows import Bits, pack_rows, read_packed, unpack_rows

Network = TypeVar("Network", bound=nn.Module)
MOST = 10**11  # parameters
WEIGHTS = "model.safetensors"


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


def config_record(tokenizer: Any, bits: Bits | None = None) -> dict[str, Any]:
    """What config.json says of a `Tokenizer`: family, name, configuration, and what else it has.

    Weights that are stored as others than they came (in `bits`, in half precision) lose `reads`.
    """
    beside = {name: getattr(tokenizer, name) for name in ("statistics", "reads", "earlier")}
    if beside["reads"] and tokenizer.reads_with is not None:
        same = hash_loaded(tokenizer.state_dict(), bits) == tokenizer.reads_with
        beside["reads"] = beside["reads"] if same else ()
    record = {"family": tokenizer.family, "name": tokenizer.name}
    return (
        record | {"config": dump_config(tokenizer.config)} | {k: v for k, v in beside.items() if v}
    )


def take_extras(tokenizer: Any, extras: Mapping[str, Any], what: str) -> None:
    """Give a `Tokenizer` what `ConfigExtras` says beside its configuration.

    ValueError that begins with `what` for statistics of another number of channels.
    """
    if (found := extras.get("statistics")) is not None:
        parts = (found, *(found[name] for name in ("first", "later") if name in found))
        counts = {len(part[name]) for part in parts for name in ("mean", "std")}
        if counts != {tokenizer.spec.channels}:
            said = " and ".join(str(count) for count in sorted(counts))
            raise ValueError(
                f"{what} has statistics of {said} channels, but latents of this network have "
                f"{tokenizer.spec.channels}: copy it again"
            )
    tokenizer.statistics = found
    tokenizer.reads = tuple(extras.get("reads") or ())
    tokenizer.earlier = extras.get("earlier") or {}


def diffusers_extras(tokenizer: Any) -> dict[str, Any]:
    """What config.json says beside the configuration and has no name in diffusers."""
    record = config_record(tokenizer)
    found = {name: record[name] for name in ("reads", "earlier") if name in record}
    parts = {k: v for k, v in record.get("statistics", {}).items() if k in ("first", "later")}
    return found | ({"statistics": parts} if parts else {})


def from_diffusers(record: Mapping[str, Any]) -> dict[str, Any]:
    """Our own record of what `reeltok.export.diffusers` saved as an autoencoder of diffusers."""
    found = {key: record.get(key) for key in ("family", "name")} | {"config": record.get("network")}
    extras = record.get("extras")
    extras = extras if isinstance(extras, Mapping) else {}
    found |= {name: extras[name] for name in ("reads", "earlier") if name in extras}
    mean, std = record.get("latents_mean"), record.get("latents_std")
    measured = isinstance(mean, list) and isinstance(std, list) and (any(mean) or set(std) != {1.0})
    parts = extras.get("statistics")
    more = parts if isinstance(parts, Mapping) else {}
    return found | ({"statistics": {**more, "mean": mean, "std": std}} if measured else {})


def parse_extras(record: Mapping[str, Any], what: str) -> dict[str, Any]:
    """What a record of ours has of `ConfigExtras`. ValueError names what is wrong."""
    names = (field.name for field in fields(ConfigExtras))
    held = {name: record[name] for name in names if name in record}
    return vars(parse_config(held, ConfigExtras, what))


def no_config(folder: Path) -> str:
    """What to do about a folder without config.json; that of a run has models below it."""
    below = [folder / name for name in ("best", "model")]
    models = " or ".join(str(each) for each in below if (each / "config.json").is_file())
    if models:
        return f"{folder} has no config.json, it is the folder of a run: give {models}"
    return f"{folder} has no config.json: give a folder that `reeltok convert` or training wrote"


def write_folder(
    folder: str | Path,
    record: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    bits: Bits | None = None,
    card: str | None = None,
) -> Path:
    """Write `record` and `weights` into `folder`: both or, after an error, neither.

    `bits`: the matrices as such small numbers (`pack_rows`). `card` is README.md, where there is
    none.
    """
    check_path(folder, "a folder")
    weights = weights if bits is None else pack_rows(weights, bits)
    folder = Path(folder)
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    text = json.dumps(record, indent=2) + "\n"
    if folder.is_dir():
        replace_model(folder, tensors, text)
        if card is not None and not (folder / CARD).exists():
            write_file(folder / CARD, card)
    else:  # half a model is none
        with replacing(folder, folder=True) as part:
            save_file(tensors, part / WEIGHTS)
            (part / "config.json").write_text(text)
            if card is not None:
                (part / CARD).write_text(card)
    return folder


def replace_model(folder: Path, tensors: dict[str, Tensor], text: str) -> None:
    """Write a model's two files into a folder that is there; both are complete before either is.

    Weights of one model beside the configuration of another may load, as a network that nobody
    trained. So a configuration that changes is away while the weights are exchanged. What is left:
    killed in that moment, the folder has none and is refused until it is saved to again.
    """
    with Unfinished(folder / "config.json") as said, Unfinished(folder / WEIGHTS) as held:
        for part in (held, said):
            with naming(part.target, inside=part.path.parent):
                save_file(tensors, part.path) if part is held else part.path.write_text(text)
        aside = said.path.with_name("old")
        if said.target.exists() and said.target.read_bytes() != text.encode():
            said.target.replace(aside)
        try:
            held.finish()
        except BaseException:
            if aside.exists():
                aside.replace(said.target)
            raise
        said.finish()


def read_whole(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file, unpacked.

    ValueError for a part of a model, which its folder completes with the weights of a preset.
    """
    weights, folder = read_packed(path), Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        base = read_object(folder / "config.json").get("base")
    except (OSError, ValueError):  # what lies beside weights need not be ours
        base = None
    if isinstance(base, dict) and Path(path) in (folder, folder / WEIGHTS):
        name = printable(str(base.get("name")))
        raise ValueError(
            f"{path} holds only what differs from {name!r}, as config.json beside it says: give "
            f"the folder itself ({folder})"
        )
    return weights


def amend_config(folder: Path, **changes: Any) -> Path:
    """Say something else in the config.json of a model's folder; its weights stay as they are."""
    record = read_object(folder / "config.json") | changes
    write_file(folder / "config.json", json.dumps(record, indent=2) + "\n")
    return folder


def dump_config(config: Any) -> dict[str, Any]:
    """A configuration as what JSON can hold."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def deciding_config(config: Any) -> dict[str, Any]:
    """What of a configuration decides tokens and frames, as what JSON can hold.

    What only training reads is left out, and so are defaults: settings of later versions change
    nothing here.
    """
    others = TypeAdapter(type(config)).dump_python(config, exclude_defaults=True)
    kept = {KIND, *others}
    kept -= {*getattr(config, "only_training", ())}
    return {
        name: deciding_config(part) if is_dataclass(part := getattr(config, name)) else value
        for name, value in dump_config(config).items()
        if name in kept
    }


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
    """SHA-256 over names, types, shapes and bytes, in the order of the names.

    What torch.compile puts into the names of a part's weights does not count.
    """
    named = {unwrapped_name(name, COMPILED): tensor for name, tensor in weights.items()}
    return hash_parts(part for name in sorted(named) for part in _parts_of(name, named[name]))


def hash_loaded(weights: Mapping[str, Tensor], bits: Bits | None = None) -> str:
    """The hash of a network that loads these weights once they were saved: in single precision."""
    found = unpack_rows(weights if bits is None else pack_rows(weights, bits))
    return hash_weights({n: x.float() if x.is_floating_point() else x for n, x in found.items()})


def _parts_of(name: str, tensor: Tensor) -> Iterator[str | memoryview]:
    yield f"{name} {tensor.dtype} {tuple(tensor.shape)}"
    yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
