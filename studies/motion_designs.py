"""Where a RefTok's motion helps: nowhere, in the decoder, in the encoder's search, in both, + SKIP.

    python studies/motion_designs.py --data CLIPS --setting tiny --out runs/studies/motion_designs

Every line is the same small RefTok, on the same clips, for as many steps, at equal nominal bits;
"packed" is what the ids of a clip come to in a file, by a packing model that each line gets for
itself. The tiny setting trains on two blocks of 64 pixels and judges four.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from command import run
from display import draw_dots
from judging import Judge
from lab import TINY_BODY, Lab, Result, Row, Study, tiny
from packed import packed_bits
from references import plain_parts

from reeltok.models.presets import FIFTEEN_BITS
from reeltok.train.clips import Window
from reeltok.train.recipes import Recipe, reftok_cpu
from reeltok.train.reconstruct import LossConfig
from reeltok.train.reftok_recipes import follow_motion

FRAMES, SIZE, STEPS = 17, 64, 250
CLIPS, PACKING_STEPS = 400, 600


@dataclass(frozen=True, kw_only=True)
class Design:
    """One line: `follows` are the network's values that let its references follow motion."""

    name: str
    follows: dict[str, Any] = field(default_factory=dict)


DESIGNS = (
    Design(name="none"),
    Design(name="decoder only", follows={"motion": {"where": "decoder"}}),
    Design(name="encoder's search only", follows={"motion": {"where": "encoder"}}),
    Design(name="both", follows={"motion": {}}),
    Design(name="both and SKIP", follows={"motion": {}, "skip": 1.0}),
)


def rows(setting: str, seed: int) -> list[Row]:
    """The five designs; "full" trains the compact networks as `reftok_cpu` does, from `default`."""
    judge = Judge(frames=FRAMES, size=SIZE if setting == "tiny" else 128)
    return [
        Row(name=design.name, stages=(recipe_of(design, setting, seed),), judge=judge)
        for design in DESIGNS
    ]


def recipe_of(design: Design, setting: str, seed: int) -> Recipe:
    """How one design is trained."""
    recipe = in_small(design.name, seed) if setting == "tiny" else reftok_cpu()
    if design.follows:
        recipe = follow_motion(recipe, design.name)
        unsaid = {"motion": None, "skip": 0.0}
        recipe = replace(recipe, settings=recipe.settings | unsaid | design.follows)
    losses = replace(recipe.losses, log_mse_floor=1e-3, last_frame=1.5)
    recipe = replace(recipe, name=design.name, losses=losses)
    optimizer = replace(recipe.loop.optimizer, plain=plain_parts(recipe, setting))
    return replace(recipe, loop=replace(recipe.loop, seed=seed, optimizer=optimizer))


def in_small(name: str, seed: int) -> Recipe:
    """A small RefTok without motion, from fresh weights."""
    recipe = tiny(name, "reftok-default", seed=seed, steps=STEPS, size=SIZE)
    quantizer = {**vars(FIFTEEN_BITS), "kind": "fsq"}
    window = Window(frames=9, size=SIZE, batch=6)
    validation = Window(frames=FRAMES, size=SIZE, batch=24)
    return replace(
        recipe,
        settings={"body": {**TINY_BODY, "quantizer": quantizer}, "width": 16},
        data=replace(recipe.data, windows=(window,), validation=validation),
        losses=LossConfig(pixel="log-mse", l1_steps=20),
    )


def packed(lab: Lab, result: Result) -> dict[str, float]:
    """Bits of a held-out clip in a file; a rehearsal trains the packing model as little."""
    steps = lab.steps or PACKING_STEPS
    clips = 4 if lab.steps else CLIPS
    return {"packed": packed_bits(lab, result, clips=clips, steps=steps)}


def draw(lab: Lab, results: list[Result]) -> None:
    """PSNR, LPIPS and packed bits of every design."""
    draw_dots(lab, results, ("psnr", "lpips", "packed"))


STUDY = Study(
    name="motion_designs",
    title=__doc__,
    published=(),
    rows=rows,
    seeds=3,
    columns=("psnr", "ssim", "lpips", "bits", "packed", "parameters_m", "tflop", "processor_s"),
    fits=lambda clip: clip.frames >= FRAMES,
    draw=draw,
    more=packed,
)

if __name__ == "__main__":
    run(STUDY)
