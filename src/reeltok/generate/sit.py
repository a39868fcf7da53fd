"""The diffusion transformer: latents of a whole clip, a time and a class to a velocity.

    latents ─ patches of a group + position + type ─ blocks, modulated by time, class ─ velocity

Latents are `b d n`: all cells on one axis, in groups. A CoordTok clip is three groups, its planes;
a KL latent `b d t h w` is one. Peebles and Xie, "DiT", 2023; Ma et al., "SiT", 2024; CoordTok,
section 4.3 and appendix A.2. Rotary position embedding is our addition.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.generate.clip_spec import ClipSpec
from reeltok.nn.bounds import Depth, Side, Width
from reeltok.nn.linear import Linear
from reeltok.nn.transformer import Attention, sinusoid

STRICT = ConfigDict(extra="forbid")
Axis = Literal["t", "y", "x"]
AXES: tuple[Axis, ...] = ("t", "y", "x")
PLANE_AXES: dict[str, tuple[Axis, ...]] = {"xy": ("y", "x"), "yt": ("t", "x"), "xt": ("t", "y")}
"""Axes of CoordTok's planes, whose names call rows x and columns y: ours are y and x."""
LONGEST = 80
"""Wave length of the slowest rotation, in patches; that of the fastest is 4."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Group:
    """Cells that lie on a grid of one, two or three axes, and the patch that makes one token.

    Groups that name the same `table` share its learned positions; "sinusoids" are fixed. `axes`
    names those of the grid: rotary embedding needs them, as groups may have some in common.
    """

    name: str = Field(min_length=1, pattern=r"^[^.]+$")
    grid: tuple[Side, ...] = Field(min_length=1, max_length=3)
    patch: tuple[Side, ...]
    position: Literal["sinusoids", "learned"] = "learned"
    table: str = Field(min_length=1, pattern=r"^[^.]+$")
    axes: tuple[Axis, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> "Group":
        if self.axes and (len(set(self.axes)) < len(self.axes) or len(self.axes) != len(self.grid)):
            raise ValueError(f"group {self.name}: axes {self.axes} are not those of {self.grid}")
        whole = len(self.grid) == len(self.patch)
        if not whole or any(p < 1 or g % p for g, p in zip(self.grid, self.patch, strict=True)):
            raise ValueError(
                f"group {self.name}: grid {self.grid} does not divide into patches of {self.patch}"
            )
        return self

    @property
    def cells(self) -> int:
        return math.prod(self.grid)

    @property
    def counts(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(g // p for g, p in zip(self.grid, self.patch, strict=True))

    @property
    def tokens(self) -> int:
        return math.prod(self.counts)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Statistics:
    """Mean and standard deviation of each group's latents, per channel."""

    mean: tuple[tuple[float, ...], ...]
    std: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FlowConfig:
    """Everything that shapes a generator, and what its latents are.

    `classes` names what can be asked for; with less than two it is an unconditional model.
    `label_dropout` is the share of labels that the null label replaces in training, which guidance
    needs. `double_heads` keeps the second half of every head's outputs, which nothing reads.
    `rope`: queries and keys turn with their patch's place on the groups' `axes`, so that the planes
    of a CoordTok, which share axes, can find each other's time, row and column from the start.
    """

    groups: tuple[Group, ...] = Field(min_length=1, max_length=64)
    channels: Width
    width: Width = 1024
    depth: Depth = 24
    heads: Width = 16
    mlp_ratio: float = Field(default=4.0, gt=0, le=64)
    classes: tuple[str, ...] = ()
    label_dropout: float = Field(default=0.0, ge=0, lt=1)
    double_heads: bool = False
    rope: bool = False
    clip: ClipSpec | None = None
    statistics: Statistics | None = None

    @model_validator(mode="after")
    def _fits(self) -> "FlowConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        if self.label_dropout and len(self.classes) < 2:
            raise ValueError(f"label_dropout={self.label_dropout} needs two classes or more")
        if self.rope and not all(group.axes for group in self.groups):
            raise ValueError("rope needs the axes of every group")
        if self.rope and (self.width // self.heads) % 2:
            raise ValueError(f"rope needs heads of even width, not {self.width // self.heads}")
        shapes: dict[str, tuple] = {}
        for group in self.groups:
            shape = (group.counts, group.position)
            if shapes.setdefault(group.table, shape) != shape:
                raise ValueError(
                    f"group {group.name} cannot share table {group.table!r}: {shape} is not "
                    f"{shapes[group.table]}; give it a table of its own"
                )
        return self

    @property
    def cells(self) -> int:
        """Length of the latents' last axis."""
        return sum(group.cells for group in self.groups)

    @property
    def tokens(self) -> int:
        """What the transformer carries for one clip."""
        return sum(group.tokens for group in self.groups)


SIZES = {
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "xl": {"width": 1152, "depth": 28, "heads": 16},
}
"""SiT's sizes (table 1 of the paper)."""


def plane_groups(
    grids: Mapping[str, tuple[int, int]], *, patch: int = 2, shared: bool = True
) -> tuple[Group, ...]:
    """The groups of a CoordTok whose planes have `grids`, in patches of `patch` x `patch` cells.

    As published, xy has fixed positions; yt and xt learned ones, the same where `shared`.
    """
    shared = shared and grids["yt"] == grids["xt"]
    return tuple(
        Group(
            name=name,
            grid=grid,
            patch=(patch, patch),
            position="sinusoids" if name.startswith("xy") else "learned",
            table=name if name.startswith("xy") or not shared else "t",
            axes=PLANE_AXES[name[:2]],
        )
        for name, grid in grids.items()
    )


def volume_group(grid: tuple[int, ...], *, patch: tuple[int, ...] = (1, 2, 2)) -> tuple[Group, ...]:
    """The one group of latents on a grid of (time, row, column), with fixed positions."""
    axes = AXES if len(grid) == len(AXES) else ()
    return (Group(name="z", grid=grid, patch=patch, position="sinusoids", table="z", axes=axes),)


class SiTBlock(nn.Module):
    """A transformer block whose norms and share in the sum the condition sets (adaLN-zero)."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.attention = Attention(width, config.heads, qkv_bias=True)
        self.mlp = nn.Sequential(
            Linear(width, hidden), nn.GELU(approximate="tanh"), Linear(hidden, width)
        )
        self.modulation = Linear(width, 6 * width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        condition: Float[Tensor, "b d"],
        angles: Float[Tensor, "n pairs"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        x = x + gate * self.attention(modulate(x, shift, scale), angles=angles)
        return x + gate2 * self.mlp(modulate(x, shift2, scale2))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class PatchEmbed(nn.Module):
    """A group's latents -> its tokens."""

    def __init__(self, group: Group, config: FlowConfig) -> None:
        super().__init__()
        self.group = group
        self.linear = Linear(config.channels * math.prod(group.patch), config.width)

    def forward(self, x: Float[Tensor, "b d n"]) -> Float[Tensor, "b m w"]:
        """Patches as vectors (channel, then the patch's axes), as a convolution reads them."""
        b, d, _ = x.shape
        sides = [
            side for pair in zip(self.group.counts, self.group.patch, strict=True) for side in pair
        ]
        k = len(self.group.grid)
        x = x.reshape(b, d, *sides).permute(0, *range(2, 2 + 2 * k, 2), 1, *range(3, 3 + 2 * k, 2))
        return self.linear(x.reshape(b, self.group.tokens, -1))


class FinalLayer(nn.Module):
    """A group's tokens -> their velocity."""

    def __init__(self, group: Group, config: FlowConfig) -> None:
        super().__init__()
        self.group, self.channels = group, config.channels
        outputs = config.channels * (2 if config.double_heads else 1)
        self.linear = Linear(config.width, math.prod(group.patch) * outputs)
        self.modulation = Linear(config.width, 2 * config.width)

    def forward(
        self, x: Float[Tensor, "b m w"], condition: Float[Tensor, "b w"]
    ) -> Float[Tensor, "b d n"]:
        shift, scale = self.modulation(condition)[:, None].chunk(2, -1)
        x = self.linear(modulate(x, shift, scale))
        k = len(self.group.grid)
        x = x.unflatten(2, (*self.group.patch, -1))[..., : self.channels].unflatten(
            1, self.group.counts
        )
        axes = [
            axis
            for pair in zip(range(1, 1 + k), range(1 + k, 1 + 2 * k), strict=True)
            for axis in pair
        ]
        return x.permute(0, 1 + 2 * k, *axes).reshape(len(x), self.channels, self.group.cells)


class Flow(nn.Module):
    """The network: latents, time, labels -> velocity."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.patch_embed = nn.ModuleDict({g.name: PatchEmbed(g, config) for g in config.groups})
        self.fixed, self.learned = nn.ParameterDict(), nn.ParameterDict()
        for group in config.groups:
            fixed = group.position == "sinusoids"
            table = (
                sincos_pos_embed(group.counts, width) if fixed else torch.zeros(group.tokens, width)
            )
            tables = self.fixed if fixed else self.learned
            tables[group.table] = nn.Parameter(table, requires_grad=not fixed)
        self.type_embed = nn.Parameter(torch.randn(len(config.groups), width))
        self.time_embed = nn.Sequential(Linear(256, width), nn.SiLU(), Linear(width, width))
        rows = max(1, len(config.classes)) + (config.label_dropout > 0)
        self.label_embed = nn.Embedding(rows, width)
        self.blocks = nn.ModuleList(SiTBlock(config) for _ in range(config.depth))
        self.final_layer = nn.ModuleDict({g.name: FinalLayer(g, config) for g in config.groups})
        init_weights(self)

    def forward(
        self,
        x: Float[Tensor, "b d n"],
        t: Float[Tensor, "b"],
        labels: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b d n"]:
        """The velocity at time t (0: noise, 1: data); the label `len(classes)` is the null one."""
        groups = self.config.groups
        parts = x.split([group.cells for group in groups], dim=2)
        tokens = [
            self.patch_embed[g.name](part) + self.pos_embed(g) + type_embed
            for g, part, type_embed in zip(groups, parts, self.type_embed, strict=True)
        ]
        if labels is None:
            labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        waves = sinusoid(t, 256).to(x.dtype)
        condition = F.silu(self.time_embed(waves) + self.label_embed(labels))
        y = torch.cat(tokens, dim=1)
        angles = rotary_angles(self.config).to(x.device) if self.config.rope else None
        for block in self.blocks:
            y = block(y, condition, angles)
        ends = y.split([group.tokens for group in groups], dim=1)
        return torch.cat(
            [self.final_layer[g.name](end, condition) for g, end in zip(groups, ends, strict=True)],
            dim=2,
        )

    def pos_embed(self, group: Group) -> Float[Tensor, "m w"]:
        tables = self.fixed if group.position == "sinusoids" else self.learned
        return tables[group.table]


def init_weights(model: Flow) -> None:
    """Fresh weights: every block and the output begin at zero (DiT, section 3.2)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name.startswith("time_embed."):
                nn.init.normal_(module.weight, std=0.02)
            if name.endswith(".modulation") or name.startswith("final_layer."):
                nn.init.zeros_(module.weight)
    nn.init.normal_(model.label_embed.weight, std=0.02)


def rotary_angles(config: FlowConfig) -> Float[Tensor, "n pairs"]:
    """By how much each pair of a head's channels turns, in radians, for all patches of all groups.

    The pairs are shared out among the axes; one that a group lacks turns nothing there.
    """
    pairs = config.width // config.heads // 2
    shares = {"t": pairs - 2 * (pairs // 3), "y": pairs // 3, "x": pairs // 3}
    rows = []
    for group in config.groups:
        counts = [torch.arange(n, dtype=torch.float32, device="cpu") for n in group.counts]
        places = torch.meshgrid(*counts, indexing="ij")
        at = {axis: place.flatten() for axis, place in zip(group.axes, places, strict=True)}
        none = torch.zeros(group.tokens, device="cpu")
        rows.append(torch.cat([turns(at.get(axis, none), shares[axis]) for axis in AXES], dim=1))
    return torch.cat(rows)


def turns(at: Float[Tensor, " n"], pairs: int) -> Float[Tensor, "n pairs"]:
    """Angles of places on one axis, with wave lengths from 4 to `LONGEST` patches."""
    fractions = torch.arange(pairs, dtype=torch.float64, device="cpu") / max(1, pairs - 1)
    rates = math.pi / 2 * (LONGEST / 4) ** -fractions
    return at[:, None] * rates.to(at.dtype)


def sincos_pos_embed(counts: tuple[int, ...], width: int) -> Float[Tensor, "m width"]:
    """Sines, then cosines of positions on a grid; of the last axis, then of those before it."""
    share = width // len(counts) // 2 * 2
    grid = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in counts), indexing="ij")
    parts = []
    for at in reversed(grid):
        rates = 1e4 ** -(torch.arange(share // 2, dtype=torch.float64) / (share // 2))
        angles = at.flatten()[:, None] * rates
        parts += [angles.sin(), angles.cos()]
    return F.pad(torch.cat(parts, dim=1), (0, width - share * len(counts))).float()
