"""The statistics of a flow's latents, measured on clips: what a public checkpoint lacks."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from reeltok.corpus.read import Corpus, is_corpus
from reeltok.files.atomic import scratch
from reeltok.generate import flow
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.examples import latents_of, open_examples, say_examples, split_rows
from reeltok.generate.folder import open_tokenizer
from reeltok.generate.latents import Latents, measure_moments
from reeltok.generate.recipes import GeneratorRecipe
from reeltok.generate.sit import Statistics
from reeltok.parallel import Rank
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.folder import amend_config, dump_config
from reeltok.train.clips import DataConfig, Window


@dataclass(frozen=True, kw_only=True)
class MeasuredFlow:
    """Where a flow was saved with its statistics, and from how many examples they are."""

    folder: Path
    examples: int
    groups: tuple[str, ...]
    statistics: Statistics


def measure_flow(
    folder: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    tokenizer: str | None = None,
    device: torch.device | str = "cpu",
    replace_known: bool = False,
) -> MeasuredFlow:
    """Encode the clips of `data`, measure every group and channel, and save the flow with that.

    It is saved in `out`, or where it lies, with the weights as they are. ValueError where no clip
    is as long and large as the generator's, or the tokenizer is another; where it has statistics,
    which those that it was trained with may be, unless `replace_known`; and without `out` for one
    that does not lie in a folder of its own.
    """
    model = flow.load(folder)
    if model.config.statistics is not None and not replace_known:
        raise ValueError(
            f"{folder} has the statistics of its latents, with which its samples are made: leave "
            "them, or give `force` to measure others"
        )
    if out is None and not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} does not lie in a folder of its own: name one with `out`")
    tok = open_tokenizer(folder, model.config.clip, tokenizer, device)
    clip = flow.pick_clip(model.config, tok)
    latents = encode_clips(tok, clip, data)
    found = measure_moments(latents, model.config)
    model.config = replace(model.config, clip=clip, statistics=found)
    if out is None:
        saved = amend_config(Path(folder), config=dump_config(model.config))
    else:
        saved = flow.save(model, out)
    return MeasuredFlow(
        folder=saved,
        examples=len(latents),
        groups=tuple(group.name for group in model.config.groups),
        statistics=found,
    )


def encode_clips(tokenizer: Tokenizer, clip: ClipSpec, data: str | Path) -> Latents:
    """The latents of all whole examples in `data`, which is a corpus or clips.

    ValueError for a corpus at another rate than the generator's.
    """
    if clip.height != clip.width:
        raise ValueError(
            f"this generator makes {clip.height}x{clip.width}: only those of squares are measured"
        )
    window = Window(frames=clip.frames, size=clip.height, batch=1)
    recipe = GeneratorRecipe(
        name="statistics",
        generator="flow",
        tokenizer=clip.tokenizer,
        data=DataConfig(windows=(window,), holdout=0.0, fps=None if is_corpus(data) else clip.fps),
    )
    at = Rank(device=tokenizer.device)
    with scratch() as base:
        corpus = open_examples(recipe, tokenizer, None, data, base, at)
        split = split_rows(recipe, corpus)
        require_rate(split.fps, clip.fps, corpus)
        say_examples(corpus, split, at)
        found = latents_of(split.train, split, corpus, tokenizer, clip)
    assert found is not None
    return found


def require_rate(found: float | None, wanted: float | None, corpus: Corpus) -> None:
    """ValueError where a corpus holds examples at another rate in Hz, by more than one in 100."""
    if found and wanted and not math.isclose(found, wanted, rel_tol=0.01):
        raise ValueError(
            f"{corpus.place} holds windows at {found:g} Hz, and the generator makes {wanted:g}: "
            "measure its clips, or build the corpus at that rate"
        )
