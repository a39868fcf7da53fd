"""Folders of models and of generators: config.json and the header of the weights."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import mutate
import torch
from reel_seeds import tiny_models

from reeltok import zoo
from reeltok.generate import flow, masked
from reeltok.generate.prior import Prior
from reeltok.generate.sit import Flow, Statistics

NETWORK = {"width": 16, "depth": 1, "heads": 2}


class Target:
    named = True
    writes = False

    def __init__(self, folder: Path) -> None:
        models = tiny_models()
        for name, model in models.items():
            model.save_pretrained(folder / name)
        config = flow.config_for(models["causal"], fps=10.0, frames=5, size=(16, 16), **NETWORK)
        still = ((0.0,) * config.channels,) * len(config.groups)
        moments = Statistics(mean=still, std=((1.0,) * config.channels,) * len(config.groups))
        flow.save(Flow(replace(config, statistics=moments)), folder / "flow")
        wish = masked.config_for(models["discrete"], frames=5, size=(16, 16), fps=10.0, **NETWORK)
        masked.save(Prior(wish), folder / "prior")
        self.seeds = {
            each.name: {file.name: file.read_bytes() for file in each.iterdir()}
            for each in folder.iterdir()
        }
        self.passed = False

    def make(self, draw: Random) -> dict[str, bytes]:
        name = draw.choice([*self.seeds])
        files = dict(self.seeds[name])
        kind = draw.randrange(10)
        if kind < 6:
            files["config.json"] = mutate.dump(
                mutate.change(json.loads(files["config.json"]), draw)
            )
        elif kind < 7:
            files["config.json"] = mutate.spoil(files["config.json"], draw)
        else:
            files["model.safetensors"] = mutate.spoil_tensors(files["model.safetensors"], draw)
        if draw.random() < 0.02:
            del files[draw.choice([*files])]
        return files

    def run(self, folder: Path) -> None:
        self.passed = self.is_known(folder)
        family = self.family(folder)
        if family == "flow":
            flow.load(folder)
        elif family == "masked":
            masked.load(folder)
        else:
            zoo.described(folder)
            model = zoo.load(folder)
            with torch.no_grad():
                model.grid_for(5, (16, 16))

    def family(self, folder: Path) -> object:
        try:
            return json.loads((folder / "config.json").read_bytes()).get("family")
        except (ValueError, OSError, AttributeError, RecursionError):
            return None

    def is_known(self, folder: Path) -> bool:
        """Whether config.json is JSON of a family that there is: the first check."""
        family = self.family(folder)
        return isinstance(family, str) and family in ("flow", "masked", *zoo.FAMILIES)
