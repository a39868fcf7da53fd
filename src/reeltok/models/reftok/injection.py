"""What a network takes from reference frames, its configuration, and where references join.

    references, errors, carried ─ ReferenceEncoder ─┬─ fine (the scale of the patch front)
                                         └─ coarse (the scale of the tokens)

Everything ends in weights that start at zero, so that training starts from the plain network.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from reeltok.models.vidtok.network import Decoder, Encoder, running_order
from reeltok.models.vidtok.stages import SPACE, Down, Patch, Up, VidTokConfig
from reeltok.nn.bounds import Side, Width
from reeltok.nn.layers import Conv, Norm, Residual
from reeltok.nn.quantizers import Quantizer

ONE = (1, 1, 1)
HEADS, WINDOW, HALO = 4, 8, 4
"""Cross-attention: queries in windows of 8x8 cells see keys of 16x16 around them."""

Inject = Literal["concatenate", "attend", "attend+transfer"]
ReferencePolicy = Literal["previous", "first", "first+previous", "none"]
ReferenceStart = Literal["plain", "lossless", "webp", "given"]


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RefTokConfig:
    """One RefTok network, and how it is used unless told otherwise.

    `body` is the plain network, `block` the frames of a block. `inject` and `where` say how and on
    which side references join, `references` how many the network sees, `width` is that of their
    features. A block refers to the decoded frame before it, to the first frame, to both, or to none
    (`policy`). The first frame is coded as plain tokens, stored as a picture (WebP of `quality`),
    or `given` by the caller. At a scene cut a block has no reference ("plain") or a new stored
    frame; one bit a block says so. `refresh` makes every so many blocks plain, for access to long
    files.
    """

    body: VidTokConfig
    block: Side = 4
    inject: Inject = "concatenate"
    where: Literal["none", "encoder", "decoder", "both"] = "both"
    references: Literal[1, 2] = 1
    width: Width = Field(default=64, multiple_of=4)
    policy: ReferencePolicy = "previous"
    start: ReferenceStart = "plain"
    quality: int = Field(default=30, ge=0, le=100)
    cuts: Literal["ignore", "plain", "stored"] = "plain"
    refresh: int | None = Field(default=None, ge=1)

    def __post_init__(self) -> None:
        if self.body.edge != "past-first" or self.body.upsampling != "nearest":
            raise ValueError(
                f"a closed loop needs a body without look-ahead whose first frame stands alone: "
                f"set edge='past-first' and upsampling='nearest', found {self.body.edge!r} and "
                f"{self.body.upsampling!r}"
            )
        if self.block % self.factors[0]:
            raise ValueError(
                f"block={self.block} frames are no whole token steps: give a multiple of "
                f"{self.factors[0]}"
            )
        if self.policy == "first+previous" and self.references < 2:
            raise ValueError(
                "policy='first+previous' needs a network of two references: set references=2"
            )

    @property
    def quantizer(self) -> Quantizer:
        return self.body.quantizer

    @property
    def factors(self) -> tuple[int, int, int]:
        """Pixels (t, h, w) that one token stands for."""
        return self.body.factors

    @property
    def causal(self) -> bool:
        """A block takes from those before it alone."""
        return True

    @property
    def steps(self) -> int:
        """Token steps of a block."""
        return self.block // self.factors[0]

    @property
    def opening(self) -> int:
        """Token steps before the first block."""
        return int(self.start == "plain")


@dataclass(frozen=True, kw_only=True)
class InjectionShape:
    """The shape of the place where references join a network.

    `fine` and `coarse` are the widths there, `steps` = (fine, coarse) time steps of a block; space
    is halved `halvings` times between them. `patch` are the channels of the patch front, `carried`
    those of the features carried over.
    """

    fine: int
    coarse: int
    steps: tuple[int, int]
    halvings: int
    patch: int
    carried: int


@dataclass(frozen=True)
class ReferenceFeatures:
    """What was read from the references: features, and the first one's patches, held still."""

    fine: Float[Tensor, "b 1 h w r"]
    coarse: Float[Tensor, "b 1 h2 w2 r2"]
    still: Float[Tensor, "b 1 h w d"]


