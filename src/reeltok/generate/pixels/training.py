"""Training a frame predictor: windows of clips with their actions, then the loop of `train`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reeltok.configuration import parse
from reeltok.data.actions import read_clip_actions
from reeltok.generate.pixels.network import FramePredictor, FramePredictorConfig, save
from reeltok.generate.pixels.recipe import PixelRecipe
from reeltok.metrics.paired import peak_decibel
from reeltok.parallel import Rank, init_distributed
from reeltok.train.checks import require_new, require_shares, require_windows
from reeltok.train.data import ClipSource
from reeltok.train.launch import begin, open_clip_source
from reeltok.train.loop import last_checkpoint, run_task
from reeltok.train.losses import Losses, Pixel, pixel_loss
from reeltok.train.run import Run
from reeltok.train.trial import DryRun, try_steps

CHANGED = 21 / 255  # in [-1, 1]: more than ten levels by which a pixel differs from the given frame


@dataclass(frozen=True, kw_only=True)
class ActedClips:
    """Clips in [-1, 1], and the actions after each frame but the last."""

    x: Float[Tensor, "b c t h w"]
    actions: Float[Tensor, "b n a"]

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> "ActedClips":
        return ActedClips(x=self.x.to(device), actions=self.actions.to(device))

    def __getitem__(self, rows: Int[Tensor, " n"]) -> "ActedClips":
        return ActedClips(x=self.x[rows], actions=self.actions[rows])


class ActedSource:
    """The windows of a `ClipSource` with their actions: a batch is a function of the step.

    ValueError or FileNotFoundError for a clip without as many actions, of as many numbers.
    """

    def __init__(self, source: ClipSource, recipe: PixelRecipe, at: Rank) -> None:
        self.source, self.recipe, self.at = source, recipe, at
        self.actions = {
            clip: read_clip_actions(clip, count=clip.frames - 1, numbers=recipe.actions)
            for clip in source.frames
        }

    def __call__(self, step: int) -> ActedClips:
        share = self.source.window(step).batch // self.at.world
        first = share * self.at.rank
        made = [self.sample(step, index) for index in range(first, first + share)]
        return join_clips(made)

    def sample(self, step: int, index: int) -> ActedClips:
        """One window, mirrored together with its actions where that is drawn."""
        window, drawn = self.source.draw(step, index)
        x, clip = self.source.sample(step, index)
        actions = self.actions[clip][:, drawn.start : drawn.start + window.frames - 1].clone()
        if drawn.mirrored:
            actions[..., list(self.recipe.mirrored)] *= -1
        return ActedClips(x=x, actions=actions)

    def validation(self) -> Iterator[ActedClips]:
        """The beginning of held-out clips."""
        frames = self.source.config.validation.frames
        for x, clip in self.source.held_samples():
            yield ActedClips(x=x, actions=self.actions[clip][:, : frames - 1])


def join_clips(made: list[ActedClips]) -> ActedClips:
    """One batch of several."""
    return ActedClips(
        x=torch.cat([one.x for one in made]), actions=torch.cat([one.actions for one in made])
    )


class PixelTask:
    """Train a frame predictor on the error of every frame that it rolls out from the first."""

    def __init__(
        self, model: FramePredictor, pixel: Pixel, *, held_out: ActedSource | None = None
    ) -> None:
        self.model, self.pixel, self.held_out = model, pixel, held_out

    def parameters(self) -> nn.Module:
        return self.model

    def to(self, device: torch.device | str) -> None:
        """Move the network to `device`."""
        self.model.to(device)

    def loss(self, batch: ActedClips, step: int, generator: torch.Generator | None) -> Losses:
        """The mean error of the frames; `late` is that of the last one."""
        made = self.model(batch.x[:, :, :1], batch.actions)
        errors = pixel_loss(batch.x[:, :, 1:], made, self.pixel)
        return Losses(errors.mean(), {"late": errors[:, -1].mean()})

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """PSNR in dB of held-out clips: all pixels, and those that are unlike the given frame's."""
        if self.held_out is None:
            return {}
        self.model.eval()
        place = next(self.model.parameters()).device
        whole, changing = [], []
        for batch in self.held_out.validation():
            x = batch.x.to(place)
            made = self.model(x[:, :, :1], batch.actions.to(place)).float().clamp(-1, 1)
            errors = (made - x[:, :, 1:]).square().mean(1)
            moved = (x[:, :, 1:] - x[:, :, :1]).abs().amax(1) > CHANGED
            whole.append(peak_decibel(errors.mean() / 4).item())
            if moved.any():
                changing.append(peak_decibel(errors[moved].mean() / 4).item())
        scores = {"psnr": whole, "changing": changing}
        return {name: float(np.mean(values)) for name, values in scores.items() if values}

    def save(self, folder: Path) -> None:
        """Write the network where `load` finds it."""
        save(self.model, folder)


def predictor_of(recipe: PixelRecipe) -> FramePredictor:
    """The recipe's network with fresh weights from its seed. ValueError for unknown settings."""
    values = {"size": recipe.size, "actions": recipe.actions, **recipe.settings}
    torch.manual_seed(recipe.loop.seed)
    return FramePredictor(parse(values, "settings", FramePredictorConfig))


def train_pixels(
    recipe: PixelRecipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
) -> Run:
    """Train a frame predictor on clips with actions; the folder `out` is as that of any run."""
    out = Path(out)
    require_new(recipe, out, resume)
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        last = last_checkpoint(out) if resume else None
        require_windows(recipe, first=last.step if last else 0)
        model = predictor_of(recipe)
        clips = open_clip_source(recipe, data, out, at)
        source = ActedSource(clips, recipe, at)
        task = PixelTask(model, recipe.pixel, held_out=source)
        task.to(at.device)

        def ready() -> None:
            begin(recipe, out, at)

        return run_task(
            task, source, recipe.loop, out=out, resume=resume, at=at, ready=ready, facts=clips
        )


def try_pixels(recipe: PixelRecipe, *, device: str | None = None) -> DryRun:
    """A few steps of the recipe's largest kind of batch, on noise: what a run needs."""
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        window = max(recipe.data.windows, key=lambda w: w.batch * w.frames)

        def noise(clips: int) -> Any:
            shape = (clips, 3, window.frames, window.size, window.size)
            actions = torch.rand(clips, window.frames - 1, recipe.actions) * 2 - 1
            return ActedClips(x=torch.rand(shape) * 2 - 1, actions=actions)

        return try_steps(
            PixelTask(predictor_of(recipe), recipe.pixel), noise, recipe.loop, at, window
        )
