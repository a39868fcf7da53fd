"""A frame predictor as what predicts video: clips that go on from one frame, as they are judged."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.generate.pixels.network import load
from reeltok.generate.predictor import middle_square


class PixelPredictor:
    """A frame predictor from its folder. It knows actions, and draws nothing at random."""

    knows_actions = True

    def __init__(self, folder: str | Path, *, device: torch.device | str = "cpu") -> None:
        self.model = load(folder, device=device)
        self.size = self.model.config.size

    @torch.no_grad()
    def follow(
        self,
        start: UInt8[Tensor, "b h w 3"],
        actions: Float[Tensor, "b n a"] | None,
        *,
        frames: int,
        seed: int = 0,
        first: int = 0,
    ) -> Float[Tensor, "b c t s s"]:
        """`frames` frames in [-1, 1], on the CPU, that go on from each of several first ones.

        `seed` and `first`, which a prior draws by, change nothing. ValueError for actions of
        another width, or too few.
        """
        numbers = self.model.config.actions
        known = actions is not None and actions.shape[2] == numbers
        if actions is None or not known or actions.shape[1] < frames - 1:
            given = "none" if actions is None else tuple(actions.shape[1:])
            raise ValueError(
                f"{frames} frames follow from {frames - 1} actions of {numbers} numbers, given "
                f"were {given}: give as many"
            )
        x = torch.cat([middle_square(frame[None], self.size) for frame in start])
        place = next(self.model.parameters()).device
        made = self.model(x.to(place), actions[:, : frames - 1].float().to(place)).cpu()
        return torch.cat([x, made], dim=2).clamp(-1, 1)
