"""Metrics against torchmetrics, pytorch-msssim and hand-computed cases."""

from pathlib import Path

import pytest
import torch
from einops import rearrange

from reeltok.evaluate.scores import FRAME_METRICS
from reeltok.metrics import paired as metrics
from reeltok.metrics.bands import measure_bands
from reeltok.video.record import Video, read


def pair(*shape: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(*shape) * 2 - 1
    return x, (x + noise * torch.randn(*shape)).clamp(-1, 1)


def frames(x: torch.Tensor) -> torch.Tensor:
    return rearrange((x + 1) / 2, "b c t h w -> (b t) c h w")


def test_psnr_of_a_constant_error_is_exact() -> None:
    x = torch.zeros(1, 3, 2, 4, 4)
    found = metrics.psnr(x, x + 0.2)  # 0.1 in [0, 1]: 20 dB
    torch.testing.assert_close(found, torch.full((1, 2), 20.0), atol=1e-4, rtol=0)
    assert metrics.psnr(x, x).tolist() == [[80.0, 80.0]]


def test_psnr_equals_torchmetrics_per_frame() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = pair(2, 3, 3, 48, 40)
    wanted = [
        peak_signal_noise_ratio(b, a, data_range=1.0)
        for a, b in zip(frames(x), frames(y), strict=True)
    ]
    torch.testing.assert_close(
        metrics.psnr(x, y).flatten(), torch.stack(wanted), atol=1e-4, rtol=1e-5
    )


def test_psnr_of_bytes_sees_what_a_file_holds() -> None:
    x = torch.zeros(1, 3, 1, 4, 4)
    assert metrics.psnr_bytes(x, x + 0.001).item() == 80.0
    assert metrics.psnr(x, x + 0.001).item() < 67


@pytest.mark.parametrize("size", [(48, 40), (400, 420)])
def test_ssim_equals_torchmetrics_after_the_pooling_rule(size: tuple[int, int]) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure as oracle

    x, y = pair(1, 3, 2, *size)
    pool = max(1, round(min(size) / 256))
    a, b = (torch.nn.functional.avg_pool2d(frames(v), pool) for v in (x, y))
    _, full = oracle(b, a, data_range=1.0, return_full_image=True)
    wanted = full[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))  # torchmetrics also counts reflected borders
    torch.testing.assert_close(metrics.ssim(x, y).flatten(), wanted, atol=1e-5, rtol=0)


def test_uniform_ssim_equals_its_definition_window_by_window() -> None:
    x, y = pair(1, 3, 1, 12, 10)
    a, b = (
        torch.nn.functional.unfold(v.transpose(0, 1), 7).double()  # c, 49 pixels, windows
        for v in (((v[:, :, 0] + 1) * 127.5).round() / 255 for v in (x, y))
    )
    mean_a, mean_b, var_a, var_b = a.mean(1), b.mean(1), a.var(1), b.var(1)
    covariance = ((a - mean_a[:, None]) * (b - mean_b[:, None])).sum(1) / 48
    first, second = 0.01**2, 0.03**2
    wanted = (2 * mean_a * mean_b + first) * (2 * covariance + second)
    wanted /= (mean_a**2 + mean_b**2 + first) * (var_a + var_b + second)
    assert metrics.ssim_uniform(x, y).item() == pytest.approx(wanted.mean().item(), abs=1e-5)


def test_ssim_equals_pytorch_msssim() -> None:
    from pytorch_msssim import ssim as oracle

    x, y = pair(2, 3, 3, 48, 48)
    wanted = oracle(frames(x), frames(y), data_range=1.0, size_average=False)
    torch.testing.assert_close(metrics.ssim(x, y).flatten(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(176, 161), (180, 162)])
def test_ms_ssim_equals_pytorch_msssim(size: tuple[int, int]) -> None:
    from pytorch_msssim import ms_ssim as oracle

    x, y = pair(1, 3, 2, *size)
    wanted = oracle(frames(x), frames(y), data_range=1.0, size_average=False)
    found = metrics.ms_ssim(x, y)
    assert found is not None
    torch.testing.assert_close(found.flatten(), wanted, atol=1e-5, rtol=0)


def test_ssim_equals_pytorch_msssim_where_many_pixels_are_averaged() -> None:
    from pytorch_msssim import ms_ssim, ssim

    x, y = pair(1, 3, 16, 256, 256)  # float32 sums over a frame once lost 2e-5 here
    like = {"data_range": 1.0, "size_average": False}
    single, multi = metrics.ssim(x, y), metrics.ms_ssim(x, y)
    assert multi is not None
    a, b = frames(x), frames(y)
    torch.testing.assert_close(single[0], ssim(a, b, **like), atol=1e-6, rtol=0)
    torch.testing.assert_close(multi[0], ms_ssim(a, b, **like), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(162, 170), (40, 48), (400, 420)])
def test_metrics_of_one_pair_equal_each_alone(size: tuple[int, int]) -> None:
    x, y = pair(2, 3, 2, *size) if size[0] < 400 else pair(1, 3, 1, *size)
    shared = metrics.Pair(metrics.unit(x), metrics.unit(y))
    for _ in range(2):  # what is shared stays as it was
        for metric in FRAME_METRICS.values():
            found, alone = metric.of(shared), metric(x, y)
            assert (found is None) == (alone is None)
            if alone is not None:
                torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)


