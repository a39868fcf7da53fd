"""Frames of a clip that follow one another, as they are decoded."""

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DecodedRun:
    """Frames that follow one another, the first of which has the number `first` in its clip."""

    frames: UInt8[Tensor, "t h w 3"]
    first: int

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> "DecodedRun":
        start, stop, _ = part.indices(len(self))
        return DecodedRun(self.frames[start:stop], self.first + start)


def join_runs(runs: list[DecodedRun]) -> DecodedRun:
    """Runs that follow one another as one."""
    if len(runs) == 1:
        return runs[0]
    return DecodedRun(torch.cat([run.frames for run in runs]), runs[0].first)
