"""RefTok's first claim at small scale, and our design's choices: what a reference frame gives.

    python studies/references.py --data CLIPS --setting tiny --out runs/studies/references
    python studies/references.py --data PUSH --setting push --seeds 3 --out runs/studies/claim-1

Tiny networks of one body, the same clips and steps, at equal bits of a token: with references of
several kinds, without, and with the quantizers of MAGVIT (VQ, 1,024 codes) and Cosmos (FSQ 8, 8, 8,
5, 5, 5). No line is the paper's network: it is not published (docs/reftok.md).

The setting "push" is the claim in simulation: RefTok with motion and SKIP, its twin and a
Cosmos-style FSQ, 2,000 steps on the same episodes of `reeltok data push`. Every bit counts, those
of the first frame too. At equal nominal bits lines have as many ids of as many values; at equal
packed bits RefTok stands beside the mean of two Cosmos-style lines, weighted so that its bits in a
file are RefTok's.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from command import run
from display import draw_dots
from judging import Judge
from lab import TINY_BODY, Lab, Result, Row, Study, shortened, tiny
from packed import packed_bits
from points import (
    POINTS,
    Points,
    Verdict,
    add_verdicts,
    decide,
    mean_over_seeds,
    paired,
    said,
)

from reeltok.models.presets import FIFTEEN_BITS, PUSH
from reeltok.nn.quantizers import FSQConfig, VQConfig
from reeltok.train.build import build_model
from reeltok.train.clips import Window
from reeltok.train.push_recipes import reftok_push, reftok_push_none
from reeltok.train.recipes import Recipe, reftok_cpu
from reeltok.train.reconstruct import LossConfig

FRAMES, SIZE, STEPS = 17, 32, 150
TEN_BITS = replace(FIFTEEN_BITS, levels=(8, 5, 5, 5))
MAGVIT = VQConfig(codes=1024, width=16, regularization=False)
COSMOS = FSQConfig(levels=(8, 8, 8, 5, 5, 5), regularization=False, even=0.1)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `leans` are RefTok's values (None: a plain tokenizer), `blocks` those of a clip."""

    name: str
    quantizer: Any = FIFTEEN_BITS
    leans: dict[str, Any] | None = field(default_factory=dict)
    blocks: int = 4

    @property
    def model(self) -> str:
        """A preset of that family and kind of quantizer."""
        if self.leans is not None:
            return "reftok-default"
        return "default" if self.quantizer.kind == "fsq" else "vidtok_vq_causal_488_262144"


LINES = (
    Line(name="plain, 15 bits", leans=None),
    Line(name="RefTok's twin without a reference", leans={"policy": "none"}),
    Line(name="RefTok, 15 bits"),
    Line(name="one block in training", blocks=1),
    Line(name="attend", leans={"inject": "attend"}),
    Line(name="attend + transfer", leans={"inject": "attend+transfer"}),
    Line(name="encoder only", leans={"where": "encoder"}),
    Line(name="decoder only", leans={"where": "decoder"}),
    Line(name="the first frame", leans={"policy": "first"}),
    Line(name="first + previous", leans={"policy": "first+previous", "references": 2}),
    Line(name="MAGVIT-style VQ, 10 bits", quantizer=MAGVIT, leans=None),
    Line(name="plain FSQ, 10 bits", quantizer=TEN_BITS, leans=None),
    Line(name="RefTok, 10 bits", quantizer=TEN_BITS),
    Line(name="Cosmos-style FSQ, 16 bits", quantizer=COSMOS, leans=None),
    Line(name="RefTok, 16 bits", quantizer=COSMOS),
)


def rows(setting: str, seed: int) -> list[Row]:
    """All lines; "full" trains the compact networks as `reftok_cpu` does, from fresh weights."""
    frames, size = (FRAMES, SIZE) if setting == "tiny" else (49, 128)
    return [
        Row(
            name=line.name,
            stages=(recipe_of(line, setting, seed),),
            judge=Judge(frames=frames, size=size),
        )
        for line in LINES
    ]