class ReferenceEncoder(nn.Module):
    """Features of still frames at the fine scale and, halved down, at the coarse one; normed."""

    def __init__(self, channels_in: int, width: int, halvings: int) -> None:
        super().__init__()
        widths = [min(2, 2**i) * width for i in range(halvings + 1)]
        self.conv_in = Conv(channels_in, width, SPACE)
        self.fine = Residual(width, width, SPACE, edge="past-first")
        self.down = nn.ModuleList(Conv(a, b, SPACE, stride=(1, 2, 2)) for a, b in pairwise(widths))
        self.coarse = Residual(widths[-1], widths[-1], SPACE, edge="past-first")
        self.norms = nn.ModuleList(Norm(end, act=False) for end in (width, widths[-1]))
        self.widths = width, widths[-1]

    def forward(self, x: Float[Tensor, "b 1 h w c"]) -> tuple[Tensor, Tensor]:
        fine = self.fine(self.conv_in(x))
        coarse = fine
        for down in self.down:
            coarse = down(coarse)
        return self.norms[0](fine), self.norms[1](self.coarse(coarse))


class Broadcast(nn.Module):
    """Still features onto the time steps of a block: a 1x1 convolution for each, from zero."""

    def __init__(self, channels_in: int, channels_out: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = Conv(channels_in, steps * channels_out, ONE, zero=True)

    def forward(self, x: Float[Tensor, "b 1 h w r"], steps: int) -> Float[Tensor, "b t h w c"]:
        """The first `steps` time steps: a block's, or the only one of a first frame."""
        y = self.conv(x)
        return rearrange(y, "b 1 h w (t c) -> b t h w c", t=self.steps)[:, :steps]


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
    q = windows(F.pad(query, (0, 0, 0, columns, 0, rows)).flatten(0, 1), WINDOW, 0)
    k, v, visible = (
        windows(F.pad(each[:, 0], (0, 0, 0, columns, 0, rows)), WINDOW + 2 * HALO, HALO)
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


def windows(x: Float[Tensor, "b h w d"], size: int, halo: int) -> Float[Tensor, "b n s d"]:
    """Squares of `size` cells that begin every WINDOW cells, `halo` cells outside the frame."""
    x = F.pad(x, (0, 0, halo, halo, halo, halo))
    x = x.unfold(1, size, WINDOW).unfold(2, size, WINDOW)
    return rearrange(x, "b m n d i j -> b (m n) (i j) d")


class ReferenceInjection(nn.Module):
    """One side's use of the references: reads them once a block, joins them at two places.

    The encoder (`copied=None`) also compares the block with the held reference, and is shown
    `errors`, what the reference lacks of the original. The decoder may copy the reference's pixels,
    by features of `copied` channels.
    """

    def __init__(self, shape: InjectionShape, config: RefTokConfig, *, copied: int | None) -> None:
        super().__init__()
        encodes, self.patch = copied is None, shape.patch
        shown = config.references * self.patch * (2 if encodes else 1) + shape.carried
        self.reference_encoder = ReferenceEncoder(shown, config.width, shape.halvings)
        fine, coarse = widths = self.reference_encoder.widths
        self.fine = Broadcast(fine, shape.fine, shape.steps[0])
        self.coarse = Broadcast(coarse, shape.coarse, shape.steps[1])
        transfer = config.inject == "attend+transfer"
        attends = config.inject != "concatenate"
        self.cross_attention = CrossAttention(shape, widths, transfer=transfer) if attends else None
        self.difference_in = Conv(self.patch + fine, fine, SPACE) if encodes else None
        self.difference_out = Conv(fine, shape.fine, ONE, zero=True) if encodes else None
        self.copy_gate = None if copied is None else Conv(copied, self.patch, ONE, zero=True)

    def read(
        self,
        stills: Float[Tensor, "b 1 h w nd"],
        carried: Float[Tensor, "b 1 h w e"],
        errors: Float[Tensor, "b 1 h w nd"] | None = None,
    ) -> ReferenceFeatures:
        """Features of the references' patches, their errors and the features carried over."""
        shown = [stills, carried] if errors is None else [stills, carried, errors]
        fine, coarse = self.reference_encoder(torch.cat(shown, dim=-1))
        return ReferenceFeatures(fine=fine, coarse=coarse, still=stills[..., : self.patch])

    def join_fine(
        self,
        x: Float[Tensor, "b t h w c"],
        reference: ReferenceFeatures,
        reference_mask: Tensor | None,
        *,
        patches: Float[Tensor, "b t h w d"] | None = None,
        along: Float[Tensor, "b t2 h w c"] | None = None,
    ) -> Float[Tensor, "b t h w c"]:
        """`x` with what the references say; the encoder compares its `patches` with them.

        `along` came from `join_coarse`, one step for several of these.
        """
        y = self.fine(reference.fine, x.shape[1])
        if along is not None:
            y = y + along.repeat_interleave(x.shape[1] // along.shape[1], dim=1)
        if self.difference_in is not None and self.difference_out is not None:
            assert patches is not None
            around = reference.fine.expand(-1, x.shape[1], -1, -1, -1)
            y = y + self.difference_out(
                F.silu(self.difference_in(torch.cat([patches - reference.still, around], dim=-1)))
            )
        return x + stream_scale(x) * masked(reference_mask, y)

    def join_coarse(
        self,
        x: Float[Tensor, "b t h w c"],
        reference: ReferenceFeatures,
        reference_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """`x` with what the references say, and what comes along for the fine scale."""
        y, along = self.coarse(reference.coarse, x.shape[1]), None
        if self.cross_attention is not None:
            more, along = self.cross_attention(x, reference)
            y = y + more
        return x + stream_scale(x) * masked(reference_mask, y), along

    def copy_pixels(
        self,
        patches: Float[Tensor, "b t h w d"],
        features: Float[Tensor, "b t h w c"],
        reference: ReferenceFeatures,
        reference_mask: Tensor | None,
    ) -> Float[Tensor, "b t h w d"]:
        """Patches moved towards the reference's, by a share that `features` choose."""
        assert self.copy_gate is not None
        return patches + masked(
            reference_mask, self.copy_gate(features) * (reference.still - patches)
        )


def stream_scale(x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h w 1"]:
    """How large a residual stream is in each place: trained ones reach thousands, behind norms."""
    return x.detach().square().mean(-1, keepdim=True).sqrt()


def masked(mask: Bool[Tensor, " b"] | None, y: Tensor) -> Tensor:
    """`y` for the clips that have a reference by the mask, zero for the others; None: all do."""
    return y if mask is None else y * mask.to(y.dtype).view(-1, *[1] * (y.ndim - 1))


def encoder_shape(config: RefTokConfig, encoder: Encoder) -> InjectionShape:
    """Where references join the encoder: behind its first convolution and its last halving."""
    early, _ = split_stages(running_order(encoder), Down)
    fine = config.body.width
    coarse = early[-1].after if early else fine
    return injection_shape(config, fine=fine, coarse=coarse)


def decoder_shape(config: RefTokConfig, decoder: Decoder) -> InjectionShape:
    """Where references join the decoder: behind its first convolution and its last doubling."""
    early, _ = split_stages(running_order(decoder), Up)
    coarse = config.body.width * config.body.multipliers[-1]
    fine = early[-1].after if early else coarse
    return injection_shape(config, fine=fine, coarse=coarse)


def injection_shape(config: RefTokConfig, *, fine: int, coarse: int) -> InjectionShape:
    body, patch = config.body, config.body.patch
    return InjectionShape(
        fine=fine,
        coarse=coarse,
        steps=(config.block // patch[0], config.steps),
        halvings=len(body.space_down),
        patch=body.colours * patch[0] * patch[1] * patch[2],
        carried=body.width * body.multipliers[0],
    )


def split_stages(stages: list[Any], kind: type[nn.Module]) -> tuple[list[Any], list[Any]]:
    """The stages up to the last one of a kind, and those behind it."""
    cut = max((i + 1 for i, stage in enumerate(stages) if isinstance(stage, kind)), default=0)
    return stages[:cut], stages[cut:]


def still_patches(
    patch: Patch, frames: Float[Tensor, "b n h w c"]
) -> Float[Tensor, "b 1 h2 w2 nd"]:
    """Each frame as the patch front sees it when it stands still, side by side in the channels."""
    folded = patch(frames.flatten(0, 1)[:, None])
    return rearrange(folded, "(b n) 1 h w d -> b 1 h w (n d)", b=len(frames))


def both_masks(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What two masks allow; None allows all."""
    return other if one is None else one if other is None else one & other


def along_batch(mask: Bool[Tensor, " b"], like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))
