"""Which pixels step s, sample i gets, and what is held out.

Everything random is a function of (seed, step, index): no worker, process count or restart
changes what a step sees. A clip that cannot be decoded is reported, counted and absent.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.files.hashes import hash_text
from reeltok.train.clips import ClipBatch, ClipError, DataConfig, Window
from reeltok.train.frames import ClipFrames
from reeltok.train.logbook import say
from reeltok.train.synthetic import moving_still
from reeltok.video.record import to_unit

LIVELIEST_OF = 3  # candidates for a lively sample: it comes from about the liveliest third


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one sample is: a clip, the frames and the square taken from it, how it is shown."""

    clip: int
    start: int
    stride: int
    top: int
    left: int
    side: int
    mirrored: bool
    synthetic: bool

    def times(self, window: Window) -> slice:
        """The frames, of those of the clip."""
        return slice(self.start, self.start + (window.frames - 1) * self.stride + 1, self.stride)

    @property
    def square(self) -> tuple[int, int, int]:
        """Its top, left and side in pixels."""
        return self.top, self.left, self.side


class ClipSource:
    """Random clips for every (step, index), and fixed held-out clips for validation.

    >>> opened, broken = open_clips(find_clips(folder), config, cache=folder)
    >>> ClipSource(opened, config, seed=0).batch(step=7).x.shape
    """

    def __init__(
        self, clips: Mapping[Clip, ClipFrames], config: DataConfig, *, seed: int = 0
    ) -> None:
        if config.lively and config.cache == "none":
            raise ValueError(
                "data.lively compares frames, which data.cache=none would decode thrice"
            )
        self.config, self.seed, self.frames = config, seed, clips
        self.train = [clip for clip in clips if not clip.held_out(config.holdout)]
        self.held = [clip for clip in clips if clip.held_out(config.holdout)]
        self.short_of, self.lost = Counter[str](), set[Clip]()
        self.odds = {window: self._odds(window) for window in config.windows}
        self._sums: dict[tuple[Window, str | None], np.ndarray] = {}

    def _odds(self, window: Window) -> np.ndarray:
        """How likely each training clip is in this window; the unfit are counted."""
        stride = min(self.strides)
        fits = np.array([window.fits(clip, stride) for clip in self.train], dtype=bool)
        if not fits.any():
            raise ValueError(
                f"none of {len(self.train)} training clips has {window.frames} frames of "
                f"{window.size} pixels at the rate asked ({len(self.held)} are held out); lower "
                "data.windows or data.holdout"
            )
        self.short_of[f"{window.frames}x{window.size}"] = int((~fits).sum())
        config, groups = self.config, [clip.group for clip in self.train]
        usable = Counter(group for group, fit in zip(groups, fits, strict=True) if fit)
        rest = sum(count for group, count in usable.items() if group not in config.weights)
        odds = [
            config.weights[g] / usable[g]
            if g in config.weights and usable[g]
            else config.other / max(rest, 1)
            for g in groups
        ]
        odds = np.array(odds) * fits
        if odds.sum() == 0:
            raise ValueError(
                f"data.weights {config.weights} gives no weight to any of: "
                f"{', '.join(sorted(usable))}"
            )
        return odds / odds.sum()

    def _number(self, window: Window, group: str | None, rng: np.random.Generator) -> int:
        """A clip by its odds in this window, within `group` if given: `rng.choice`, but faster."""
        if (window, group) not in self._sums:
            odds = self.odds[window]
            if group is not None:
                odds = odds * [clip.group == group for clip in self.train]
            sums = np.cumsum(odds / odds.sum())
            self._sums[window, group] = sums / sums[-1]
        return int(self._sums[window, group].searchsorted(rng.random(), side="right"))

    @property
    def device(self) -> torch.device | None:
        """Where the frames of all clips lie as tensors; None where they lie elsewhere."""
        held = [frames.held for frames in self.frames.values()]
        tensors = [frames for frames in held if isinstance(frames, Tensor)]
        return tensors[0].device if tensors and len(tensors) == len(held) else None

    @property
    def strides(self) -> tuple[int, ...]:
        """The frame steps to draw from; clips at a given rate were resampled to it already."""
        return self.config.strides if self.config.fps is None else (1,)

    @property
    def counts(self) -> dict[str, int]:
        """How many clips are trained on and how many held out, as a log begins with."""
        return {"train_size": len(self.train), "held_out_size": len(self.held)}

    @property
    def judged(self) -> str:
        """Short for what `validation` gives: its window and rate, and which clips."""
        window, names = self.config.validation, [clip.name for clip in self.validation_clips]
        return hash_text(repr((window.frames, window.size, self.config.fps, names)), 16)

    def summary(self) -> str:
        """One sentence for people: what is trained on, held out, and too short for what."""
        told = [f"{len(self.train)} clips to train on"]
        told += [f"{len(self.held)} held out ({len(self.validation_clips)} for validation)"]
        if unfit := sum(not self.config.validation.fits(clip) for clip in self.held):
            told += [f"{unfit} too short or small for validation"]
        told += [f"{n} too short or small for {kind}" for kind, n in self.short_of.items() if n]
        return ", ".join(told)

    def window(self, step: int) -> Window:
        """The kind of batch that step `step` has: the same on every process."""
        alive = [
            w
            for w in self.config.windows
            if w.since <= step and (w.until is None or step < w.until)
        ]
        if not alive:
            raise ValueError(
                f"no entry of data.windows covers step {step}; check `since` and `until`"
            )
        shares = np.array([w.share for w in alive])
        rng = np.random.default_rng((self.seed, step))
        return alive[rng.choice(len(alive), p=shares / shares.sum())]

    def draw(self, step: int, index: int, again: int = 0) -> tuple[Window, Drawn]:
        """Which pixels sample `index` of step `step` is made of, a function of the seed alone.

        `again` counts how often what was drawn before did not decode.
        """
        window = self.window(step)
        drawn = self.candidates(window, step, index, again)
        if len(drawn) == 1:
            return window, drawn[0]
        return window, max(drawn, key=lambda one: self._motion(window, one))

    def candidates(self, window: Window, step: int, index: int, again: int = 0) -> list[Drawn]:
        """What a sample is drawn from: itself, or where it is to be lively, the liveliest."""
        key = (self.seed, step, 1 + index)
        rng = np.random.default_rng((*key, 1 + again) if again else key)
        drawn = [self._drawn(window, rng)]
        if window.frames > 1 and self.config.lively and rng.random() < self.config.lively:
            group = self.train[drawn[0].clip].group  # another would not keep to data.weights
            drawn += [self._drawn(window, rng, group) for _ in range(LIVELIEST_OF - 1)]
        return drawn

    def _drawn(self, window: Window, rng: np.random.Generator, group: str | None = None) -> Drawn:
        number = self._number(window, group, rng)
        clip = self.train[number]
        strides = [s for s in self.strides if (window.frames - 1) * s < clip.frames]
        stride = strides[rng.integers(len(strides))]
        start = int(rng.integers(clip.frames - (window.frames - 1) * stride))
        shown = max(window.size, round(clip.short * rng.uniform(*self.config.scale)))
        side = min(clip.short, round(window.size * clip.short / shown))
        return Drawn(
            clip=number,
            start=start,
            stride=stride,
            top=int(rng.integers(clip.height - side + 1)),
            left=int(rng.integers(clip.width - side + 1)),
            side=side,
            mirrored=bool(self.config.flip and rng.random() < 0.5),
            synthetic=bool(window.frames > 1 and rng.random() < self.config.synthetic),
        )

    def _motion(self, window: Window, drawn: Drawn) -> float:
        """How much a frame differs from the one before, in levels: the median, so no cut counts."""
        frames = self.frames[self.train[drawn.clip]]
        cut = frames.cut(drawn.times(window), drawn.square)[:, ::4, ::4].float()
        return float(cut.diff(dim=0).abs().mean(dim=(1, 2, 3)).median())

    def sample(
        self, step: int, index: int, again: int = 0
    ) -> tuple[Float[Tensor, "1 c t h w"], Clip]:
        """One training clip in [-1, 1]. Raises ClipError where its frames do not decode."""
        window, drawn = self.draw(step, index, again)
        clip = self.train[drawn.clip]
        try:
            return self.pixels(window, drawn, step, index), clip
        except (OSError, ValueError) as error:
            raise ClipError(f"{clip.name}: {error}") from error

    def pixels(
        self, window: Window, drawn: Drawn, step: int, index: int
    ) -> Float[Tensor, "1 c t h w"]:
        """Sample `index` of step `step`, which `draw` gave, in [-1, 1]."""
        frames = self.frames[self.train[drawn.clip]]
        if drawn.synthetic:
            still = frames.cut(slice(drawn.start, drawn.start + 1))
            rng = np.random.default_rng((self.seed, step, 1 + index, 1))
            made = moving_still(still.cpu(), window, rng, pages=self.config.pages)
            return made.to(still.device)
        cut = frames.cut(drawn.times(window), drawn.square)
        x = resize_square(to_unit(cut), window.size)
        return x.flip(-1) if drawn.mirrored else x

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> ClipBatch:
        """This process's share of the batch of step `step`."""
        share = self.window(step).batch // world
        made = [self.sample(step, index) for index in range(rank * share, (rank + 1) * share)]
        return collate(made)

    def validation(self) -> Iterator[ClipBatch]:
        """Held-out clips by `config.validation`: first frames, centre square, scaled to size."""
        for sample in self.held_samples():
            yield collate([sample])

    def held_samples(self) -> Iterator[tuple[Float[Tensor, "1 c t h w"], Clip]]:
        """The same one by one; a clip that does not decode is named once and left out."""
        for clip in self.validation_clips:
            side = clip.short
            square = ((clip.height - side) // 2, (clip.width - side) // 2, side)
            try:
                cut = self.frames[clip].cut(slice(0, self.config.validation.frames), square)
            except (OSError, ValueError) as error:
                if clip not in self.lost:
                    say(f"left out of validation: {clip.name}: {error}")
                self.lost.add(clip)
                continue
            yield resize_square(to_unit(cut), self.config.validation.size), clip

    @property
    def validation_clips(self) -> list[Clip]:
        """The held-out clips for validation: `config.validation.batch` over all groups."""
        window = self.config.validation
        return balance_groups([clip for clip in self.held if window.fits(clip)], window.batch)


def collate(made: list[tuple[Tensor, Clip]]) -> ClipBatch:
    """One batch of clips of one size."""
    x = torch.cat([x for x, _ in made])
    return ClipBatch(
        x=x, names=tuple(c.name for _, c in made), groups=tuple(c.group for _, c in made)
    )


def balance_groups(clips: list[Clip], limit: int) -> list[Clip]:
    """At most `limit` clips, one of each group in turn, in a fixed order."""
    order = sorted(clips, key=lambda clip: hash_text(clip.name))
    turn = Counter[str]()
    ranked = []
    for clip in order:
        ranked.append((turn[clip.group], clip.group, clip))
        turn[clip.group] += 1
    return [clip for _, _, clip in sorted(ranked, key=lambda entry: entry[:2])][:limit]


def resize_square(x: Float[Tensor, "1 c t h w"], size: int) -> Float[Tensor, "1 c t s s"]:
    """Square frames at `size` pixels, antialiased bilinear."""
    if x.shape[-2:] == (size, size):
        return x
    frames = x[0].transpose(0, 1)
    scaled = F.interpolate(
        frames, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled.transpose(0, 1)[None]
