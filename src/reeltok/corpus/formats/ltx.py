"""LTX-2's trainer: a file of normalised latents for each window, and one of its text.

Lightricks/LTX-2 at 400fd31, packages/ltx-trainer/src/ltx_trainer/datasets.py. Files are paired by
their path; a sample that has no text is skipped, unless the trainer is told to do without any.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reeltok.corpus.formats.source import ExportSource, saved

FOLDER = ".precomputed"


def write(source: ExportSource, folder: Path, dtype: torch.dtype | None) -> None:
    """Write a corpus of latents into `folder`/.precomputed, as bfloat16 unless `dtype` says else.

    ValueError for frames that the trainer refuses: their number is 1 more than a multiple of the
    tokenizer's frames of a step; and for a first latent of several frames.
    """
    source.require("latents")
    if source.first_frames != 1:
        raise ValueError(
            f"LTX takes the first latent for one frame, and that of "
            f"{source.corpus.tokenizer['name']} is of {source.first_frames}: build another corpus "
            "with a causal tokenizer"
        )
    kind, time = dtype or torch.bfloat16, source.corpus.tokenizer["factors"][0]
    name, words = source.names(), bool(source.corpus.manifest["build"].get("text"))
    for row in source.rows():
        if row.frames % time != 1 % time:
            raise ValueError(
                f"LTX takes 1 + a multiple of {time} frames, and {row.id} has {row.frames}: build "
                f"another with `reeltok corpus build --frames {1 + row.frames // time * time}`"
            )
        z, path = source.normalised(row), Path(f"{name(row)}.pt")
        _, frames, height, width = z.shape
        sizes = {"num_frames": frames, "height": height, "width": width}
        held = {"latents": source.cast(z, kind, row), **sizes, "fps": source.rate(row)}
        put(folder, "latents", path, held)
        if row.text is not None or words:
            text = source.text(row)
            mask = torch.ones(len(text), dtype=torch.bool)
            words_of = {"video_prompt_embeds": text.to(kind), "prompt_attention_mask": mask}
            put(folder, "conditions", path, words_of)
    source.say_scale()
    if source.texts == 0:
        source.note('there is no text: give the trainer data_sources: ["latents"]')
    else:
        source.say_text(f"zeros [1, {source.text_width}] stand there")
    if len(source.corpus.bucket_names) > 1:
        source.note("there are several buckets: the trainer then takes batches of 1")


def put(folder: Path, kind: str, path: Path, held: Mapping[str, Any]) -> None:
    """Save one file below the folder of its kind."""
    target = folder / FOLDER / kind / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(saved(held))
