"""How held-out clips are scored while a tokenizer is trained."""

import warnings

from torch import Tensor

from reeltok.metrics import paired as metrics
from reeltok.metrics.lpips import LPIPS
from reeltok.train.reconstruct import Score

ALEX = "lpips_alex"


def validation_metrics(best: str = "psnr") -> Score:
    """PSNR, SSIM, flicker of videos, and LPIPS (with a warning, not without its weights).

    `best` is the score whose best model the run keeps.
    """
    try:
        net = LPIPS("alex")
    except FileNotFoundError as error:
        lost = f", and without a best model by {best}" if best.removeprefix("-") == ALEX else ""
        warnings.warn(f"judging without LPIPS{lost}: {error}", stacklevel=2)
        net = None

    def score(x: Tensor, y: Tensor) -> dict[str, float]:
        y = y.clamp(-1, 1)  # early in training it goes far beyond
        scores = {"psnr": metrics.psnr(x, y), "ssim": metrics.ssim(x, y)}
        if x.shape[2] > 1:
            scores["flicker"] = metrics.flicker(x, y)
        if net is not None:
            scores[ALEX] = metrics.lpips(net.to(x.device), x, y)
        return {name: values.mean().item() for name, values in scores.items()}

    return score
