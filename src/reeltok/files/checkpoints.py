"""Files of weights, whoever wrote them: read without running code, then fitted to a network.

`read_checkpoint` opens a file, an index of shards or a folder; `load_weights` finds a network's
tensors in it, under whatever prefix they lie, and is strict about names and shapes.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reeltok.files.parsing import read_object
from reeltok.files.tensors import align_memory, read_content
from reeltok.files.text import printable

COMPILED = ("_orig_mod",)  # torch.compile
WRAPS = frozenset(
    {
        *COMPILED,
        "module",  # DistributedDataParallel
        "_forward_module",  # Lightning Fabric
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
    }
)
"""What wrappers of modules add to the names of parameters, wherever it stands in them."""
MEANS = re.compile(r"(^|[._])(ema|averaged?|shadow)([._]|$)")
"""A prefix under which running means of the weights lie."""


# ---------------------------------------------------------------- one file


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a file, an index of shards, or a folder that holds either.

    A file is safetensors, or a pickle that is read without running code. What lies in
    dictionaries of it is named by the path, such as "model.encoder.weight", unless they hold
    nothing else. Raises FileNotFoundError, or ValueError for a file that holds no tensors.
    """
    path = Path(path)
    if path.is_dir():
        path = find_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}: check the name")
    if is_index(path):
        return read_shards(path)
    content = read_content(path)
    state = dict(flatten(unwrap(content)))
    if not state:
        raise ValueError(
            f"{path} holds no state dict, {describe_contents(content)}: give the file that "
            "training saved"
        )
    return state


def unwrap(content: Any) -> Any:
    """What is inside of dictionaries that hold a single dictionary with tensors, and no tensor."""
    while isinstance(content, Mapping):
        full = [value for key, value in content.items() if any(True for _ in flatten({key: value}))]
        if len(full) != 1 or not isinstance(full[0], Mapping):
            break
        content = full[0]
    return content


