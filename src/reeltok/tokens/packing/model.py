"""A packing network that is done: whole numbers, its frequencies, its file and its hash."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reeltok.files.atomic import replacing
from reeltok.files.hashes import hash_parts
from reeltok.files.parsing import first_error, parse_config, parse_json
from reeltok.tokens.packing.network import (
    EXACT,
    MOST,
    MOST_OFFSET,
    Exact,
    PackingConfig,
    PackingNetwork,
    steps,
)

FORMAT = "reel-packing"
NAME = "packing.safetensors"  # beside the weights of the tokenizer that it is for
FREQUENCIES = "frequencies"
MOST_FREQUENT = 2**16 - 1
A_NAT = 32  # entries of the table; scores have 4096 units
UNITS = 128  # of scores to an entry
TYPES = {MOST: torch.int8, MOST_OFFSET: torch.int16}
ENTRIES = 384  # the rarest value is taken to be e**-12 as likely as the likeliest


class PackingModel:
    """Whole weights, by the names of the network's parameters, and how often values are expected.

    The table `frequencies` has an entry for every 1/32 nat that a score lies below the best.
    Raises ValueError where tensors are others, or a sum could leave the range in which float32 is
    exact.
    """

    def __init__(self, config: PackingConfig, tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = config, dict(sorted(tensors.items()))
        with torch.device("meta"):
            self.network = PackingNetwork(config)
        units = self.network.units()
        require_tensors(self.tensors, self.network, units)
        weights = {name: self.tensors[name].float() for name in units}
        self.network.load_state_dict(weights, assign=True)
        for module in self.network.modules():
            module.frozen = True  # type: ignore[assignment]
        self.network.requires_grad_(False)
        require_exact(self.network)
        self.table = self.tensors[FREQUENCIES].float()

    @classmethod
    def of(cls, network: PackingNetwork) -> "PackingModel":
        """What a network comes to in whole numbers; the network stays as it is."""
        tensors, parameters = {FREQUENCIES: usual_frequencies()}, dict(network.named_parameters())
        for name, (bits, most) in network.units().items():
            whole = steps(parameters[name].detach().cpu().float(), bits, most=most)
            tensors[name] = whole.to(TYPES[most])
        return cls(network.config, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "PackingModel":
        """Read what `save` wrote. FileNotFoundError, and ValueError for any other file."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no packing model at {path}")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError("it says of itself that it is something else")
                config = parse_json(metadata.get("config", ""), "config")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(parse_config(config, PackingConfig, "config"), tensors)
        except (SafetensorError, ValueError) as error:
            why = first_error(error)
            raise ValueError(
                f"{path} is not a packing model ({why}): copy or train it again"
            ) from None

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file: whole weights of 8 and 16 bits, the configuration beside."""
        with replacing(path) as part:
            save_file(self.tensors, part, {"format": FORMAT, "config": self.said})
        return Path(path)

    @property
    def said(self) -> str:
        """The configuration as JSON."""
        return json.dumps(asdict(self.config), sort_keys=True)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the configuration and the weights: what packed files name it by."""
        parts: list[str | bytes] = [self.said]
        for name, tensor in self.tensors.items():
            parts.append(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
            parts.append(tensor.contiguous().numpy().tobytes())
        return hash_parts(parts)

    def frequencies(self, scores: Float[Tensor, "n a"]) -> Float[Tensor, "n a"]:
        """How often each value is expected, whole numbers of 1 to 65,535, from its exact score."""
        below = (scores.amax(1, keepdim=True) - scores) * (1 / UNITS)
        places = below.floor_().clamp_(max=ENTRIES - 1).int()
        return self.table.index_select(0, places.flatten()).view(scores.shape)


def usual_frequencies() -> Int[Tensor, "e"]:
    """The table: e**-score, at least 1."""
    found = [max(1, round(MOST_FREQUENT * math.exp(-i / A_NAT))) for i in range(ENTRIES)]
    return torch.tensor(found, dtype=torch.int32)


def require_tensors(
    tensors: Mapping[str, Tensor], network: PackingNetwork, units: Mapping[str, tuple[int, int]]
) -> None:
    """ValueError unless these are whole weights of the network, and a table of frequencies."""
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    shapes[FREQUENCIES] = torch.Size([ENTRIES])
    types = {name: TYPES[most] for name, (_, most) in units.items()} | {FREQUENCIES: torch.int32}
    if {*tensors} != {*shapes}:
        raise ValueError(f"its tensors are not those of its network, such as {min(shapes)}")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (shapes[name], types[name]):
            raise ValueError(f"its tensor {name} is {tensor.dtype} {tuple(tensor.shape)}")
    low, high = tensors[FREQUENCIES].aminmax()
    if not 1 <= int(low) <= int(high) <= MOST_FREQUENT:
        raise ValueError("its frequencies are not 1 to 65,535")


def require_exact(network: PackingNetwork) -> None:
    """ValueError unless every sum stays below 2**24, whatever the ids are."""
    for part in network.passes:
        known = part.known.abs().amax(0)
        require_sums(part.inner, known)
        require_sums(part.mix)
        for number, ask in enumerate(part.ask):
            tables = [*part.given[number], *part.earlier[number]]
            told = sum((table.abs().amax(0) for table in tables), start=torch.zeros(()))
            require_sums(ask, told)
            require_sums(part.answer[number])


def require_sums(layer: Exact, beside: Tensor | float = 0.0) -> None:
    """ValueError where a sum of a layer could reach 2**24, half a step for rounding included."""
    most = MOST * layer.weight.double().abs().sum(1) + layer.bias.double().abs() + beside
    if float(most.max()) + 2**layer.bits >= EXACT:
        raise ValueError(f"its sums reach {float(most.max()):.0f}, more than float32 counts to")
