"""The clips that a run learns from: where they lie, what is drawn from them, what a batch is."""

import csv
import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from reeltok.files import scratch

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
    `lively` is the share of samples that are the liveliest of three drawn at random: the one whose
    consecutive frames differ most (it needs a cache). `synthetic` is the share of samples that are
    one still frame, panned and zoomed, with text.
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
    lively: float = Field(default=0.0, ge=0, le=1)
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
        with self.path.open("rb") as shard, scratch() as folder:
            shard.seek(begin)
            target = folder / Path(self.member).name
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
