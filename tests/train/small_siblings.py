"""What begins with the default, so small that a recipe takes moments."""

from dataclasses import replace

from small_models import DISCRETE

from reeltok.nn.quantizers import GaussianConfig

KL = replace(DISCRETE, quantizer=GaussianConfig(channels=6))
NETWORKS = {"default": DISCRETE, "default-sharp": DISCRETE, "default-kl": KL}
FEW = {
    "loop.schedule.steps": "2",
    "loop.precision": "fp32",
    "losses.discriminator.first": "1",
    "losses.discriminator.width": "8",
    "losses.perceptual": "0",
    "data.windows": '[{"frames": 5, "size": 32, "batch": 2}]',
    "data.validation": '{"frames": 5, "size": 32, "batch": 2}',
    "data.cache": "device",
    "data.scale": "[1.0, 1.0]",
    "data.weights": "{}",
    "data.lively": "0.5",
}
"""Changes that make two small steps of a recipe."""
