"""`convert`: public checkpoints and diffusers folders to our folders, and back."""

from typing import TYPE_CHECKING, Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.report import Report, lost, note
from reeltok.files.places import check_apart, check_folder, check_free, check_place

if TYPE_CHECKING:
    from reeltok.conversion import Converted
    from reeltok.generate.sit import Flow
    from reeltok.tokenizer.contract import Tokenizer


def convert(
    source: Annotated[str, typer.Argument(metavar="CKPT", show_default=False)],
    out: Annotated[str, typer.Argument(metavar="FOLDER", show_default=False)],
    *,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Preset whose configuration the checkpoint has; by default none, as for a "
            "folder of diffusers.",
        ),
    ] = None,
    changes: given.ChangesOption = None,
    family: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What a checkpoint of CoordTok's public code holds: coordtok or sit; by "
            "default it is not one.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Tokenizer whose latents a sit models, a name or a folder; by default none.",
        ),
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="ours|public",
            help="Format to write: a model folder of ours, or a public checkpoint.",
        ),
    ] = "ours",
    force: given.ForceOption = False,
) -> Report:
    """Convert a public checkpoint to a model folder, or a model to a public checkpoint.

    CKPT is a folder of diffusers, or a public .ckpt or .safetensors file whose configuration is
    --preset, changed by --set (such as channels=8). Keys that belong to training (loss.*) are
    listed and dropped. With --to public, CKPT is a preset or a folder of ours, and FOLDER a file.
    With --family, CKPT is a checkpoint of CoordTok's public code, --set changes the arguments of
    its constructor, and a sit becomes a generator.
    """
    if to not in ("ours", "public"):
        raise ValueError(f"--to {to} is not known: give ours or public")
    if to == "public":
        idle = {"preset": preset, "set": changes, "family": family, "tokenizer": tokenizer}
        given.require_use("--to ours", **idle)
        return save_public(source, out, force=force)
    check_folder(out, force=force, inputs=[source])
    changed_by = given.parse_changes(changes)
    if family is not None:
        if preset is not None:
            raise ValueError(f"--family {family} brings its configuration: leave --preset out")
        return convert_published(source, out, family, tokenizer, changed_by)
    given.require_use("--family sit", tokenizer=tokenizer)
    from reeltok.conversion import read_public

    return save_tokenizer(read_public(source, preset, changed_by), out)


def convert_published(
    source: str, out: str, family: str, tokenizer: str | None, changes: dict[str, str]
) -> Report:
    """Read a checkpoint of CoordTok's public code and save it as ours."""
    from reeltok import conversion
    from reeltok.configuration import parse_value

    arguments = {key: parse_value(text) for key, text in changes.items()}
    if family == "sit":
        return save_sit(conversion.read_sit(source, arguments, tokenizer), out)
    if family != "coordtok":
        raise ValueError(f"--family {family} is not known: give coordtok or sit, or use --preset")
    given.require_use("--family sit", tokenizer=tokenizer)
    return save_tokenizer(conversion.read_coordtok(source, arguments), out)


def save_tokenizer(found: "Converted[Tokenizer]", out: str) -> Report:
    """Save a converted tokenizer; what it is, and what was dropped."""
    model = found.model
    folder = model.save_pretrained(out)
    said = [f"{model.name}: {model.spec.parameters:,} parameters in {folder}", *lost(found.dropped)]
    record = {"name": model.name, "folder": str(folder), "dropped": found.dropped}
    return Report(data=record | {"weights": model.hash()}, text="\n".join(said))


def save_sit(found: "Converted[Flow]", out: str) -> Report:
    """Save a converted generator; what it is, what was dropped, and what it still lacks."""
    from reeltok.generate import flow

    folder = flow.save(found.model, out)
    parameters = sum(weight.numel() for weight in found.model.parameters())
    note(
        f"public checkpoints hold no statistics of latents: `reeltok statistics {folder} CLIPS` "
        "measures them, and `generate` needs them"
    )
    said = [f"sit: {parameters:,} parameters in {folder}", *lost(found.dropped)]
    record = {"name": "sit", "folder": str(folder), "parameters": parameters}
    return Report(data={**record, "dropped": found.dropped}, text="\n".join(said))


def save_public(source: str, out: str, *, force: bool) -> Report:
    """A model in the public layout, as a file."""
    from reeltok import zoo
    from reeltok.conversion import check_layout, write_public

    check_place(out)
    check_layout(out)
    check_apart(source, out, inside=True)
    check_free([out], force=force)
    tokenizer = zoo.load(source)
    tensors = write_public(tokenizer, out)
    return Report(
        data={"name": tokenizer.name, "file": out, "tensors": tensors},
        text=f"{tokenizer.name}: {tensors} tensors in the public layout in {out}",
    )
