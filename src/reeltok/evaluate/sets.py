"""Two sets of videos, real and made, as distributions: how far apart are their features?"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
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

ALWAYS = ("lpips-alex", "appearance")  # beside the protocol's own: its weights are free


@dataclass(frozen=True, kw_only=True)
class SetDistances:
    """The distances between two sets, and how many clips were in each; what had no weights.

    `filled` counts the clips of both that repeat their last frame for want of others, `off_rate`
    made clips whose files have another rate than the protocol: their frames are not resampled.
    """

    distances: dict[str, float]
    real: int
    made: int
    filled: int
    off_rate: int
    broken: dict[str, str]
    missing: dict[str, str]


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
    sums: list[dict[str, Moments]] = []
    counts, filled, off_rate, broken = [], 0, 0, dict[str, str]()
    for plan, data in ((protocol, real), (protocol.of_made, made)):
        held, found, number, alone = clips(plan, data), dict[str, Moments](), 0, list[str]()
        for clip in held:
            x = as_scored(clip.video, plan).tensor(device=device)
            seen = clip_features(x, scorer)
            if not seen and (scorer.lpips or scorer.extractors):
                alone.append(clip.name)
                continue
            for name, features in seen.items():
                of_clip = feature_moments(features, f"{name} of {clip.name}")
                found[name] = found[name] + of_clip if name in found else of_clip
            number += 1
            off_rate += plan is not protocol and not protocol.is_rate(clip.video.fps)
            progress(clip)
        check_broken(held.broken, max_broken, str(data))
        require_two(number, f"{data} gives {number} clips under {protocol.name}", held, alone)
        sums.append(found)
        counts.append(number)
        filled += held.filled
        broken |= held.broken
    distances = {name: frechet_distance(sums[0][name], sums[1][name]) for name in sums[0]}
    missing = {name: why for name, why in scorer.missing.items() if name != "lpips-alex"}
    real_clips, made_clips = counts
    return SetDistances(
        distances=distances,
        real=real_clips,
        made=made_clips,
        filled=filled,
        off_rate=off_rate,
        broken=broken,
        missing=missing,
    )


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
