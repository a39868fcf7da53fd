"""What was called otherwise before, and the command that brings a saved run or model up to date.

    python -m reeltok.train.renames OLD NEW

writes the run's or model's folder OLD, with the names of today, as the folder NEW. OLD stays as it
is. A run is resumed in NEW. The tables are all there is to extend when something is renamed again.
"""

import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from reeltok.files.atomic import replacing
from reeltok.files.hashes import hash_files
from reeltok.files.parsing import read_object
from reeltok.models.presets import PRESETS
from reeltok.tokenizer.folder import hash_loaded
from reeltok.train.checkpoint import Checkpoint, find_checkpoints, verify_checkpoint
from reeltok.train.logbook import read_lines
from reeltok.train.stored import METADATA, read_metadata

KEYS = {
    "loop.critic": "loop.discriminator",
    "loop.optimizer.rate": "loop.optimizer.lr",
    "loop.optimizer.decay": "loop.optimizer.weight_decay",
    "loop.discriminator.rate": "loop.discriminator.lr",
    "loop.discriminator.decay": "loop.discriminator.weight_decay",
    "loop.schedule.floor": "loop.schedule.min_lr_ratio",
    "loop.schedule.fall": "loop.schedule.cooldown",
    "loop.clip": "loop.grad_clip",
    "loop.recompute": "loop.activation_checkpointing",
    "loop.track": "loop.tensorboard",
    "data.judged": "data.validation",
    "data.ahead": "data.prefetch",
    "losses.critic": "losses.discriminator",
    "losses.discriminator.game": "losses.discriminator.generator_loss",
    "losses.discriminator.critic_game": "losses.discriminator.discriminator_loss",
}
"""Of recipes, in this order: the rows of a table that was renamed follow it under its new name."""

CONFIGS = {
    "config.timing.first": "config.timing.first_frames",
    "config.timing.group": "config.timing.frames_per_group",
    "config.timing.group_steps": "config.timing.steps_per_group",
}
"""Of config.json in the folder of a generator."""

COUNTERS = {"schedule.plan.floor": "schedule.plan.min_lr_ratio"}
"""Of the numbers in a checkpoint (run.json)."""

LOGGED = {
    "rate": "lr",
    "deceit": "adversarial",
    "critic": "discriminator",
    "critic_loss": "discriminator_loss",
    "critic_norm": "discriminator_norm",
    "hidden": "masked",
    "right": "accuracy",
}
"""Of the numbers in log.jsonl."""

MODULES = {"critic": "discriminator"}
"""Of what a checkpoint holds beside the model, by the first word of its tensors' names."""

FLOW, MASKED = "flow", "masked"  # the families of generators
CONVOLUTIONS = {"enter": "conv_in", "leave": "conv_out"}
LAYERS: dict[str, dict[str, str]] = {
    "vidtok": CONVOLUTIONS,
    "reftok": CONVOLUTIONS
    | {
        "encoder_lean": "encoder_injection",
        "decoder_lean": "decoder_injection",
        "_lean": "_injection",
        "tower": "reference_encoder",
        "attend": "cross_attention",
        "place": "position_bias",
        "compare": "difference_in",
        "differ": "difference_out",
        "copy": "copy_gate",
    },
    "coordtok": {
        "patches": "patch_embed",
        "position": "pos_embed",
        "memory_position": "memory_pos_embed",
        "extra": "cls_token",
        "look": "vit",
        "look_norm": "vit_norm",
        "gather": "query_transformer",
        "gather_norm": "query_norm",
    },
    FLOW: {
        "enter": "patch_embed",
        "kind": "type_embed",
        "time": "time_embed",
        "labels": "label_embed",
        "steer": "modulation",
        "leave": "final_layer",
    },
    MASKED: {
        "codes": "token_embed",
        "places": "pos_embed",
        "classes": "class_embed",
        "guess": "head",
    },
}
"""Of a network's parts, by family: names such as "leave" or "decoder.leave" in a tensor's name.

A tokenizer whose layers are renamed has another hash: its old one is added to `reads`. The same
names in a recipe's `plain`, `freeze` and `compile` follow.
"""


def new_key(path: str) -> str | None:
    """What a recipe's key is called today; None for one that was not renamed."""
    today = path
    for old, new in KEYS.items():
        if today == old or today.startswith(f"{old}."):
            today = new + today.removeprefix(old)
    return today if today != path else None


def require_new_keys(tree: Mapping[str, Any], what: str) -> None:
    """ValueError that names the key of today where a recipe has one of before."""
    for old in KEYS:
        place: Any = tree
        for key in old.split("."):
            place = place.get(key, KEYS) if isinstance(place, Mapping) else KEYS
        if place is not KEYS:
            raise ValueError(
                f"{what}: {key_in_words(old)}; `python -m reeltok.train.renames OLD NEW` brings "
                f"the folder of a run up to date"
            )


def key_in_words(path: str) -> str:
    """What an old key is called today, in words."""
    share = ", a share of the steps" if path.endswith(".fall") else ""
    return f"{path!r} is called {new_key(path)!r} today{share}"


