"""What the ids of a trained line come to in a file: bits of held-out clips, packed without loss.

Each line gets a packing model of its own (`reeltok train packing_cpu`), trained on ids of the
clips that the line was trained on. So what is left to save, such as ids that say "as before", is
saved for every line in the same way.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reeltok import load
from reeltok.files.atomic import replacing
from reeltok.tokens.packing.coder import pack_segment
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.train.checks import has_begun
from reeltok.train.clips import Window
from reeltok.train.packing import train_packing
from reeltok.train.packing_recipes import packing_cpu
from reeltok.train.recipes import Recipe

if TYPE_CHECKING:
    from lab import Lab, Result

CLIPS, STEPS = 800, 1500


@torch.no_grad()
def packed_bits(lab: "Lab", result: "Result", *, clips: int = CLIPS, steps: int = STEPS) -> float:
    """The mean bits of a held-out clip, as a .reel file stores them, without its header."""
    kept = result.folder / "packed.json"
    if not kept.is_file():
        recipe = result.row.stages[-1]
        packing = trained_packing(lab.data, result.folder, recipe, clips, steps)
        model, each = load(result.folder / "model"), []
        for _, x in lab.shown(result.row.judge, recipe).clips[None]:
            tokens = model.encode(x)
            ids = tokens.flat()[0].view(tokens.grid)[:, None]
            beside = tokens.total_bits - ids.numel() * tokens.bits  # as the modes of blocks
            each.append(beside + 8 * len(pack_segment(ids, packing, tokens.bits)))
        with replacing(kept) as part:
            part.write_text(json.dumps(each))
    each = json.loads(kept.read_text())
    return sum(each) / len(each)


def trained_packing(
    data: Path, folder: Path, recipe: Recipe, clips: int, steps: int
) -> PackingModel:
    """The packing model of the line in `folder`; trained, gone on with, or found."""
    out, base = folder / "packing", packing_cpu()
    if not (folder / "packing.done").is_file():
        window = recipe.data.validation
        schedule = replace(base.loop.schedule, steps=steps, warmup=min(50, steps))
        wanted = replace(
            base,
            name="packed",
            tokenizer=str(folder / "model"),
            clips=clips,
            data=replace(recipe.data, windows=(Window(frames=window.frames, size=window.size),)),
            loop=replace(base.loop, seed=recipe.loop.seed, schedule=schedule, validate_every=steps),
        )
        with torch.enable_grad():
            train_packing(wanted, data=data, out=out, resume=has_begun(out), device="cpu")
        (folder / "packing.done").touch()
    return PackingModel.load(out / "model" / NAME)
