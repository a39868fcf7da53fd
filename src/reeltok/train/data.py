"""Clips for training: where they lie, what is held out, and which pixels step s, sample i gets.

Everything random is a function of (seed, step, index): no worker, process count or restart
changes what a step sees. A clip that cannot be decoded is reported, counted and absent.
"""

import csv
import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from reeltok.video import to_unit

if TYPE_CHECKING:
    from reeltok.train.frames import Frames

KNOWN = ".mp4 .mkv .webm .avi .gif .mov .m4v .mpg .mpeg .ts .flv .ogv"
VIDEOS = frozenset(KNOWN.split())
IMAGES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
NAMES = ("file", "videos", "path", "name")  # columns that may hold the file name, best first


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Window:
    """One kind of batch: `batch` clips of `frames` frames, `size` pixels square, drawn by `share`.

    `batch` counts clips over all processes. A window is drawn only from step `since` until `until`.
    """

    frames: int = Field(default=17, ge=1)
    size: int = Field(default=128, ge=8)
    batch: int = Field(default=8, ge=1)
    share: float = Field(default=1.0, gt=0)
    since: int = 0
    until: int | None = None


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DataConfig:
    """What is drawn from the clips, and how they are kept.

    `weights` gives sampling weights to values of the manifest column `column`; `other` is shared
    by clips of all remaining values. `fps` picks the frame step nearest to that rate; without it
    the step is drawn from `strides`. `scale` bounds the random down-scaling before the crop.
    `holdout` is the share of sources kept apart; validation sees `judged.batch` of their clips.
    `synthetic` is the share of samples that are one still frame, panned and zoomed, with text.
    `cache`: "none" decodes for every sample, "disk" decodes once into files that processes share,
    "memory" and "device" decode once and hold uint8 frames there; `cache_size` bounds the short
    side and `cache_gb` the whole: the longest clips are cut until it fits.
    """

    windows: tuple[Window, ...] = (Window(),)
    column: str = "group"
    weights: dict[str, float] = Field(default_factory=dict)
    other: float = Field(default=1.0, ge=0)
    fps: float | None = Field(default=None, gt=0)
    strides: tuple[int, ...] = (1,)
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    synthetic: float = Field(default=0.0, ge=0, le=1)
    holdout: float = Field(default=0.1, ge=0, lt=1)
    judged: Window = Window(frames=17, size=128, batch=24)
    cache: Literal["none", "disk", "memory", "device"] = "disk"
    cache_size: int = 256
    cache_gb: float = 8.0
    workers: int = Field(default=1, ge=1)
    ahead: int = Field(default=2, ge=1)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Where one clip lies, what it belongs to and, once opened, its frames, rate and size."""

    path: Path
    member: str = ""  # name inside a tar shard
    span: tuple[int, int] | None = None  # where its bytes begin there, and how many they are
    group: str = ""
    source: str = ""
    frames: int = 0
    fps: float = 0.0
    height: int = 0
    width: int = 0

    @property
    def name(self) -> str:
        return f"{self.path.name}/{self.member}" if self.member else self.path.name

    @property
    def short(self) -> int:
        return min(self.height, self.width)

    def held_out(self, share: float) -> bool:
        """Whether the clip is kept for validation: a fixed function of its source alone."""
        digest = hashlib.sha256(self.source.encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """A path that can be decoded: the file, or a tar member written to a temporary file."""
        if not self.member:
            yield self.path
            return
        begin, size = self.span or _spans(self.path)[self.member]
        with self.path.open("rb") as shard, TemporaryDirectory(prefix="reeltok-") as folder:
            shard.seek(begin)
            target = Path(folder) / Path(self.member).name
            target.write_bytes(shard.read(size))
            yield target


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a task gets: clips in [-1, 1] and where they came from."""

    x: Float[Tensor, "b c t h w"]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(x=self.x.to(device, non_blocking=True), names=self.names, groups=self.groups)

    def split(self, parts: int) -> list["Batch"]:
        """At most `parts` batches, as equal as they go."""
        edges = [len(self) * i // parts for i in range(parts + 1)]
        cuts = [slice(a, b) for a, b in pairwise(edges) if b > a]
        return [Batch(x=self.x[c], names=self.names[c], groups=self.groups[c]) for c in cuts]


def list_clips(path: str | Path, *, column: str = "group") -> list[Clip]:
    """The clips of a folder, a CSV list or tar shards, not yet opened.

    A folder with `manifest.csv` is read as that list; otherwise every video, image and tar shard
    below it counts, grouped by its folder. FileNotFoundError or ValueError where there is nothing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no training data at {path}: give a folder, a .csv or a .tar")
    if path.is_dir() and (path / "manifest.csv").is_file():
        path = path / "manifest.csv"
    if path.suffix == ".csv":
        found = _listed(path, column)
    elif path.suffix == ".tar":
        found = _packed(path)
    else:
        found = _walked(path)
    if not found:
        raise ValueError(f"no video or image in {path}; known endings: {KNOWN}")
    return found


def _listed(path: Path, column: str) -> list[Clip]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return []
    name = next((key for key in NAMES if key in rows[0]), None)
    if name is None:
        raise ValueError(
            f"{path} has columns {', '.join(rows[0])}; one of {', '.join(NAMES)} must name files"
        )
    origin = [key for key in ("repo", "path") if key in rows[0] and key != name]
    clips = []
    for row in rows:
        source = "/".join(row[key] for key in origin) or row.get("source") or row[name]
        member, group = row.get("member") or "", row.get(column) or ""
        clips.append(Clip(path=path.parent / row[name], member=member, group=group, source=source))
    return clips


def _walked(folder: Path) -> list[Clip]:
    clips = []
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.suffix.lower() in VIDEOS | IMAGES:
            group = inside.parts[0] if len(inside.parts) > 1 else ""
            clips.append(Clip(path=file, group=group, source=inside.as_posix()))
        elif file.suffix == ".tar":
            clips += _packed(file)
    return clips


def _packed(shard: Path) -> list[Clip]:
    return [
        Clip(path=shard, member=name, span=span, group=shard.stem, source=f"{shard.name}/{name}")
        for name, span in _spans(shard).items()
        if Path(name).suffix.lower() in VIDEOS | IMAGES
    ]


def _spans(shard: Path) -> dict[str, tuple[int, int]]:
    """Where the bytes of every file in an uncompressed tar archive begin, and how many they are."""
    try:
        with tarfile.open(shard, "r:") as tar:
            return {file.name: (file.offset_data, file.size) for file in tar if file.isfile()}
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is no readable tar archive ({error})") from error


class ClipError(ValueError):
    """A clip that opened does not decode where a sample needs it."""


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


class ClipSource:
    """Random clips for every (step, index), and fixed held-out clips for validation.

    >>> opened, broken = open_clips(list_clips(folder), config, cache=folder)
    >>> ClipSource(opened, config, seed=0).batch(step=7).x.shape
    """

    def __init__(
        self, clips: Mapping[Clip, "Frames"], config: DataConfig, *, seed: int = 0
    ) -> None:
        self.config, self.seed, self.frames = config, seed, clips
        self.train = [clip for clip in clips if not clip.held_out(config.holdout)]
        self.held = [clip for clip in clips if clip.held_out(config.holdout)]
        self.short_of = Counter[str]()
        self.odds = {window: self._odds(window) for window in config.windows}

    def _odds(self, window: Window) -> np.ndarray:
        """How likely each training clip is in this window; the unfit are counted."""
        fits = np.array([self._fits(clip, window) for clip in self.train], dtype=bool)
        if not fits.any():
            raise ValueError(
                f"none of {len(self.train)} training clips has {window.frames} frames of "
                f"{window.size} pixels at the rate asked; lower data.windows or data.holdout"
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

    def strides(self, clip: Clip) -> tuple[int, ...]:
        if self.config.fps is None:
            return self.config.strides
        return (max(1, round(clip.fps / self.config.fps)),)

    def _fits(self, clip: Clip, window: Window) -> bool:
        needed = (window.frames - 1) * min(self.strides(clip)) + 1
        return clip.frames >= needed and clip.short >= window.size

    def summary(self) -> str:
        """One sentence for people: what is trained on, held out, and too short for what."""
        told = [f"{len(self.train)} clips to train on"]
        told += [f"{len(self.held)} held out ({len(self.judged)} judged)"]
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

    def draw(self, step: int, index: int) -> tuple[Window, Drawn]:
        """Which pixels sample `index` of step `step` is made of, a function of the seed alone."""
        window = self.window(step)
        rng = np.random.default_rng((self.seed, step, 1 + index))
        number = int(rng.choice(len(self.train), p=self.odds[window]))
        clip = self.train[number]
        strides = [s for s in self.strides(clip) if (window.frames - 1) * s < clip.frames]
        stride = int(rng.choice(strides))
        start = int(rng.integers(clip.frames - (window.frames - 1) * stride))
        shown = max(window.size, round(clip.short * rng.uniform(*self.config.scale)))
        side = min(clip.short, round(window.size * clip.short / shown))
        return window, Drawn(
            clip=number,
            start=start,
            stride=stride,
            top=int(rng.integers(clip.height - side + 1)),
            left=int(rng.integers(clip.width - side + 1)),
            side=side,
            mirrored=bool(self.config.flip and rng.random() < 0.5),
            synthetic=bool(window.frames > 1 and rng.random() < self.config.synthetic),
        )

    def sample(self, step: int, index: int) -> tuple[Float[Tensor, "1 c t h w"], Clip]:
        """One training clip in [-1, 1]. Raises ClipError where its frames do not decode."""
        window, drawn = self.draw(step, index)
        clip = self.train[drawn.clip]
        try:
            return self._pixels(window, drawn, (self.seed, step, 1 + index, 1)), clip
        except (OSError, ValueError) as error:
            raise ClipError(f"{clip.name}: {error}") from error

    def _pixels(
        self, window: Window, drawn: Drawn, seed: tuple[int, ...]
    ) -> Float[Tensor, "1 c t h w"]:
        frames = self.frames[self.train[drawn.clip]]
        if drawn.synthetic:
            from reeltok.train.synthetic import moving_still

            still = frames.cut(slice(drawn.start, drawn.start + 1))
            made = moving_still(still.cpu(), window, np.random.default_rng(seed))
            return made.to(still.device)
        stop = drawn.start + (window.frames - 1) * drawn.stride + 1
        times = slice(drawn.start, stop, drawn.stride)
        x = resize(to_unit(frames.cut(times, (drawn.top, drawn.left, drawn.side))), window.size)
        return x.flip(-1) if drawn.mirrored else x

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Batch:
        """This process's share of the batch of step `step`."""
        share = self.window(step).batch // world
        made = [self.sample(step, index) for index in range(rank * share, (rank + 1) * share)]
        return collate(made)

    def validation(self) -> Iterator[Batch]:
        """Held-out clips as `config.judged` says: first frames, centre square, scaled to size."""
        for clip in self.judged:
            side = clip.short
            square = ((clip.height - side) // 2, (clip.width - side) // 2, side)
            cut = self.frames[clip].cut(slice(0, self.config.judged.frames), square)
            yield collate([(resize(to_unit(cut), self.config.judged.size), clip)])

    @property
    def judged(self) -> list[Clip]:
        """The held-out clips that validation looks at: `config.judged.batch` over all groups."""
        window = self.config.judged
        return spread([c for c in self.held if c.frames >= window.frames], window.batch)


def collate(made: "list[tuple[Tensor, Clip]]") -> Batch:
    """One batch of clips of one size."""
    x = torch.cat([x for x, _ in made])
    return Batch(x=x, names=tuple(c.name for _, c in made), groups=tuple(c.group for _, c in made))


def spread(clips: list[Clip], limit: int) -> list[Clip]:
    """At most `limit` clips, one of each group in turn, in a fixed order."""
    order = sorted(clips, key=lambda clip: hashlib.sha256(clip.name.encode()).digest())
    turn = Counter[str]()
    ranked = []
    for clip in order:
        ranked.append((turn[clip.group], clip.group, clip))
        turn[clip.group] += 1
    return [clip for _, _, clip in sorted(ranked, key=lambda entry: entry[:2])][:limit]


def resize(x: Float[Tensor, "1 c t h w"], size: int) -> Float[Tensor, "1 c t s s"]:
    """Square frames at `size` pixels, antialiased bilinear."""
    if x.shape[-2:] == (size, size):
        return x
    frames = x[0].transpose(0, 1)
    scaled = F.interpolate(
        frames, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled.transpose(0, 1)[None]
