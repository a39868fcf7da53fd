"""Training a flow on latents that were computed beforehand.

`measure_moments` takes their statistics, `Feed` draws batches as a function of (seed, step), and
`FlowTask` is what the training loop runs. `examples` collects them from a corpus.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reeltok.generate import flow
from reeltok.generate.schedule import seeded_generators
from reeltok.generate.sit import Flow, FlowConfig, Statistics
from reeltok.nn.moments import Moments
from reeltok.records import join_records
from reeltok.train.losses import Losses


@dataclass(frozen=True)
class Latents:
    """Clips' latents, not normalised, their labels, and the names that the labels count."""

    values: Float[Tensor, "n d cells"]
    labels: Int[Tensor, "n"]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Int[Tensor, " b"]) -> "Latents":
        return replace(self, values=self.values[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "Latents":
        return replace(self, values=self.values.to(device), labels=self.labels.to(device))


def measure_moments(latents: Latents, config: FlowConfig) -> Statistics:
    """Mean and deviation of each group and channel; a channel that never varies counts as 1."""
    means, deviations = [], []
    for part in latents.values.split([group.cells for group in config.groups], dim=2):
        moments = Moments.none(config.channels)
        for some in part.split(256):
            moments += Moments.of(some, axis=1)
        means.append(tuple(moments.mean.tolist()))
        std = moments.std
        deviations.append(tuple(torch.where(std > 1e-6, std, 1.0).tolist()))
    return Statistics(mean=tuple(means), std=tuple(deviations))


@runtime_checkable
class ExampleSet(Protocol):
    """Examples in rows: latents, or ids with what they are generated from."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor) -> Any: ...  # of the same kind, as is what `to` gives
    def to(self, device: torch.device | str) -> Any: ...


Kind = TypeVar("Kind", bound=ExampleSet)
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Feed(Generic[Kind]):
    """Batches of `batch` clips over all processes, a function of (seed, step) alone."""

    examples: Kind
    batch: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise ValueError(
                f"a batch of {self.batch} does not divide among {self.world} processes: "
                "choose a multiple"
            )

    def __call__(self, step: int) -> Kind:
        random = np.random.default_rng((self.seed, step))
        drawn = random.integers(len(self.examples), size=self.batch)
        mine = torch.from_numpy(drawn[self.rank :: self.world])
        return self.examples[mine].to(self.device)


def draw_each(
    draw: Callable[[Kind, torch.Generator], Drawn],
    examples: Kind,
    generators: Sequence[torch.Generator],
) -> list[Drawn]:
    """What is drawn for each example on its own, by a generator of its own."""
    rows = torch.arange(len(examples)).split(1)
    return [draw(examples[row], each) for row, each in zip(rows, generators, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Departure:
    """Where the paths of latents begin: noise, how far along they are, and what is told of them."""

    noise: Float[Tensor, "b d n"]
    t: Float[Tensor, " b"]
    labels: Int[Tensor, " b"]


class FlowTask:
    """Train a flow: mean over groups of the velocity's squared error, t uniform in [0, 1].

    CoordTok, appendix A.2: every plane counts the same, so a cell of xy counts more. `held_out`
    latents are scored with the same noise each time, each with its own, so that `batch` makes no
    difference. ValueError without latent statistics.
    """

    def __init__(self, model: Flow, *, held_out: Latents | None = None, batch: int = 16) -> None:
        self.model, self.held_out, self.batch = model, held_out, batch
        self.statistics = flow.need_statistics(model.config)

    def parameters(self) -> nn.Module:
        return self.model

    def to(self, device: torch.device | str) -> None:
        """Move the network to `device`."""
        self.model.to(device)

    def loss(self, batch: Latents, step: int, generator: torch.Generator | None) -> Losses:
        """The loss of a batch; noise, times and null labels are drawn from `generator`."""
        errors = self.errors(batch, self.draw(batch, generator))
        names = [group.name for group in self.model.config.groups]
        terms = {name: error.mean() for name, error in zip(names, errors.T, strict=True)}
        return Losses(errors.mean(), terms)

    def draw(self, batch: Latents, generator: torch.Generator | None) -> Departure:
        """Noise, times and labels of a batch, drawn where the `generator` is."""
        config, device = self.model.config, batch.values.device
        at = device if generator is None else generator.device

        def uniform() -> Tensor:
            return torch.rand(len(batch), generator=generator, device=at).to(device)

        noise = torch.randn(batch.values.shape, generator=generator, device=at).to(device)
        t, labels = uniform(), batch.labels
        if config.label_dropout:
            labels = labels.masked_fill(uniform() < config.label_dropout, len(config.classes))
        return Departure(noise=noise, t=t, labels=labels)

    def errors(self, batch: Latents, begun: Departure) -> Float[Tensor, "b groups"]:
        """Each group's mean squared error of the velocity."""
        x = flow.normalise(batch.values.float(), self.statistics, self.model.config.groups)
        return flow_errors(self.model, x, begun.noise, begun.t, begun.labels)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The loss on held-out latents; `score` is its negative, which grows as it improves."""
        if self.held_out is None:
            return {}
        self.model.eval()
        weight = self.model.type_embed
        total = 0.0
        for index in torch.arange(len(self.held_out)).split(self.batch):
            part = self.held_out[index].to(weight.device)
            draws = seeded_generators(0, range(int(index[0]), int(index[-1]) + 1))
            begun = join_records(draw_each(self.draw, part, draws))
            total += self.errors(part, begun).mean(1).sum().item()
        return {"held_out": total / len(self.held_out), "score": -total / len(self.held_out)}

    def save(self, folder: Path) -> None:
        """Write the generator where `flow.load` finds it."""
        flow.save(self.model, folder)


def flow_errors(
    model: Flow,
    x: Float[Tensor, "b d n"],
    noise: Float[Tensor, "b d n"],
    t: Float[Tensor, "b"],
    labels: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b groups"]:
    """Each group's mean squared error of the velocity, at times `t` of the linear path."""
    at = t[:, None, None]
    error = model(at * x + (1 - at) * noise, t, labels).float() - (x - noise)
    parts = error.square().split([group.cells for group in model.config.groups], dim=2)
    return torch.stack([part.flatten(1).mean(1) for part in parts], dim=1)
