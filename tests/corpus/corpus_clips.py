"""Small clips and a small tokenizer for the tests of corpora."""

from pathlib import Path
from typing import Any

import torch
from moving_clips import moving
from small_models import CAUSAL, DISCRETE

from reeltok.corpus import (
    Built,
    LoadedTokenizer,
    NamedTokenizer,
    Shaping,
    WindowCoding,
    build_corpus,
    plan_corpus,
)
from reeltok.models.vidtok.network import VidTok
from reeltok.video.record import write


def opener(*, continuous: bool = False) -> LoadedTokenizer:
    """A tokenizer of random weights, the same each time."""
    torch.manual_seed(1)
    config, name = (CAUSAL, "small-kl") if continuous else (DISCRETE, "small")
    return LoadedTokenizer(tokenizer=VidTok(config, name).eval(), load=name)


def write_clips(folder: Path, lengths: tuple[int, ...], *, first: int = 0) -> Path:
    """Clips of so many frames of 32 x 40 pixels, named by their numbers from `first`."""
    folder.mkdir(exist_ok=True)
    for number, frames in enumerate(lengths, first):
        write(moving(frames), folder / f"{number}.mkv", lossless=True)
    return folder


def build(
    data: Any,
    out: Any,
    shaping: Shaping,
    *,
    clips_each: int = 64,
    held: LoadedTokenizer | NamedTokenizer | None = None,
    **options: Any,
) -> Built:
    """A corpus of clips by the small tokenizer."""
    coding = WindowCoding(clips=clips_each, **options.pop("coding", {}))
    held = held or opener()
    named = {k: options.pop(k) for k in ("root", "column", "texts") if k in options}
    plan = plan_corpus(data, held, shaping=shaping, coding=coding, **named)
    return build_corpus(plan, out, held, **options)
