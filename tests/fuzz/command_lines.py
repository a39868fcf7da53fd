"""Command lines with options and values at random, run in this process."""

import contextlib
import inspect
import io
import os
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import mutate
from containers import make_video
from records import LOG, make_result
from reel_seeds import make_reels, tiny_models

from reeltok.cli.main import COMMANDS, main
from reeltok.generate import masked
from reeltok.generate.prior import Prior

LEFT_OUT = ("view", "drive", "download")  # servers, and a network
VALUES = (
    *(
        "0",
        "1",
        "-1",
        "2",
        "8",
        "0.5",
        "nan",
        "inf",
        "1e400",
        "999999999999",
        "-3",
        str(2**80),
        str(-(2**80)),
        "",
        " ",
        "x",
        "-",
        "--",
    ),
    *("64x64", "16x24", "axb", "0x0", "64", "fp16", "fp32", "float99", "cpu", "cuda:7", "auto"),
    *("é\u202e", "\x1b[31m", "a" * 300, "../up", "/etc/passwd", "/dev/null", ".mp4", "none"),
    *("h264", "libx264", "shared-eval", "random", "loop.schedule.steps=1", "a.b=c", "=", "[1"),
)
NETWORK = {"width": 16, "depth": 1, "heads": 2}
FEW = {"--jobs": ("0", "1", "2", "-1", "x"), "--out": ("made", "made/deep", "made.json", "")}


GOOD = {  # lines that succeed, or nearly
    "encode": "clip.mp4 out.reel --model discrete",
    "decode": "clip.reel out.mp4 --model discrete",
    "reconstruct": "clip.mp4 out.mp4 --model causal",
    "demo": "--out made --model discrete",
    "info": "clip.reel",
    "convert": "discrete made --preset default",
    "statistics": "causal clips --out made",
    "train": "default_cpu --data clips --out made",
    "runs": "run",
    "generate": "prior --out out.mp4 --tokenizer discrete",
    "evaluate": "discrete clips --protocol shared-eval-whole",
    "compare": "result.json result.json --out made",
    "fvd": "clips clips",
    "probe": "discrete clips",
    "bair": "prior clips",
    "push": "discrete clips --frames 2",
    "push sets": "clips clips --frames 3",
    "data check": "clips --out made",
    "data bair": "clips made",
    "data push": "made --episodes 1 --frames 2 --size 16",
}


def options_of(command: str) -> list[str]:
    """The options that a command has."""
    module, function, _ = COMMANDS[command]
    signature = inspect.signature(getattr(import_module(f"reeltok.cli.{module}"), function))
    names = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    return ["--" + name.replace("_", "-") for name in names] + ["--json", "--nonsense", "-h"]


class Target:
    """`files` of an input are its words; the folder that they are run in is made anew."""

    named = False
    writes = True

    def __init__(self, folder: Path) -> None:
        self.passed, models = False, tiny_models()
        for name in ("discrete", "causal", "reftok"):
            models[name].save_pretrained(folder / name)
        wish = masked.config_for(models["discrete"], frames=5, size=(16, 16), fps=10.0, **NETWORK)
        masked.save(Prior(wish), folder / "prior")
        reels = make_reels(folder, models)
        self.files = {"clip.mp4": make_video(folder / "clip.mp4", "libx264")}
        self.files["clips/one.mkv"] = make_video(folder / "one.mkv", "libx264")
        self.files["clip.reel"] = reels["discrete"]
        self.files["broken.reel"] = mutate.spoil(reels["causal"], Random(0))
        self.files["empty.mp4"] = b""
        make_result().save(folder / "result.json")
        self.files["result.json"] = (folder / "result.json").read_bytes()
        self.files["run/log.jsonl"] = b"".join(mutate.dump(line) + b"\n" for line in LOG)
        for path in folder.glob("*/*"):
            self.files[str(path.relative_to(folder))] = path.read_bytes()
        self.words = [
            *self.files,
            "discrete",
            "causal",
            "reftok",
            "clips",
            "missing.mp4",
            "out.mp4",
        ]
        self.words += ["out.reel", "out", "clips/*.mkv", "nothing/*.mp4", "default_cpu", "."]

    def make(self, draw: Random) -> dict[str, bytes]:
        command = draw.choice([name for name in COMMANDS if name not in LEFT_OUT])
        words = GOOD.get(command, "").split()
        for _ in range(draw.choice((0, 0, 0, 1, 2))):
            at = draw.randrange(len(words) + 1)
            words[at : at + draw.randrange(2)] = [draw.choice(self.words)]
        for option in draw.sample(options_of(command), draw.choice((0, 1, 2, 3))):
            words.append(option)
            if draw.random() < 0.8:
                words.append(draw.choice((*FEW.get(option, VALUES), draw.choice(self.words))))
        if command == "train" and "--dry-run" not in words:
            words.append("--dry-run")
        line = "\n".join([*command.split(), *words])
        return {**self.files, "line": line.encode("utf-8", "surrogateescape")}

    def run(self, folder: Path) -> None:
        words = (folder / "line").read_bytes().decode().split("\n")
        out, said, before = io.StringIO(), io.StringIO(), os.getcwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
                code: Any = main(words)
        finally:
            os.chdir(before)
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        self.passed = not any("says what it takes" in line for line in lines)
        assert code in (0, 2), f"code {code} of {words}"
        if code == 2:
            assert lines[-1].startswith("reeltok: "), f"{words}: {lines[-1]}"
