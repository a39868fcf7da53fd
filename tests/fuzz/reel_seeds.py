"""Small .reel files of every kind, and the tiny models that made them."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mutate import join, split
from small_models import CAUSAL, COORDTOK, DISCRETE, NONCAUSAL

from reeltok.models.coordtok.network import CoordTok
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.header import BLOCK, description_hash
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.packing.network import PackingConfig, PackingNetwork, split_symbols
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import save_tokens
from reeltok.video.record import Video


def tiny_models() -> dict[str, Tokenizer]:
    """A model of each kind that decodes a few frames in milliseconds."""
    torch.manual_seed(0)
    models = {
        "discrete": VidTok(DISCRETE, "discrete"),
        "causal": VidTok(CAUSAL, "causal"),
        "noncausal": VidTok(NONCAUSAL, "noncausal"),
        "coordtok": CoordTok(COORDTOK, "coordtok"),
        "reftok": RefTok(RefTokConfig(body=DISCRETE, start="webp"), "reftok"),
    }
    return {name: model.eval() for name, model in models.items()}


def clip(frames: int, height: int, width: int, *, rate: float | None = 10.0) -> Video:
    """Colours that differ in every frame."""
    draw = torch.Generator().manual_seed(frames)
    still = torch.randint(0, 200, (1, height, width, 3), generator=draw, dtype=torch.uint8)
    return Video(still + 5 * torch.arange(frames, dtype=torch.uint8)[:, None, None, None], rate)


def make_reels(folder: Path, models: dict[str, Tokenizer]) -> dict[str, bytes]:
    """The files, by the name of their model."""
    made = {}
    for name, model in models.items():
        size = (16, 24) if name == "coordtok" else (16, 20)
        video = clip(9, *size)
        if name == "discrete":
            video = replace(video, times=torch.arange(9).double() ** 1.1 / 10)
        tokens = model.encode(video)
        save_tokens(tokens.with_(weights=None), folder / "clip.reel")
        made[name] = (folder / "clip.reel").read_bytes()
    save_tokens(models["causal"].encode(torch.zeros(2, 3, 5, 16, 16)), folder / "clip.reel")
    made["causal-2"] = (folder / "clip.reel").read_bytes()
    discrete = models["discrete"]
    still = discrete.encode(clip(1, 16, 20)).with_(weights=None)
    tokens = Tokens.join([still.part(0, 1).with_(step=i) for i in range(17)]).with_(frames=65)
    discrete.packing = folder / NAME
    packing = packing_for(discrete, still)
    packing.save(discrete.packing)
    save_tokens(tokens, folder / "clip.reel", packing=packing)
    made["discrete-packed"] = (folder / "clip.reel").read_bytes()
    return made


def packing_for(model: Tokenizer, tokens: Tokens) -> PackingModel:
    """A packing model with random weights that expects these ids."""
    digits = model.config.quantizer.levels
    config = PackingConfig(
        tokenizer="ab" * 32,
        vocabulary=model.spec.vocabulary,
        digits=digits,
        groups=(1, 3, 5),
        features=4,
        width=8,
    )
    torch.manual_seed(0)
    network = PackingNetwork(config)
    symbols = split_symbols(tokens.flat()[0], config)
    for part in network.passes:
        for number, answer in enumerate(part.answer):
            counts = torch.bincount(symbols[:, number], minlength=config.factors[number]) + 0.1
            answer.bias.data = counts.log()
    return PackingModel.of(network)


@dataclass
class Taken:
    """A .reel file taken apart, so that it can be put together with right hashes."""

    about: dict[str, Any]
    tensors: dict[str, tuple[dict[str, Any], bytes]]

    @classmethod
    def of(cls, data: bytes) -> "Taken":
        header, body = split(data)
        about = json.loads(header.pop("__metadata__")["about"])
        tensors = {
            name: (entry, body[entry["data_offsets"][0] : entry["data_offsets"][1]])
            for name, entry in header.items()
        }
        return cls(about, tensors)

    def hash(self) -> None:
        """Make the hashes of all tensors right."""
        name = self.about["payload"]["name"]
        payload = self.tensors[name][1]
        rows = [payload[i : i + BLOCK] for i in range(0, len(payload), BLOCK)]
        blocks = b"".join(hashlib.sha256(row).digest() for row in rows)
        if len(blocks) == len(self.tensors["blocks"][1]):
            self.tensors["blocks"] = (self.tensors["blocks"][0], blocks)
        others = {key: data for key, (_, data) in self.tensors.items() if key != name}
        self.about["payload"]["sha256"] = hashlib.sha256(payload).hexdigest()
        self.about["tensors"] = {k: hashlib.sha256(data).hexdigest() for k, data in others.items()}

    def bytes(self, about: Any = None, table: Any = None) -> bytes:
        """The file, with another description or table where they are given."""
        at, own, body = 0, {}, b""
        for name, (entry, data) in self.tensors.items():
            own[name] = {**entry, "data_offsets": [at, at + len(data)]}
            at, body = at + len(data), body + data
        table = own if table is None else table
        said = json.dumps(self.about if about is None else about, sort_keys=True)
        metadata = {"format": "reel", "version": "1", "about": said}
        metadata["sha256"] = description_hash(said, table)
        return join({"__metadata__": metadata, **table}, body)
