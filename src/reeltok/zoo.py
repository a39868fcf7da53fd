"""From a name to a tokenizer: presets, bundled weights, folders, hub repositories.

`load` looks the name up among the presets, then takes it for a folder, then for a repository; names
such as diffusers:FOLDER are those of foreign tokenizers (models/foreign/names.py).
A folder holds config.json and model.safetensors, as `Tokenizer.save_pretrained` writes them; where
config.json names a `base`, only the layers that differ from that preset's. A folder of diffusers'
`AutoencoderVidTok` loads as it is, also as the `vae` of a pipeline. What a file names
is looked up by `load_preset`, which knows neither folders nor repositories.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reeltok.arguments import float_type
from reeltok.devices import pick_device, warn_slow
from reeltok.files.atomic import cache_folder
from reeltok.files.checkpoints import find_file, load_weights, read_checkpoint
from reeltok.files.parsing import first_error, parse_config, read_object
from reeltok.files.text import nearest, printable
from reeltok.hub import check_source, fetch_repository, from_hub, is_repository, model_folder
from reeltok.models import convert
from reeltok.models.coordtok.network import CoordTok, CoordTokConfig
from reeltok.models.foreign import diffusers as of_diffusers
from reeltok.models.foreign.names import ForeignName, parse_foreign
from reeltok.models.foreign.open import open_foreign
from reeltok.models.presets import PRESETS, PUBLISHED
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.models.vidtok.stages import VidTokConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import (
    Base,
    build_empty,
    from_diffusers,
    no_config,
    parse_extras,
    read_whole,
    take_extras,
)
from reeltok.tokenizer.rows import read_packed
from reeltok.tokens.packing.model import NAME as PACKING

FAMILIES: dict[str, tuple[type, type[Tokenizer]]] = {
    "vidtok": (VidTokConfig, VidTok),
    "coordtok": (CoordTokConfig, CoordTok),
    "reftok": (RefTokConfig, RefTok),
    of_diffusers.FAMILY: (of_diffusers.DiffusersConfig, of_diffusers.Diffusers),
}

DIFFUSERS_CLASS = "AutoencoderReeltok"  # ours, as diffusers saves it
BUNDLED = Path(__file__).parent / "weights"
HUB = "microsoft/VidTok"


def presets() -> list[str]:
    """Every name that `load` knows by itself; `bundled()` are those whose weights are here."""
    return list(PRESETS)


def bundled() -> list[str]:
    """The names whose trained weights come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def load(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    variant: str | None = None,
    code: bool = True,
    refine: int = 0,
    rate_weight: float = 0.0,
) -> Tokenizer:
    """A tokenizer in evaluation mode: a preset, a folder, or a hub repository ("owner/name").

    One of other libraries is named diffusers:FOLDER, cosmos:FOLDER or module:function; the last two
    run what their authors wrote, which `code=False` refuses: for names that the user did not give.
    A folder that is called as a preset is named "./default" or by a `Path`.
    `weights` is a file of weights (ours or public), or "random" (seed 0); None takes the preset's
    own. `device=None` leaves torch's default device alone, "auto" picks cuda, mps or cpu.
    `dtype` is a float type or its name; `None` is float32, whatever type weights are stored in.
    `revision` is a repository's branch, tag or commit ("owner/name@revision" says the same), and
    `variant` that of diffusers' weights, such as "fp16"; `refine`, `rate_weight`: see `under`.
    ValueError or FileNotFoundError where the name is unknown or its weights are not here.
    """
    check_source(name, weights, revision, variant)
    dtype = dtype and float_type(dtype, wide=True)
    if isinstance(name, Path) and str(name) in PRESETS and name.is_dir():
        name = f"./{name}"
    foreign = None if str(name) in PRESETS else parse_foreign(str(name))
    if foreign is not None:
        model = load_foreign(foreign, weights, revision, variant, code)
        return moved_to(model.under(refine=refine, rate_weight=rate_weight), device, dtype)
    place: str | Path = name
    if str(name) not in PRESETS or weights is None:
        place = find_folder(name, revision=revision, variant=variant)
    if weights is None:
        model = load_folder(Path(place), variant=variant)
    else:
        family, config = described(preset_folder(str(name)) or place)
        called = Path(name).name or Path(name).resolve().name
        model = with_weights(family, config, called, weights)
    return moved_to(model.under(refine=refine, rate_weight=rate_weight), device, dtype)


def load_foreign(
    name: ForeignName,
    weights: str | Path | None,
    revision: str | None,
    variant: str | None,
    code: bool,
) -> Tokenizer:
    """A foreign tokenizer that takes clips, with a warning where its weights are random."""
    if name.runs_code and not code:
        raise ValueError(
            f"{name.text} runs code, and a file or folder that names it is not trusted with that: "
            "name the tokenizer in the command"
        )
    model = open_foreign(name, weights=weights, revision=revision, variant=variant)
    _ = model.shape  # what is not an autoencoder of clips is refused now
    if not model.trained:
        warn_random(model.name)
    return model


