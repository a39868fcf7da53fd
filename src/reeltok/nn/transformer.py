"""Transformer layers of the coordinate family and of the generators: tokens are `b n d`.

`Block.forward` is the plain version; `Block.update` is the same in little memory and without
gradients.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.nn.linear import Linear, linear

SHORT = 512
"""Tokens up to which attention is trained by plain products on a CPU, in bfloat16."""


class Attention(nn.Module):
    """Multi-head attention of `x` to itself, or to `memory`; one weight holds query, key, value."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool, out_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=qkv_bias)
        self.out = Linear(width, width, bias=out_bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m d"] | None = None,
        mask: Tensor | None = None,
        angles: Float[Tensor, "n pairs"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`mask` (b 1 1 m) holds True for keys to be seen, or numbers added to their logits.

        By `angles` the queries and keys of `x` itself are turned, as `rotate` does.
        """
        d = x.shape[-1]
        if memory is None:
            q, k, v = self.qkv(x).chunk(3, -1)
            if angles is not None:
                q, k = rotate(q, angles, self.heads), rotate(k, angles, self.heads)
        else:
            q, (k, v) = self.rows(x, 0, d), self.rows(memory, d, 3 * d).chunk(2, -1)
        return self.out(attend(q, k, v, self.heads, mask))

    def rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs start..stop of `qkv` alone."""
        bias = None if self.qkv.bias is None else self.qkv.bias[start:stop]
        return linear(x, self.qkv.weight[start:stop], bias)


def rotate(
    x: Float[Tensor, "b n d"], angles: Float[Tensor, "n pairs"], heads: int
) -> Float[Tensor, "b n d"]:
    """Rotary position embedding (Su et al., "RoFormer", 2021): pairs of every head's channels turn.

    Channel i of a head and channel i + `pairs` are one pair, and pairs are half of a head's width.
    """
    cos, sin = (wave.to(x.dtype)[:, None] for wave in (angles.cos(), angles.sin()))
    a, b = x.unflatten(-1, (heads, -1)).chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(2)


def trains_short(q: Tensor, k: Tensor) -> bool:
    """Whether plain products beat the fused kernel: in training with bfloat16 on a CPU.

    The gradient of PyTorch's CPU kernel takes 4 times as long there at 65 tokens (Xeon with AMX,
    one thread); at 1,280 tokens the kernel is faster again, and needs less memory.
    """
    trains = q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16
    return trains and max(q.shape[-2], k.shape[-2]) <= SHORT


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of "b n d" tensors, whose width holds `heads` heads."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)  # another dtype than q's gives wrong values silently on a CPU
    if mask is None and trains_short(q, k):
        shares = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
        return (shares @ v).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.attention = Attention(width, heads, qkv_bias=qkv_bias)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-5)
        self.mlp = mlp(width)

    def forward(self, x: Float[Tensor, "b n d"], mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask=mask)
        return x + self.mlp(self.mlp_norm(x))

    def update(self, x: Float[Tensor, "b n d"], budget: int) -> None:
        """The same as `forward` without a mask, into `x`, with about `budget` bytes beside it.

        Heads are taken a few at a time and rows in chunks: each chunk is exact, for only attention
        mixes rows, and it always sees all of them. Without gradients only.
        """
        b, _, d = x.shape
        heads = self.attention.heads
        row = b * d * x.element_size()
        some = min(heads, max(1, budget * heads // (3 * row * x.shape[1])))
        chunks = x.split(max(1, budget // (8 * row)), dim=1)  # 4 before GELU and 4 behind it
        if some == heads and len(chunks) == 1:  # all fits: no need to gather parts
            x += self.attention(self.attention_norm(x))
            x += self.mlp(self.mlp_norm(x))
            return
        y = torch.empty_like(x)
        for first in range(0, heads, some):
            span = slice(first * d // heads, min(first + some, heads) * d // heads)
            q, k, v = self._project(chunks, span)
            y[..., span] = attend(q, k, v, min(some, heads - first))
            del q, k, v
        for part, seen in zip(chunks, y.split(chunks[0].shape[1], dim=1), strict=True):
            part += self.attention.out(seen)
            part += self.mlp(self.mlp_norm(part))

    def _project(self, chunks: tuple[Tensor, ...], span: slice) -> list[Tensor]:
        """Query, key and value of the heads whose channels are `span`."""
        b, d = chunks[0].shape[0], chunks[0].shape[-1]
        n = sum(part.shape[1] for part in chunks)
        out = [chunks[0].new_empty(b, n, span.stop - span.start) for _ in range(3)]
        start = 0
        for part in chunks:
            normed = self.attention_norm(part)
            stop = start + part.shape[1]
            for i, whole in enumerate(out):
                rows = self.attention.rows(normed, i * d + span.start, i * d + span.stop)
                whole[:, start:stop] = rows
            start = stop
        return out


class CrossBlock(nn.Module):
    """Queries look at the clip, then at one another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(width, eps=1e-6)
        self.cross = Attention(width, heads, qkv_bias=False, out_bias=False)
        self.self_norm = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = Attention(width, heads, qkv_bias=False, out_bias=False)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = mlp(width)

    def forward(self, q: Tensor, memory: Tensor, mask: Tensor | None) -> Float[Tensor, "b n d"]:
        q = q + self.cross(self.cross_norm(q), memory, mask)
        q = q + self.self_attention(self.self_norm(q))
        return q + self.mlp(self.mlp_norm(q))


def sinusoid(at: Tensor, width: int, period: float = 1e4) -> Float[Tensor, "*n width"]:
    """Cosines, then sines of `at`, with wave lengths from 2 pi to 2 pi * period; in float32."""
    rates = -math.log(period) * torch.arange(width // 2, device="cpu") / (width // 2)
    rates = rates.double().exp().float()  # float32's exp differs from machine to machine
    angles = at[..., None].float() * rates.to(at.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
