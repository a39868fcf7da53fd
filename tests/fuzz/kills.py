"""Commands killed (-9) at random moments, and run again: they succeed, and nothing else is left.

Each runs in a fork of this process, which has imported all that it needs.
"""

import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random

from containers import make_video
from reel_seeds import make_reels, tiny_models

from reeltok.cli.main import main
from reeltok.generate import masked
from reeltok.generate.prior import Prior
from reeltok.tokens.reel import load_tokens
from reeltok.train.clips import DataConfig, Window
from reeltok.train.optimizers import ScheduleConfig
from reeltok.train.recipe import Recipe, as_json
from reeltok.train.reconstruct import LossConfig
from reeltok.train.run import LoopConfig
from reeltok.video.record import read

LINES = {  # and what stands there when a command is done
    "encode": ("encode clips made --model discrete", {"a.reel", "b.reel"}),
    "decode": ("decode clip.reel made.mp4 --model discrete --force", set()),
    "frames": (
        "decode clip.reel made --model discrete --force",
        {f"{n:06d}.png" for n in range(9)},
    ),
    "reconstruct": ("reconstruct clips/a.mkv made.mp4 --model discrete --force", set()),
    "compare": ("compare discrete clips --out made --protocol shared-eval-whole", {"index.html"}),
    "generate": ("generate prior --out made --tokenizer discrete --force", {"000.mp4"}),
    "train": ("train recipe.json --data clips --out made", {"model", "log.jsonl"}),
}
MADE = {"line", "said", "made", "made.mp4", "made-side-by-side.mp4", ".cache"}


def small_recipe() -> Recipe:
    """Four steps of a tiny network, with a checkpoint after two."""
    return Recipe(
        name="small",
        model="default",
        settings={"width": 8},
        data=DataConfig(windows=(Window(frames=5, size=16, batch=1),), holdout=0.0),
        losses=LossConfig(pixel="l1"),
        loop=LoopConfig(
            schedule=ScheduleConfig(steps=4, warmup=1),
            precision="fp32",
            log_every=1,
            save_every=2,
        ),
    )


class Target:
    named = False
    writes = True

    def __init__(self, folder: Path) -> None:
        self.passed, models = False, tiny_models()
        (folder / "clips").mkdir(exist_ok=True)
        for name in "ab":
            make_video(folder / "clips" / f"{name}.mkv", "libx264")
        models["discrete"].save_pretrained(folder / "discrete")
        wish = masked.config_for(
            models["discrete"], frames=5, size=(16, 16), fps=10.0, width=16, depth=1, heads=2
        )
        masked.save(Prior(wish), folder / "prior")
        (folder / "recipe.json").write_text(as_json(small_recipe()))
        reel = make_reels(folder, models)["discrete"]
        (folder / "clip.reel").write_bytes(reel)
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.took: dict[str, float] = {}

    def make(self, draw: Random) -> dict[str, bytes]:
        line = f"{draw.choice([*LINES])} {draw.random()}"
        return {**self.files, "line": line.encode()}

    def run(self, folder: Path) -> None:
        name, share = (folder / "line").read_text().split()
        words, inside = LINES[name]
        if name not in self.took:
            self.took[name] = self.finish(folder, words)
        self.sweep(folder)
        child = self.start(folder, words)
        time.sleep(self.took[name] * float(share))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check_whole(folder)
        again = words + (" --resume" if name == "train" and (folder / "made").exists() else "")
        self.finish(folder, again)
        check_whole(folder)
        check_left(folder, self.files, inside)
        self.passed = True

    def sweep(self, folder: Path) -> None:
        """Only the files that every command begins with."""
        for path in folder.iterdir():
            if path.name.startswith(("made", ".")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(self, folder: Path, words: str) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            os.chdir(folder)
            silent = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(silent, 1), os.dup2(silent, 2)
            os.environ["REELTOK_CACHE"] = str(folder / ".cache")
            code = main(words.split())
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)

    def finish(self, folder: Path, words: str) -> float:
        """Run a command to its end; the seconds that it took."""
        began = time.monotonic()
        _, status = os.waitpid(self.start(folder, words), 0)
        assert status == 0, f"{words}: status {status}: {(folder / 'said').read_text()[-300:]}"
        return time.monotonic() - began


def check_whole(folder: Path) -> None:
    """What has its final name can be read."""
    for path in folder.glob("made/*.reel"):
        load_tokens(path)
    for path in (*folder.glob("made.mp4"), *folder.glob("made/*.png")):
        read(path)


def check_left(folder: Path, files: dict[str, bytes], inside: set[str]) -> None:
    """Nothing stands there but what was there before and what the command makes."""
    known = {name.split("/")[0] for name in files} | MADE
    found = {path.name for path in folder.iterdir()}
    assert found <= known, f"left over: {found - known}"
    parts = [str(p.relative_to(folder)) for p in folder.rglob("*") if ".part" in p.name]
    assert not parts, f"left over: {parts}"
    missing = inside - {path.name for path in folder.glob("made/*")}
    assert not missing, f"not made: {missing}"
