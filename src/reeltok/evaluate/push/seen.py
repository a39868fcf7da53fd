"""How a network sees videos of the pushing world: LPIPS of frames, distances between sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.evaluate.push.measures import Real
from reeltok.evaluate.push.sets import SPOILED, groups_of
from reeltok.metrics.distances import appearance_features, feature_moments, frechet_distance
from reeltok.metrics.lpips import LPIPS
from reeltok.nn.moments import Moments
from reeltok.video.record import to_unit

Frames = UInt8[np.ndarray, "t h w 3"]
Clips = UInt8[np.ndarray, "b t h w 3"]
Row = Float[np.ndarray, " t"]
OTHER_HALF = "real, other half"


def unit_images(frames: Frames) -> Float[Tensor, "t 3 h w"]:
    """Frames as images in [-1, 1]."""
    return to_unit(torch.from_numpy(np.ascontiguousarray(frames)))[0].transpose(0, 1)


@torch.no_grad()
def measure_lpips(net: LPIPS, real: Real, made: Frames) -> dict[str, Row]:
    """LPIPS of each frame: "lpips" over all pixels, "lpips changing" over those that change.

    The second one compares after all pixels that do not change in the real video have been put in
    from there; NaN for frames in which none changes.
    """
    only = np.where(real.changed[..., None], made, real.frames)
    a, b, c = (unit_images(frames) for frames in (real.frames, made, only))
    some = real.changed.any((1, 2))
    changing = net.distance(a, c).double().numpy()
    return {
        "lpips": net.distance(a, b).double().numpy(),
        "lpips changing": np.where(some, changing, np.nan),
    }


@dataclass(eq=False, kw_only=True)
class SetDistance:
    """The appearance distance of sets of videos to one half of the real ones.

    Episodes of even numbers are the reference. Of the others the real videos, the same frozen,
    shuffled and blurred, and those of each candidate are compared with it: so no set holds an
    episode of the reference, and what the real ones get says what is near.
    """

    net: LPIPS
    sums: dict[str, Moments] = field(default_factory=dict)
    reference: Moments | None = None

    def add_real(self, videos: Clips, first: int) -> None:
        """Count real videos, of which the first is episode `first`."""
        for number, frames in enumerate(videos, first):
            if number % 2:
                spoiled = {name: spoil(frames) for name, spoil in SPOILED.items()}
                for name, video in {OTHER_HALF: frames, **spoiled}.items():
                    self.add(name, video)
            else:
                moments = self.moments(frames)
                self.reference = moments if self.reference is None else self.reference + moments

    def add_made(self, name: str, videos: Clips, first: int) -> None:
        """Count what a candidate made of these episodes."""
        for number, frames in enumerate(videos, first):
            if number % 2:
                self.add(name, frames)

    def add(self, name: str, frames: Frames) -> None:
        """Count one video of a set."""
        moments = self.moments(frames)
        self.sums[name] = self.sums[name] + moments if name in self.sums else moments

    @torch.no_grad()
    def moments(self, frames: Frames) -> Moments:
        """The moments of one video's features."""
        return feature_moments(appearance_features(self.net.backbone(unit_images(frames))[-1]))

    def distances(self) -> dict[str, float]:
        """The distance of every set; none where a single pair of frames has no covariance."""
        real = self.reference
        if real is None or real.count < 2:
            return {}
        known = {name: each for name, each in self.sums.items() if each.count > 1}
        return {name: frechet_distance(real, each) for name, each in known.items()}


def distances_between(
    net: LPIPS, reference: Sequence[Frames], sets: Mapping[str, Sequence[Frames]]
) -> dict[str, float]:
    """The appearance distance of each set of videos to the reference, by groups (`groups_of`)."""
    found = SetDistance(net=net)
    for frames in reference:
        moments = found.moments(frames)
        found.reference = moments if found.reference is None else found.reference + moments
    groups = groups_of(sets)
    for name, each in groups.items():
        for i, videos in enumerate(each):
            for frames in videos:
                found.add(f"{name} {i}", frames)
    far = found.distances()
    names = {name: [f"{name} {i}" for i in range(len(each))] for name, each in groups.items()}
    return {
        name: sum(far[each] for each in own) / len(own)
        for name, own in names.items()
        if all(each in far for each in own)
    }
