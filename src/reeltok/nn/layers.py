"""Layers that the tokenizer families share.

Inside a network a video is a contiguous channels-last tensor `b t h w c`, so that a convolution
over space or over time alone is a 2-D convolution on a view, without a copy. What a stream
remembers between calls is a `Past` that the caller owns; `past=None` is a whole clip.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.nn import winograd
from reeltok.nn.linear import is_eager, is_plain, linear
from reeltok.nn.past import Layer, Past
from reeltok.nn.rows import Rows, aligned

Edge = Literal["both", "past-zeros", "past-first"]
"""What stands before the first frame: zeros on both sides (not causal), zeros, or that frame."""

NARROW, MANY = 16, 64  # outputs at most, inputs at least: a 3-D convolution as a sum of 2-D ones
PART = 2**18  # values that are normed at a time: SiLU finds them in the processor's cache


def pad_time(
    x: Float[Tensor, "b t h w c"],
    layer: Layer,
    *,
    kernel: int,
    stride: int = 1,
    edge: Edge,
    past: Past | None = None,
) -> Float[Tensor, "b t2 h w c"]:
    """Put in front of `x` what `layer`'s temporal kernel sees there.

    With "past-first" the first frame stands alone at every time scale, hence `kernel - 1` copies
    whatever the stride; "past-zeros" and `past.whole` expect a first group of `stride` frames.
    """
    if edge == "both":
        front, back = (kernel // 2, kernel // 2) if stride == 1 else (0, 1)
        return F.pad(x, (0, 0, 0, 0, 0, 0, front, back))
    if past is not None and not past.begin(layer):
        x = torch.cat([past.kept[layer.path], x], dim=1) if kernel > stride else x
    elif edge == "past-first":
        alone = 1 if past is None or not past.whole else stride
        x = torch.cat([x[:, :1].expand(-1, kernel - alone, -1, -1, -1), x], dim=1)
    else:
        x = F.pad(x, (0, 0, 0, 0, 0, 0, kernel - stride, 0))
    if past is not None and kernel > stride:
        past.keep(layer, x, kernel - stride)
    return x


def fill_front(
    x: Float[Tensor, "b t h w c"], layer: Layer, frames: int, edge: Edge, past: Past | None
) -> None:
    """Write what `pad_time` would put in front of `x` into its first `frames` frames (stride 1)."""
    if past is not None and not past.begin(layer):
        x[:, :frames] = past.kept[layer.path]
    elif edge == "past-first":
        x[:, :frames] = x[:, frames : frames + 1]
    else:
        x[:, :frames] = 0
    if past is not None:
        past.keep(layer, x, frames)


class Conv(Layer):
    """A convolution over (time, height, width); axes with kernel 1 cost nothing.

    Space is padded with zeros to keep its size, or after the last row and column where the
    stride is 2; time is padded by `edge`. The weight is always `out in t h w`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int],
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        edge: Edge = "past-first",
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.edge = kernel, stride, edge
        self.transformed = winograd.Transformed()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        self.bias = nn.Parameter(torch.empty(channels_out))
        bound = 0.0 if zero else 1 / math.sqrt(channels_in * math.prod(kernel))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    @property
    def room(self) -> int:
        """Frames that `x` of `forward` may have free in front, so that it is not copied for them.

        0 where gradients, or a graph that is traced, need the copy.
        """
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if plain or torch.compiler.is_exporting() or self.edge == "both" or self.stride[0] > 1:
            return 0
        return self.kernel[0] - 1

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None, *, room: int = 0
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """`room` is 0, or the layer's, where so many frames in front are still to be written."""
        if room:
            fill_front(x, self, room, self.edge, past)
        elif self.kernel[0] > 1:
            kernel, stride = self.kernel[0], self.stride[0]
            x = pad_time(x, self, kernel=kernel, stride=stride, edge=self.edge, past=past)
        return self.convolve(x, past)

    def convolve(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """Convolve frames whose time axis is padded already."""
        after, padding = self.stride[1] > 1, (self.kernel[1] // 2, self.kernel[2] // 2)
        if past is not None and past.rows is not None:
            return self._convolve_strip(x, past.rows, after, padding)
        if after:
            x, padding = F.pad(x, (0, 0, 0, 1, 0, 1)), (0, 0)
        return self._convolve(x, padding)

    def _convolve_strip(
        self, x: Tensor, rows: Rows, after: bool, padding: tuple[int, int]
    ) -> Tensor:
        """The rows that can be computed by now."""
        edge = (0, 1) if after else (padding[0], padding[0])
        if self.kernel[1] > 1:
            x = rows.window(self, x, kernel=self.kernel[1], stride=self.stride[1], edge=edge)
        if not x.shape[2]:
            return self._nothing(x)
        if after:
            return self._convolve(F.pad(x, (0, 0, 0, 1)), (0, 0))
        if winograd.suits(x, self.weight, self.stride, padding):
            weight = self.transformed.of(self.weight)
            return winograd.convolve(x, weight, self.bias, self.stride[0], above=0)
        return self._convolve(x, (0, padding[1]))

    def _nothing(self, x: Tensor) -> Tensor:
        """The result for no rows."""
        b, t, _, w, _ = x.shape
        t, w = (t - self.kernel[0]) // self.stride[0] + 1, w // self.stride[2]
        return x.new_empty(b, t, 0, w, len(self.weight))

    def _convolve(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        b, t, h, w, c = x.shape
        if self.kernel == (1, 1, 1):
            return linear(x, self.weight.flatten(1), self.bias)
        if self.kernel[1:] == (1, 1):
            rows = x.reshape(b, t, h * w, c).permute(0, 3, 1, 2)
            y = F.conv2d(rows, self.weight[..., 0], self.bias, stride=(self.stride[0], 1))
            return y.permute(0, 2, 3, 1).reshape(b, y.shape[2], h, w, -1)
        if winograd.suits(x, self.weight, self.stride, padding):
            weight = self.transformed.of(self.weight)
            return winograd.convolve(x, weight, self.bias, self.stride[0])
        if self.kernel[0] == 1:
            images = x.flatten(0, 1).permute(0, 3, 1, 2)
            y = F.conv2d(images, self.weight[:, :, 0], self.bias, self.stride[1:], padding)
            return y.permute(0, 2, 3, 1).contiguous().unflatten(0, (b, t))
        if torch.is_grad_enabled() and bf16_on_cpu(x):
            return self.fold_time(x, padding)
        if len(self.weight) <= NARROW and x.shape[-1] >= MANY and is_plain(x):
            return self.sum_time(x, padding)
        y = convolve_3d(x.permute(0, 4, 1, 2, 3), self.weight, self.bias, self.stride, padding)
        return y.permute(0, 2, 3, 4, 1).contiguous()

    def fold_time(
        self, x: Float[Tensor, "b t h w c"], padding: tuple[int, int]
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """The same, the frames under the kernel side by side in the channels of a 2-D one.

        On processors with AMX the weight gradient of a 3-D kernel in bfloat16 is NaN, or up to
        40 % off, for short clips and large frames (oneDNN in torch 2.13); a 2-D one's is right.
        """
        runs, end = self.kernel[0], x.shape[1] - self.kernel[0] + 1
        stack = torch.cat([x[:, i : end + i : self.stride[0]] for i in range(runs)], dim=-1)
        weight = rearrange(self.weight, "d c k m n -> d (k c) m n")
        images = stack.flatten(0, 1).permute(0, 3, 1, 2)
        y = F.conv2d(images, weight, self.bias, self.stride[1:], padding)
        return y.permute(0, 2, 3, 1).contiguous().unflatten(0, stack.shape[:2])

    def sum_time(
        self, x: Float[Tensor, "b t h w c"], padding: tuple[int, int]
    ) -> Float[Tensor, "b t2 h2 w2 d"]:
        """The same as the sum of a 2-D convolution for each frame of the kernel.

        For few output channels torch has no better 3-D one on CPUs than a product with all values
        under the kernel side by side: 27 times the memory of frames, and up to 14 times the time.
        """
        b, runs = len(x), self.kernel[0]
        end, total = x.shape[1] - runs + 1, None
        for i in range(runs):
            images = x[:, i : end + i : self.stride[0]].flatten(0, 1).permute(0, 3, 1, 2)
            bias = None if i else self.bias
            part = F.conv2d(images, self.weight[:, :, i], bias, self.stride[1:], padding)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.permute(0, 2, 3, 1).contiguous().unflatten(0, (b, -1))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, {self.kernel}, {self.stride}"


def convolve_3d(
    x: Float[Tensor, "b c t h w"],
    weight: Float[Tensor, "d c k m n"],
    bias: Tensor,
    stride: tuple[int, int, int],
    padding: tuple[int, int],
) -> Float[Tensor, "b d t2 h2 w2"]:
    """torch's convolution, by oneDNN for small frames too.

    For those of which b c t h is at most 20,480 torch takes a product with all values under the
    kernel side by side, which was measured to take 1.3 to 2.5 times as long.
    """
    if is_plain(x) and torch.backends.mkldnn.is_available():
        ones = (1, 1, 1)
        return torch.mkldnn_convolution(x, weight, bias, (0, *padding), stride, ones, 1)
    return F.conv3d(x, weight, bias, stride, (0, *padding))


class Norm(nn.Module):
    """Normalization and SiLU: layer norm over channels, or group norm over 32 groups.

    Layer norm takes its statistics over the channels of one position; group norm also over the
    axes that the convolution behind it spans: `kernel` and `edge` are that convolution's. A causal
    network never takes them over time. eps 1e-6.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | None = None,
        kernel: tuple[int, int, int] = (1, 3, 3),
        edge: Edge = "past-first",
        act: bool = True,
    ) -> None:
        super().__init__()
        self.groups, self.act = groups, act
        over_time = [1] if kernel[0] > 1 and edge == "both" else []
        over_space = [2, 3] if kernel[1] > 1 or kernel[0] == 1 else []
        self.axes = (*over_time, *over_space, -1)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b t h w c"], room: int = 0) -> Float[Tensor, "b t2 h w c"]:
        """`room` frames in front are left unwritten."""
        if self.groups is None and self.act and is_eager(x) and x.numel() > PART * len(x):
            return self.in_parts(x, room)
        y = self._layer(x) if self.groups is None else self._group(x, self.groups)
        return silu(y, room) if self.act else y

    def in_parts(self, x: Float[Tensor, "b t h w c"], room: int = 0) -> Float[Tensor, "b t2 h w c"]:
        """Layer norm and SiLU, some positions of a clip after the other."""
        y = x.new_empty(len(x), x.shape[1] + room, *x.shape[2:])
        rows = max(1, PART // x.shape[-1])
        for clip, out in zip(x, y[:, room:], strict=True):
            parts = (each.flatten(0, 2).split(rows) for each in (clip, out))
            for part, to in zip(*parts, strict=True):
                torch.ops.aten.silu.out(self._layer(part), out=to)
        return y

    def _layer(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-6)

    def _group(self, x: Tensor, groups: int) -> Tensor:
        parts = x.unflatten(-1, (groups, -1))
        var, mean = torch.var_mean(parts, self.axes, correction=0, keepdim=True)
        parts = (parts - mean) * torch.rsqrt(var + 1e-6)
        return parts.flatten(-2) * self.weight + self.bias


def bf16_on_cpu(x: Tensor) -> bool:
    """Whether a convolution of `x` runs in bfloat16 on a CPU, by its type or under autocast."""
    return x.device.type == "cpu" and torch.bfloat16 in (
        x.dtype,
        torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
    )


def silu(x: Float[Tensor, "b t *c"], room: int = 0) -> Float[Tensor, "b t2 *c"]:
    """x * sigmoid(x), in place where no gradient needs x; or behind `room` frames of anything."""
    if room:
        y = x.new_empty(x.shape[0], x.shape[1] + room, *x.shape[2:])
        torch.ops.aten.silu.out(x, out=y[:, room:])
        return y
    return F.silu(x, inplace=not torch.is_grad_enabled())


class Residual(Layer):
    """x + conv(act(norm(conv(act(norm(x))))))), with a 1x1x1 shortcut where the width changes.

    `convs` convolutions of one kernel, the first `norms` of them behind a norm (the others behind
    SiLU alone). Temporal ones end in zeros, so that training starts from an image model (VidTok,
    section 3).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: tuple[int, int, int],
        *,
        edge: Edge,
        groups: int | None = None,
        convs: int = 2,
        norms: int = 2,
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * convs
        temporal = kernel[1:] == (1, 1)
        self.norms = nn.ModuleList(
            Norm(width, groups=groups, kernel=kernel, edge=edge) for width in widths[:norms]
        )
        self.convs = nn.ModuleList(
            Conv(a, b, kernel, edge=edge, zero=temporal and i == convs - 1)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        changes = channels_in != channels_out
        self.shortcut = Conv(channels_in, channels_out, (1, 1, 1)) if changes else None

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t h2 w d"]:
        y = x
        for i, conv in enumerate(self.convs):
            assert isinstance(conv, Conv)
            room = conv.room
            y = self.norms[i](y, room) if i < len(self.norms) else silu(y, room)
            y = conv(y, past, room=room)
        return add(*aligned(past, self, y, x if self.shortcut is None else self.shortcut(x)))


def add(y: Tensor, x: Tensor) -> Tensor:
    """y + x; into y where no gradient needs it."""
    return y + x if torch.is_grad_enabled() else y.add_(x)


class FrameAttention(Layer):
    """x + attention over the positions of each frame, one head, no mixing over time."""

    def __init__(self, channels: int, *, groups: int | None = None) -> None:
        super().__init__()
        self.norm = Norm(channels, groups=groups, act=False)
        self.query = Conv(channels, channels, (1, 1, 1))
        self.key = Conv(channels, channels, (1, 1, 1))
        self.value = Conv(channels, channels, (1, 1, 1))
        self.out = Conv(channels, channels, (1, 1, 1))

    def forward(
        self, x: Float[Tensor, "b t h w c"], past: Past | None = None
    ) -> Float[Tensor, "b t h2 w c"]:
        x = x if past is None or past.rows is None else past.rows.gather(self, x)
        b, t, h, w, c = x.shape
        if not h:
            return x
        y = self.norm(x)
        q, k, v = (f(y).view(b * t, 1, h * w, c) for f in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v).view(b, t, h, w, c)
        return add(self.out(y), x)
