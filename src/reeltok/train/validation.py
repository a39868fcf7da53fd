"""How held-out clips are scored while a tokenizer is trained."""

import warnings

from torch import Tensor

from reeltok.metrics import paired as metrics
from reeltok.metrics.lpips import LPIPS
from reeltok.train.reconstruct import Score


def validation_metrics() -> Score:
    """PSNR, SSIM, flicker of videos, and LPIPS (with a warning, not without its weights)."""
    try:
        net = LPIPS("alex")
    except FileNotFoundError as error:
        warnings.warn(f"judging without LPIPS: {error}", stacklevel=2)
        net = None

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        y = y.clamp(-1, 1)  # early in training it goes far beyond
        scores = {"psnr": metrics.psnr(x, y), "ssim": metrics.ssim(x, y)}
        if x.shape[2] > 1:
            scores["flicker"] = metrics.flicker(x, y)
        if net is not None:
            scores["lpips_alex"] = metrics.lpips(net.to(x.device), x, y)
        return {name: values.mean().item() for name, values in scores.items()}

    return score