def check_name(name: str | Path, *, weights: str | Path | None = None) -> None:
    """ValueError or FileNotFoundError for a name that `load` refuses, before anything is opened."""
    if str(name) in PRESETS or parse_foreign(str(name)) is None:
        (find_folder if weights is None else described)(name)


def load_preset(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tokenizer:
    """A tokenizer by a name that a file gives, whoever wrote that file.

    It is one of `presets()`, with the weights that came with the package or that
    `reeltok download` fetched: never a folder or a repository. ValueError for another name.
    """
    if name not in PRESETS:
        raise ValueError(
            "it is not the name of a preset, and a folder or a repository that only a file names "
            "is not opened"
        )
    if weights is not None:
        family, config = PRESETS[name]
        return moved_to(with_weights(family, config, name, weights), device, dtype)
    folder = preset_folder(name)
    if folder is None:
        raise FileNotFoundError(missing_weights(name))
    return moved_to(load_folder(folder), device, dtype)


def with_weights(family: str, config: Any, name: str, weights: str | Path) -> Tokenizer:
    """A tokenizer with the weights of a file, or "random" ones."""
    if str(weights) == "random":
        return build_random(family, config, name)
    return build_from_state(family, config, name, read_whole(weights), source=str(weights))


def moved_to(
    model: Tokenizer, device: str | torch.device | None, dtype: torch.dtype | str | None
) -> Tokenizer:
    """`model` on a device, in a type."""
    if device is not None:
        model = model.to(pick_device(device))
    if dtype is None:
        return model
    warn_slow(float_type(dtype, wide=True), model.device, stacklevel=3)
    return cast(model, dtype)


def described(name: str | Path) -> tuple[str, Any]:
    """The family and configuration of a preset or a folder."""
    if str(name) in PRESETS:
        return PRESETS[str(name)]
    record = read_model(find_folder(name))
    return record["family"], record["config"]


def find_folder(
    name: str | Path, *, revision: str | None = None, variant: str | None = None
) -> Path:
    """The folder that holds `name`'s weights: bundled, downloaded before, itself, or on the hub."""
    known = preset_folder(str(name))
    if known is not None:
        return known
    if Path(name).is_dir():
        folder = model_folder(Path(name))
        if (folder / "config.json").is_file():
            return folder
        raise FileNotFoundError(no_config(Path(name)))
    if str(name) in PRESETS:
        raise FileNotFoundError(missing_weights(str(name)))
    if is_repository(str(name)):
        return fetch_repository(str(name), revision=revision, variant=variant)
    near, made = nearest(str(name), PRESETS, cutoff=0.4), BUNDLED / "generators" / str(name)
    hint = f"did you mean {near!r}?" if near else "`reeltok models` lists the names"
    hint = f"`reeltok generate {name}` uses it" if made.is_dir() else hint
    raise ValueError(f"there is no model or folder {str(name)!r}: {hint}")


def preset_folder(name: str) -> Path | None:
    """The folder of a preset's weights, bundled or downloaded; None where they are not here."""
    if name not in PRESETS:
        return None
    folders = (BUNDLED / name, cache_folder(name))
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def missing_weights(name: str) -> str:
    """What to do about a preset whose weights are not here."""
    if name in PUBLISHED:
        return (
            f"the weights of {name} are not here: `reeltok download {name}` fetches "
            f"{PUBLISHED[name]} from {HUB}, `weights=FILE` reads one you have, and "
            "`weights='random'` is for benches"
        )
    return (
        f"{name} has no published weights: train it, or give `weights=FILE`, or `weights='random'` "
        "for benches"
    )


def load_folder(folder: Path, *, variant: str | None = None) -> Tokenizer:
    """The tokenizer that a folder holds, in our format or in diffusers'."""
    folder = model_folder(folder)
    record = read_model(folder)
    path = find_file(folder, variant)
    weights: Mapping[str, Tensor] = {
        name.removeprefix(record.get("prefix", "")): tensor
        for name, tensor in read_packed(path).items()
    }
    if (base := record.get("base")) is not None:
        weights = complete(weights, base, path)
    model = build_from_state(
        record["family"], record["config"], record["name"], weights, source=str(path)
    )
    take_extras(model, record, str(folder / "config.json"))
    model.reads_with = model.hash() if model.reads else None
    packing = folder / PACKING
    model.packing = packing if packing.is_file() else None
    return model


def complete(weights: Mapping[str, Tensor], base: Base, path: Path) -> dict[str, Tensor]:
    """The weights of `base` with those layers replaced that the file `path` holds.

    FileNotFoundError where the base is not here, ValueError where it has other weights than those
    that the layers were trained on.
    """
    name, folder = repr(printable(base.name)), preset_folder(base.name)
    if folder is None:
        raise FileNotFoundError(
            f"{path} holds only what differs from {name}, whose weights are not here: "
            "load it where they are"
        )
    if read_model(folder).get("base") is not None:
        raise ValueError(f"{path} builds on {name}, which is not whole itself: copy it again")
    whole = load_folder(folder)
    if whole.hash() != base.weights:
        raise ValueError(
            f"{path} holds only what differs from {name} with the weights "
            f"{printable(base.weights[:12])}, which has {whole.hash()[:12]} here: load it with the "
            "version of reeltok that it came with"
        )
    own = whole.state_dict()
    unknown = [key for key in weights if key not in own]
    if unknown:
        raise ValueError(f"{path} holds {printable(unknown[0])}, which {name} lacks: copy it again")
    return own | dict(weights)


def read_model(folder: Path) -> dict[str, Any]:
    """config.json as family, name and configuration, also of a diffusers folder; all checked.

    ValueError names the file and what is wrong in it.
    """
    path = folder / "config.json"
    record = read_object(path)
    if record.get("_class_name") == "AutoencoderVidTok":
        try:
            config = convert.vidtok_config(record)
        except ValueError as error:
            said = first_error(error)
            raise ValueError(f"{path} describes no network of ours ({said}): copy it") from error
        return {"family": "vidtok", "name": folder.name, "config": config}
    prefix = ""
    if record.get("_class_name") == DIFFUSERS_CLASS:
        record, prefix = from_diffusers(record), "tokenizer."
    family, name = require_family(record, f"{folder} holds a model"), record.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path} has no name: copy it again, or write one")
    config = parse_config(record.get("config"), FAMILIES[family][0], str(path))
    extras = parse_extras(record, str(path))
    return {"family": family, "name": name, "config": config, "prefix": prefix} | extras


