"""What VidTok's networks are made of: configuration, patch front, samplers, blocks, middle.

Shared by the families whose body is VidTok's. Level 0 has the full resolution.
"""

import math
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.nn import doubled, winograd
from reeltok.nn.bounds import LEVELS, Depth, Triple, Width
from reeltok.nn.layers import Conv, Edge, FrameAttention, Residual, pad_time
from reeltok.nn.linear import linear
from reeltok.nn.past import Layer, Past
from reeltok.nn.quantizers import Quantizer
from reeltok.nn.rows import aligned

ONE, SPACE, TIME, BOTH = (1, 1, 1), (1, 3, 3), (3, 1, 1), (3, 3, 3)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class VidTokConfig:
    """One VidTok network. Level 0 has the full resolution; the defaults are 4x8x8, causal."""

    quantizer: Quantizer
    width: Width = 128
    multipliers: tuple[Width, ...] = Field(default=(1, 2, 4, 4), min_length=1, max_length=LEVELS)
    blocks: tuple[Depth, ...] = (2, 2, 2, 2)
    """Blocks of each level of the encoder; the decoder has one more."""
    space_down: tuple[int, ...] = (0, 1, 2)
    space_up: tuple[int, ...] = (1, 2, 3)
    time_down: tuple[int, ...] = (1, 2)
    time_up: tuple[int, ...] = (1, 2)
    edge: Edge = "past-zeros"
    upsampling: Literal["nearest", "trilinear"] = "nearest"
    groups: Width | None = None
    """Groups of the norms; None is layer norm over channels."""
    block: Literal["separable", "light", "full"] = "separable"
    """A 2-D and a 1-D residual block; the same with one temporal convolution; one 3-D block."""
    sampler: Literal["blend", "plain", "joint", "fold"] = "blend"
    """Time by AlphaBlender; by a 1-D convolution; space and time by one 3-D convolution; or by
    folding pixels into channels in front of a 1x1x1 one, the cheapest. A fold changes the width."""
    middle: Literal["full", "separable", "none"] = "full"
    patch: Triple = (1, 1, 1)
    """Pixels (t, h, w) that the front folds into channels before the first convolution."""
    transform: Literal["haar", "shuffle"] = "haar"
    colours: Width = 3

    def __post_init__(self) -> None:
        levels = range(len(self.multipliers))
        if len(self.blocks) != len(levels):
            raise ValueError(
                f"blocks={self.blocks} needs one number for each of {len(levels)} levels"
            )
        for name in ("space_down", "space_up", "time_down", "time_up"):
            if not set(getattr(self, name)) <= set(levels):
                raise ValueError(
                    f"{name}={getattr(self, name)} names a level outside 0..{levels[-1]}"
                )
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} names a level twice")
        if self.transform == "haar" and any(side & (side - 1) for side in self.patch):
            raise ValueError(
                f"patch={self.patch} has no Haar transform: give powers of two, or "
                "transform='shuffle'"
            )
        if self.groups and any(self.width * m % self.groups for m in (1, *self.multipliers)):
            raise ValueError(
                f"groups={self.groups} do not divide the widths {self.width} x {self.multipliers}"
            )
        if len(self.space_down) != len(self.space_up) or len(self.time_down) != len(self.time_up):
            raise ValueError("the decoder must double as often as the encoder halves")
        if self.sampler == "fold" and self.edge != "past-first":
            raise ValueError(f"sampler='fold' needs edge='past-first', found {self.edge!r}")
        if self.sampler == "fold" and self.upsampling != "nearest":
            raise ValueError("sampler='fold' does not interpolate: leave upsampling='nearest'")
        if not set(self.time_down) <= set(self.space_down) or not set(self.time_up) <= set(
            self.space_up
        ):
            raise ValueError("time is halved or doubled only at a level where space is")

    @property
    def factors(self) -> tuple[int, int, int]:
        """Pixels (t, h, w) that one token stands for."""
        time, space = 2 ** len(self.time_down), 2 ** len(self.space_down)
        return self.patch[0] * time, self.patch[1] * space, self.patch[2] * space

    @property
    def causal(self) -> bool:
        return self.edge != "both"

    @property
    def widest(self) -> float:
        """Values of the encoder's widest layer for each pixel of a frame."""
        most, pixels = 0.0, float(math.prod(self.patch))
        for level, times in enumerate(self.multipliers):
            most = max(most, self.width * times / pixels)
            pixels *= (4 if level in self.space_down else 1) * (2 if level in self.time_down else 1)
        return most


