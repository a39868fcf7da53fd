"""Our own tokenizers as candidates."""

from pathlib import Path

import torch

from reeltok import zoo
from reeltok.evaluate.candidates.candidate import TokenizerCandidate
from reeltok.evaluate.labels import label_models


def open_own(
    model: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
    tile: int | None = None,
    sample: bool = False,
    refine: int = 0,
    label: str | None = None,
) -> TokenizerCandidate:
    """A tokenizer that `zoo.load` opens, to be judged, called by its run unless `label` says how.

    Where its latents are refined, the name says so. `chunk`, `tile` and `sample` are the
    candidate's; the errors are those of `zoo.load`.
    """
    tokenizer = zoo.load(model, weights=weights, device=device, dtype=dtype, refine=refine)
    name = (label or label_models([model])[0].label) + (f" (refine={refine})" if refine else "")
    trained = weights != "random" and getattr(tokenizer, "trained", True)
    return TokenizerCandidate(
        tokenizer=tokenizer, name=name, trained=trained, chunk=chunk, tile=tile, sample=sample
    )
