"""CoordTok's tables 4, 8 and 9 and figures 6 and 7: cells, sampling, design, LPIPS, dynamics.

    python studies/planes.py --data CLIPS --setting tiny --out runs/studies/planes
    python studies/planes.py --data PUSH --setting push --seeds 2 --out runs/studies/claim-3

The tiny setting codes 32 frames of 32 pixels, "full" the paper's 128 of 128 on a GPU. Lines of the
VidTok family see the same clips for as many steps, with one frame more.

The setting "push" is the claim of fewer tokens in simulation: 128 frames of 64 pixels as the 1,280
cells of `coordtok_push`, or in blocks of 5x4x4 as the 6,912 tokens of a VidTok, 8 numbers each.
The two take about as many seconds of one core: VidTok makes more steps, on windows of 21 frames.
"""

import json
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from command import run
from display import draw_dots, finish
from judging import Judge, cut
from lab import Lab, Result, Row, Study, shortened, tiny
from matplotlib.figure import Figure
from points import Points, add_verdicts, decide

from reeltok import load
from reeltok.data.clip import Clip
from reeltok.metrics import paired as metrics
from reeltok.train.clips import Window
from reeltok.train.coordtok_recipes import PLANES, coordtok_stage1, coordtok_stage2
from reeltok.train.optimizers import ScheduleConfig
from reeltok.train.patches import PatchConfig
from reeltok.train.push_recipes import coordtok_push
from reeltok.train.recipes import Recipe
from reeltok.train.reconstruct import LossConfig

FRAMES, SIZE, STEPS, MORE = 32, 32, 250, 80
QUARTER = PatchConfig(share=1 / 4)
TINY: dict[str, Any] = {
    "size": (FRAMES, SIZE, SIZE),
    "patch": (4, 8, 8),
    "cells": (8, 8, 8),
    "cell_patch": (2, 2, 2),
    "width": 96,
    "heads": 3,
    "vit_depth": 2,
    "depth": 2,
    "decoder_patch": (1, 8, 8),
    "decoder_width": 96,
    "decoder_heads": 3,
    "decoder_depth": 3,
    "position": "axes",
}
"""192 cells of 8 numbers for 32 frames of 32 pixels."""
WIDE = {"width": 192, "heads": 6, "decoder_width": 192, "decoder_heads": 6}
NARROW = {"width": 48, "heads": 3, "decoder_width": 48, "decoder_heads": 3}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: what differs from the base, and the paper's line beside it."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    patches: PatchConfig = QUARTER
    then: PatchConfig | None = None
    published: str | None = None


BASE = Line(name="192 cells", published="1280 cells")
FRAMES_ONLY = PatchConfig(sampling="frames", share=1 / 4)
LINES = (
    Line(name="48 cells", settings={"cells": (4, 4, 4)}),
    BASE,
    Line(name="768 cells", settings={"cells": (16,) * 3}),
    Line(name="16 cells along time", settings={"cells": (16, 8, 8)}),
    Line(name="two content planes", settings={"content_planes": 2}),
    Line(name="narrow", settings=NARROW),
    Line(name="wide", settings=WIDE),
    Line(
        name="1/16 of the patches",
        patches=PatchConfig(share=1 / 16),
        published="random patches, 1.563 %",
    ),
    Line(name="all patches", patches=PatchConfig(share=1.0)),
    Line(name="1/4 of the frames", patches=FRAMES_ONLY, published="random frames, 3.125 %"),
    Line(name="centre coordinates", settings={"coordinates": "centre"}),
    Line(name="a vector per place", settings={"position": "table"}),
    Line(name="sinusoids", settings={"position": "sinusoids"}),
    Line(name="no position", settings={"position": "none"}),
    Line(name="then l2 on frames", then=FRAMES_ONLY, published="l2 alone"),
    Line(
        name="then LPIPS on frames",
        then=replace(FRAMES_ONLY, perceptual=0.05, net="squeeze"),
        published="l2, then LPIPS",
    ),
)
RIVALS = {"VidTok KL-4 4x8x8, 128 tokens": (1, 2), "VidTok KL-4 4x4x4, 512 tokens": (1,)}


def rows(setting: str, seed: int) -> list[Row]:
    """CoordTok's lines, then those of the VidTok family."""
    if setting == "full":
        judge = Judge(frames=128, size=128)
        stages = (coordtok_stage1(), coordtok_stage2())
        stages = tuple(replace(s, loop=replace(s.loop, seed=seed)) for s in stages)
        return [
            Row(name="l2", stages=stages[:1], judge=judge, published="l2 alone"),
            Row(name="l2, LPIPS", stages=stages, judge=judge, published="l2, then LPIPS"),
        ]
    judge = Judge(frames=FRAMES, size=SIZE)
    ours = [
        Row(name=line.name, stages=stages_of(line, seed), judge=judge, published=line.published)
        for line in LINES
    ]
    rivals = [
        Row(name=name, stages=(rival(name, levels, seed),), judge=replace(judge, frames=FRAMES + 1))
        for name, levels in RIVALS.items()
    ]
    return [*ours, *rivals]


