"""Table 4 of VidTok: trained on 3 frames per second or on 8, with a picture of motion.

    python studies/frame_rate.py --data CLIPS --setting tiny --out runs/studies/frame_rate

Both lines see the same clips: those long enough for 17 frames at either rate. They are judged at
the clips' own rate (as published: 30), at 8 and at 3.
"""

from dataclasses import replace

import torch
from command import run
from display import draw_dots, finish
from judging import Judge, held_out
from lab import Lab, Result, Row, Study, full, tiny
from matplotlib.figure import Figure
from torch import Tensor

from reeltok import zoo
from reeltok.data.clip import Clip
from reeltok.train.clips import Window
from reeltok.train.recipes import Recipe

TABLES = ("vidtok-4",)
PRESET = "vidtok_kl_causal_488_4chn"
RATES, FRAMES = (3.0, 8.0), 17


def fits(clip: Clip) -> bool:
    """Whether a clip has 17 frames at both rates."""
    strides = [max(1, round(clip.fps / rate)) for rate in RATES]
    return clip.frames > (FRAMES - 1) * max(strides)


def rows(setting: str, seed: int) -> list[Row]:
    """One line a training rate."""
    size = 32 if setting == "tiny" else 256
    judge = Judge(frames=FRAMES, size=size, rates=(None, 8.0, 3.0))
    lines = []
    for rate in RATES:
        slug = f"fps-{rate:g}-{seed}"
        stages = tiny_stages(slug, seed) if setting == "tiny" else full(slug, PRESET, seed=seed)
        stages = tuple(replace(s, data=replace(s.data, fps=rate)) for s in stages)
        published = f"{rate:g} fps, 128 then 256, encoder fixed"
        name = f"trained at {rate:g} fps"
        lines.append(Row(name=name, stages=stages, judge=judge, published=published))
    return lines


def tiny_stages(name: str, seed: int) -> tuple[Recipe]:
    """17 frames, half the clips a step."""
    recipe = tiny(name, PRESET, seed=seed)
    window = Window(frames=FRAMES, size=32, batch=4)
    data = replace(recipe.data, windows=(window,), validation=replace(window, batch=24))
    return (replace(recipe, data=data),)


def draw(lab: Lab, results: list[Result]) -> None:
    """The scores; then one held-out clip: frames, a slice through time, and moving."""
    draw_dots(lab, results, ("psnr", "psnr@8", "psnr@3", "flicker"))
    shown = show(lab, [r for r in results if r.seed == 0])
    if shown:
        draw_motion(shown, lab)
        write_motion(shown, lab)


@torch.no_grad()
def show(lab: Lab, results: list[Result]) -> dict[str, Tensor]:
    """The held-out clip that moves most, and every line's reconstruction, uint8 "t h w 3".

    Only clips that the manifest marks `clear=yes` are shown; nothing where there is none.
    """
    row = results[0].row
    source, allowed = lab.source(row.stages[0]), lab.clear()
    clips = [(c, x) for c, x in held_out(source, row.judge, None) if c.path.name in allowed]
    if not clips:
        return {}
    clip, x = max(clips, key=lambda pair: pair[1].diff(dim=2).abs().mean().item())
    print(f"shown is {clip.name}", flush=True)
    shown = {"original": as_frames(x)}
    for result in results:
        model = zoo.load(result.folder / "model")
        shown[result.row.name] = as_frames(model(x).x[:, :, : x.shape[2]])
    return shown


def as_frames(x: Tensor) -> Tensor:
    """A clip in [-1, 1] as uint8 "t h w 3"."""
    return ((x[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0)


def draw_motion(shown: dict[str, Tensor], lab: Lab) -> None:
    """Four frames of each, and the middle line of pixels over time."""
    figure = Figure(figsize=(7.2, 1.55 * len(shown)), dpi=50)
    grid = figure.subplots(len(shown), 5, squeeze=False)
    for axes, (name, frames) in zip(grid, shown.items(), strict=True):
        for place, time in zip(axes, (0, 4, 8, 12), strict=False):
            place.imshow(frames[time].numpy())
            place.set_title(f"frame {time}", fontsize=7)
        middle = frames.shape[1] // 2
        axes[4].imshow(frames[:, middle].numpy(), aspect="auto", interpolation="nearest")
        axes[4].set_title("middle line over time", fontsize=7)
        axes[0].set_ylabel(name, fontsize=8)
    for place in grid.flat:
        place.set(xticks=[], yticks=[])
    finish(figure, [], lab.out / "motion.png")


def write_motion(shown: dict[str, Tensor], lab: Lab) -> None:
    """The clips side by side, moving, as a WebP; left to right in the order of the table."""
    from PIL import Image

    beside = torch.cat(list(shown.values()), dim=2)
    wide = beside.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    pictures = [Image.fromarray(frame.numpy()) for frame in wide]
    first, *rest = pictures
    target = lab.out / "motion.webp"
    first.save(target, save_all=True, append_images=rest, duration=120, loop=0, quality=60)


STUDY = Study(
    name="frame_rate",
    title=__doc__,
    published=TABLES,
    rows=rows,
    seeds=3,
    columns=("psnr", "psnr@8", "psnr@3", "ssim", "lpips", "flicker"),
    fits=fits,
    draw=draw,
)

if __name__ == "__main__":
    run(STUDY)
