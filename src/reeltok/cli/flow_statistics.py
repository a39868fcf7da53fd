"""The statistics of a flow's latents, measured on clips: what a public checkpoint lacks."""

from dataclasses import replace
from pathlib import Path

import torch

from reeltok.cli.files import check_place
from reeltok.cli.generator_examples import keep_latents, pieces_of
from reeltok.cli.generators import open_tokenizer
from reeltok.cli.report import Report, table
from reeltok.files.atomic import scratch
from reeltok.generate import flow
from reeltok.generate.latents import Latents, measure, read_latents
from reeltok.generate.sit import Clip, Statistics
from reeltok.tokenizer.contract import Tokenizer
from reeltok.train.clips import DataConfig, Window
from reeltok.train.generator_recipes import GeneratorRecipe
from reeltok.train.launch import open_source
from reeltok.train.parallel import Place


def measure_flow(
    folder: Path, data: str, out: Path | None, tokenizer: str | None, device: str
) -> Report:
    """Encode the clips of `data`, measure every group and channel, and save the flow with that.

    ValueError where no clip is as long and large as the generator's, or the tokenizer is another.
    """
    if out is not None:
        check_place(str(out))
    model = flow.load(folder)
    tok = open_tokenizer(folder, model.config.clip, tokenizer, device)
    clip = flow.pick_clip(model.config, tok)
    latents = encode_clips(tok, clip, data)
    found = measure(latents, model.config)
    model.config = replace(model.config, clip=clip, statistics=found)
    place = flow.save(model, out or folder)
    names = [group.name for group in model.config.groups]
    text = f"{table(rows_of(names, found))}\n\nfrom {len(latents)} examples, saved in {place}"
    record = {"folder": str(place), "examples": len(latents), "groups": names}
    return Report(data={**record, "mean": found.mean, "std": found.std}, text=text)


def encode_clips(tokenizer: Tokenizer, clip: Clip, data: str) -> Latents:
    """The latents of all whole examples in `data`."""
    if clip.height != clip.width:
        raise ValueError(
            f"this generator makes {clip.height}x{clip.width}: only those of squares are measured"
        )
    window = Window(frames=clip.frames, size=clip.height, batch=1)
    recipe = GeneratorRecipe(
        name="statistics",
        generator="flow",
        tokenizer=clip.tokenizer,
        data=DataConfig(windows=(window,), holdout=0.0, cache="none"),
    )
    with scratch() as base:
        source = open_source(recipe, data, base / "run", Place(device=torch.device("cpu")))
        keep_latents(tokenizer, pieces_of(recipe, source, source.train), base / "latents")
        return read_latents(base / "latents", clip)


def rows_of(names: list[str], found: Statistics) -> list[dict[str, float | int | str]]:
    """A row for every group and channel."""
    return [
        {"group": name, "channel": i, "mean": mean, "std": std}
        for name, means, stds in zip(names, found.mean, found.std, strict=True)
        for i, (mean, std) in enumerate(zip(means, stds, strict=True))
    ]
