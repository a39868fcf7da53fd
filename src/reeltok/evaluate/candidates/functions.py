"""`module:function` from a clip to its reconstruction, judged as it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reeltok.evaluate.candidates.candidate import CodedClip, pad_clip, timed
from reeltok.evaluate.candidates.macs import counting
from reeltok.evaluate.clips import ScoredClip
from reeltok.evaluate.results import CandidateKind
from reeltok.models.foreign.shape import check_frames
from reeltok.tokens.header import bits_for


@dataclass(frozen=True, eq=False, kw_only=True)
class Reconstructor:
    """A function from a clip "1 3 t h w" in [-1, 1] to its reconstruction, or that and ids.

    It may have attributes `frames_per_group` (it takes one frame, then whole groups), `cells` (it
    takes multiples of these heights and widths) and `vocabulary` (of its ids).
    """

    name: str
    function: Callable[[Tensor], Any]
    weights: str | None = None  # the hash of its source and weights

    kind: CandidateKind = "peer"
    trained: bool = True
    causal: bool = True

    @property
    def vocabulary(self) -> int | None:
        return getattr(self.function, "vocabulary", None)

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used."""
        found = {key: getattr(self.function, key, None) for key in ("frames_per_group", "cells")}
        return found | {"vocabulary": self.vocabulary, "source": "function"}

    def reconstruct(self, clip: ScoredClip) -> CodedClip:
        """Call it. ValueError naming it where it gives frames of another shape."""
        x, seconds = clip.video.tensor(), dict[str, float]()
        group = getattr(self.function, "frames_per_group", 1)
        frames = 1 + -(-(x.shape[2] - 1) // group) * group
        given = pad_clip(x, frames, getattr(self.function, "cells", (1, 1)))
        with torch.no_grad(), timed(seconds, "both"):
            out = self.function(given)
        y, ids = out if isinstance(out, tuple) else (out, None)
        bits = None
        if ids is not None and self.vocabulary:
            bits = ids.numel() * bits_for(self.vocabulary)
        y = check_frames(self.name, y, tuple(given.shape))
        y = y[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]
        return CodedClip(
            x=y.float(), bits=bits, ids=None if ids is None else ids.cpu(), seconds=seconds
        )

    def facts(self, clip: ScoredClip) -> dict[str, float]:
        """MACs of a call, where there are any."""
        with counting() as macs:
            self.reconstruct(clip)
        return {"macs": macs.total} if macs.total else {}