def flatten(content: Any, before: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested dictionaries, by their path; what lies in lists is left out."""
    if isinstance(content, Mapping) and depth < 8:
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, Tensor):
                yield before + name, align_memory(value.detach())
            elif isinstance(name, str):
                yield from flatten(value, f"{before}{name}.", depth + 1)


def describe_contents(content: Any) -> str:
    """What was found instead of tensors, for an error."""
    if isinstance(content, Mapping):
        return f"but {name_some(map(str, content))}" if content else "but an empty dictionary"
    return f"but a {type(content).__name__}"


def name_some(names: Iterable[str], most: int = 4) -> str:
    """A few names for a sentence, and how many there are more."""
    names = list(names)
    said = ", ".join(printable(name)[:80] for name in names[:most])
    return f"{said} and {len(names) - most:,} more" if len(names) > most else said


# ---------------------------------------------------------------- a folder

DIFFUSERS_STEM = "diffusion_pytorch_model"
STEMS = ("model", DIFFUSERS_STEM, "pytorch_model")
VARIANTS = ("fp16", "bf16")
"""Names that diffusers gives to files of half precision; they serve where there is no other."""


def file_names(variant: str | None = None) -> list[str]:
    """The names of weight files and of indexes of shards, the first that is there is read."""
    inner = f".{variant}" if variant else ""
    return [
        name
        for ending in ("safetensors", "bin")
        for stem in STEMS
        for name in (
            f"{stem}{inner}.{ending}",
            f"{stem}.{ending}.index{inner}.json",
            f"{stem}{inner}.{ending}.index.json",
        )
    ]


def find_file(folder: Path, variant: str | None = None) -> Path:
    """The file of weights, or the index of shards, in a folder.

    The whole precision before `VARIANTS`, unless `variant` names one; where diffusers wrote
    config.json, its own files before all others, which were there before. FileNotFoundError says
    what is there instead.
    """
    kinds = (variant,) if variant else (None, *VARIANTS)
    names = [name for kind in kinds for name in file_names(kind)]
    if is_of_diffusers(folder):
        names.sort(key=lambda name: not name.startswith(DIFFUSERS_STEM))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = sorted(path.name for path in folder.iterdir() if path.name != "config.json")
    wanted = f"model.{variant}.safetensors" if variant else "model.safetensors"
    raise FileNotFoundError(
        f"{folder} has no {wanted}, but {name_some(there) if there else 'no other files'}: copy it "
        "beside config.json"
    )


def is_of_diffusers(folder: Path) -> bool:
    """Whether a folder's config.json is one that diffusers wrote."""
    path = folder / "config.json"
    try:
        return path.is_file() and "_class_name" in read_object(path)
    except (OSError, ValueError):
        return False


def is_index(path: Path) -> bool:
    """Whether a file says in which shards the tensors are."""
    return path.suffix == ".json" and ".index." in path.name


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names; they lie beside it."""
    try:
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        files = sorted(set(places.values()))
        plain = all(name == Path(name).name and not is_index(Path(name)) for name in files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards: copy it again") from error
    if not plain:
        raise ValueError(f"{index} names {name_some(files)}: shards lie beside their index")
    found: dict[str, Tensor] = {}
    for name in files:
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} names {printable(name)}, which is not there: copy it")
        found |= read_checkpoint(index.parent / name)
    missing = [name for name in places if name not in found]
    if missing:
        raise ValueError(f"the shards of {index} lack {name_some(missing)}: copy them again")
    return found


# ---------------------------------------------------------------- into a network


@dataclass(frozen=True, eq=False)
class CheckpointPart:
    """The tensors of a checkpoint that lie under one prefix, by their names behind it."""

    prefix: str
    tensors: Mapping[str, Tensor]
    also: tuple[str, ...] = ()  # further prefixes under which the same names lie


def unwrapped_name(name: str, wraps: Collection[str] = WRAPS) -> str:
    """A parameter's name without what wrappers of modules added."""
    return ".".join(part for part in name.split(".") if part not in wraps)


def find_part(
    state: Mapping[str, Tensor],
    names: Collection[str],
    *,
    means: bool = False,
    what: str = "the checkpoint",
) -> CheckpointPart | None:
    """The tensors under the prefix that most of `names` lie under; None where there are none.

    Where several hold as many, `means` prefers running means of the weights to the weights.
    ValueError where one of `names` is there twice with other values, but for wrappers of modules.
    """
    wraps = WRAPS.difference(part for name in names for part in name.split("."))
    held: dict[str, list[str]] = {}
    for name in sorted(state, key=len):
        held.setdefault(unwrapped_name(name, wraps), []).append(name)
    plain = {name: state[first] for name, (first, *_) in held.items()}
    ends: dict[str, list[str]] = {}
    for name in names:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    counts: Counter[str] = Counter()
    for name in plain:
        for wanted in ends.get(name.rpartition(".")[2], ()):
            if name == wanted or name.endswith(f".{wanted}"):
                counts[name.removesuffix(wanted)] += 1
    if not counts:
        return None
    rank = lambda prefix: (-counts[prefix], means != bool(MEANS.search(prefix)), len(prefix))
    best, *others = sorted(counts, key=lambda prefix: (*rank(prefix), prefix))
    require_copies(state, [held[best + name] for name in names if best + name in held], what)
    return CheckpointPart(
        prefix=best,
        tensors={n.removeprefix(best): t for n, t in plain.items() if n.startswith(best)},
        also=tuple(prefix for prefix in others if counts[prefix] == counts[best]),
    )


def require_copies(state: Mapping[str, Tensor], copies: Iterable[list[str]], what: str) -> None:
    """ValueError where tensors that are to be copies of one another are not."""
    for first, *others in copies:
        for other in others:
            one, two = state[first], state[other]
            if (one.dtype, one.shape) != (two.dtype, two.shape) or not torch.equal(one, two):
                raise ValueError(
                    f"{what} holds {printable(first)} and {printable(other)}, which a network "
                    "keeps in one place, with different values: leave one set of weights in it"
                )


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: str,
    name: Callable[[str], str] = str,
    shape: Callable[[str, Tensor], tuple[int, ...]] | None = None,
    advice: str = "give the weights of this configuration",
    means: bool = False,
    parts: Collection[str] = (),
) -> None:
    """Give a network, built on the meta device, the weights that `state` holds for it.

    `name` and `shape` say what a tensor is called there and which shape it has. Floats become the
    network's own type, on torch's default device. `parts` are those of the network, by the names in
    `state`, that hold nothing else there. ValueError for a tensor that is missing, has another
    shape, is no float where the network has floats, or is too many, naming what was found.
    """
    own = module.state_dict()
    wanted = {ours: name(ours) for ours in own}
    part = find_part(state, set(wanted.values()), means=means, what=what)
    held = {} if part is None else part.tensors
    for ours, theirs in wanted.items():
        size = tuple(own[ours].shape) if shape is None else shape(ours, own[ours])
        if theirs in held and tuple(held[theirs].shape) != size:
            raise ValueError(
                f"{printable(theirs)} has shape {tuple(held[theirs].shape)} in {what} where this "
                f"configuration has {size}: {advice}"
            )
        if theirs in held:
            require_floats(theirs, held[theirs], own[ours], what)
    missing = [theirs for theirs in wanted.values() if theirs not in held]
    if missing:
        raise ValueError(
            f"{what} has no {printable(missing[0])} ({len(missing)} of {len(wanted)} tensors are "
            f"missing), but {name_some(held or state)}: it is of another configuration"
        )
    assert part is not None
    require_no_more(held, {*wanted.values()}, parts, what)
    found = {ours: fit_tensor(held[theirs], own[ours]) for ours, theirs in wanted.items()}
    module.load_state_dict(found, assign=True)
    if part.also:
        said = " and ".join(repr(prefix.rstrip(".")) for prefix in part.also)
        where = f"those under {part.prefix.rstrip('.')!r}" if part.prefix else "the first"
        warnings.warn(f"{what} holds weights under {said} too: {where} are read", stacklevel=2)