def recipe_of(line: Line, setting: str, seed: int) -> Recipe:
    """How one line is trained."""
    if setting == "full":
        recipe, body = reftok_cpu(), {}
        recipe = replace(recipe, model=line.model, warm=None, loop=replace(recipe.loop, seed=seed))
    else:
        recipe, body = tiny(line.name, line.model, seed=seed, steps=STEPS, size=SIZE), TINY_BODY
        window = Window(frames=1 + 4 * line.blocks, size=SIZE, batch=4 * (4 // line.blocks))
        validation = Window(frames=FRAMES, size=SIZE, batch=24)
        data = replace(recipe.data, windows=(window,), validation=validation)
        recipe = replace(recipe, data=data)
    inner = {**body, "quantizer": {**vars(line.quantizer), "kind": line.quantizer.kind}}
    settings = inner if line.leans is None else {"body": inner, "width": 16, **line.leans}
    losses = LossConfig(pixel="log-mse", l1_steps=20)
    recipe = replace(recipe, name=line.name, settings=settings, losses=losses)
    optimizer = replace(recipe.loop.optimizer, plain=plain_parts(recipe, setting))
    return replace(recipe, loop=replace(recipe.loop, optimizer=optimizer))


def plain_parts(recipe: Recipe, setting: str) -> tuple[str, ...]:
    """What AdamW moves of these that the line's network has."""
    names = [name for name, _ in build_model(recipe).named_parameters()]
    more = "attend.out" if setting == "full" else "quantizer"
    parts = (*recipe.loop.optimizer.plain, more)
    return tuple(part for part in dict.fromkeys(parts) if any(part in name for name in names))


def draw(lab: Lab, results: list[Result]) -> None:
    """PSNR, LPIPS and detail of every line."""
    draw_dots(lab, results, ("psnr", "lpips", "detail"))


# ---------------------------------------------------------------- in simulation

PUSH_FRAMES, PUSH_STEPS = 17, 2_000
SIXTEEN = replace(COSMOS, even=0.0)
PUSH_LINES = (
    Line(name="RefTok, 16 bits", quantizer=SIXTEEN),
    Line(name="its twin, 16 bits", quantizer=SIXTEEN, leans={"policy": "none"}),
    Line(name="Cosmos-style FSQ, 16 bits", quantizer=SIXTEEN, leans=None),
    Line(name="Cosmos-style FSQ, 10 bits", quantizer=replace(TEN_BITS, even=0.0), leans=None),
)
MEASURES = ("psnr", "changing", "lpips")


def push_rows(setting: str, seed: int) -> list[Row]:
    """The four lines in simulation, every one on the same clips for as many steps."""
    judge = Judge(frames=PUSH_FRAMES, size=64)
    return [
        Row(name=line.name, stages=(push_recipe(line, seed),), judge=judge, follow=True)
        for line in PUSH_LINES
    ]


def push_recipe(line: Line, seed: int) -> Recipe:
    """`reftok_push` or its twin, or the same body as a VidTok; the first frame is coded too."""
    recipe = reftok_push() if line.leans == {} else reftok_push_none()
    quantizer = {**vars(line.quantizer), "kind": "fsq"}
    settings = {**recipe.settings, "body": {"quantizer": quantizer}, "start": "plain"}
    loop = recipe.loop
    if line.leans is None:
        settings = {**vars(PUSH), "quantizer": quantizer}
        optimizer = replace(loop.optimizer, plain=("decoder.conv_out",))
        losses = replace(recipe.losses, motion=None, last_frame=1.0)
        loop = replace(loop, optimizer=optimizer, freeze=())
        recipe = replace(recipe, model="default", losses=losses)
    loop = replace(loop, seed=seed, minutes=5.0, keep=1)
    data = replace(
        recipe.data, holdout=0.04, validation=Window(frames=PUSH_FRAMES, size=64, batch=60)
    )
    recipe = replace(recipe, name=line.name.replace(",", ""), settings=settings, loop=loop)
    return shortened(replace(recipe, data=data), PUSH_STEPS, points=POINTS)


def push_more(lab: Lab, result: Result) -> dict[str, float]:
    """Packed bits; a rehearsal trains the packing model as little as the line."""
    few = {} if lab.steps is None else {"clips": 4, "steps": lab.steps}
    return {"packed": packed_bits(lab, result, **few)}


def at_packed_bits(results: list[Result]) -> tuple[list[Points], float, float]:
    """The mean of the Cosmos-style lines by seed that has RefTok's packed bits, and its weight.

    The weight is that of the line of 16 bits, between 0 and 1. Where RefTok's bits are not between
    theirs, the nearer line stands alone; the last number is RefTok's bits over those of the mean.
    """
    lines = [by_name(results, line.name) for line in PUSH_LINES]
    ours, _, many, few = (
        sum(result.scores["packed"] for result in line) / len(line) for line in lines
    )
    weight = 0.5 if many == few else min(1.0, max(0.0, (ours - few) / (many - few)))
    mixed = []
    for a, b in zip(*((r.points for r in line) for line in lines[2:]), strict=True):
        mixed.append(
            {
                step: {
                    key: [
                        weight * x + (1 - weight) * y
                        for x, y in zip(a[step][key], b[step][key], strict=True)
                    ]
                    for key in a[step]
                }
                for step in a.keys() & b.keys()
            }
        )
    return mixed, weight, ours / (weight * many + (1 - weight) * few)


def packed_name(ratio: float) -> str:
    """What is compared where RefTok has `ratio` times the packed bits: only 1 is called equal."""
    if abs(ratio - 1) < 0.01:
        return "RefTok over Cosmos-style FSQ, equal packed bits"
    return f"RefTok over Cosmos-style FSQ, {ratio - 1:+.0%} packed bits"


def by_name(results: list[Result], name: str) -> list[Result]:
    return [result for result in results if result.row.name == name]


def points_of(results: list[Result], line: Line) -> list[Points]:
    """What is known of a line's training, for each seed."""
    return [result.points for result in by_name(results, line.name)]


def push_verdicts(results: list[Result]) -> tuple[dict[str, list[Verdict]], float | None]:
    """RefTok beside those of the other lines that are there, and the weight of `at_packed_bits`."""
    ours, *rivals = (points_of(results, line) for line in PUSH_LINES)
    others, weight = (
        {
            "RefTok over its twin, equal nominal bits": rivals[0],
            "RefTok over Cosmos-style FSQ, equal nominal bits": rivals[1],
        },
        None,
    )
    if all(rivals):
        mixed, weight, ratio = at_packed_bits(results)
        others[packed_name(ratio)] = mixed
    known = [key for key in MEASURES if key in next(iter(ours[0].values()))]
    found = {
        name: [decide(ours, rival, key, less=key == "lpips") for key in known]
        for name, rival in others.items()
        if rival
    }
    return found, weight


def push_draw(lab: Lab, results: list[Result]) -> None:
    """The verdicts, below the table and in the record, and the differences over training.

    Beside them RefTok at half of its steps and its twin at the end, which have taken about as many
    seconds.
    """
    found, weight = push_verdicts(results)
    if not found:
        return
    runs = [points_of(results, line) for line in PUSH_LINES[:2]]
    last = max(runs[0][0])
    half = min(step for step in runs[0][0] if 2 * step >= last)
    early = paired(
        *(mean_over_seeds(r, s, "psnr") for r, s in zip(runs, (half, last), strict=True))
    )
    text = f"RefTok after {half:,} steps less its twin after {last:,}: {said(early, 2)} dB."
    if weight is not None:
        text += f" Packed bits: beside {weight:.2f} of the line of 16 bits, the rest of that of 10."
    add_verdicts(lab, found, {"weight of 16 bits": weight, "half": vars(early)}, text)


STUDY = Study(
    name="references",
    title=__doc__,
    published=(),
    rows=rows,
    seeds=1,
    columns=("psnr", "ssim", "lpips", "detail", "bits", "parameters_m", "tflop"),
    fits=lambda clip: clip.frames >= FRAMES,
    draw=draw,
    simulated=Study(
        name="references",
        title=__doc__,
        published=(),
        rows=push_rows,
        seeds=3,
        columns=(
            *("psnr", "ssim", "lpips", "detail", "bits", "packed"),
            *("parameters_m", "tflop", "processor_s"),
        ),
        fits=lambda clip: clip.frames >= PUSH_FRAMES,
        draw=push_draw,
        more=push_more,
    ),
)

if __name__ == "__main__":
    run(STUDY)
