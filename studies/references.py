"""RefTok's first claim at small scale, and our design's choices: what a reference frame gives.

    python studies/references.py --data CLIPS --setting tiny --out runs/studies/references

Tiny networks of one body, the same clips and steps, at equal bits of a token: with references of
several kinds, without, and with the quantizers of MAGVIT (VQ, 1,024 codes) and Cosmos (FSQ 8, 8, 8,
5, 5, 5). No line is the paper's network: it is not published (docs/reftok.md).
"""

from dataclasses import dataclass, field, replace
from typing import Any

from command import run
from display import draw_dots
from judging import Judge
from lab import TINY_BODY, Lab, Result, Row, Study, tiny

from reeltok.models.presets import FIFTEEN_BITS
from reeltok.nn.quantizers import FSQConfig, VQConfig
from reeltok.train.build import build_model
from reeltok.train.clips import Window
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


STUDY = Study(
    name="references",
    title=__doc__,
    published=(),
    rows=rows,
    seeds=1,
    columns=("psnr", "ssim", "lpips", "detail", "bits", "parameters_m", "tflop"),
    fits=lambda clip: clip.frames >= FRAMES,
    draw=draw,
)

if __name__ == "__main__":
    run(STUDY)
