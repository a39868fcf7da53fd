"""Checkpoints of CoordTok's public code: the tokenizer, and the SiT that generates its planes."""

from dataclasses import replace
from typing import Any

from reeltok import zoo
from reeltok.cli.report import Report, lost, note
from reeltok.configuration import parse_value
from reeltok.files.checkpoints import read_checkpoint, unused
from reeltok.generate import flow
from reeltok.generate.public import public_arguments, public_name
from reeltok.models.convert import from_public, to_public

FPS = 25.0  # UCF-101's rate, at which the public code plays what it made


def convert_published(
    source: str, out: str, family: str, tokenizer: str | None, changes: dict[str, str]
) -> Report:
    """Read a public checkpoint of `family` and save it as ours.

    ValueError for a family without such a layout, and for keys that do not fit the arguments.
    """
    arguments = {key: parse_value(text) for key, text in changes.items()}
    if family == "sit":
        return convert_sit(source, out, tokenizer, arguments)
    if family != "coordtok":
        raise ValueError(f"--family {family} is not known: give coordtok or sit, or use --preset")
    if tokenizer is not None:
        raise ValueError("--tokenizer is for --family sit: leave it out")
    weights = read_checkpoint(source)
    model = from_public("coordtok", weights, arguments)
    folder = model.save_pretrained(out)
    dropped = unused(weights, to_public(model))
    said = [f"{model.name}: {model.spec.parameters:,} parameters in {folder}", *lost(dropped)]
    record = {"name": model.name, "folder": str(folder), "weights": model.hash()}
    return Report(data={**record, "dropped": dropped}, text="\n".join(said))


def convert_sit(source: str, out: str, tokenizer: str | None, arguments: dict[str, Any]) -> Report:
    """A SiT as a generator: its mean weights, where the checkpoint holds them."""
    weights = read_checkpoint(source)
    model = flow.from_public(weights, public_arguments(weights) | arguments)
    if tokenizer is not None:
        tok = zoo.load(tokenizer)
        clip = replace(flow.pick_clip(model.config, tok), fps=FPS)
        model.config = replace(model.config, clip=clip)
    folder = flow.save(model, out)
    known = {public_name(key) for key in model.state_dict()}
    dropped = unused(weights, known, means=True)
    parameters = sum(weight.numel() for weight in model.parameters())
    note(
        f"public checkpoints hold no statistics of latents: `reeltok statistics {folder} CLIPS` "
        "measures them, and `generate` needs them"
    )
    said = [f"sit: {parameters:,} parameters in {folder}", *lost(dropped)]
    record = {"name": "sit", "folder": str(folder), "parameters": parameters}
    return Report(data={**record, "dropped": dropped}, text="\n".join(said))
