"""Two sets of videos, real and made, as distributions: how far apart are their features?"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from reeltok.data.find import find_clips
from reeltok.data.kinds import is_video
from reeltok.evaluate.clips import ScoredClip, ScoredClips, as_scored, clips
from reeltok.evaluate.protocols import Protocol
from reeltok.evaluate.run import check_broken
from reeltok.evaluate.scores import Scorer, open_scorer
from reeltok.metrics.distances import appearance_features, feature_moments, frechet_distance
from reeltok.metrics.paired import Videos
from reeltok.nn.moments import Moments
from reeltok.video.formats import LOSSLESS, codec_named_in
from reeltok.video.raw import RAW
from reeltok.wording import count

ALWAYS = ("lpips-alex", "appearance")  # beside the protocol's own: its weights are free


@dataclass(frozen=True, kw_only=True)
class SetDistances:
    """The distances between two sets, and how many clips were in each; what had no weights.

    `filled` counts the clips of both that repeat their last frame for want of others, `off_rate`
    made clips whose files have another rate than the protocol: their frames are not resampled.
    `without` counts the clips of both that are too short for a network, `too_few` says why there
    is no distance then. Sizes are those that were compared, "width x height".
    """

    distances: dict[str, float]
    real: int
    made: int
    filled: int
    off_rate: int
    without: dict[str, int]
    real_sizes: list[str]
    made_sizes: list[str]
    broken: dict[str, str]
    missing: dict[str, str]
    too_few: dict[str, str]


@dataclass(kw_only=True)
class ClipSet:
    """One of the two sets, as sums over its clips."""

    sums: dict[str, Moments] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # clips that have features, by network
    clips: int = 0  # that have features of any
    alone: list[str] = field(default_factory=list)  # those that have none
    rates: Counter[float | None] = field(default_factory=Counter)  # clips of each, in Hz
    filled: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width, height
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, features: Mapping[str, Tensor]) -> None:
        """Count a clip's features."""
        for key, values in features.items():
            of_clip = feature_moments(values, f"{key} of {name}")
            self.sums[key] = self.sums[key] + of_clip if key in self.sums else of_clip
        self.counts.update(features.keys())
        self.clips += 1

    def without(self, key: str) -> int:
        """Clips that have no features of a network."""
        return self.clips + len(self.alone) - self.counts[key]

    @property
    def shown_sizes(self) -> list[str]:
        """Every size, as people write it."""
        return [f"{width}x{height}" for width, height in sorted(self.sizes)]


def lossy_codec(made: str | Path) -> str | None:
    """The codec of the made videos, of one of each suffix, where that does not keep every value.

    What it loses counts as the generator's: of 64 videos of 64x64 pixels H.264 made an appearance
    distance of 65.5 one of 92.8.
    """
    for path in {clip.path.suffix.lower(): clip.path for clip in find_clips(made)}.values():
        if not path.is_file() or not is_video(path) or path.suffix.lower() in RAW:
            continue
        with suppress(OSError, ValueError):  # one that is broken is told later
            codec = codec_named_in(path)
            if codec not in LOSSLESS:
                return codec
    return None


def set_distances(
    real: str | Path,
    made: str | Path,
    protocol: Protocol,
    *,
    device: torch.device | str = "cpu",
    max_broken: int = 5,
    progress: Callable[[ScoredClip], object] = lambda clip: None,
) -> SetDistances:
    """Fréchet distances of the protocol's networks, and the appearance distance.

    Made videos are one clip each; both sets are compared at the protocol's `scored_size`. Each
    clip's features are added up and forgotten. ValueError where a set gives fewer than two
    clips, or more than `max_broken` break; a metric without weights is `missing`.
    """
    scorer = open_scorer((*protocol.metrics, *ALWAYS), frames=protocol.fvd_frames, device=device)
    plans = ((protocol, real), (protocol.of_made, made))
    sets = [sum_clips(plan, data, scorer, device, max_broken, progress) for plan, data in plans]
    first, second = sets
    distances, too_few = dict[str, float](), dict[str, str]()
    for key in sorted({key for each in sets for key in each.sums}):
        fewest, data = min((first.counts[key], str(real)), (second.counts[key], str(made)))
        if fewest < 2:
            enough = f"{data} gives {count(fewest, 'clip')} long enough for it"
            too_few[key] = f"{enough}, a distance needs two of each set"
        else:
            distances[key] = frechet_distance(first.sums[key], second.sums[key])
    without = {key: sum(each.without(key) for each in sets) for key in (*distances, *too_few)}
    return SetDistances(
        distances=distances,
        real=first.clips,
        made=second.clips,
        filled=sum(each.filled for each in sets),
        off_rate=sum(n for fps, n in second.rates.items() if not protocol.is_rate(fps)),
        without={key: number for key, number in without.items() if number},
        real_sizes=first.shown_sizes,
        made_sizes=second.shown_sizes,
        broken=first.broken | second.broken,
        missing={name: why for name, why in scorer.missing.items() if name != "lpips-alex"},
        too_few=too_few,
    )


def sum_clips(
    plan: Protocol,
    data: str | Path,
    scorer: Scorer,
    device: torch.device | str,
    max_broken: int,
    progress: Callable[[ScoredClip], object],
) -> ClipSet:
    """The sums of one set. ValueError where it gives fewer than two clips, or too many break."""
    held, found = clips(plan, data), ClipSet()
    for clip in held:
        seen_as = as_scored(clip.video, plan)
        seen = clip_features(seen_as.tensor(device=device), scorer)
        if not seen and (scorer.lpips or scorer.extractors):
            found.alone.append(clip.name)
            continue
        found.add(clip.name, seen)
        found.rates[clip.video.fps] += 1
        found.sizes.add((seen_as.width, seen_as.height))
        progress(clip)
    check_broken(held.broken, max_broken, str(data))
    given = f"{data} gives {found.clips} clips under {plan.name}"
    require_two(found.clips, given, held, found.alone)
    found.filled, found.broken = held.filled, held.broken
    return found


def require_two(number: int, given: str, held: ScoredClips, alone: Sequence[str]) -> None:
    """ValueError where a set has fewer than two clips; `alone` are those of one frame."""
    if number >= 2:
        return
    one = [f"{name} is one frame, which has no distance" for name in alone]
    whys = [*held.left_out.values(), *held.broken.values(), *one, "it has no more"]
    raise ValueError(f"{given}, a distance needs two of each set or more: {whys[0]}")


@torch.no_grad()
def clip_features(x: Videos, scorer: Scorer) -> dict[str, Tensor]:
    """The features "n d" of one clip by every network of a judge."""
    found = {f"fvd-{key}-{e.name}": e(x) for key, e in scorer.extractors.items()}
    alex = next((net for net in scorer.lpips if net.net == "alex"), None)
    if alex is not None and x.shape[2] > 1:
        found["appearance"] = appearance_features(alex.backbone(x[0].transpose(0, 1))[-1])
    return found