def rename_keys(tree: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Nested values under the keys that `table` gives them."""
    renamed = json.loads(json.dumps(tree))
    for old, new in table.items():
        above, _, key = old.rpartition(".")
        place = renamed
        for step in above.split(".") if above else ():
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict) and key in place:
            place[new.rpartition(".")[2]] = place.pop(key)
    return renamed


def rename_recipe(tree: Mapping[str, Any], family: str = "") -> dict[str, Any]:
    """A recipe of a model of `family`, with the keys of today.

    `fall`, which counted steps, is a share of them.
    """
    renamed = rename_keys(tree, KEYS)
    if "fall" in tree.get("loop", {}).get("schedule", {}):
        schedule = renamed["loop"]["schedule"]
        schedule["cooldown"] = min(1.0, schedule["cooldown"] / schedule.get("steps", 10_000))
    loop = renamed.get("loop", {})
    for place, key in ((loop.get("optimizer", {}), "plain"), (loop, "freeze"), (loop, "compile")):
        if key in place:
            place[key] = [rename_layer(name, family) for name in place[key]]
    return renamed


def rename_layer(name: str, family: str) -> str:
    """A parameter's or a part's name with the layers of today."""
    for old, new in LAYERS.get(family, {}).items():
        name = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, name)
    return name


def rename_tensor(name: str, family: str) -> str:
    """The name of a checkpoint's tensor: `module.parameter` or `module@parameter@state`."""
    module = re.match(r"\w+", name)
    if module and module[0] in MODULES:
        name = MODULES[module[0]] + name.removeprefix(module[0])
    return rename_layer(name, family)


def rename_folder(old: str | Path, new: str | Path) -> Path:
    """Copy the folder of a run or a model to `new`, with the names of today.

    FileExistsError where `new` exists, FileNotFoundError where `old` is not such a folder,
    ValueError where a file in it is damaged.
    """
    old, new = Path(old), Path(new)
    if new.exists():
        raise FileExistsError(f"{new} exists already: choose another folder")
    is_run = (old / "recipe.json").is_file()
    if not is_run and not (old / "config.json").is_file():
        raise FileNotFoundError(
            f"{old} has neither the recipe.json of a run nor the config.json of a model: give the "
            f"folder of one"
        )
    with replacing(new, folder=True) as part:
        shutil.copytree(old, part, dirs_exist_ok=True)
        within = [part / name for name in ("model", "best", "tokenizer")]
        for folder in [part, *within] if is_run else [part]:
            if (folder / "config.json").is_file():
                rename_model(folder)
        if is_run:
            rename_run(part)
    return new


def rename_run(run: Path) -> None:
    """Rename in place what a run's own files name: recipe, log and checkpoints."""
    family = family_of_run(run)
    rewrite(run / "recipe.json", partial(rename_recipe, family=family))
    if (run / "log.jsonl").is_file():
        lines = [rename_keys(line, LOGGED) for line in read_lines(run / "log.jsonl")]
        (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for checkpoint in find_checkpoints(run):
        verify_checkpoint(checkpoint)
        rename_checkpoint(checkpoint, family)


def family_of_run(run: Path) -> str:
    """The family of the model that a run trains; "" where neither it nor the recipe says so."""
    recipe = read_object(run / "recipe.json")
    if recipe.get("generator") is not None:
        return FLOW if recipe["generator"] == FLOW else MASKED
    saved = run / "model" / "config.json"
    if saved.is_file():
        return str(read_object(saved).get("family"))
    return PRESETS[recipe["model"]][0] if recipe.get("model") in PRESETS else ""


def rewrite(path: Path, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Replace the JSON object in a file by what `change` makes of it."""
    path.write_text(json.dumps(change(read_object(path)), indent=1) + "\n")


def rename_checkpoint(checkpoint: Checkpoint, family: str) -> None:
    """Rename the tensors and numbers of a checkpoint in place; the tensors' files stay."""
    folder = checkpoint.folder
    record = read_metadata(folder)
    tensors = record.state_dict_metadata
    today = partial(rename_tensor, family=family)
    record.state_dict_metadata = {today(name): value for name, value in tensors.items()}
    record.storage_data = {
        replace(index, fqn=today(index.fqn)): place for index, place in record.storage_data.items()
    }
    record.planner_data = {
        today(name): tuple(today(step) for step in way)
        for name, way in (record.planner_data or {}).items()
    }
    (folder / METADATA).write_bytes(pickle.dumps(record))
    numbers = rename_keys(read_object(folder / "run.json"), COUNTERS)
    (folder / "run.json").write_text(json.dumps(numbers) + "\n")
    sums = {name: hash_files(folder / name) for name in read_object(folder / "sums.json")}
    (folder / "sums.json").write_text(json.dumps(sums, indent=1) + "\n")


def rename_model(folder: Path) -> None:
    """Rename a model in place, and note its old hash; nothing where all names are new."""
    path = folder / "model.safetensors"
    weights = load_file(path) if path.is_file() else {}
    saved = read_object(folder / "config.json")
    record = rename_keys(saved, CONFIGS)
    if record != saved:
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    family = str(record.get("family"))
    renamed = {rename_layer(name, family): value for name, value in weights.items()}
    if set(renamed) == set(weights):
        return
    save_file(renamed, path)
    if family not in (FLOW, MASKED):
        record["reads"] = [*(record.get("reads") or ()), hash_loaded(weights)]
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")


def main(words: Sequence[str]) -> int:
    """The command: 0, or 2 after an error, which is said in one sentence."""
    if len(words) != 2:
        print("usage: python -m reeltok.train.renames OLD NEW", file=sys.stderr)
        return 2
    try:
        print(rename_folder(words[0], words[1]))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