def stages_of(line: Line, seed: int) -> tuple[Recipe, ...]:
    """One stage, or two."""
    first = planes("base" if line.then else line.name, seed, line.patches, **line.settings)
    if line.then is None:
        return (first,)
    schedule = ScheduleConfig(steps=MORE, warmup=5, cooldown=0.5)
    loop = replace(first.loop, schedule=schedule, validate_every=MORE)
    second = replace(first, name=line.name, patches=line.then, loop=loop)
    return first, second


def planes(name: str, seed: int, patches: PatchConfig, **settings: Any) -> Recipe:
    """A tiny CoordTok, trained in less than a minute of one core."""
    recipe = tiny(name, "coordtok-default", seed=seed, steps=STEPS, size=SIZE)
    window = Window(frames=FRAMES, size=SIZE, batch=8)
    optimizer = replace(recipe.loop.optimizer, plain=PLANES)
    return replace(
        recipe,
        settings={**TINY, **settings},
        patches=patches,
        data=replace(
            recipe.data,
            windows=(window,),
            validation=replace(window, batch=24),
            strides=(1,),
            scale=(0.0, 0.75),
        ),
        loop=replace(recipe.loop, optimizer=optimizer),
    )


def rival(name: str, levels: tuple[int, ...], seed: int) -> Recipe:
    """A tiny VidTok on the same clips, for as many steps, its loss a squared error too."""
    halvings = tuple(range(len(levels) - 1))
    shape = {"multipliers": levels, "blocks": (1,) * len(levels), "space_down": halvings}
    shape |= {"space_up": tuple(i + 1 for i in halvings), "time_down": (), "time_up": ()}
    recipe = tiny(name, "vidtok_kl_causal_488_4chn", seed=seed, steps=STEPS, size=SIZE)
    body = {**recipe.settings, **shape, "patch": (4, 4, 4), "edge": "past-first"}
    losses = replace(recipe.losses, pixel="l2", log_variance=False, reduce="mean")
    window = replace(recipe.data.windows[0], frames=FRAMES + 1)  # the first frame stands alone
    data = replace(planes(name, seed, QUARTER).data, windows=(window,))
    data = replace(data, validation=replace(window, batch=24))
    return replace(recipe, settings=body, losses=losses, data=data)


# ---------------------------------------------------------------- what there is to see


def draw(lab: Lab, results: list[Result]) -> None:
    """All lines, and how PSNR falls with motion and detail (figure 7)."""
    draw_dots(lab, results, ("psnr", "lpips"))
    named = {result.row.name: result for result in results if result.seed == 0}
    if BASE.name not in named:
        return
    shown = {name: named[name] for name in (BASE.name, "two content planes", list(RIVALS)[1])}
    found = {name: by_clip(lab, result) for name, result in shown.items()}
    draw_motion(lab, found)
    said = {
        name: {key: correlation(clips, key) for key in ("motion", "detail")}
        | {f"psnr, {half} motion": value for half, value in halves(clips).items()}
        for name, clips in found.items()
    }
    (lab.out / "motion.json").write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said, indent=1))


@torch.no_grad()
def by_clip(lab: Lab, result: Result) -> list[dict[str, float]]:
    """PSNR, motion and detail of every held-out clip.

    Motion is the mean absolute difference of neighbouring frames, detail that of neighbouring
    pixels, both in 255ths.
    """
    model, source = load(result.folder / "model"), lab.source(result.row.stages[0])
    found = []
    for clip in source.held:
        x = cut(source, clip, slice(0, result.row.judge.frames), SIZE)
        y = model(x).x[:, :, : x.shape[2]].clamp(-1, 1)
        found.append(
            {
                "psnr": metrics.psnr(x, y).mean().item(),
                "motion": 127.5 * x.diff(dim=2).abs().mean().item(),
                "detail": 127.5 * fmean(x.diff(dim=d).abs().mean().item() for d in (3, 4)),
            }
        )
    return found


def correlation(clips: list[dict[str, float]], key: str) -> float:
    """Pearson's r of PSNR with the logarithm of a property."""
    pair = torch.tensor([[c["psnr"] for c in clips], [c[key] + 0.1 for c in clips]])
    pair[1] = pair[1].log()
    return torch.corrcoef(pair)[0, 1].item()


def halves(clips: list[dict[str, float]]) -> dict[str, float]:
    """Mean PSNR of the half with less motion and of the half with more."""
    order = sorted(clips, key=lambda clip: clip["motion"])
    middle = len(order) // 2
    parts = {"less": order[:middle], "more": order[middle:]}
    return {name: fmean(clip["psnr"] for clip in part) for name, part in parts.items()}


