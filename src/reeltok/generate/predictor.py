"""A prior as what predicts video: clips that go on from one frame, as a protocol judges them."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.generate import masked
from reeltok.generate.folder import open_tokenizer
from reeltok.generate.pipeline import continue_video
from reeltok.generate.schedule import Sampling
from reeltok.train.data import resize_square
from reeltok.video.record import to_unit


def middle_square(frames: UInt8[Tensor, "t h w 3"], size: int) -> Float[Tensor, "1 c t s s"]:
    """The middle square of frames at `size` pixels, in [-1, 1]."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize_square(to_unit(frames[:, top : top + side, left : left + side]), size)


class PriorPredictor:
    """A prior with its tokenizer, which goes on from one frame: `frames` at a time, that included.

    ValueError for a prior of frames that are not squares, and a tokenizer that it was not trained
    on.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tokenizer: str | None = None,
        sampling: Sampling | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prior = masked.load(folder, device=device)
        config = self.prior.config
        self.tokenizer = open_tokenizer(folder, config.clip, tokenizer, device)
        clip = masked.pick_clip(config, self.tokenizer)
        if clip.height != clip.width:
            size = f"{clip.height}x{clip.width}"
            raise ValueError(f"this prior makes frames of {size}: the protocol is of squares")
        self.size, self.sampling = clip.height, sampling or config.sampling
        self.frames = clip.frames + int(config.reference is not None)
        self.knows_actions = bool(config.actions)

    def prepare(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "1 c t s s"]:
        """The middle square of a video's frames at the prior's size, in [-1, 1]."""
        return middle_square(frames, self.size)

    def predict(
        self,
        x: Float[Tensor, "1 c t h w"],
        actions: Float[Tensor, "1 n a"] | None = None,
        *,
        count: int = 1,
        seed: int = 0,
        first: int = 0,
    ) -> Float[Tensor, "m c t h w"]:
        """`count` clips like x in [-1, 1], on the CPU, that go on from its frame 0.

        Clip i depends on `seed` and `first` + i alone.
        """
        start = x[:, :, :1].expand(count, -1, -1, -1, -1)
        return self._go_on(start, actions, frames=x.shape[2], seed=seed, first=first)

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

        Further than `actions` reach, none is done. Clip i depends on `seed` and `first` + i alone.
        """
        x = torch.cat([self.prepare(frame[None]) for frame in start])
        return self._go_on(x, actions, frames=frames, seed=seed, first=first)

    def _go_on(
        self,
        start: Float[Tensor, "b c 1 s s"],
        actions: Float[Tensor, "#b n a"] | None,
        *,
        frames: int,
        seed: int,
        first: int,
    ) -> Float[Tensor, "b c t s s"]:
        """Block after block where the prior's clips are shorter; what is more is cut off."""
        new = self.frames - 1
        blocks = -(-(frames - 1) // new)
        if actions is not None:
            missing = blocks * new + 1 - actions.shape[1]
            actions = torch.nn.functional.pad(actions, (0, 0, 0, max(0, missing)))
        parts = continue_video(
            self.prior,
            self.tokenizer,
            start,
            count=len(start),
            blocks=blocks,
            seed=seed,
            first=first,
            batch=len(start),
            sampling=self.sampling,
            actions=actions,
        )
        return torch.cat([part.cpu() for part in parts], dim=2)[:, :, :frames].clamp(-1, 1)
