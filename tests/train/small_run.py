"""A recipe and clips so small that twenty steps take a second; also a program, to be killed.

python small_run.py DATA OUT [key=value ...] [--resume]
"""

import sys
from pathlib import Path

import numpy as np
import torch

from reeltok.train.clips import DataConfig, Window
from reeltok.train.launch import train
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig
from reeltok.train.recipes import Recipe, change
from reeltok.train.reconstruct import LossConfig
from reeltok.train.run import LoopConfig
from reeltok.video.record import Video, write


def make_clips(folder: Path, *, clips: int = 6, frames: int = 14, size: int = 48) -> Path:
    """Short clips of a pattern that moves, half of them in a group `a` and half in `b`.

    Lossless: what an H.264 encoder writes depends on how many cores it finds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["file,group,repo,path"]
    for number in range(clips):
        rng = np.random.default_rng(number)
        field = rng.integers(0, 255, (8, 8, 3)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
        steps = [np.roll(field, 2 * t, axis=1)[:size, : size + 8] for t in range(frames)]
        video = Video(frames=torch.from_numpy(np.stack(steps)), fps=10.0)
        write(video, folder / f"{number}.mkv", lossless=True)
        rows.append(f"{number}.mkv,{'ab'[number % 2]},r,{number}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def small_recipe() -> Recipe:
    """A network of width 8, full precision, four clips of five frames a step."""
    return Recipe(
        name="small_test",
        model="default",
        settings={
            "width": 8,
            "quantizer": {"levels": [4, 4, 4], "rounding_from": 5, "regularization": False},
        },
        data=DataConfig(
            windows=(Window(frames=5, size=16, batch=4),),
            holdout=0.3,
            validation=Window(frames=5, size=16, batch=2),
            scale=(0.5, 1.0),
        ),
        losses=LossConfig(pixel="l1"),
        loop=LoopConfig(
            optimizer=OptimizerConfig(kind="muon", lr=2e-3),
            schedule=ScheduleConfig(steps=20, warmup=2, cooldown=0.5),
            precision="fp32",
            ema=0.9,
            log_every=1,
            validate_every=10,
        ),
    )


if __name__ == "__main__":
    changes = dict(entry.split("=", 1) for entry in sys.argv[3:] if "=" in entry)
    recipe = change(small_recipe(), changes)
    train(recipe, data=sys.argv[1], out=sys.argv[2], resume="--resume" in sys.argv, device="cpu")
