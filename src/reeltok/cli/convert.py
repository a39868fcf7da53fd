"""`convert`: public checkpoints and diffusers folders to our folders, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.files import check_apart, check_free, check_place
from reeltok.cli.report import Report, lost

if TYPE_CHECKING:
    from reeltok.tokenizer.contract import Tokenizer


def convert(
    source: Annotated[str, typer.Argument(metavar="CKPT", show_default=False)],
    out: Annotated[str, typer.Argument(metavar="FOLDER", show_default=False)],
    *,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The configuration of the checkpoint; a preset."),
    ] = None,
    changes: given.Changes = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of CoordTok's public code: coordtok, or sit."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="What reads a sit's latents.")
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="ours|public", help="The layout that is written.")
    ] = "ours",
    force: given.Force = False,
) -> Report:
    """Turn a public checkpoint into a model folder, or a model into a public checkpoint.

    CKPT is a public .ckpt or .safetensors file of the configuration --preset, changed by --set
    (such as channels=8), or a folder of diffusers. Keys that belong to training (loss.*) are listed
    and dropped. With --to public, CKPT is a preset or a folder of ours and FOLDER a file. With
    --family the checkpoint is one of CoordTok's public code, --set names its constructor's
    arguments, and a sit becomes a generator.
    """
    if to not in ("ours", "public"):
        raise ValueError(f"--to {to} is not known: give ours or public")
    check_place(out)
    if to == "public":
        return write_public(source, out, force=force)
    places = [out, *(str(Path(out) / name) for name in ("config.json", "model.safetensors"))]
    for place in places:
        check_apart(source, place, inside=True)
    check_free([places[1]], force=force)
    changed_by = given.parse_changes(changes)
    if family is not None:
        from reeltok.cli.convert_published import convert_published

        if preset is not None:
            raise ValueError(f"--family {family} brings its configuration: leave --preset out")
        return convert_published(source, out, family, tokenizer, changed_by)
    if tokenizer is not None:
        raise ValueError("--tokenizer is for --family sit: leave it out")
    model, dropped = read_public(source, preset, changed_by)
    folder = model.save_pretrained(out)
    said = [f"{model.name}: {model.spec.parameters:,} parameters in {folder}", *lost(dropped)]
    record = {"name": model.name, "folder": str(folder), "dropped": dropped}
    return Report(data=record | {"weights": model.hash()}, text="\n".join(said))


def read_public(
    source: str, preset: str | None, changes: dict[str, str]
) -> "tuple[Tokenizer, list[str]]":
    """The tokenizer of a checkpoint or a folder, and the keys that it has no use for."""
    from reeltok import zoo
    from reeltok.files.checkpoints import read_checkpoint, unused
    from reeltok.models.convert import is_public, to_public

    if Path(source).is_dir():
        if preset or changes:
            raise ValueError(f"{source} is a folder and brings its configuration: no --preset")
        return zoo.load_folder(Path(source)), []
    weights = read_checkpoint(source)
    if preset is None:
        raise ValueError("name the configuration of the checkpoint: --preset NAME")
    family, config = zoo.described(preset)
    config = changed(config, changes)
    tokenizer = zoo.fill(family, config, Path(preset).name, weights, source=source)
    public = is_public(family, weights)
    return tokenizer, unused(weights, to_public(tokenizer) if public else tokenizer.state_dict())


def changed(config: Any, changes: dict[str, str]) -> Any:
    """The configuration with other values, by their dotted paths, or by names that are unique.

    ValueError that names the nearest key for an unknown one.
    """
    from reeltok.configuration import full_path, override
    from reeltok.files.parsing import parse_config
    from reeltok.tokenizer.folder import dump_config

    tree = dump_config(config)
    paths = {full_path(tree, key): text for key, text in changes.items()}
    tree = override(tree, paths, what="a configuration", network=True)
    return parse_config(tree, type(config), "the changed configuration")


def write_public(source: str, out: str, *, force: bool) -> Report:
    """A model in the public layout, as a .safetensors file or as {"state_dict": ...} in a .ckpt."""
    import torch
    from safetensors.torch import save_file

    from reeltok import zoo
    from reeltok.files.atomic import replacing
    from reeltok.models.convert import to_public

    path = Path(out)
    if path.suffix not in (".safetensors", ".ckpt"):
        raise ValueError(f"{out} must be named .safetensors or .ckpt to hold a public checkpoint")
    check_apart(source, out, inside=True)
    check_free([out], force=force)
    tokenizer = zoo.load(source)
    weights = to_public(tokenizer)
    with replacing(path) as part:
        if path.suffix == ".ckpt":
            torch.save({"state_dict": weights}, part)
        else:
            save_file(weights, part)
    return Report(
        data={"name": tokenizer.name, "file": out, "tensors": len(weights)},
        text=f"{tokenizer.name}: {len(weights)} tensors in the public layout in {out}",
    )
