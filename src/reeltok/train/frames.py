"""Decoded frames of the training clips: opened, kept as uint8, checked.

A clip is decoded once into a file that several processes read, into memory or onto the device; or
each sample decodes what it needs.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from reeltok.data.clip import Clip, said_of
from reeltok.data.find import find_clips, folder_of
from reeltok.data.lists import write_list
from reeltok.files.atomic import replacing, write_file
from reeltok.files.hashes import hash_text
from reeltok.files.parsing import read_array
from reeltok.train.clips import DataConfig
from reeltok.video.decode import Damage
from reeltok.video.record import Stream
from reeltok.video.timing import FramePlan


@dataclass(frozen=True, kw_only=True)
class BrokenClip:
    """A clip that cannot be decoded, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        """Its name and the reason, which does not name it again."""
        return f"{self.name}: {said_of(self.name, self.reason)}"


@dataclass(frozen=True, eq=False)
class CachedFrames:
    """Frames in a file of the cache: uint8 "t h w 3".

    It is mapped while a part of it is copied, so that a run of many clips holds no file open for
    each. A file that is gone or damaged is made again.
    """

    file: Path
    shape: tuple[int, ...]
    decode: Callable[[], np.ndarray] = field(repr=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
        held = _held(self.file)
        if held is None or held.shape != self.shape:
            held = self.decode()
            _store(held, self.file)
        return np.array(held[where])


@dataclass(frozen=True, eq=False)
class ClipFrames:
    """The frames of one clip: uint8 "t h w 3" held somewhere, or nothing (decoded on demand)."""

    clip: Clip
    held: np.ndarray | CachedFrames | Tensor | None = None
    plan: FramePlan | None = None  # which of the file's frames these are
    left_out: int = 0  # how many frames at its end the cache had no room for
    damage: Damage = "refuse"

    def cut(
        self, times: slice, square: tuple[int, int, int] | None = None
    ) -> UInt8[Tensor, "t h w 3"]:
        """The frames `times`, or of them a square given by its top, left and side."""
        area: tuple[slice, ...] = ()
        if square is not None:
            top, left, side = square
            area = (slice(top, top + side), slice(left, left + side))
        if self.held is None:
            return self._decoded(times)[:, *area].contiguous()
        part: Any = self.held[(times, *area)]
        return part.contiguous() if isinstance(part, Tensor) else torch.from_numpy(np.array(part))

    def _decoded(self, times: slice) -> UInt8[Tensor, "t h w 3"]:
        """Those frames from the file, entered at the time of the first of them."""
        if self.plan is None or self.plan.stamps is None or self.plan.shown is None:
            return self.clip.read(frames=times.stop, damage=self.damage).frames[times]
        stamps, wanted = self.plan.stamps, self.plan.shown[times]
        first = int(np.searchsorted(stamps, stamps[wanted[0]]))  # of those with the same stamp
        begin = max(0.0, float(stamps[first]) - self.clip.start)
        count = int(wanted[-1]) - first + 1
        part = self.clip.read(start=begin, frames=count, damage=self.damage).frames
        return part[torch.from_numpy(wanted - first)]


def open_clips(
    clips: Iterable[Clip], config: DataConfig, *, cache: Path, device: torch.device | str = "cpu"
) -> tuple[dict[Clip, ClipFrames], list[BrokenClip]]:
    """Every clip that decodes, with its true frame count, rate and size; and those that do not.

    Files of the decode-once cache go to `cache`. Raises ValueError where not one clip decodes.
    """
    clips = list(clips)
    with ThreadPoolExecutor(config.workers) as pool:
        probed = list(pool.map(lambda clip: _probe(clip, config), clips))
        whole = [entry for entry in probed if isinstance(entry, ClipFrames)]
        cap = frame_cap([entry.clip for entry in whole], config)
        kept = list(pool.map(lambda entry: _keep(entry, config, cap, cache, device), whole))
    broken = [entry for entry in (*probed, *kept) if isinstance(entry, BrokenClip)]
    opened = {entry.clip: entry for entry in kept if isinstance(entry, ClipFrames)}
    if not opened:
        raise ValueError(f"none of {len(clips)} clips decodes; the first: {broken[0]}")
    return opened, broken


def _probe(clip: Clip, config: DataConfig) -> ClipFrames | BrokenClip:
    """A clip at the rate asked for, with what its file turned out to be; nothing is held yet."""
    try:
        with clip.stream(chunk=1, fps=config.fps, damage=config.damage) as video:
            found = with_measurements(clip, video.frames, video)
            return ClipFrames(found, plan=video.plan, damage=config.damage)
    except (OSError, ValueError) as error:
        return BrokenClip(name=clip.name, reason=str(error))


def with_measurements(clip: Clip, frames: int, video: Stream) -> Clip:
    """The clip with what its file turned out to be."""
    fps = float(video.fps or 0.0)
    return replace(clip, frames=frames, fps=fps, height=video.height, width=video.width)


def frame_cap(clips: list[Clip], config: DataConfig) -> int:
    """How many frames a clip may keep so that all fit into `cache_gb`: the longest are cut."""

    def bytes_at(cap: int) -> int:
        return sum(
            min(clip.frames, cap) * math.prod(_kept_size(clip, config)) * 3 for clip in clips
        )

    low, high = 1, max((clip.frames for clip in clips), default=1)
    if bytes_at(high) <= config.cache_gb * 1e9:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_at(middle) <= config.cache_gb * 1e9 else (low, middle)
    return low


def cut_clips(opened: Mapping[Clip, ClipFrames], config: DataConfig) -> str | None:
    """One sentence on the clips that `cache_gb` cuts; None where it cuts none."""
    cut = [entry for entry in opened.values() if entry.left_out]
    if not cut:
        return None
    kept, lost = sum(clip.frames for clip in opened), sum(entry.left_out for entry in cut)
    longest = max(entry.clip.frames for entry in cut)
    return (
        f"{len(cut)} of {len(opened)} clips are cut to {longest:,} frames "
        f"({lost / (kept + lost):.1%} of all frames are left out): raise "
        f"data.cache_gb={config.cache_gb:g}, or set data.cache=none"
    )


def unread_cache(opened: Mapping[Clip, ClipFrames], config: DataConfig, cache: Path) -> str | None:
    """One sentence where clips that this run does not read fill thrice the `cache_gb` it may."""
    read = {entry.held.file for entry in opened.values() if isinstance(entry.held, CachedFrames)}
    size = 0
    for file in cache.glob("*.npy"):
        with suppress(OSError):  # another process may have removed it
            size += 0 if file in read else file.stat().st_size
    if size < 3 * config.cache_gb * 1e9:
        return None
    return (
        f"{cache} holds {size / 1e9:,.2g} GB of decoded clips that this run does not read: it can "
        "be emptied at any time"
    )


def _kept_size(clip: Clip, config: DataConfig) -> tuple[int, int]:
    factor = min(1.0, config.cache_size / max(clip.short, 1))
    return round(clip.height * factor), round(clip.width * factor)


def _keep(
    found: ClipFrames, config: DataConfig, cap: int, cache: Path, device: torch.device | str
) -> ClipFrames | BrokenClip:
    if config.cache == "none":
        return found
    clip, size = found.clip, _kept_size(found.clip, config)
    place = clip.address or clip.path.resolve()
    bytes_ = 0 if clip.address else clip.path.stat().st_size
    key = f"{place}|{clip.member}|{clip.record}|{clip.start}|{clip.end}"
    key += f"|{clip.changed}|{bytes_}|{size}|{min(cap, clip.frames)}"
    key += f"|{config.fps}|{config.damage}"
    target = cache / f"{hash_text(key, 24)}.npy"
    decode = partial(_decode, clip, config, size, cap)
    held = _held(target) if config.cache == "disk" else None
    if held is None:
        try:
            held = decode()
        except (OSError, ValueError) as error:
            return BrokenClip(name=clip.name, reason=str(error))
        if config.cache == "disk":
            _store(held, target)
    left_out = max(0, clip.frames - cap)
    clip = replace(clip, frames=len(held), height=held.shape[1], width=held.shape[2])
    if config.cache == "disk":
        return ClipFrames(clip, CachedFrames(target, held.shape, decode), left_out=left_out)
    kept = torch.from_numpy(held).to(device) if config.cache == "device" else held
    return ClipFrames(clip, kept, left_out=left_out)


def _decode(clip: Clip, config: DataConfig, size: tuple[int, int], cap: int) -> np.ndarray:
    """The first `cap` frames at `size` (height, width), uint8 t h w 3."""
    wanted = None if size == (clip.height, clip.width) else size
    count = min(cap, clip.frames)
    video = clip.read(frames=count, size=wanted, fps=config.fps, damage=config.damage)
    return video.frames.numpy()


def _held(target: Path) -> np.ndarray | None:
    """The frames that the cache holds; None where it holds none, or a file that is damaged."""
    try:
        held = read_array(target)
    except (FileNotFoundError, ValueError):
        return None
    frames = held.dtype == np.uint8 and held.ndim == 4 and held.shape[3] == 3
    return held if frames and held.size else None


def _store(frames: np.ndarray, target: Path) -> None:
    with replacing(target) as part:
        np.save(part, frames)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `check_clips` found: how many clips decode, which do not, and where the lists lie."""

    clips: int
    frames: int
    seconds: float
    broken: tuple[BrokenClip, ...]
    damaged: dict[str, int]  # frames that were left out, by the name of the clip
    report: Path
    clean: Path


def check_clips(
    data: str | Path,
    *,
    out: str | Path | None = None,
    workers: int = 2,
    damage: Damage = "refuse",
) -> Checked:
    """Decode every clip to its end; write `check.json` and `clean.csv`, which training can read.

    `damage`: whether clips with frames that cannot be decoded are broken, or how they are read. The
    files go to `out`, by default beside the clips. Raises ValueError where nothing decodes.
    """
    target = Path(out) if out else folder_of(data)
    if (target / "clean.csv").exists() and not (target / "check.json").exists():
        raise ValueError(
            f"{target / 'clean.csv'} is not of an earlier check (there is no check.json beside "
            "it): name another folder with `out`, or move it"
        )
    clips = find_clips(data)
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda clip: _count(clip, damage), clips))
    broken = tuple(entry for entry in results if isinstance(entry, BrokenClip))
    read = [entry for entry in results if isinstance(entry, _Counted)]
    whole = [entry.clip for entry in read]
    if not whole:
        raise ValueError(
            f"none of {len(clips)} clips in {data} decodes; the first: {broken[0].reason}"
        )
    found = Checked(
        clips=len(whole),
        frames=sum(clip.frames for clip in whole),
        seconds=sum(clip.frames / clip.fps for clip in whole if clip.fps),
        broken=broken,
        damaged={entry.clip.name: entry.damaged for entry in read if entry.damaged},
        report=target / "check.json",
        clean=target / "clean.csv",
    )
    _write_lists(found, whole)
    return found


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """A clip that decodes, and how many of its frames were left out."""

    clip: Clip
    damaged: int


def _count(clip: Clip, damage: Damage) -> _Counted | BrokenClip:
    """Decode to the end; a stream that stops early or changes size in between raises inside."""
    try:
        with clip.stream(damage=damage) as video:
            frames = sum(len(part) for part in video)
            if frames == 0:
                return BrokenClip(name=clip.name, reason="no frame decodes")
            return _Counted(clip=with_measurements(clip, frames, video), damaged=video.damaged)
    except (OSError, ValueError) as error:
        return BrokenClip(name=clip.name, reason=str(error))


def _write_lists(found: Checked, whole: list[Clip]) -> None:
    entries = [{"name": bad.name, "reason": bad.reason} for bad in found.broken]
    report = {"clips": found.clips, "frames": found.frames, "seconds": found.seconds}
    lists = {"broken": entries, "damaged": found.damaged}
    write_file(found.report, json.dumps({**report, **lists}, indent=1) + "\n")
    write_list(found.clean, whole)