def draw_motion(lab: Lab, found: dict[str, list[dict[str, float]]]) -> None:
    """A dot a clip: PSNR against motion and against detail."""
    figure = Figure(figsize=(8, 3), dpi=80)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key in zip(panels, ("motion", "detail"), strict=True):
        for name, clips in found.items():
            dots = [clip[key] for clip in clips], [clip["psnr"] for clip in clips]
            axes.plot(
                *dots, "o", ms=3, alpha=0.7, label=f"{name}: r = {correlation(clips, key):.2f}"
            )
        axes.set_xscale("log")
        axes.set_xlabel(f"{key}, 255ths", fontsize=8)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("PSNR, dB", fontsize=8)
    finish(figure, panels, lab.out / "motion.png")


# ---------------------------------------------------------------- in simulation

PUSH_FRAMES, PUSH_SIZE = 128, 64
FULL = 131  # frames that fill the last block of five
PLANE_STEPS, BLOCK_STEPS = 800, 4_300  # about 40 minutes of one core each
OURS, RIVAL = "CoordTok, 1,280 tokens", "VidTok KL-8 5x4x4, 6,912 tokens"
MEASURES = ("psnr", "changing", "lpips")
BLOCKS: dict[str, Any] = {
    "patch": (5, 4, 4),
    "transform": "shuffle",
    "width": 64,
    "multipliers": (1, 2),
    "blocks": (1, 2),
    "space_down": (),
    "space_up": (),
    "time_down": (),
    "time_up": (),
    "edge": "past-first",
    "block": "light",
    "sampler": "plain",
    "middle": "none",
    "quantizer": {"channels": 8},
}
"""A VidTok of which a token stands for 5x4x4 pixels: 27 x 16 x 16 of them for 128 frames."""


def push_rows(setting: str, seed: int) -> list[Row]:
    """CoordTok and its rival in blocks, in simulation."""
    judge = Judge(frames=PUSH_FRAMES, size=PUSH_SIZE, coded=True)
    stages = {OURS: push_planes(seed), RIVAL: push_blocks(seed)}
    return [Row(name=n, stages=(s,), judge=judge, follow=True) for n, s in stages.items()]


def push_planes(seed: int) -> Recipe:
    """`coordtok_push` in fewer steps."""
    recipe = coordtok_push()
    loop = replace(recipe.loop, seed=seed, minutes=5.0, keep=1)
    data = replace(recipe.data, holdout=0.04, validation=replace(recipe.data.validation, batch=24))
    settings = recipe.settings | {"pool_skip": True}
    recipe = replace(recipe, name="planes", settings=settings, data=data, loop=loop)
    return shortened(recipe, PLANE_STEPS, points=4)


def push_blocks(seed: int) -> Recipe:
    """Blocks on the same clips, by a squared error too."""
    ours = push_planes(seed)
    window = Window(frames=21, size=PUSH_SIZE, batch=8)
    optimizer = replace(ours.loop.optimizer, lr=1e-3, plain=("decoder.conv_out",))
    recipe = replace(
        ours,
        name="blocks",
        model="vidtok_kl_causal_488_4chn",
        settings=BLOCKS,
        patches=None,
        losses=LossConfig(pixel="l2"),
        data=replace(
            ours.data, windows=(window,), validation=replace(window, frames=FULL, batch=24)
        ),
        loop=replace(ours.loop, optimizer=optimizer),
    )
    return shortened(recipe, BLOCK_STEPS, points=4)


def push_draw(lab: Lab, results: list[Result]) -> None:
    """CoordTok less its rival, at each quarter of both trainings."""
    runs = {
        name: [quarters(result) for result in results if result.row.name == name]
        for name in (OURS, RIVAL)
    }
    if not runs[RIVAL]:
        return
    known = [key for key in MEASURES if key in runs[OURS][0][4]]
    steps = lab.steps or PLANE_STEPS
    said = [
        decide(runs[OURS], runs[RIVAL], key, less=key == "lpips", trained=steps) for key in known
    ]
    add_verdicts(
        lab,
        {"CoordTok over VidTok at 5.4 times as many tokens": said},
        {"steps": "quarters of a training"},
        "Steps are quarters of either training.",
    )


def quarters(result: Result) -> Points:
    """The points of a run by the number of their quarter: the two have other numbers of steps."""
    return dict(enumerate((found for _, found in sorted(result.points.items())), 1))


def fits(clip: Clip) -> bool:
    """Long enough for every line."""
    return clip.frames > FRAMES


STUDY = Study(
    name="planes",
    title=__doc__,
    published=("coordtok-4", "coordtok-8", "coordtok-9"),
    rows=rows,
    seeds=1,
    columns=("psnr", "ssim", "lpips", "parameters_m", "tflop"),
    fits=fits,
    draw=draw,
    simulated=Study(
        name="planes",
        title=__doc__,
        published=(),
        rows=push_rows,
        seeds=2,
        columns=("psnr", "ssim", "lpips", "detail", "parameters_m", "tflop", "processor_s"),
        fits=lambda clip: clip.frames >= FULL,
        draw=push_draw,
    ),
)

if __name__ == "__main__":
    run(STUDY)
