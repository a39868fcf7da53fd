"""Distances between sets against the reference code, scipy and hand-computed cases."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reeltok.files.checkpoints import load_weights
from reeltok.metrics.distances import (
    appearance_features,
    feature_moments,
    frechet_distance,
)
from reeltok.metrics.lpips import Backbone
from reeltok.nn.moments import Moments


@pytest.mark.weights
def test_frechet_distance_equals_the_reference_code(shared: Path) -> None:
    stored = load_file(shared / "parity/coordtok/fvd_math.safetensors")
    found = frechet_distance(feature_moments(stored["in.real"]), feature_moments(stored["in.fake"]))
    assert found == pytest.approx(stored["out.fd"].item(), rel=1e-5)  # that code is float32


@pytest.mark.parametrize("count", [60, 5])  # 5 vectors of 8 numbers: a singular covariance
def test_frechet_distance_equals_the_matrix_square_root(count: int) -> None:
    from scipy.linalg import sqrtm

    real, fake = torch.randn(count, 8), torch.randn(count, 8) * 1.5 + 0.3
    a, b = feature_moments(real), feature_moments(fake)
    root = sqrtm((a.covariance @ b.covariance).numpy()).real.trace()
    wanted = (a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace() - 2 * root
    tolerance = 1e-9 if count > 8 else 1e-5  # scipy's root of a singular matrix is the loose one
    assert frechet_distance(a, b) == pytest.approx(wanted.item(), rel=tolerance)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_moments_of_a_stream_equal_those_of_the_whole() -> None:
    features = torch.randn(20, 6) + 100
    whole = feature_moments(features)
    parts = [feature_moments(p) for p in features.split([1, 7, 12])]
    total = parts[0] + parts[1] + parts[2]
    assert total.count == 20
    torch.testing.assert_close(total.mean, whole.mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(total.covariance, whole.covariance, atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match="2 feature vectors or more, found 1"):
        frechet_distance(parts[0], whole)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_no_distance(wrong: float) -> None:
    """One NaN made the distance 0.0, which is the best there is."""
    good, bad = torch.randn(20, 6), torch.randn(20, 6)
    bad[3, 2] = wrong
    with pytest.raises(ValueError, match=r"i3d of a\.mp4: 1 of 20 feature vectors hold NaN"):
        feature_moments(bad, "i3d of a.mp4")
    whole = feature_moments(good)
    for broken in (
        Moments(20, torch.full((6,), wrong).double(), whole.scatter),
        Moments(20, whole.mean, torch.full((6, 6), wrong).double()),
    ):
        with pytest.raises(ValueError, match="the first set hold NaN or infinity"):
            frechet_distance(broken, whole)
        with pytest.raises(ValueError, match="the second set hold NaN or infinity"):
            frechet_distance(whole, broken)


@pytest.mark.weights
def test_appearance_distance_orders_blur_noise_and_swaps(shared: Path) -> None:
    net = Backbone("alex")
    state = torch.load(shared / "weights/alexnet_features_torchvision.pth", weights_only=True)
    load_weights(net, state, what="AlexNet")
    clips = [smooth(torch.rand(9, 3, 64, 64), 1.5) * 4 - 2 for _ in range(6)]

    def moments(change: Callable[[torch.Tensor], torch.Tensor]) -> Moments:
        maps = [net(change(x).clamp(-1, 1))[-1] for x in clips]
        return feature_moments(torch.cat([appearance_features(m) for m in maps]))

    real = moments(lambda x: x)
    distance = lambda change: frechet_distance(real, moments(change))
    order = torch.arange(9)
    swaps = [order[[1, 0, *range(2, 9)]], order[[1, 0, 3, 2, 5, 4, 7, 6, 8]]]
    blurs = [distance(lambda x, s=s: smooth(x, s)) for s in (0.4, 0.8, 1.6)]
    noises = [distance(lambda x, s=s: x + s * torch.randn_like(x)) for s in (0.05, 0.1, 0.3)]
    swapped = [distance(lambda x, i=i: x[i]) for i in (order, *swaps)]
    for values in (blurs, noises, swapped):
        assert values == sorted(values)
        assert values[0] < 0.8 * values[1]
    assert swapped[0] == pytest.approx(0, abs=1e-6)


def smooth(x: torch.Tensor, sigma: float) -> torch.Tensor:
    taps = torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    x = torch.nn.functional.pad(x, (4, 4, 4, 4), mode="replicate")
    x = torch.nn.functional.conv2d(x, taps, groups=3)
    return torch.nn.functional.conv2d(x, taps.transpose(2, 3), groups=3)
