"""The network of CoordTok: a long clip as planes of cells, read back patch by patch.

A ViT looks at the clip; a few query tokens, one per patch of the planes, gather what it saw; a
linear head turns each into cells. To decode a patch, the planes are read at its coordinates and
all asked patches look at one another in a transformer. Which patches are asked together therefore
matters: one call for the whole clip is the paper's protocol (`slices=1`).

Planes are named as in the paper's code: `xy` is (row, column), `yt` (time, column), `xt` (time,
row). Source: Jang et al., "Efficient Long Video Tokenization via Coordinate-based Patch
Reconstruction", figure 2; docs/coordtok.md maps the figure to the lines.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.models.coordtok.pooling import PooledVoxels
from reeltok.nn.bounds import Depth, Triple, Width
from reeltok.nn.linear import Linear
from reeltok.nn.quantizers import Quantizer
from reeltok.nn.transformer import Block, CrossBlock, sinusoid

Planes = dict[str, Tensor]
"""Plane name -> "b h w d" cells, in the order of `CoordTokConfig.planes`."""

AXES = {"xy": (1, 2), "yt": (0, 2), "xt": (0, 1)}
"""Plane -> the two axes of (time, row, column) that it spans."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CoordTokConfig:
    """Everything that shapes a CoordTok; triples are (time, row, column). Defaults: the paper's L.

    `coordinates` says what a patch index means on [0, 1]: corner-aligned as in the public code, or
    the patch's centre as in the paper's text. `position` is what a decoder token knows of its place
    beside the planes: one learned vector per place, one per axis (summed), sinusoids, or nothing.
    `padding` is what a clip shorter than the window looks like to the network. `pool_skip` adds to
    the planes what `PooledVoxels` makes of the clip, past the transformers; the paper has no such.
    `slices` is in how many parts a window's frames are decoded unless tokens say otherwise; the
    paper decodes them in one.
    """

    size: Triple = (128, 128, 128)
    patch: Triple = (8, 16, 16)
    cells: Triple = (32, 16, 16)
    cell_patch: Triple = (16, 8, 8)
    channels: Width = 8
    content_planes: int = Field(default=1, le=64)
    width: Width = 1024
    heads: Width = 16
    vit_depth: Depth = 8
    depth: Depth = 24
    decoder_patch: Triple = (1, 8, 8)
    decoder_width: Width = 1024
    decoder_heads: Width = 16
    decoder_depth: Depth = 24
    coordinates: Literal["corner", "centre"] = "corner"
    position: Literal["table", "axes", "sinusoids", "none"] = "table"
    padding: Literal["mask", "public"] = "mask"
    pool_skip: bool = False
    slices: int = Field(default=1, ge=1)
    quantizer: Quantizer | None = None

    @model_validator(mode="after")
    def _fits(self) -> "CoordTokConfig":
        pairs = [("size", "patch"), ("cells", "cell_patch"), ("size", "decoder_patch")]
        for whole, part in [*pairs, ("size", "cells")] if self.pool_skip else pairs:
            pair = zip(getattr(self, whole), getattr(self, part), strict=True)
            if any(b < 1 or a % b for a, b in pair):
                raise ValueError(
                    f"{whole} {getattr(self, whole)} does not divide by {part} "
                    f"{getattr(self, part)}; every axis must be a whole number of patches"
                )
        for width, heads in ((self.width, self.heads), (self.decoder_width, self.decoder_heads)):
            if width % heads:
                raise ValueError(f"width {width} does not divide by {heads} heads")
        if self.quantizer and self.quantizer.channels != self.channels:
            raise ValueError(
                f"channels={self.channels}, but the quantizer makes {self.quantizer.channels}; "
                "give both the same number"
            )
        if self.slices > self.places[0]:
            raise ValueError(
                f"slices={self.slices}, but a window has {self.places[0]} steps of patches; "
                f"choose 1 to {self.places[0]}"
            )
        if self.content_planes < 1:
            raise ValueError(f"content_planes={self.content_planes}; at least 1 is needed")
        return self

    @property
    def factors(self) -> tuple[int, int, int]:
        """Pixels (t, h, w) that one token stands for: every cell of a plane is about all."""
        return self.size

    @property
    def causal(self) -> bool:
        """Windows are coded as a whole."""
        return False

    @property
    def planes(self) -> dict[str, tuple[int, int]]:
        """Plane name -> its two axes; further content planes are xy2, xy3, ..."""
        more = {f"xy{i}": AXES["xy"] for i in range(2, self.content_planes + 1)}
        return {"xy": AXES["xy"], **more, "yt": AXES["yt"], "xt": AXES["xt"]}

    @property
    def grids(self) -> dict[str, tuple[int, int]]:
        """Plane name -> its cells along both axes."""
        return {name: (self.cells[a], self.cells[b]) for name, (a, b) in self.planes.items()}

    @property
    def tokens(self) -> int:
        """Cells of all planes: what one window costs."""
        return sum(math.prod(grid) for grid in self.grids.values())

    @property
    def places(self) -> tuple[int, int, int]:
        """Decoder patches along time, rows and columns."""
        t, h, w = (a // b for a, b in zip(self.size, self.decoder_patch, strict=True))
        return t, h, w


class TriplaneEncoder(nn.Module):
    """Clip -> planes (figure 2, left)."""

    def __init__(self, config: CoordTokConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        looked = math.prod(s // p for s, p in zip(config.size, config.patch, strict=True))
        areas = {
            name: math.prod(config.cell_patch[axis] for axis in axes)
            for name, axes in config.planes.items()
        }
        features = config.quantizer.features if config.quantizer else config.channels

        self.patch_embed = Linear(3 * math.prod(config.patch), width)
        self.pos_embed = nn.Parameter(torch.randn(1, looked, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.vit = nn.ModuleList(
            Block(width, config.heads, qkv_bias=False) for _ in range(config.vit_depth)
        )
        self.vit_norm = nn.LayerNorm(width, eps=1e-5)
        self.memory_pos_embed = nn.Parameter(torch.randn(1, looked, width))

        self.planes = nn.ParameterDict(
            {name: torch.randn(*grid, config.channels) for name, grid in config.grids.items()}
        )
        self.queries = nn.ModuleDict(
            {name: Linear(area * config.channels, width) for name, area in areas.items()}
        )
        self.query_transformer = nn.ModuleList(
            CrossBlock(width, config.heads) for _ in range(config.depth)
        )
        self.query_norm = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.ModuleDict(
            {name: Linear(width, area * features) for name, area in areas.items()}
        )
        self.pooled = None
        if config.pool_skip:
            self.pooled = PooledVoxels(config.size, config.cells, config.planes, features)

    def forward(
        self, x: Float[Tensor, "b c t h w"], frames: Int[Tensor, "b"] | None = None
    ) -> Planes:
        """Planes of clips in [-1, 1] that may be shorter than the window.

        `frames` counts each clip's real frames (default: all); what stands behind them is not read.
        """
        x, seen, bias = prepare(x, frames, self.config)
        memory = self.run_vit(x, seen)
        memory = memory + self.memory_pos_embed[:, : memory.shape[1]]
        q = torch.cat([self._queries(name) for name in self.config.planes], dim=1)
        q = q.expand(x.shape[0], -1, -1)  # not len, which would fix the batch of a graph
        for block in self.query_transformer:
            q = block(q, memory, bias if seen is None else seen[..., 1:])
        q = self.query_norm(q)
        counts = [self._grid(name) for name in self.config.planes]
        parts = q.split([rows * columns for rows, columns in counts], dim=1)
        planes = {
            name: self._cells(name, part)
            for name, part in zip(self.config.planes, parts, strict=True)
        }
        if self.pooled is None:
            return planes
        return {name: planes[name] + more for name, more in self.pooled(x).items()}

    def run_vit(
        self, x: Float[Tensor, "b c t h w"], seen: Bool[Tensor, "b 1 1 m"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """What the ViT makes of the clip, one vector per patch; its class token is dropped."""
        p, q, r = self.config.patch
        tokens = rearrange(x, "b c (t p) (h q) (w r) -> b (t h w) (c p q r)", p=p, q=q, r=r)
        tokens = self.patch_embed(tokens) + self.pos_embed[:, : tokens.shape[1]]
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1)
        for block in self.vit:
            tokens = block(tokens, seen)
        return self.vit_norm(tokens)[:, 1:]

    def _grid(self, name: str) -> tuple[int, int]:
        """Query tokens of a plane along its two axes."""
        config = self.config
        rows, columns = (config.cells[a] // config.cell_patch[a] for a in config.planes[name])
        return rows, columns

    def _queries(self, name: str) -> Float[Tensor, "1 n d"]:
        p, q = (self.config.cell_patch[a] for a in self.config.planes[name])
        cells = rearrange(self.planes[name], "(h p) (w q) c -> 1 (h w) (c p q)", p=p, q=q)
        return self.queries[name](cells)

    def _cells(self, name: str, tokens: Tensor) -> Float[Tensor, "b h w d"]:
        p, q = (self.config.cell_patch[a] for a in self.config.planes[name])
        rows = self._grid(name)[0]
        cells = self.heads[name](tokens)
        return rearrange(cells, "b (h w) (p q c) -> b (h p) (w q) c", h=rows, p=p, q=q)


def prepare(
    x: Float[Tensor, "b c t h w"], frames: Int[Tensor, "b"] | None, config: CoordTokConfig
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Clip in whole patches, keys that the ViT and the queries may see, bias on the queries' keys.

    Padding "mask": frames behind the end repeat the last real one, and patches without a real frame
    are not seen. Raises ValueError for a clip that is not of the window's size.
    """
    (_, _, t, h, w), (window, height, width) = x.shape, config.size
    if t > window or (h, w) != (height, width):
        raise ValueError(
            f"a window of {t} frames of {h}x{w} was given, but this model reads up to {window} "
            f"frames of {height}x{width}; cut or pad the clip, or choose another preset"
        )
    p = config.patch[0]
    if config.padding == "public":
        frames = x.new_full((x.shape[0],), t, dtype=torch.int64) if frames is None else frames
        x = F.pad(x, (0, 0, 0, 0, 0, window - t))
        behind = torch.arange(window, device=x.device) >= frames[:, None]
        # Parity: the public loader pads with -1 before it maps [0, 1] to [-1, 1].
        x = x.masked_fill(behind[:, None, :, None, None], -3.0)
        # Parity: the public key mask is a float tensor, hence added to the logits instead of
        # hiding; a patch that is filled in part counts as padding.
        padded = torch.arange(window // p, device=x.device) >= frames[:, None] // p
        bias = padded.repeat_interleave((height // config.patch[1]) * (width // config.patch[2]), 1)
        return x, None, bias[:, None, None].to(x.dtype)
    index = torch.arange(-(-t // p) * p, device=x.device)
    if frames is None:
        return x if len(index) == t else x[:, :, index.clamp(max=t - 1)], None, None
    index = torch.minimum(index, frames[:, None] - 1)
    x = torch.stack([clip[:, at] for clip, at in zip(x, index, strict=True)])
    seen = torch.arange(0, index.shape[1], p, device=x.device) < frames[:, None]
    seen = seen.repeat_interleave((height // config.patch[1]) * (width // config.patch[2]), 1)
    return x, None if seen.all() else F.pad(seen, (1, 0), value=True)[:, None, None], None


class Position(nn.Module):
    """What a decoder token knows of its place beside the planes."""

    def __init__(self, config: CoordTokConfig) -> None:
        super().__init__()
        self.kind, self.places, self.width = config.position, config.places, config.decoder_width
        shapes: list[tuple[int, ...]] = []
        if self.kind == "table":
            shapes = [self.places]
        if self.kind == "axes":
            shapes = [(n,) for n in self.places]
        self.tables = nn.ParameterList(
            torch.randn(*shape, self.width) * self.width**-0.5 for shape in shapes
        )

    def forward(self, index: Int[Tensor, "b n 3"]) -> Tensor:
        if self.kind == "table":
            t, h, w = index.unbind(-1)
            flat = (t * self.places[1] + h) * self.places[2] + w
            return F.embedding(flat, self.tables[0].flatten(0, 2))
        if self.kind == "axes":
            parts = zip(index.unbind(-1), self.tables, strict=True)
            return torch.stack([F.embedding(at, table) for at, table in parts]).sum(0)
        if self.kind == "sinusoids":
            share = self.width // 6 * 2
            return F.pad(sinusoid(index, share).flatten(-2), (0, self.width - 3 * share))
        return index.new_zeros(1, 1, 1)


class TriplaneDecoder(nn.Module):
    """Planes and places -> patches (figure 2, right)."""

    def __init__(self, config: CoordTokConfig) -> None:
        super().__init__()
        self.config, width = config, config.decoder_width
        self.features = Linear(len(config.planes) * config.channels, width)
        self.pos_embed = Position(config)
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.pixels = Linear(width, 3 * math.prod(config.decoder_patch))

    def forward(
        self,
        planes: Planes,
        index: Int[Tensor, "#b n 3"],
        *,
        coordinates: Float[Tensor, "#b n 3"] | None = None,
        budget: int | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Patches (time, row, column, rgb; rgb fastest; in [-1, 1]) at integer places.

        All n places see one another. `index` (time, row, column) is of one clip (b = 1) or of each;
        `coordinates` in [0, 1] read the planes elsewhere than at the places' own. With a `budget`
        in bytes, and without gradients, activations beside the tokens stay within about that.
        """
        if coordinates is None:
            coordinates = locate(index, self.config, exact(self.pixels.weight))
        read = self.look_up(planes, coordinates.to(exact(self.pixels.weight)))
        x = self.features(read)
        x = x + self.pos_embed(index).to(x.dtype)
        if budget is None or torch.is_grad_enabled():
            for block in self.blocks:
                x = block(x)
            return self.pixels(self.norm(x))
        for block in self.blocks:
            assert isinstance(block, Block)
            block.update(x, budget)
        rows = max(1, budget // (2 * len(x) * x.shape[-1] * x.element_size()))
        return torch.cat([self.pixels(self.norm(part)) for part in x.split(rows, dim=1)], dim=1)

    def look_up(
        self, planes: Planes, coordinates: Float[Tensor, "#b n 3"]
    ) -> Float[Tensor, "b n d"]:
        """The planes' values at (time, row, column) in [0, 1], side by side."""
        return torch.cat(
            [
                bilinear(planes[name], coordinates[..., a], coordinates[..., b])
                for name, (a, b) in self.config.planes.items()
            ],
            dim=-1,
        )


def exact(x: Tensor) -> torch.dtype:
    """The type of coordinates beside `x`: bfloat16 would not tell neighbours apart."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def locate(
    index: Int[Tensor, "b n 3"], config: CoordTokConfig, dtype: torch.dtype
) -> Float[Tensor, "b n 3"]:
    """Coordinates in [0, 1] of patches."""
    places = torch.tensor(config.places, device=index.device, dtype=dtype)
    if config.coordinates == "centre":
        return (index + 0.5) / places
    return index / (places - 1).clamp(min=1)


def bilinear(
    plane: Float[Tensor, "b h w d"], row: Float[Tensor, "#b n"], column: Float[Tensor, "#b n"]
) -> Float[Tensor, "b n d"]:
    """Read a plane between its cells; 0 is the centre of the first cell, 1 that of the last."""
    b, h, w, d = plane.shape
    flat = plane.flatten(1, 2)

    def read(y: Tensor, x: Tensor) -> Tensor:
        at = (y * w + x).expand(b, -1)
        return flat.gather(1, at[..., None].expand(-1, -1, d))

    y, x = row * (h - 1), column * (w - 1)
    top, left = y.long().clamp(max=h - 1), x.long().clamp(max=w - 1)
    bottom, right = (top + 1).clamp(max=h - 1), (left + 1).clamp(max=w - 1)
    down, along = ((a - b)[..., None].to(plane.dtype) for a, b in ((y, top), (x, left)))
    upper = torch.lerp(read(top, left), read(top, right), along)
    return torch.lerp(upper, torch.lerp(read(bottom, left), read(bottom, right), along), down)


def assemble(
    patches: Float[Tensor, "b n d"],
    places: tuple[tuple[int, int], ...],
    patch: Triple,
) -> Float[Tensor, "b c t h w"]:
    """Frames from patches in the order of their places: ranges of (time, row, column)."""
    (t, h, w), (p, q, r) = (b - a for a, b in places), patch
    sizes = {"t": t, "h": h, "w": w, "p": p, "q": q, "r": r}
    return rearrange(patches, "b (t h w) (p q r c) -> b c (t p) (h q) (w r)", **sizes)