def build_described(record: Mapping[str, Any]) -> Tokenizer:
    """A tokenizer without trained weights, from the family, name and config that a file says.

    ValueError for a family that this version does not have, or a config of another one.
    """
    name = str(record["name"])
    kind, network = FAMILIES[require_family(record, f"{name} is a model")]
    return network(parse_config(record["config"], kind, name), name)


def require_family(record: Mapping[str, Any], what: str) -> str:
    """The family of a record. ValueError, which begins with `what`, for one that is not here."""
    family, kind = record.get("family"), record.get("_class_name")
    if isinstance(family, str) and family in FAMILIES:
        return family
    if family in ("flow", "masked"):
        raise ValueError(f"{what} of family {family!r}: a generator, which `reeltok generate` uses")
    foreign = "family" not in record and isinstance(kind, str)
    named = f"class {str(kind)[:80]!r}" if foreign else f"family {str(family)[:80]!r}"
    raise ValueError(f"{what} of {named}: this version reads {', '.join(FAMILIES)}")


def build_from_state(
    family: str,
    config: Any,
    name: str,
    weights: Mapping[str, Tensor],
    *,
    source: str | None = None,
) -> Tokenizer:
    """A tokenizer with `weights`, in our names or public ones; `source` names them in errors."""
    source = source or f"the weights of {name}"
    if family == of_diffusers.FAMILY:
        return of_diffusers.with_state(config, name, weights, source=source)
    if convert.is_public(family, weights):
        return convert.from_weights(family, weights, config, name, source=source)
    model = build_empty(lambda: FAMILIES[family][1](config, name), name)
    parts = [part for part, _ in model.named_children()]
    load_weights(model, weights, what=source, parts=parts)
    return model.eval()


def build_random(family: str, config: Any, name: str) -> Tokenizer:
    """A tokenizer with random weights of seed 0, and a warning that says so."""
    if family == of_diffusers.FAMILY:
        warn_random(name)
        return of_diffusers.with_state(config, name, None, source=name)
    build_empty(lambda: FAMILIES[family][1](config, name), name)
    warn_random(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILIES[family][1](config, name).eval()


def warn_random(name: str) -> None:
    """Say that a network's weights are random."""
    warnings.warn(f"{name} runs with random weights: its tokens mean nothing", stacklevel=5)


def cast(model: Tokenizer, dtype: torch.dtype | str) -> Tokenizer:
    """`model` in another dtype; its hash stays that of the weights as they were published."""
    return model.to(float_type(dtype, wide=True))


def weights_of(name: str) -> str:
    """Where the weights of a preset are: "bundled" with the package, "here" (downloaded before),
    to be had by "download", or "not published"."""
    if name in bundled():
        return "bundled"
    if cache_folder(name, "config.json").is_file():
        return "here"
    return "download" if name in PUBLISHED else "not published"


def download(name: str) -> Path:
    """Fetch a published preset's checkpoint, convert it, and keep it; the folder it lies in.

    Needs a network. OSError where the hub cannot be reached, ValueError for a name without one.
    """
    if name not in PUBLISHED:
        raise ValueError(
            f"{name!r} is not a published preset: `reeltok models` marks those that are"
        )
    from huggingface_hub import hf_hub_download

    path = from_hub(lambda: hf_hub_download(HUB, PUBLISHED[name]), f"{HUB}/{PUBLISHED[name]}")
    family, config = PRESETS[name]
    model = build_from_state(family, config, name, read_checkpoint(path), source=str(path))
    return model.save_pretrained(cache_folder(name))
