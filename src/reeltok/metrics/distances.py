"""What is measured between two sets of clips, from the features of a network.

Sets are compared by feature statistics (`Moments`), whose size does not grow with the set.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reeltok.nn.moments import Moments


def feature_moments(features: Float[Tensor, "n d"], what: str = "these") -> Moments:
    """The moments of one batch of feature vectors, called `what` in errors.

    ValueError where any is not finite: such a set would be at no distance from any other.
    """
    wrong = int((~features.isfinite()).any(dim=1).sum())
    if wrong:
        raise ValueError(
            f"{what}: {wrong} of {len(features)} feature vectors hold NaN or infinity: look at "
            "the clip and the network that they come from"
        )
    return Moments.of(features, pairs=True)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) with unbiased covariances, in float64.

    The trace of the root is the sum of singular values of R_a' R_b, where A = R_a R_a': exact for
    singular covariances too, so nothing is added to the diagonal. ValueError where a mean or a
    scatter is not finite, which has no distance.
    """
    for name, side in (("first", a), ("second", b)):
        if not (side.mean.isfinite().all() and side.scatter.isfinite().all()):
            raise ValueError(
                f"the features of the {name} set hold NaN or infinity: look at the clips and the "
                "network that they come from"
            )
    apart = (a.mean - b.mean).square().sum()
    root = torch.linalg.svdvals(_root(a.covariance).T @ _root(b.covariance)).sum()
    distance = apart + a.covariance.trace() + b.covariance.trace() - 2 * root
    return max(0.0, distance.item())


def _root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d r"]:
    """R "d r" with R R' = covariance, of its rank r: a few clips leave most directions empty."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def appearance_features(features: Float[Tensor, "t c h w"]) -> Float[Tensor, "s d"]:
    """What the appearance distance compares: one vector per pair of neighbouring frames.

    From AlexNet's last feature map of the t frames of one clip: its spatial mean, and the spatial
    mean of its absolute change to the next frame (2 x 256 numbers for each of t - 1 pairs).
    """
    change = features.diff(dim=0).abs().mean(dim=(2, 3))
    return torch.cat([features[:-1].mean(dim=(2, 3)), change], dim=1)
