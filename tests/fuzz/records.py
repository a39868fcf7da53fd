"""What evaluations and runs leave: results, kept scores, logs, recipes; lists, files of actions."""

import contextlib
import json
from pathlib import Path
from random import Random

import mutate
import numpy as np
import torch

from reeltok.data.actions import read_actions
from reeltok.data.lists import read_list
from reeltok.evaluate.protocols import find_protocol
from reeltok.evaluate.report.build import Media, page_data
from reeltok.evaluate.results import Result, build_table
from reeltok.evaluate.scores import ClipScore, Scores
from reeltok.recipes import find_recipe
from reeltok.train.logbook import draw_runs, gather_curves, read_lines
from reeltok.train.recipe import as_json

FIRST = "is damaged ("  # what the parser of JSON says
DRAWN = 200  # one of so many logs is drawn as well: that takes a second


def score(name: str, level: float) -> ClipScore:
    """What one clip scored."""
    values = {"psnr": level, "ssim": 0.9, "lpips-alex": 0.1}
    features = {"appearance": (torch.rand(3, 4), torch.rand(3, 4))}
    return ClipScore(
        name=name,
        sha256="ab" * 32,
        frames=5,
        pixels=5 * 64,
        values=values,
        psnr=[level] * 5,
        bits=100,
        seconds={"encode": 0.5, "decode": 0.25},
        features=features,
    )


def make_result() -> Result:
    """A small result of two clips."""
    scores = Scores({"fvd-i3d": "FVD has no weights: put i3d.pt into the cache"})
    for number in range(2):
        scores.add(score(f"clip{number}.mp4", 30.0 + number))
    return Result.of(
        scores,
        model="ours",
        kind="tokenizer",
        protocol=find_protocol("shared-eval"),
        weights="cd" * 32,
        extra={"utilization": 0.5},
        settings={"vocabulary": 32768, "factors": [4, 8, 8]},
    )


LOG = [
    {"step": 0, "time": 0.1, "clips": 6, "seconds_of_data": 12.5},
    *({"step": step, "time": step / 10, "loss": 1 / step, "seconds": 0.1} for step in range(1, 6)),
    {"step": 5, "time": 0.6, "validation": True, "psnr": 20.5},
    {"step": 6, "time": 0.7, "stopped": "SIGTERM"},
]


class Target:
    named = True
    writes = False

    def __init__(self, folder: Path) -> None:
        self.good = make_result()
        self.good.save(folder / "good.json")
        score("clip0.mp4", 30.0).save(folder / "score.safetensors")
        self.result = json.loads((folder / "good.json").read_text())
        self.score = (folder / "score.safetensors").read_bytes()
        np.save(folder / "actions.npy", np.arange(12.0).reshape(4, 3))
        self.actions = (folder / "actions.npy").read_bytes()
        self.recipes = [json.loads(as_json(find_recipe(n))) for n in ("default_cpu", "prior_cpu")]
        self.passed, self.logs = False, 0

    def make(self, draw: Random) -> dict[str, bytes]:
        kind = draw.randrange(12)
        if kind > 9:
            return self.make_list(draw)
        if kind < 4:
            if draw.random() < 0.1:
                return {"result.json": mutate.spoil(mutate.dump(self.result), draw)}
            return {"result.json": mutate.dump(mutate.change(self.result, draw))}
        if kind < 8:
            return {"log.jsonl": self.make_log(draw)}
        if kind < 9:
            return {"recipe.json": mutate.dump(mutate.change(draw.choice(self.recipes), draw))}
        header, body = mutate.split(self.score)
        said = json.loads(header["__metadata__"]["score"])
        header["__metadata__"]["score"] = mutate.dump(mutate.change(said, draw)).decode(
            "utf-8", "replace"
        )
        if draw.random() < 0.3:
            return {"score.safetensors": mutate.spoil_tensors(self.score, draw)}
        return {"score.safetensors": mutate.join(header, body)}

    def make_list(self, draw: Random) -> dict[str, bytes]:
        """A list of clips as JSON or CSV, or an array of actions."""
        rows = [{"file": f"{n}.mp4", "start": 0.5, "group": "a", "repo": "r"} for n in range(3)]
        name = draw.choice(("clips.jsonl", "clips.json", "clips.csv", "actions.npy"))
        if name == "clips.jsonl":
            return {name: b"\n".join(mutate.dump(mutate.change(row, draw)) for row in rows)}
        if name == "clips.json":
            return {name: mutate.dump(mutate.change(rows, draw))}
        if name == "clips.csv" and draw.random() < 0.3:
            rows = [{"youtube_id": "a", "time_start": 1, "time_end": 11, "label": "b"}]
        if name == "clips.csv":
            lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
            return {name: mutate.spoil("\n".join(lines).encode(), draw)}
        return {name: mutate.spoil(self.actions, draw)}

    def make_log(self, draw: Random) -> bytes:
        """Lines of a log, one or two of them changed."""
        lines = [mutate.dump(line) for line in LOG]
        for _ in range(draw.choice((1, 1, 2))):
            number = draw.randrange(len(LOG))
            changed = mutate.dump(mutate.change(LOG[number], draw))
            lines[number] = changed if draw.random() < 0.9 else mutate.spoil(lines[number], draw)
        end = draw.choice((b"\n", b"\n", b"\n", b""))
        return b"\n".join(lines) + end

    def run(self, folder: Path) -> None:
        try:
            for path in folder.iterdir():
                self.read(path)
            self.passed = True
        except ValueError as error:
            self.passed = FIRST not in str(error)
            raise

    def read(self, path: Path) -> None:
        """What the commands make of such a file."""
        if path.suffix == ".safetensors":
            scores = Scores()
            scores.add(ClipScore.load(path))
            scores.summary()
        elif path.name == "recipe.json":
            find_recipe(path)
        elif path.name == "actions.npy":
            read_actions(path)
        elif path.name.startswith("clips"):
            read_list(path, root=path.parent, column="group")
        elif path.name == "log.jsonl":
            gather_curves(read_lines(path))
            self.logs += 1
            if self.logs % DRAWN == 0:
                draw_runs(path.parent, path.parent.with_suffix(".png"))
        else:
            self.compare(Result.load(path))

    def compare(self, result: Result) -> None:
        """Put a result into tables and a page."""
        result.scores().summary()
        with contextlib.suppress(ValueError):  # of other clips, or under another protocol
            build_table([self.good, result]).text()
        if not result.clips:  # all of them broke: there is no page
            return
        page = page_data([result], Media(Path("none")), "one")
        json.dumps(page, allow_nan=False)
