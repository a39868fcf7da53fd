"""Generation of whole clips: noise to latents along a learned flow, and what that needs on disk.

`generate(model, tokenizer, count=8, seed=0)` gives `Tokens`, which the tokenizer decodes. The
network is in `sit.py`, the samplers in `sampling.py`, training in `latents.py`.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reeltok.generate.classes import find_class
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.folder import load_generator, save_generator
from reeltok.generate.public import generator_from_public, generator_to_public
from reeltok.generate.sampling import rms, sample
from reeltok.generate.schedule import LARGEST, require_positive, seeded_generators
from reeltok.generate.sit import (
    Flow,
    FlowConfig,
    Group,
    Statistics,
    plane_groups,
    volume_group,
)
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.ids import join_sizes
from reeltok.tokens.record import Tokens

__all__ = [
    "Flow",
    "FlowConfig",
    "config_for",
    "generate",
    "generator_from_public",
    "generator_to_public",
    "load",
    "save",
]


def config_for(
    tokenizer: Tokenizer,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    patch: int = 2,
    shared: bool = True,
    **values: Any,
) -> FlowConfig:
    """A generator's configuration for `frames` frames of `size` = (height, width) of a tokenizer.

    Both may be left out where the tokenizer has fixed ones. `shared` lets the time planes of a
    CoordTok share their positions; `values` are further values of `FlowConfig`, such as one of
    `sit.SIZES`. ValueError for a discrete tokenizer, or latents that `patch` does not divide.
    """
    spec = tokenizer.spec
    if spec.vocabulary is not None:
        raise ValueError(
            f"{spec.name} is discrete: a flow makes continuous latents; choose a prior"
        )
    frames, size = frames or spec.window, size or spec.size
    if frames is None or size is None:
        raise ValueError(f"{spec.name} codes clips of any size: give frames= and size=")
    grid = tokenizer.grid_for(frames, size)
    planes: Mapping[str, tuple[int, int]] | None = getattr(tokenizer.config, "grids", None)
    sides = [grid[1:]] if planes is None else list(planes.values())
    if any(cells % patch for side in sides for cells in side):
        raise ValueError(
            f"patch={patch} does not divide latents of {', '.join(map(join_sizes, sides))} cells: "
            "give another patch, or frames of another size"
        )
    if planes is None:
        groups = volume_group(grid, patch=(1, patch, patch))
    else:
        groups = plane_groups(planes, patch=patch, shared=shared)
    if math.prod(grid) != sum(group.cells for group in groups):
        raise ValueError(
            f"{spec.name} codes windows of {spec.window} frames, not {frames}: give frames="
            f"{spec.window}"
        )
    settings = {"window": spec.window or frames} if spec.independent else {}
    clip = ClipSpec.of(tokenizer, frames=frames, size=size, fps=fps, grid=grid, settings=settings)
    return FlowConfig(groups=groups, channels=spec.channels, clip=clip, **values)


# Sampling.


@torch.no_grad()
def generate(
    model: Flow,
    tokenizer: Tokenizer | None = None,
    *,
    count: int = 1,
    seed: int = 0,
    class_name: str | None = None,
    steps: int | None = None,
    sampler: str = "euler-maruyama",
    guidance: float = 1.0,
    first: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Tokens:
    """Latents of `count` new clips; the same seed gives the same clips.

    With `first`, clip i depends on `seed` and `first` + i alone, not on how many are made at once
    (but for dopri5, whose steps suit all of them).

    The defaults are CoordTok's: 249 stochastic steps and one without noise, one network call each;
    dopri5 chooses its own steps, and is given none.
    `guidance` above 1 goes beyond what the class asks for, away from what any class would give.
    `progress` hears the time, 0 to 1. With a `tokenizer` its weights are compared with those that
    the generator was trained on. ValueError for what the model was not trained for.
    """
    config, clip = model.config, pick_clip(model.config, tokenizer)
    require_positive(count=count)
    statistics = need_statistics(config)
    label = pick_label(config, class_name, guidance)
    velocity = guided_velocity(model, label, guidance, progress)
    noise = seeded_noise(model, count, seed, first)
    sizes = [group.cells for group in config.groups]

    def widest(x: Tensor) -> float:  # Parity: the public solver takes the worst plane's error
        return max(rms(part) for part in x.split(sizes, dim=2))

    x = sample(velocity, noise(), noise, sampler=sampler, steps=steps, norm=widest)
    latents = restore(x.float(), statistics, config.groups)
    return clip.tokens(latents=latents.unflatten(2, clip.grid))


def pick_clip(config: FlowConfig, tokenizer: Tokenizer | None) -> ClipSpec:
    """What the latents stand for. ValueError where `tokenizer` cannot read them."""
    if tokenizer is None:
        if config.clip is None:
            raise ValueError("this generator does not say what it makes: give its tokenizer too")
        return config.clip
    clip = config.clip or config_for(tokenizer).clip
    assert clip is not None
    clip.require(tokenizer)
    if (math.prod(clip.grid), tokenizer.spec.channels) != (config.cells, config.channels):
        raise ValueError(
            f"this generator makes {config.cells} cells of {config.channels} values, "
            f"{tokenizer.name!r} reads {math.prod(clip.grid)} of {tokenizer.spec.channels}: load "
            "the tokenizer it was trained on"
        )
    return clip


def need_statistics(config: FlowConfig) -> Statistics:
    if config.statistics is None:
        raise ValueError(
            "this generator has no latent statistics: measure those of its training clips by "
            "`reeltok statistics GENERATOR CLIPS`"
        )
    return config.statistics


def pick_label(config: FlowConfig, name: str | None, guidance: float) -> int:
    """The label of a class, or of none. ValueError for a class or guidance that was not trained."""
    if not 0 <= guidance <= LARGEST:
        raise ValueError(f"guidance={guidance} was asked: give a number from 0 to {LARGEST:g}")
    classes = config.classes
    null_label = len(classes) if config.label_dropout > 0 else None
    if guidance != 1 and null_label is None:
        raise ValueError(
            f"guidance={guidance} was asked, but this model was trained without label dropout: "
            "leave guidance=1"
        )
    if guidance != 1 and name is None:
        raise ValueError(f"guidance={guidance} needs a class: name one of {', '.join(classes)}")
    if name is not None:
        return find_class(classes, name)
    if len(classes) < 2:
        return 0
    if null_label is None:
        raise ValueError(f"this model needs a class: name one of {', '.join(classes)}")
    return null_label


def guided_velocity(
    model: Flow, label: int, guidance: float, progress: Callable[[float], None] | None = None
) -> Callable[[Tensor, float], Tensor]:
    """The velocity of one class; with guidance v = v(none) + guidance (v(class) - v(none))."""
    null_label = len(model.config.classes)

    def velocity(x: Tensor, t: float) -> Tensor:
        if progress is not None:
            progress(t)
        times, labels = x.new_full((len(x),), t), torch.full((len(x),), label, device=x.device)
        if guidance == 1:
            return model(x, times, labels)
        both = torch.cat([labels, torch.full_like(labels, null_label)])
        known, unknown = model(torch.cat([x, x]), torch.cat([times, times]), both).chunk(2)
        return torch.lerp(unknown, known, guidance)

    return velocity


def seeded_noise(
    model: Flow, count: int, seed: int, first: int | None = None
) -> Callable[[], Float[Tensor, "b d n"]]:
    """Standard normals drawn on the CPU, group after group, so that a seed fixes them anywhere.

    All clips draw from one generator, or from `first` on each from its own.
    """
    config, weight = model.config, model.type_embed
    if first is None:
        sources, share = [torch.Generator().manual_seed(seed)], count
    else:
        sources, share = seeded_generators(seed, range(first, first + count)), 1

    def draw() -> Tensor:
        each = [
            torch.cat(
                [
                    torch.randn(share, config.channels, *group.grid, generator=source).flatten(2)
                    for group in config.groups
                ],
                dim=2,
            )
            for source in sources
        ]
        return torch.cat(each).to(weight)

    return draw


def per_cell(
    values: tuple[tuple[float, ...], ...], groups: tuple[Group, ...], like: Tensor
) -> Float[Tensor, "d n"]:
    """One number per group and channel, on all cells of that group."""
    columns = [
        like.new_tensor(row)[:, None].expand(-1, group.cells)
        for row, group in zip(values, groups, strict=True)
    ]
    return torch.cat(columns, dim=1)


def normalise(
    x: Float[Tensor, "b d n"], statistics: Statistics, groups: tuple[Group, ...]
) -> Float[Tensor, "b d n"]:
    """Latents with mean 0 and deviation 1 in each group and channel."""
    return (x - per_cell(statistics.mean, groups, x)) / per_cell(statistics.std, groups, x)


def restore(
    x: Float[Tensor, "b d n"], statistics: Statistics, groups: tuple[Group, ...]
) -> Float[Tensor, "b d n"]:
    """The latents that `normalise` was given."""
    return x * per_cell(statistics.std, groups, x) + per_cell(statistics.mean, groups, x)


# On disk.


def save(model: Flow, folder: str | Path) -> Path:
    """Write config.json and model.safetensors into `folder`, made if need be."""
    return save_generator(model, folder, family="flow")


def load(folder: str | Path, *, device: torch.device | str | None = None) -> Flow:
    """The generator that `save` wrote, in evaluation mode. Errors are `load_generator`'s."""
    return load_generator(folder, FlowConfig, Flow, family="flow", noun="flow", device=device)
