"""A small packing model that expects zeros, and ids that are mostly zero."""

from pathlib import Path

import torch
from torch import Tensor

from reeltok import zoo
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.packing.network import PackingConfig, PackingNetwork, split_symbols
from reeltok.video.record import Video

WEIGHTS = "ab" * 32
DIGITS = (16, 4, 4, 2, 2)  # 1,024 ids


def small_config(**changes) -> PackingConfig:
    given = {
        "tokenizer": WEIGHTS,
        "vocabulary": 1024,
        "digits": DIGITS,
        "groups": (1, 2, 2),
        "features": 8,
        "width": 12,
    }
    return PackingConfig(**{**given, **changes})


def small_network(**changes) -> PackingNetwork:
    """Random weights; zeros are likely."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PackingNetwork(small_config(**changes))
    for part in network.passes:
        for number, answer in enumerate(part.answer):
            flag = number == 0 and network.config.skip is not None
            answer.bias.data[int(flag)] = 4.0
        for tables in (*part.given, *part.earlier, [part.known]):
            for table in tables:
                table.data.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return network


def small_packing(**changes) -> PackingModel:
    return PackingModel.of(small_network(**changes))


def sparse_ids(*shape: int, vocabulary: int = 1024, seed: int = 0) -> Tensor:
    """Ids of which nine in ten are zero."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, shape, generator=draw)
    return ids * (torch.rand(shape, generator=draw) < 0.1)


def add_packing(folder: Path, video: Video | None = None) -> PackingModel:
    """A packing model beside the weights of a discrete model; it expects the symbols of `video`."""
    tokenizer = zoo.load(folder)
    levels = tokenizer.config.quantizer.levels
    config = {"tokenizer": tokenizer.hash(), "vocabulary": tokenizer.spec.vocabulary}
    network = small_network(**config, digits=levels, groups=(1,) * len(levels))
    if video is not None:
        symbols = split_symbols(tokenizer.encode(video).ids.flatten(), network.config)
        for part in network.passes:
            for number, answer in enumerate(part.answer):
                counts = torch.bincount(symbols[:, number], minlength=levels[number]) + 0.1
                answer.bias.data = counts.log().clamp(-3, 3)
                answer.weight.data *= 0.1
    made = PackingModel.of(network)
    made.save(folder / NAME)
    return made
