"""Table 4 of VidTok: one stage against two, the encoder fixed or not, against measured compute.

    python studies/stages.py --data CLIPS --setting tiny --out runs/studies/stages

All lines are judged at the high resolution. The tiny setting has 32 and 64 pixels for 128 and 256,
and the published ratio of steps (50 to 30) and of batches (16 to 8).
"""

from dataclasses import replace

from command import run
from display import CAPTIONS, finish, running_sum
from judging import Judge
from lab import Lab, Result, Row, Study, tiny
from matplotlib.figure import Figure

from reeltok.train.clips import Window
from reeltok.train.logbook import read_lines
from reeltok.train.recipes import Recipe, vidtok_stage1, vidtok_stage2

TABLES = ("vidtok-4",)
PRESET = "vidtok_kl_causal_488_4chn"


def rows(setting: str, seed: int) -> list[Row]:
    """The table's four lines at 3 frames per second; three of them share their first stage."""
    low, high, second = tiny_stages(seed) if setting == "tiny" else full_stages(seed)
    window = high.data.windows[0]
    sides = low.data.windows[0].size, window.size
    judge = Judge(frames=window.frames, size=window.size)
    fixed = named(second, f"{sides[1]}-fixed-{seed}", frozen=True)
    moved = named(second, f"{sides[1]}-moved-{seed}", frozen=False)
    two = f"{sides[0]} then {sides[1]}"
    lines = {
        f"{sides[1]}": ((high,), "3 fps, 256"),
        f"{sides[0]}": ((low,), "3 fps, 128"),
        f"{two}, encoder trained": ((low, moved), "3 fps, 128 then 256, encoder trained"),
        f"{two}, encoder fixed": ((low, fixed), "3 fps, 128 then 256, encoder fixed"),
    }
    return [
        Row(name=name, stages=stages, judge=judge, published=published)
        for name, (stages, published) in lines.items()
    ]


def named(recipe: Recipe, name: str, *, frozen: bool) -> Recipe:
    """A second stage with its encoder at rest or not."""
    loop = replace(recipe.loop, freeze=("encoder",) if frozen else ())
    return replace(recipe, name=name, loop=loop)


def tiny_stages(seed: int) -> tuple[Recipe, Recipe, Recipe]:
    """Low resolution, high resolution alone, and high resolution as a second stage."""
    low = tiny(f"32-{seed}", PRESET, seed=seed, size=32)
    high = tiny(f"64-{seed}", PRESET, seed=seed, size=64)
    low = replace(low, data=replace(low.data, validation=high.data.validation, scale=(0.5, 0.5)))
    second = tiny("second", PRESET, seed=seed, size=64, steps=60)
    half = Window(frames=9, size=64, batch=4)
    second = replace(second, data=replace(second.data, windows=(half,)))
    low, high, second = (often(recipe) for recipe in (low, high, second))
    return low, high, second


def often(recipe: Recipe) -> Recipe:
    """Validated four times, for a curve."""
    every = recipe.loop.schedule.steps // 4
    return replace(recipe, loop=replace(recipe.loop, validate_every=every))


def full_stages(seed: int) -> tuple[Recipe, Recipe, Recipe]:
    """The published stages, and one at 256 pixels with the first one's steps and batch."""
    low, second = vidtok_stage1(), vidtok_stage2()
    validation = Window(frames=17, size=256, batch=24)
    low = replace(low, name=f"128-{seed}", data=replace(low.data, validation=validation))
    data = replace(low.data, windows=(Window(frames=17, size=256, batch=16),))
    high = replace(low, name=f"256-{seed}", data=data)
    second = replace(second, data=replace(second.data, validation=validation))
    low, high, second = (replace(r, loop=replace(r.loop, seed=seed)) for r in (low, high, second))
    return low, high, second


def draw(lab: Lab, results: list[Result]) -> None:
    """Held-out PSNR at the high resolution while training, against the operations spent."""
    figure = Figure(figsize=(6.4, 3.6), dpi=80)
    axes = figure.subplots()
    for number, result in enumerate(r for r in results if r.seed == 0):
        spent, scores = curve(result)
        name, width = result.row.name, 4 - number  # lines that share a stage lie on one another
        axes.plot(spent, scores, color=f"C{number}", marker=".", label=name, lw=width)
    axes.set_xlabel("training operations (TFLOP, counted)", fontsize=8)
    axes.set_ylabel("held-out PSNR, dB (mean of groups)", fontsize=8)
    axes.set_title(CAPTIONS[lab.setting].partition(":")[0], fontsize=9)
    axes.legend(fontsize=7)
    finish(figure, [axes], lab.out / "stages.png")


def curve(result: Result) -> tuple[list[float], list[float]]:
    """TFLOP and PSNR at every validation, the stages one after the other."""
    spent, scores = [], []
    starts = running_sum([cost for _, cost in result.stages])
    for start, (folder, cost) in zip(starts, result.stages, strict=False):
        lines = [line for line in read_lines(folder / "log.jsonl") if line.get("validation")]
        last = max(line["step"] for line in lines)
        spent += [start + cost * line["step"] / last for line in lines]
        scores += [line["psnr"] for line in lines]
    return spent, scores


STUDY = Study(
    name="stages",
    title=__doc__,
    published=TABLES,
    rows=rows,
    seeds=3,
    columns=("psnr", "ssim", "lpips", "tflop", "processor_s"),
    draw=draw,
)

if __name__ == "__main__":
    run(STUDY)
