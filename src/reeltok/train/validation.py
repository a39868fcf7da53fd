"""How held-out clips are scored while a tokenizer is trained."""

import warnings

from torch import Tensor

from reeltok.metrics import paired as metrics
from reeltok.metrics.lpips import LPIPS, PLANS
from reeltok.train.reconstruct import Score

ALEX = "lpips_alex"


def validation_metrics(best: str = "psnr", size: int | None = None) -> Score:
    """PSNR, SSIM, flicker of videos, and LPIPS: with a warning, not without its weights.

    `best` is the score whose best model the run keeps, `size` the side of the frames in pixels;
    LPIPS is left out, too, where they are too small for it.
    """
    net, why = None, ""
    try:
        net = LPIPS("alex")
    except FileNotFoundError as error:
        why = str(error)
    least = PLANS["alex"].smallest
    if size is not None and size < least:
        net, why = None, f"it needs frames of {least} pixels, data.validation.size={size} are fewer"
    if net is None:
        lost = f", and without a best model by {best}" if best.removeprefix("-") == ALEX else ""
        warnings.warn(f"judging without LPIPS{lost}: {why}", stacklevel=2)

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        y = y.clamp(-1, 1)  # early in training it goes far beyond
        scores = {"psnr": metrics.psnr(x, y), "ssim": metrics.ssim(x, y)}
        if x.shape[2] > 1:
            scores["flicker"] = metrics.flicker(x, y)
        if net is not None:
            scores[ALEX] = metrics.lpips(net.to(x.device), x, y)
        return {name: values.mean().item() for name, values in scores.items()}

    return score
