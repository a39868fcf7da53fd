"""Cross-attention to a reference frame: an ablation, `inject="attend"`."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.models.reftok.features import ONE, InjectionShape, ReferenceFeatures
from reeltok.nn.layers import Conv, Norm

HEADS, WINDOW, HALO = 4, 8, 4
"""Queries in windows of 8x8 cells see keys of 16x16 around them."""


class CrossAttention(nn.Module):
    """Each cell looks at the reference's cells around its own place, and takes their features.

    With `transfer` it takes their fine features along, which join at the fine scale.
    """

    def __init__(self, shape: InjectionShape, widths: tuple[int, int], *, transfer: bool) -> None:
        super().__init__()
        fine, coarse = widths
        self.ratio = 2**shape.halvings
        self.carries = fine * self.ratio**2 if transfer else 0
        self.norm = Norm(shape.coarse, act=False)
        self.query = Conv(shape.coarse, coarse, ONE)
        self.key = Conv(coarse, coarse, ONE)
        self.value = Conv(coarse, coarse, ONE)
        self.out = Conv(coarse, shape.coarse, ONE, zero=True)
        self.fine = Conv(fine, shape.fine, ONE, zero=True) if transfer else None
        self.position_bias = nn.Parameter(torch.zeros(HEADS, (2 * (WINDOW + HALO) - 1) ** 2))

    def forward(
        self, x: Float[Tensor, "b t h w c"], reference: ReferenceFeatures
    ) -> tuple[Float[Tensor, "b t h w c"], Float[Tensor, "b t2 h2 w2 c2"] | None]:
        """What joins `x`, and what joins at the fine scale (one time step for each of x's)."""
        values = [self.value(reference.coarse)]
        if self.fine is not None:
            folded = "b t (h i) (w j) c -> b t h w (c i j)"
            values.append(rearrange(reference.fine, folded, i=self.ratio, j=self.ratio))
        taken = look_around(
            self.query(self.norm(x)), self.key(reference.coarse), torch.cat(values, -1), self.bias()
        )
        coarse, fine = taken.split([taken.shape[-1] - self.carries, self.carries], dim=-1)
        if self.fine is None:
            return self.out(coarse), None
        unfolded = "b t h w (c i j) -> b t (h i) (w j) c"
        return self.out(coarse), self.fine(rearrange(fine, unfolded, i=self.ratio, j=self.ratio))

    def bias(self) -> Float[Tensor, "heads q k"]:
        """The learned preference for each distance between a query and a key."""
        query = torch.arange(WINDOW, device=self.position_bias.device)
        key = torch.arange(-HALO, WINDOW + HALO, device=self.position_bias.device)
        far = key[None, :] - query[:, None] + WINDOW + HALO - 1
        index = far[:, None, :, None] * (2 * (WINDOW + HALO) - 1) + far[None, :, None, :]
        return self.position_bias[:, index.flatten(2).flatten(0, 1)]


def look_around(
    query: Float[Tensor, "b t h w d"],
    key: Float[Tensor, "b 1 h w d"],
    value: Float[Tensor, "b 1 h w e"],
    bias: Float[Tensor, "heads q k"],
) -> Float[Tensor, "b t h w e"]:
    """Attention of each window of queries to the keys in and around it; none beyond the frame."""
    b, t, h, w, _ = query.shape
    rows, columns = -h % WINDOW, -w % WINDOW
    inside = key.new_ones(1, 1, h, w, 1)
    q = halo_windows(F.pad(query, (0, 0, 0, columns, 0, rows)).flatten(0, 1), WINDOW, 0)
    k, v, visible = (
        halo_windows(F.pad(each[:, 0], (0, 0, 0, columns, 0, rows)), WINDOW + 2 * HALO, HALO)
        for each in (key, value, inside)
    )
    mask = torch.where(visible[0, :, None, None, :, 0] > 0, 0.0, -torch.inf).to(bias) + bias
    k, v = (each.repeat_interleave(t, 0) for each in (k, v))
    q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(2, 3) for each in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
    y = y.transpose(2, 3).flatten(3)
    y = rearrange(
        y,
        "(b t) (m n) (i j) e -> b t (m i) (n j) e",
        b=b,
        m=(h + rows) // WINDOW,
        i=WINDOW,
        j=WINDOW,
    )
    return y[:, :, :h, :w]


def halo_windows(x: Float[Tensor, "b h w d"], size: int, halo: int) -> Float[Tensor, "b n s d"]:
    """Squares of `size` cells that begin every WINDOW cells, `halo` cells outside the frame."""
    x = F.pad(x, (0, 0, halo, halo, halo, halo))
    x = x.unfold(1, size, WINDOW).unfold(2, size, WINDOW)
    return rearrange(x, "b m n d i j -> b (m n) (i j) d")
