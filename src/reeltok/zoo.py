"""From a name to a tokenizer: presets, bundled weights, folders, hub repositories.

`load` looks the name up among the presets, then takes it for a folder, then for a repository.
A folder holds config.json and model.safetensors, as `Tokenizer.save_pretrained` writes them; one
of diffusers' `AutoencoderVidTok` loads as it is.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reeltok.files import cache_folder
from reeltok.folder import unpack_rows
from reeltok.models import convert
from reeltok.models.coordtok import CoordTok, CoordTokConfig
from reeltok.models.injection import RefTokConfig
from reeltok.models.presets import PRESETS, PUBLISHED
from reeltok.models.reftok import RefTok
from reeltok.models.stages import VidTokConfig
from reeltok.models.vidtok import VidTok
from reeltok.parsing import parse_config
from reeltok.tokenizer import Tokenizer

FAMILIES: dict[str, tuple[type, type[Tokenizer]]] = {
    "vidtok": (VidTokConfig, VidTok),
    "coordtok": (CoordTokConfig, CoordTok),
    "reftok": (RefTokConfig, RefTok),
}
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
    dtype: torch.dtype | None = None,
) -> Tokenizer:
    """A tokenizer in evaluation mode: a preset, a folder, or a hub repository ("owner/name").

    `weights` is a file of weights (ours or public), or "random" (seed 0); None takes the preset's
    own. `device=None` leaves torch's default device alone, "auto" picks cuda, mps or cpu.
    ValueError or FileNotFoundError where the name is unknown or its weights are not here.
    """
    if weights is not None and str(weights) == "random":
        family, config = described(name)
        model = build_random(family, config, str(name))
    elif weights is not None:
        family, config = described(name)
        model = fill(family, config, str(name), convert.read_checkpoint(weights))
    else:
        model = load_folder(find_folder(name))
    if device is not None:
        model = model.to(pick_device(device))
    return model if dtype is None else cast(model, dtype)


def described(name: str | Path) -> tuple[str, Any]:
    """The family and configuration of a preset or a folder."""
    if str(name) in PRESETS:
        return PRESETS[str(name)]
    record = read_record(find_folder(name))
    return record["family"], config_of(record)


def find_folder(name: str | Path) -> Path:
    """The folder that holds `name`'s weights: itself, bundled, downloaded before, or on the hub."""
    for folder in (Path(name), BUNDLED / str(name), cache_folder(str(name))):
        if (folder / "config.json").is_file():
            return folder
    if Path(name).is_dir():
        raise FileNotFoundError(
            f"{name} has no config.json: give a folder that `reeltok convert` or training wrote"
        )
    if str(name) in PUBLISHED:
        raise FileNotFoundError(
            f"the weights of {name} are not here: `reeltok download {name}` fetches "
            f"{PUBLISHED[str(name)]} from {HUB}, `weights=` takes a file you have, "
            'weights="random" is for benches'
        )
    if str(name) in PRESETS:
        raise FileNotFoundError(
            f"{name} has no published weights: train it, or pass weights= (a file, or 'random')"
        )
    if str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        return download_repository(str(name))
    near = get_close_matches(str(name), [*PRESETS], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "`reeltok models` lists the names"
    raise ValueError(f"there is no model or folder {str(name)!r}: {hint}")


def load_folder(folder: Path) -> Tokenizer:
    """The tokenizer that a folder holds, in our format or in diffusers'."""
    record = read_record(folder)
    paths = [folder / "model.safetensors", folder / "diffusion_pytorch_model.safetensors"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no model.safetensors: copy it beside config.json")
    weights = unpack_rows(convert.read_checkpoint(path))
    model = fill(record["family"], config_of(record), record["name"], weights)
    model.statistics = record.get("statistics")
    model.reads = tuple(record.get("reads", ()))
    return model


def read_record(folder: Path) -> dict[str, Any]:
    """config.json as family, name and config, also of a diffusers folder."""
    try:
        record = json.loads((folder / "config.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}): copy it again") from error
    if record.get("_class_name") == "AutoencoderVidTok":
        config = convert.vidtok_config(record)
        return {"family": "vidtok", "name": folder.name, "config": config}
    if record.get("family") not in FAMILIES:
        raise ValueError(
            f"{folder} holds a model of family {record.get('family')!r}: "
            f"this version reads {', '.join(FAMILIES)}"
        )
    return record


def config_of(record: Mapping[str, Any]) -> Any:
    """The configuration in a record, checked: unknown keys are errors."""
    kind = FAMILIES[record["family"]][0]
    if isinstance(record["config"], kind):
        return record["config"]
    return parse_config(record["config"], kind, f"config.json of {record['name']}")


def fill(family: str, config: Any, name: str, weights: dict[str, Tensor]) -> Tokenizer:
    """A tokenizer with `weights`, in our names or public ones."""
    if convert.is_public(family, weights):
        return convert.from_weights(family, weights, config, name)
    with torch.device("meta"):
        model = FAMILIES[family][1](config, name)
    wanted = model.state_dict()
    for key, tensor in wanted.items():
        if key not in weights:
            raise ValueError(f"the weights of {name} lack {key}: they are of another configuration")
        if weights[key].shape != tensor.shape:
            raise ValueError(
                f"{key} has shape {tuple(weights[key].shape)} where {name} has "
                f"{tuple(tensor.shape)}: give the weights of this configuration"
            )
    target = torch.get_default_device()
    # Half-precision files save space; what they hold is computed with in the model's own types.
    found = {key: weights[key].to(target, tensor.dtype) for key, tensor in wanted.items()}
    model.load_state_dict(found, assign=True)
    return model.eval()


def build_random(family: str, config: Any, name: str) -> Tokenizer:
    """A tokenizer with random weights of seed 0, and a warning that says so."""
    warnings.warn(f"{name} runs with random weights: its tokens mean nothing", stacklevel=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILIES[family][1](config, name).eval()


def cast(model: Tokenizer, dtype: torch.dtype) -> Tokenizer:
    """`model` in another dtype; its hash stays that of the weights as they were published."""
    if not dtype.is_floating_point:
        raise ValueError(f"a network computes in floats, not {dtype}: give torch.float32 or so")
    model.hash()
    return model.to(dtype)


def pick_device(device: str | torch.device) -> torch.device:
    """A device by name; "auto" is cuda, mps or cpu, the first that is there.

    ValueError for a name that no device has, or whose device is not here.
    """
    if str(device) == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"there is no device {str(device)!r}: give auto, cpu, cuda, cuda:0 or mps"
        ) from error
    here = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= here:
        raise ValueError(f"device {device}: torch sees {here} CUDA devices here; give cpu or auto")
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {device}: there is no Metal device here; give cpu or auto")
    return found


def download(name: str) -> Path:
    """Fetch a published preset's checkpoint, convert it, and keep it; the folder it lies in.

    Needs a network. OSError where the hub cannot be reached, ValueError for a name without one.
    """
    if name not in PUBLISHED:
        raise ValueError(f"{name!r} is no published preset: `reeltok models` marks those that are")
    from huggingface_hub import hf_hub_download

    path = _from_hub(lambda: hf_hub_download(HUB, PUBLISHED[name]), f"{HUB}/{PUBLISHED[name]}")
    family, config = PRESETS[name]
    model = fill(family, config, name, convert.read_checkpoint(path))
    return model.save_pretrained(cache_folder(name))


def download_repository(name: str) -> Path:
    """The folder of a hub repository, fetched or cached."""
    from huggingface_hub import snapshot_download

    return Path(_from_hub(lambda: snapshot_download(name), name))


def _from_hub(fetch: Callable[[], str], what: str) -> str:
    """What `fetch` returns; its many errors as one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would tell the terminal of every attempt
    try:
        return fetch()
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise OSError(
            f"{what} could not be fetched ({type(error).__name__}): check the name and the "
            "network, or give a folder"
        ) from error
