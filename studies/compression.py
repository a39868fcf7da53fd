"""Table 5 of VidTok: compression ratio, channels of the latent, causal or not (all KL).

    python studies/compression.py --data CLIPS --setting tiny --out runs/studies/compression

The tiny setting puts a Haar front of 2x2x2 pixels before one to three levels. Networks that are not
causal see 16 frames where causal ones see 17 (tiny: 8 and 9), as published.
"""

from dataclasses import dataclass, replace

from command import run
from display import draw_dots
from judging import Judge
from lab import Lab, Result, Row, Study, full, tiny

from reeltok.train.clips import Window

TABLES = ("vidtok-1-mcl-jcv", "vidtok-5")
LEVELS = {
    "4x4x4": {"multipliers": (1, 2), "time": True},
    "2x8x8": {"multipliers": (1, 2, 2), "time": False},
    "4x8x8": {"multipliers": (1, 2, 2), "time": True},
    "4x16x16": {"multipliers": (1, 2, 2, 2), "time": True},
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: channels, ratio, and the paper's name for it."""

    channels: int
    ratio: str
    published: str
    causal: bool = True

    @property
    def name(self) -> str:
        return f"KL-{self.channels} {self.ratio}{'' if self.causal else ' non-causal'}"

    @property
    def preset(self) -> str:
        kind = "causal" if self.causal else "noncausal"
        return f"vidtok_kl_{kind}_{self.ratio.replace('x', '')}_{self.channels}chn"


LINES = (
    Line(channels=4, ratio="4x16x16", published="KL-4 4x16x16"),
    Line(channels=4, ratio="4x16x16", published="KL-4 4x16x16 non-causal", causal=False),
    Line(channels=4, ratio="4x8x8", published="VidTok KL-4"),
    Line(channels=4, ratio="4x8x8", published="KL-4 4x8x8 non-causal", causal=False),
    Line(channels=8, ratio="4x8x8", published="KL-8 4x8x8"),
    Line(channels=16, ratio="4x8x8", published="VidTok KL-16"),
    Line(channels=8, ratio="2x8x8", published="KL-8 2x8x8"),
    Line(channels=4, ratio="4x4x4", published="KL-4 4x4x4"),
)


def rows(setting: str, seed: int) -> list[Row]:
    """The eight lines, from few latent values to many."""
    return [row(line, setting, seed) for line in LINES]


def row(line: Line, setting: str, seed: int) -> Row:
    """How one line is trained and judged."""
    slug = f"{line.name.replace(' ', '-')}-{seed}"
    if setting == "full":
        frames = 17 if line.causal else 16
        stages = full(slug, line.preset, seed=seed, frames=frames)
        judge = Judge(frames=frames, size=256)
    else:
        frames = 9 if line.causal else 8
        recipe = tiny(slug, line.preset, seed=seed, **body(line))
        window = Window(frames=frames, size=32, batch=8)
        data = replace(recipe.data, windows=(window,), validation=replace(window, batch=24))
        stages, judge = (replace(recipe, data=data),), Judge(frames=frames, size=32)
    return Row(name=line.name, stages=stages, judge=judge, published=line.published)


def body(line: Line) -> dict[str, object]:
    """The tiny network of a line: the front halves each axis once, the levels do the rest."""
    widths = LEVELS[line.ratio]["multipliers"]
    halvings = len(widths) - 1
    return {
        "patch": (2, 2, 2),
        "multipliers": widths,
        "blocks": (1,) * len(widths),
        "space_down": tuple(range(halvings)),
        "space_up": tuple(range(1, halvings + 1)),
        "time_down": (0,) if LEVELS[line.ratio]["time"] else (),
        "time_up": (1,) if LEVELS[line.ratio]["time"] else (),
        "edge": "past-first" if line.causal else "both",
    }


def draw(lab: Lab, results: list[Result]) -> None:
    """PSNR beside the paper's."""
    draw_dots(lab, results, ("psnr", "lpips"))


STUDY = Study(
    name="compression",
    title=__doc__,
    published=TABLES,
    rows=rows,
    seeds=1,
    columns=("psnr", "ssim", "lpips", "parameters_m"),
    draw=draw,
)

if __name__ == "__main__":
    run(STUDY)