def haar(size: int) -> Float[Tensor, "size size"]:
    """The orthonormal Haar basis of `size` (a power of two) samples, one row a function."""
    if size == 1:
        return torch.ones(1, 1)
    coarse = torch.kron(haar(size // 2), torch.tensor([[1.0, 1.0]]))
    fine = torch.kron(torch.eye(size // 2), torch.tensor([[1.0, -1.0]]))
    return torch.cat([coarse, fine]) / math.sqrt(2)


def space_to_depth(
    x: Float[Tensor, "b t h w c"], patch: tuple[int, int, int]
) -> Float[Tensor, "b t2 h2 w2 c p"]:
    """Blocks of `patch` pixels behind the channels, t before h before w."""
    i, j, k = patch
    return rearrange(x, "b (t i) (h j) (w k) c -> b t h w c (i j k)", i=i, j=j, k=k)


def depth_to_space(
    x: Float[Tensor, "b t h w c p"], patch: tuple[int, int, int]
) -> Float[Tensor, "b t2 h2 w2 c"]:
    """The inverse of `space_to_depth`."""
    i, j, k = patch
    return rearrange(x, "b t h w c (i j k) -> b (t i) (h j) (w k) c", i=i, j=j, k=k)


def fold(
    conv: Conv, x: Float[Tensor, "b t h w c"], patch: tuple[int, int, int]
) -> Float[Tensor, "b t2 h2 w2 d"]:
    """`conv`, of 1x1x1, of blocks of `patch` pixels, which lie behind the channels.

    Without gradients the channels are moved whole, and the weight's columns in their stead.
    """
    if torch.is_grad_enabled():
        return conv(space_to_depth(x, patch).flatten(-2))
    i, j, k = patch
    x = rearrange(x, "b (t i) (h j) (w k) c -> b t h w (i j k c)", i=i, j=j, k=k)
    weight = rearrange(conv.weight, "d (c p) 1 1 1 -> d (p c)", p=math.prod(patch))
    return linear(x, weight, conv.bias)


def unfold(
    conv: Conv, x: Float[Tensor, "b t h w c"], patch: tuple[int, int, int]
) -> Float[Tensor, "b t2 h2 w2 d"]:
    """Blocks of `patch` pixels of what `conv`, of 1x1x1, gives; the mirror image of `fold`."""
    if torch.is_grad_enabled():
        return depth_to_space(conv(x).unflatten(-1, (-1, math.prod(patch))), patch)
    i, j, k = patch
    weight = rearrange(conv.weight, "(d p) c 1 1 1 -> (p d) c", p=math.prod(patch))
    x = linear(x, weight, rearrange(conv.bias, "(d p) -> (p d)", p=math.prod(patch)))
    return rearrange(x, "b t h w (i j k c) -> b (t i) (h j) (w k) c", i=i, j=j, k=k)


class Patch(Layer):
    """Folds blocks of (t, h, w) pixels into channels, as they are or by a Haar transform.

    In a network with edge "past-first" the first frame stands alone: it fills its block in time.
    """

    def __init__(self, config: VidTokConfig) -> None:
        super().__init__()
        self.patch, self.alone = config.patch, config.edge == "past-first"
        self.channels = config.colours * math.prod(config.patch)
        self.haar = config.transform == "haar" and math.prod(config.patch) > 1

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        t = self.patch[0]
        if t > 1 and self.alone:
            x = pad_time(x, self, kernel=t, stride=t, edge="past-first", past=past)
        x = space_to_depth(x, self.patch)
        if self.haar:
            x = x @ self._basis(x).T
        return x.flatten(-2)

    def inverse(
        self, x: Float[Tensor, "b t h w d"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 c"]:
        t, h, w = self.patch
        x = x.unflatten(-1, (-1, t * h * w))
        if self.haar:
            x = x @ self._basis(x)
        x = depth_to_space(x, self.patch)
        first = past is None or past.begin(self)
        return x[:, t - 1 :] if self.alone and first else x

    def _basis(self, x: Tensor) -> Tensor:
        """The transform's rows, each over the pixels (t, h, w) of one block."""
        t, h, w = (haar(size) for size in self.patch)
        return torch.kron(torch.kron(t, h), w).to(x)


class Down(Layer):
    """Halves height and width, and time where asked (figure 2; AlphaBlender: equation 1).

    Only a fold changes the width, from `before` to `after`.
    """

    def __init__(self, before: int, after: int, *, time: bool, config: VidTokConfig) -> None:
        super().__init__()
        self.time, self.mix, self.edge = None, None, config.edge
        self.after, self.halves = after, (2 if time else 1, 2, 2)
        edge, sampler = config.edge, config.sampler
        if sampler == "fold":
            self.space = Conv(before * math.prod(self.halves), after, ONE)
        elif sampler == "joint":
            self.space = Conv(before, after, BOTH, stride=self.halves, edge=edge)
        else:
            self.space = Conv(before, after, SPACE, stride=(1, 2, 2), edge=edge)
        self.folds = sampler == "fold"
        if time and sampler in ("blend", "plain"):
            kernel = BOTH if sampler == "blend" else TIME
            self.time = Conv(after, after, kernel, stride=(2, 1, 1), edge=edge)
        if time and sampler == "blend":
            self.mix = nn.Parameter(torch.tensor([2.0]))

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        if self.folds:
            if self.halves[0] > 1:
                x = pad_time(x, self, kernel=2, stride=2, edge=self.edge, past=past)
            if past is not None and past.rows is not None:
                x = past.rows.window(self, x, kernel=2, stride=2, edge=(0, 0))
            x = fold(self.space, x, self.halves)
        else:
            x = self.space(x, past)
        if self.time is None:
            return x
        if self.mix is None:
            return self.time(x, past)
        x = pad_time(x, self, kernel=3, stride=2, edge=self.edge, past=past)
        end = 2 * ((x.shape[1] - 1) // 2)
        mean = (x[:, :end:2] + x[:, 1:end:2] + x[:, 2 : end + 1 : 2]) / 3
        y, mean = aligned(past, self, self.time.convolve(x, past), mean)
        return torch.lerp(y, mean, torch.sigmoid(self.mix).to(x.dtype))


class Up(Layer):
    """Doubles height and width, and time where asked; the mirror image of `Down`."""

    def __init__(self, before: int, after: int, *, time: bool, config: VidTokConfig) -> None:
        super().__init__()
        self.linear, self.alone = config.upsampling == "trilinear", config.edge == "past-first"
        self.time, self.mix, self.after = None, None, after
        self.doubles, self.patch = time, (2 if time else 1, 2, 2)
        self.edge = edge = config.edge
        sampler = config.sampler
        self.folds, self.joint = sampler == "fold", sampler == "joint"
        if self.folds:
            self.space = Conv(before, after * math.prod(self.patch), ONE)
        else:
            self.space = Conv(before, after, BOTH if self.joint else SPACE, edge=edge)
        if time and sampler in ("blend", "plain"):
            self.time = Conv(after, after, BOTH if sampler == "blend" else TIME, edge=edge)
        if time and sampler == "blend":
            self.mix = nn.Parameter(torch.tensor([2.0]))

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        if self.folds:
            first = past is None or past.begin(self)
            x = unfold(self.space, x, self.patch)
            # A first frame that stands alone is the last of its pair.
            return x[:, 1:] if self.doubles and first else x
        if self.joint and self.doubles:
            x = self._double_time(x, past)
        x = self._double_space(x, past)
        if self.time is None:
            return x
        x = self._double_time(x, past)
        y = self._convolve_time(x, past)
        if self.mix is None:
            return y
        y, x = aligned(past, self, y, x)
        return torch.lerp(y, x, torch.sigmoid(self.mix).to(x.dtype))

    def _double_space(self, x: Tensor, past: Past | None) -> Tensor:
        """Twice the rows and columns, convolved; without gradients in one."""
        in_strips = past is not None and past.rows is not None
        if in_strips or not doubled.suits_doubled(x, self.space.weight):
            return self.space(double_space(x), past)
        kernels = self.space.transformed.of(self.space.weight, doubled.fold_doubling)
        return doubled.convolve_doubled(x, kernels, self.space.bias)

    def _convolve_time(self, x: Tensor, past: Past | None) -> Tensor:
        """Twice the frames, convolved; without gradients one of each pair stands for both."""
        conv, edge = self.time, self.edge
        assert conv is not None
        in_strips = past is not None and past.rows is not None
        pairs = not (self.linear or self.alone or in_strips)
        if not (pairs and winograd.suits(x, conv.weight, conv.stride, (1, 1))):
            return conv(x, past)
        x = pad_time(x, conv, kernel=3, edge=edge, past=past)
        apart = edge == "both"
        each = torch.cat([x[:, :-1:2], x[:, -1:]], dim=1) if apart else x[:, ::2]
        kernels = conv.transformed.of(conv.weight, doubled.fold_pairs)
        return doubled.convolve_pairs(each, kernels, conv.bias, apart=apart)

    def _double_time(self, x: Tensor, past: Past | None) -> Tensor:
        """Twice the frames, but for a first frame that stands alone."""
        alone = self.alone and (past is None or past.begin(self))
        before = None if past is None else past.kept.get(self.path)
        if past is not None:
            if self.linear and x.shape[1] - past.lookahead > alone:
                past.keep(self, x, 1)
            past.lookahead *= 2
        head, x = (x[:, :1], x[:, 1:]) if alone else (x[:, :0], x)
        double = self._interpolate(x, before) if self.linear else x.repeat_interleave(2, dim=1)
        return torch.cat([head, double], dim=1)

    @staticmethod
    def _interpolate(x: Tensor, before: Tensor | None) -> Tensor:
        """Linear, new frames at quarters between the old, the ends repeated."""
        if x.shape[1] == 0:
            return x
        left = x[:, :1] if before is None else before
        padded = torch.cat([left, x, x[:, -1:]], dim=1)
        early = torch.lerp(padded[:, 1:-1], padded[:, :-2], 0.25)
        late = torch.lerp(padded[:, 1:-1], padded[:, 2:], 0.25)
        return torch.stack([early, late], dim=2).flatten(1, 2)


def double_space(x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h2 w2 c"]:
    """Nearest neighbours: every pixel becomes a 2x2 square."""
    b, t, h, w, c = x.shape
    x = x[:, :, :, None, :, None].expand(b, t, h, 2, w, 2, c)
    return x.reshape(b, t, 2 * h, 2 * w, c)


def level_block(channels_in: int, channels_out: int, config: VidTokConfig) -> nn.ModuleList:
    """One block of a level: over space, then over time; or one over both."""
    residual = partial(Residual, edge=config.edge, groups=config.groups)
    if config.block == "full":
        return nn.ModuleList([residual(channels_in, channels_out, BOTH)])
    if config.block == "light":
        return nn.ModuleList(
            [
                residual(channels_in, channels_out, SPACE, norms=1),
                residual(channels_out, channels_out, TIME, convs=1, norms=1),
            ]
        )
    space = residual(channels_in, channels_out, SPACE)
    return nn.ModuleList([space, residual(channels_out, channels_out, TIME)])


def middle_stages(channels: int, config: VidTokConfig) -> nn.ModuleList:
    """The coarsest level's own stages: block, attention inside each frame, block."""
    if config.middle == "none":
        return nn.ModuleList()
    residual = partial(Residual, edge=config.edge, groups=config.groups)
    kernels = [BOTH] if config.middle == "full" else [SPACE, TIME]
    before, after = ([residual(channels, channels, k) for k in kernels] for _ in "ab")
    return nn.ModuleList([*before, FrameAttention(channels, groups=config.groups), *after])
