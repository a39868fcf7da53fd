"""Files of tokens by someone who knows the format: every hash is right, what is said is not."""

import json
import re
from pathlib import Path
from random import Random

import mutate
from reel_seeds import Taken, make_reels, tiny_models

from reeltok.cli.info import about_reel
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.reel import Reel
from reeltok.transcode.decode import decode_frames
from reeltok.transcode.options import Coding
from reeltok.video.record import write

FIRST = re.compile(r"is not a \.reel|is cut off|seen in its (header|version|end)")
WRITTEN = 5  # one of so many is written as a video as well
OWN = {  # values that fit where they stand, but not the rest
    "frames": (1, 4, 8, 10, 400, 2**40),
    "height": (1, 8, 15, 17, 24, 2**24),
    "width": (1, 16, 21, 25, 2**24),
    "batch": (1, 2, 2**20),
    "grid": ([0, 2, 3], [2, 3, 3], [18], [0], [3, 1, 6], [2**20, 0, 2**20], [3, 2, 3, 1]),
    "vocabulary": (1, 2, 2**15 - 1, 2**15 + 1, 2**20, 2**62, None),
    "channels": (1, 3, 4, 18, None),
    "fps": (None, 1e-300, 1e308, 1e6, 0.0, -1.0, 1),
    "colour": (None, {}, {"matrix": 999}, {"range": "x"}, {"matrix": 0, "range": "full"}),
    "reference_bits": (0, 10**18),
    "packing": (None, {"model": "ab" * 32, "steps": 16}, {"model": "x", "steps": 16}, {}),
}
SETTINGS = {
    "given": ("video", "float16", "float64", "int8", "load", 5, None),
    "window": (0, 1, 3, 4, 8, 16, 10**12, "8", None),
    "slices": (0, 1, 2, 99, "2", 1.5),
    "pad": ("front", "end", 5),
    "start": (-1, 1e300, "x", 2.5),
    "policy": ("first", "none", "last", "x", 3),
    "reference_start": ("given", "plain", "lossless", "stored", "x"),
    "reference": ("", "ab" * 32, 7),
}


class Target:
    named = False  # what is wrong may be known to the tokenizer alone
    writes = False

    def __init__(self, folder: Path) -> None:
        self.models = tiny_models()
        self.seeds = make_reels(folder, self.models)
        self.passed, self.opened = False, 0

    def make(self, draw: Random) -> dict[str, bytes]:
        name = draw.choice([*self.seeds])
        taken = Taken.of(self.seeds[name])
        about = table = None
        kind = draw.randrange(10)
        if kind < 3:
            key = draw.choice([*OWN])
            taken.about[key] = draw.choice(OWN[key])
        if kind < 1 or kind == 3:
            key = draw.choice([*SETTINGS])
            taken.about["settings"][key] = draw.choice(SETTINGS[key])
        if kind in (4, 5):
            self.spoil_tensor(taken, draw)
        taken.hash()
        if kind == 6:
            header, _ = mutate.split(taken.bytes())
            header.pop("__metadata__")
            table = mutate.change(header, draw)
            table = table if isinstance(table, dict) else header
        if kind > 6:
            about = mutate.change(taken.about, draw)
        return {"clip.reel": taken.bytes(about, table), "model": name.encode()}

    def spoil_tensor(self, taken: Taken, draw: Random) -> None:
        """Another tensor: other bytes, or another type and shape, or another name."""
        name = draw.choice([*taken.tensors])
        entry, data = taken.tensors[name]
        kind = draw.randrange(5)
        if kind == 0:
            data = mutate.spoil(data, draw)
            entry = {**entry, "shape": [len(data)], "dtype": "U8"}
        elif kind == 1:
            entry = json.loads(json.dumps(mutate.change(entry, draw), default=str))
        elif kind == 2:
            data = bytes(draw.randrange(256) for _ in data)
        elif kind == 3:
            new = draw.choice(("extras.reference.start.0", "extras.reference.000001.7", "extras.x"))
            new = draw.choice((new, "extras.reference.x.y", "times", "extras.reference.start.9"))
            taken.tensors[new] = (entry, data)
        elif name not in ("ids", "latents", "blocks"):
            del taken.tensors[name]
            return
        taken.tensors[name] = (entry, data)

    def run(self, folder: Path) -> None:
        path = folder / "clip.reel"
        try:
            about_reel(str(path))
            self.passed = True
        except ValueError as error:
            self.passed = not FIRST.search(str(error))
            if str(path) not in str(error):
                raise RuntimeError(f"no name of a file in {error}") from error
            raise
        model = self.models[(folder / "model").read_text().partition("-")[0]]
        with Reel(path) as reel:
            model.decode(reel)
            first = min(reel.frames - 1, 3)
            model.decode(reel.tokens(), start=first, chunk=4)
            self.opened += 1
            if self.opened % WRITTEN == 0:
                self.write(model, reel, folder)

    def write(self, model: Tokenizer, reel: Reel, folder: Path) -> None:
        """A file of its frames, as `decode` writes it."""
        if reel.info.batch == 1:
            frames = decode_frames(model, reel, 0, reel.frames, coding=Coding(chunk=4))
            write(frames, folder.with_suffix(".mp4"))
