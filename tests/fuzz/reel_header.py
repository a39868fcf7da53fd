"""Headers of .reel files, changed as JSON and as bytes, with hashes that are not mended."""

import re
from pathlib import Path
from random import Random

import mutate
from reel_seeds import make_reels, tiny_models

from reeltok.tokens.reel import Reel

FIRST = re.compile(r"is not a \.reel|is cut off|seen in its (header|version)")


class Target:
    named = True
    writes = False

    def __init__(self, folder: Path) -> None:
        self.seeds = list(make_reels(folder, tiny_models()).values())
        self.passed = False

    def make(self, draw: Random) -> dict[str, bytes]:
        data = draw.choice(self.seeds)
        header, body = mutate.split(data)
        kind = draw.randrange(10)
        if kind < 1:
            data = mutate.spoil(data[: len(data) - len(body)], draw) + body
        elif kind < 3:
            data = mutate.join(mutate.change(header, draw), body)
        elif kind < 4:
            data = mutate.spoil(data, draw, other=draw.choice(self.seeds))
        else:
            said = header["__metadata__"]
            said["about"] = mutate.spoil(said["about"].encode(), draw).decode("utf-8", "replace")
            data = mutate.join(header, body)
        return {"clip.reel": data}

    def run(self, folder: Path) -> None:
        try:
            with Reel(folder / "clip.reel") as reel:
                self.passed = True
                reel.tokens()
        except ValueError as error:
            self.passed = not FIRST.search(str(error))
            raise