def test_flicker_goes_on_from_the_frame_before() -> None:
    x, y = pair(1, 3, 5, 24, 24)
    a, b = metrics.unit(x), metrics.unit(y)
    first = metrics.Pair(a[:, :, :2], b[:, :, :2])
    rest = metrics.Pair(a[:, :, 2:], b[:, :, 2:], first.error[:, :, -1:])
    joined = torch.cat([metrics.flicker.of(part) for part in (first, rest)], dim=1)
    torch.testing.assert_close(joined, metrics.flicker(x, y))


def test_the_fast_window_equals_sums_of_shifted_pictures() -> None:
    x = torch.rand(1, 9, 40, 33).contiguous(memory_format=torch.channels_last)
    for taps in (metrics.GAUSSIAN, metrics.UNIFORM):
        fast, plain = metrics._filter(x, taps), metrics._filter_by_sums(x, taps)
        torch.testing.assert_close(fast, plain, atol=1e-6, rtol=0)


def test_ms_ssim_is_not_given_for_small_frames() -> None:
    assert metrics.ms_ssim(*pair(1, 3, 1, 160, 200)) is None


def test_a_reconstruction_of_another_shape_or_with_nan_is_named() -> None:
    x, y = pair(1, 3, 2, 16, 16)
    with pytest.raises(ValueError, match=r"original is .* reconstruction \(1, 3, 1"):
        metrics.psnr(x, y[:, :, :1])
    y[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        metrics.ssim(x, y)
    with pytest.raises(ValueError, match="at least 11x11"):
        metrics.ssim(*pair(1, 3, 1, 8, 32))


def test_flicker_counts_change_of_the_error_only() -> None:
    x = torch.zeros(1, 3, 3, 4, 4)
    assert metrics.flicker(x, x + 0.5).tolist() == [[0.0, 0.0]]
    y = x.clone()
    y[:, :, 1] = 2 / 255  # one level of 255, there and back
    torch.testing.assert_close(metrics.flicker(x, y), torch.ones(1, 2), atol=1e-4, rtol=0)


def test_detail_looks_at_edges_alone() -> None:
    x = -torch.ones(1, 3, 1, 20, 20)
    x[..., 10:] = 1  # one vertical edge: the two columns beside it, 10 % of the frame
    smooth, sharp = x.clone(), x.clone()
    smooth[..., :5] += 0.2
    sharp[..., 9:11] *= 0.8
    assert metrics.detail(x, smooth).item() == 80.0
    assert metrics.detail(x, sharp).item() == pytest.approx(20.0, abs=1e-3)
    flat = torch.zeros(1, 3, 1, 20, 20)  # no edges: every pixel ties, so all of them count
    assert metrics.detail(flat, flat + 0.2).item() == pytest.approx(20.0, abs=1e-3)


def test_the_fast_search_for_edges_equals_that_of_torch() -> None:
    x = torch.randint(0, 50, (3, 400)).float()  # with ties
    wanted = x.topk(40, dim=1).values[:, -1:]
    torch.testing.assert_close(metrics._largest(x, 40), wanted, atol=0, rtol=0)


def test_boxes_are_widened_inside_the_frame() -> None:
    x = torch.zeros(1, 3, 1, 100, 200)
    size = lambda **box: metrics.Box(name="text", **box).crop(x).shape[-2:]
    assert size(left=0, top=0, width=10, height=10) == (64, 64)
    assert size(left=190, top=95, width=50, height=50) == (64, 64)
    assert size(left=20, top=10, width=80, height=90) == (90, 80)
    with pytest.raises(ValueError, match="outside frames of 200x100"):
        size(left=200, top=0, width=5, height=5)
    crop = metrics.Box(name="a", left=100, top=50, width=10, height=10).crop(
        torch.arange(200.0).expand(1, 1, 1, 100, 200)
    )
    assert crop[..., 0].unique() <= 100
    assert crop[..., -1].unique() >= 109


@pytest.mark.weights
def test_real_clips_agree_with_the_references(shared: Path) -> None:
    from pytorch_msssim import ms_ssim, ssim
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x = read(shared / "data/eval/19_example.mp4", frames=2).tensor()
    y = x.roll(1, dims=4) * 0.9
    a, b = frames(x), frames(y)
    like = {"data_range": 1.0, "size_average": False}
    torch.testing.assert_close(metrics.ssim(x, y)[0], ssim(a, b, **like), atol=1e-5, rtol=0)
    torch.testing.assert_close(metrics.ms_ssim(x, y)[0], ms_ssim(a, b, **like), atol=1e-5, rtol=0)
    wanted = [peak_signal_noise_ratio(q, p, data_range=1.0) for p, q in zip(a, b, strict=True)]
    torch.testing.assert_close(metrics.psnr(x, y)[0], torch.stack(wanted), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (530, 515), (11, 40), (700, 410)])
def test_bands_of_rows_give_the_same_values(size: tuple[int, int]) -> None:
    """Also where the last band is lower than a square that SSIM pools."""
    x = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    y = (x.int() + torch.randint(-9, 9, x.shape)).clamp(0, 255).byte()
    found = measure_bands(x, y, band=5_000)
    whole = [Video(v, 24.0) for v in (x, y)]
    torch.testing.assert_close(found.psnr, metrics.psnr(*whole)[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.ssim, metrics.ssim(*whole)[0], rtol=0, atol=1e-6)
