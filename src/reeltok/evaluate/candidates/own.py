"""Our own tokenizers as candidates."""

from pathlib import Path
from typing import Any

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
    rate_weight: float = 0.0,
    label: str | None = None,
) -> TokenizerCandidate:
    """A tokenizer that `zoo.load` opens, to be judged, called by its run unless `label` says how.

    Where its latents are refined, the name says so. `chunk`, `tile` and `sample` are the
    candidate's; the errors are those of `zoo.load`.
    """
    refined: dict[str, Any] = {"refine": refine, "rate_weight": rate_weight}
    tokenizer = zoo.load(model, weights=weights, device=device, dtype=dtype, **refined)
    used = ", ".join(f"{name}={value:g}" for name, value in refined.items() if value)
    name = (label or label_models([model])[0].label) + (f" ({used})" if used else "")
    trained = weights != "random" and getattr(tokenizer, "trained", True)
    return TokenizerCandidate(
        tokenizer=tokenizer, name=name, trained=trained, chunk=chunk, tile=tile, sample=sample
    )