def require_floats(name: str, tensor: Tensor, like: Tensor, what: str) -> None:
    """ValueError for integers or complex numbers in place of floats: their values mean others."""
    if like.is_floating_point() and not tensor.is_floating_point():
        raise ValueError(
            f"{printable(name)} is {str(tensor.dtype).removeprefix('torch.')} in {what} where this "
            "network has floats: give the weights as floats, not quantised"
        )


def require_no_more(
    held: Collection[str], wanted: Collection[str], parts: Collection[str], what: str
) -> None:
    """ValueError for weights of a network's `parts` that it has no place for."""
    inside = tuple(f"{part}." for part in parts)
    more = [name for name in held if name.startswith(inside) and name not in wanted]
    if more:
        raise ValueError(
            f"{what} holds {printable(more[0])} (one of {len(more)} tensors) for which this "
            "configuration has no place: it is of another configuration"
        )


def export_weights(
    module: nn.Module,
    *,
    name: Callable[[str], str],
    shape: Callable[[str, Tensor], tuple[int, ...]],
) -> dict[str, Tensor]:
    """A network's weights under other names and in other shapes: what `load_weights` reads."""
    return {
        name(ours): tensor.reshape(shape(ours, tensor))
        for ours, tensor in module.state_dict().items()
    }


def rename(name: str, table: Iterable[tuple[str, str]]) -> str:
    """A tensor's name by a table of patterns and replacements, applied one after another."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def fit_tensor(tensor: Tensor, like: Tensor) -> Tensor:
    """A checkpoint's tensor in the shape and type of a network's own, on the default device."""
    device = tensor.device if tensor.is_meta else torch.get_default_device()
    return align_memory(tensor.reshape(like.shape).to(device, like.dtype))


def unused(
    state: Mapping[str, Tensor], names: Collection[str], *, means: bool = False
) -> list[str]:
    """The names of a checkpoint's tensors that a network with these `names` has no use for."""
    part = find_part(state, names, means=means)
    if part is None:
        return sorted(state)
    beside = [name for name in map(unwrapped_name, state) if not name.startswith(part.prefix)]
    return sorted([*beside, *(name for name in part.tensors if name not in names)])
