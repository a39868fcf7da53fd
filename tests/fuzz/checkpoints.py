"""Checkpoints of runs, with right sums: torch's pickle, its tensors, the numbers beside them."""

import hashlib
import io
import json
import pickle
from pathlib import Path
from random import Random

import mutate
import torch

from reeltok.train.checkpoint import Saver, allocate_states, find_checkpoints, load_tensors

NUMBERS = {"best": 20.5, "seconds": 3.5, "world": 1}


class Target:
    named = True
    writes = False

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.AdamW(self.module.parameters())
        self.module(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()
        Saver(folder).save(7, self.tensors(), NUMBERS)
        (place,) = (folder / "checkpoints").iterdir()
        self.place = f"checkpoints/{place.name}"
        self.seed = {file.name: file.read_bytes() for file in place.iterdir()}
        self.passed = False

    def tensors(self) -> dict[str, torch.Tensor]:
        return {f"model.{name}": value for name, value in self.module.state_dict().items()}

    def make(self, draw: Random) -> dict[str, bytes]:
        files = dict(self.seed)
        kind = draw.randrange(10)
        name = next(name for name in files if name.endswith(".distcp"))
        if kind < 4:
            files[".metadata"] = self.repickle(files[".metadata"], draw)
        elif kind < 6:
            files[".metadata"] = mutate.spoil(files[".metadata"], draw)
        elif kind < 7:
            files[name] = mutate.spoil(files[name], draw)
        elif kind < 9:
            files["run.json"] = mutate.dump(mutate.change(json.loads(files["run.json"]), draw))
        sums = {n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n != "sums.json"}
        files["sums.json"] = json.dumps(sums).encode()
        if kind == 9:
            files["sums.json"] = mutate.dump(mutate.change(sums, draw))
        return {f"{self.place}/{name}": data for name, data in files.items()}

    def repickle(self, data: bytes, draw: Random) -> bytes:
        """The metadata with other numbers, names or places in it."""
        found = pickle.load(io.BytesIO(data))  # made by this process
        held = draw.choice((found.state_dict_metadata, found.storage_data))
        key = draw.choice([*held])
        entry = held[key]
        if draw.random() < 0.2:
            held.pop(key)
            name = mutate.odd(draw)
            held[name if isinstance(name, str | int | None) else "model.x"] = entry
        names = list(vars(entry)) if hasattr(entry, "__dict__") else []
        if names:
            object.__setattr__(entry, draw.choice(names), mutate.odd(draw))
        if draw.random() < 0.1:
            held[key] = mutate.odd(draw)
        try:
            return pickle.dumps(found)
        except (TypeError, ValueError, RecursionError):
            return data

    def run(self, folder: Path) -> None:
        found = find_checkpoints(folder)
        if not found:
            return
        try:
            load_tensors(found[-1], self.tensors())
            self.passed = True
            fresh = torch.nn.Linear(3, 2)
            allocate_states(
                found[-1], {"model": fresh}, {"model": [torch.optim.AdamW(fresh.parameters())]}
            )
        except ValueError as error:
            self.passed = self.passed or "cut or altered" not in str(error)
            raise
