"""Table 2 of VidTok: fully 3-D, without AlphaBlender, without 3-D convolutions, and as published.

    python studies/architecture.py --data CLIPS --setting tiny --out runs/studies/architecture

The tiny setting keeps both temporal samplers, the separable blocks and the middle of the published
network, at width 24 behind a Haar front of 2x2 pixels.
"""

from dataclasses import replace

from command import run
from display import draw_dots
from judging import Judge
from lab import Lab, Result, Row, Study, full, tiny

TABLES = ("vidtok-2",)
VARIANTS = {
    "variant 1: fully 3-D": {"block": "full", "sampler": "joint"},
    "variant 2: no AlphaBlender": {"sampler": "plain"},
    "variant 3: no 3-D convolutions": {"middle": "separable"},
    "VidTok": {},
}
PUBLISHED_BODY = {"block": "separable", "sampler": "blend", "middle": "full"}
BODY = {
    **PUBLISHED_BODY,
    "width": 24,
    "patch": (1, 2, 2),
    "multipliers": (1, 2, 2),
    "blocks": (1, 1, 1),
    "space_down": (0, 1),
    "space_up": (1, 2),
    "time_down": (0, 1),
    "time_up": (1, 2),
}


def rows(setting: str, seed: int) -> list[Row]:
    """The four lines of the table, all KL with four channels at 4x8x8."""
    preset, lines = "vidtok_kl_causal_488_4chn", []
    for number, (name, values) in enumerate(VARIANTS.items(), 1):
        slug = f"variant-{number % len(VARIANTS)}-{seed}"
        if setting == "tiny":
            recipe = tiny(slug, preset, seed=seed, **{**BODY, **values})
            stages = (recipe,)
        else:
            pair = full(slug, preset, seed=seed)
            stages = tuple(replace(stage, settings=values) for stage in pair)
        judge = Judge(frames=9, size=32) if setting == "tiny" else Judge(frames=17, size=256)
        lines.append(Row(name=name, stages=stages, judge=judge, published=name))
    return lines


def draw(lab: Lab, results: list[Result]) -> None:
    """PSNR and cost, beside the paper's PSNR."""
    draw_dots(lab, results, ("psnr", "gmacs"))


STUDY = Study(
    name="architecture",
    title=__doc__,
    published=TABLES,
    rows=rows,
    seeds=3,
    columns=("parameters_m", "gmacs", "psnr", "ssim", "lpips"),
    draw=draw,
)

if __name__ == "__main__":
    run(STUDY)
