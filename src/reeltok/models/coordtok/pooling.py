"""A clip as it looks from the three sides of its window: a skip connection into the planes.

Ours, not in the paper. A query of the paper's encoder has to find by attention which patches of the
clip lie behind its cells, which takes most of a short training. Here every plane also gets the
clip pooled over the axis that the plane lacks, so that what is where is known from the first step.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.nn.linear import Linear

FEATURES = 96


class PooledVoxels(nn.Module):
    """Clip to planes "b h w d", each from pixels and voxel features pooled over the missing axis.

    A voxel is the part of the clip between two cells on every axis, its features a layer on
    its pixels and on what these differ by from the mean over time. Planes get the mean of the
    pixels, and the mean and the largest of the features.
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        cells: tuple[int, int, int],
        planes: dict[str, tuple[int, int]],
        features: int,
    ) -> None:
        super().__init__()
        self.window, self.planes = size[0], planes
        t, h, w = (whole // part for whole, part in zip(size, cells, strict=True))
        self.voxel = (t, h, w)
        self.voxels = Linear(2 * 3 * t * h * w, FEATURES)
        areas = {name: self.voxel[a] * self.voxel[b] for name, (a, b) in planes.items()}
        self.heads = nn.ModuleDict(
            {name: Linear(3 * area + 2 * FEATURES, features) for name, area in areas.items()}
        )

    def forward(self, x: Float[Tensor, "b c t h w"]) -> dict[str, Tensor]:
        """Planes of clips in [-1, 1] of up to a window, which then goes on with the last frame."""
        missing = self.window - x.shape[2]
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        both = torch.cat([x, x - x.mean(dim=2, keepdim=True)], dim=1)
        p, q, r = self.voxel
        patches = rearrange(both, "b c (t p) (h q) (w r) -> b t h w (c p q r)", p=p, q=q, r=r)
        features = F.gelu(self.voxels(patches))
        return {name: self._plane(name, x, features) for name in self.planes}

    def _plane(
        self, name: str, x: Float[Tensor, "b c t h w"], features: Float[Tensor, "b t2 h2 w2 f"]
    ) -> Float[Tensor, "b rows columns d"]:
        a, b = self.planes[name]
        missing = 3 - a - b
        p, q = self.voxel[a], self.voxel[b]
        mean = rearrange(x.mean(2 + missing), "b c (h p) (w q) -> b h w (c p q)", p=p, q=q)
        pooled = (features.mean(1 + missing), features.amax(1 + missing))
        return self.heads[name](torch.cat([mean, *(part.to(mean) for part in pooled)], dim=-1))
