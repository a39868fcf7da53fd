"""Table 3 of VidTok: FSQ, LFQ and VQ with and without regularization, and sizes of FSQ's codebook.

    python studies/quantizers.py --data CLIPS --setting tiny --out runs/studies/quantizers

The tiny setting compares the three kinds at 4,096 codes (the paper: 262,144), so that the held-out
tokens can tell how much of a codebook is used.
"""

from dataclasses import replace
from typing import Any

from command import run
from display import draw_dots
from judging import Judge
from lab import Lab, Result, Row, Study, full, tiny

from reeltok.evaluate.published import PUBLISHED

TABLES = ("vidtok-3",)
PAPER_CODES = 262_144
EVEN = 100.0  # beside a loss summed over the 3 x 32 x 32 values of a frame; the default has 0.1


def rows(setting: str, seed: int) -> list[Row]:
    """The three kinds, off and on, FSQ with our own loss instead, then FSQ at other sizes."""
    compared = 4096 if setting == "tiny" else PAPER_CODES
    lines = [(kind, compared, word) for kind in ("VQ", "LFQ", "FSQ") for word in ("off", "on")]
    lines += [("FSQ", compared, "even")]
    lines += [("FSQ", codes, "on") for codes in (4096, 32_768, PAPER_CODES) if codes != compared]
    return [line(setting, seed, *entry) for entry in lines]


def line(setting: str, seed: int, kind: str, codes: int, word: str) -> Row:
    """One line: its name is the paper's where the paper has it; "even" is ours alone."""
    name = f"{kind}-{codes}"
    preset = f"vidtok_{kind.lower()}_causal_488_{PAPER_CODES}"
    slug = f"{name}-{word}-{seed}"
    if setting == "tiny":
        stages, judge = (tiny(slug, preset, seed=seed, steps=400),), Judge(frames=9, size=32)
    else:
        stages, judge = full(slug, preset, seed=seed), Judge(frames=17, size=256)
    quantizer = {**sized(kind, codes), "regularization": word == "on"}
    if word == "even":
        quantizer["even"] = EVEN
    stages = tuple(replace(s, settings={**s.settings, "quantizer": quantizer}) for s in stages)
    known = [row.model for name in TABLES for row in PUBLISHED[name].rows]
    exact, nearest = f"{name}, {word}", f"{kind}-{PAPER_CODES}, {word}"
    return Row(
        name=exact,
        stages=stages,
        judge=replace(judge, usage=True),
        published=None if word == "even" else exact if exact in known else nearest,
    )


def sized(kind: str, codes: int) -> dict[str, Any]:
    """What makes a codebook of that many codes (a power of 8)."""
    bits = codes.bit_length() - 1
    if kind == "FSQ":
        return {"levels": [8] * (bits // 3)}
    return {"bits": bits} if kind == "LFQ" else {"codes": codes}


def draw(lab: Lab, results: list[Result]) -> None:
    """PSNR and use of the codebook, beside the paper's PSNR."""
    draw_dots(lab, results, ("psnr", "utilization"))


STUDY = Study(
    name="quantizers",
    title=__doc__,
    published=TABLES,
    rows=rows,
    seeds=3,
    columns=("psnr", "ssim", "lpips", "utilization", "uniform", "perplexity"),
    draw=draw,
)

if __name__ == "__main__":
    run(STUDY)
