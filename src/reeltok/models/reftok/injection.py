"""What a network takes from reference frames, its configuration, and where references join.

    references, errors, carried ─ ReferenceEncoder ─┬─ fine (the scale of the patch front)
                                         └─ coarse (the scale of the tokens)

Everything ends in weights that start at zero, so that training starts from the plain network.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn

from reeltok.models.reftok.attention import CrossAttention
from reeltok.models.reftok.features import (
    ONE,
    Broadcast,
    InjectionShape,
    ReferenceEncoder,
    ReferenceFeatures,
    WholeReference,
)
from reeltok.models.reftok.flow import UNIT, MotionConfig
from reeltok.models.vidtok.network import Decoder, Encoder, running_order
from reeltok.models.vidtok.stages import SPACE, Down, Patch, Up, VidTokConfig
from reeltok.nn.bounds import Side, Width
from reeltok.nn.layers import Conv
from reeltok.nn.past import Layer, Past
from reeltok.nn.quantizers import Quantizer
from reeltok.nn.rows import SlidingRows, aligned, rows_around

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
    files. With `motion` references follow it (flow.py). Cells where the reference's squared error
    is at most `skip` times that of the tokens, plus `skip_margin` times the block's mean one, are
    skipped (skip.py); `skip=0` skips none. Unless `skip_after` is 0, so are cells that have stood
    still for more blocks than that.
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
    motion: MotionConfig | None = None
    skip: float = Field(default=0.0, ge=0)
    skip_margin: float = Field(default=0.0, ge=0)
    skip_after: int = Field(default=0, ge=0)

    def __post_init__(self) -> None:
        if self.body.edge != "past-first" or self.body.upsampling != "nearest":
            raise ValueError(
                f"a closed loop needs a body without look-ahead whose first frame stands alone: "
                f"set edge='past-first' and upsampling='nearest', found {self.body.edge!r} and "
                f"{self.body.upsampling!r}"
            )
        if self.block % self.factors[0]:
            raise ValueError(
                f"block={self.block} frames are not whole token steps: give a multiple of "
                f"{self.factors[0]}"
            )
        if self.policy == "first+previous" and self.references < 2:
            raise ValueError(
                "policy='first+previous' needs a network of two references: set references=2"
            )
        if self.skip and self.quantizer.kind != "fsq":
            raise ValueError(
                f"skip={self.skip} needs a codebook with a centre: set skip=0, or a quantizer of "
                f"kind 'fsq', found {self.quantizer.kind!r}"
            )
        if self.skip and self.where not in ("decoder", "both"):
            raise ValueError(
                f"skip={self.skip} needs a decoder that sees references, to copy them: set skip=0, "
                f"or where='decoder' or 'both', found {self.where!r}"
            )
        if self.motion is not None:
            self._require_followed()

    def _require_followed(self) -> None:
        """ValueError for a network whose references cannot follow a motion."""
        if self.inject != "concatenate" or self.where != "both":
            raise ValueError(
                f"references follow motion where both sides concatenate them: set motion=None, or "
                f"inject='concatenate' and where='both', found {self.inject!r} and {self.where!r}"
            )
        if any(side % 4 for side in self.factors[1:]):
            raise ValueError(
                f"motion is searched at a quarter of the size: a token must stand for a multiple "
                f"of 4 pixels, found {self.factors[1]}x{self.factors[2]}; set motion=None"
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
    def widest(self) -> float:
        """Values of the widest layer for each pixel of a frame, and of references beside it.

        A warp of pixels has as many as one more for each of some twenty layers.
        """
        return self.body.widest * (1 + self.width / self.body.width) + (self.motion is not None)

    @property
    def held(self) -> float:
        """Values for each pixel of a frame that strips hold beside what they code, rounded up.

        Rows of references that slide by; grey frames that the search compares, smaller ones too.
        """
        return 4.0 + 12.0 * self.searches

    @property
    def strips(self) -> bool:
        """Whether frames can be coded in strips: no layer sees more than a few rows.

        Attention and group norm take whole frames.
        """
        body = self.body
        return body.groups is None and body.middle == "none" and self.inject == "concatenate"

    @property
    def searches(self) -> bool:
        """Whether the encoder searches for motion."""
        return self.motion is not None and self.motion.where != "decoder"

    @property
    def steps(self) -> int:
        """Token steps of a block."""
        return self.block // self.factors[0]

    @property
    def opening(self) -> int:
        """Token steps before the first block."""
        return int(self.start == "plain")


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
        flows = not encodes and config.motion is not None and config.motion.where != "encoder"
        self.moved_in = Conv(self.patch, shape.fine, ONE, zero=True) if flows else None
        searches = encodes and config.searches
        self.field_in = Conv(4, coarse, SPACE) if searches else None
        self.field_out = Conv(coarse, shape.coarse, ONE, zero=True) if searches else None

    def read(
        self,
        stills: Float[Tensor, "b 1 h w nd"],
        carried: Float[Tensor, "b 1 h w e"],
        errors: Float[Tensor, "b 1 h w nd"] | None = None,
        *,
        past: Past | None = None,
    ) -> tuple[Float[Tensor, "b 1 h2 w2 r"], Float[Tensor, "b 1 h3 w3 r2"]]:
        """Fine and coarse features of references' patches, their errors, and what is carried over.

        In strips, the rows of them that can be computed by now.
        """
        shown = [stills, carried] if errors is None else [stills, carried, errors]
        return self.reference_encoder(torch.cat(shown, dim=-1), past)

    def join_fine(
        self,
        x: Float[Tensor, "b t h w c"],
        reference: ReferenceFeatures,
        reference_mask: Tensor | None,
        *,
        patches: Float[Tensor, "b t h3 w d"] | None = None,
        along: Float[Tensor, "b t2 h w c"] | None = None,
        past: Past | None = None,
    ) -> Float[Tensor, "b t h2 w c"]:
        """`x` with what the references say; the encoder compares its `patches` with them.

        `along` came from `join_coarse`, one step for several of these.
        """
        streams = [reference.fine]
        if patches is not None:
            streams.append(patches - reference.patches)
        elif self.moved_in is not None:
            streams.append(reference.patches)
        streams = [each[:, : x.shape[1]] for each in streams]  # those that move are of a block
        x, fine, *beside = aligned(past, self.fine.conv, x, *streams)
        y = self.fine(fine, x.shape[1])
        if along is not None:
            y = y + along.repeat_interleave(x.shape[1] // along.shape[1], dim=1)
        if self.difference_in is not None and self.difference_out is not None:
            around = fine.expand(-1, x.shape[1], -1, -1, -1)
            shown = torch.cat([*beside, around], dim=-1)
            more = self.difference_out(F.silu(self.difference_in(shown, past)))
            x, y, more = aligned(past, self.difference_out, x, y, more)
            y = y + more
        if self.moved_in is not None:
            y = y + self.moved_in(beside[0].to(y.dtype))
        return x + stream_scale(x) * masked(reference_mask, y)

    def join_coarse(
        self,
        x: Float[Tensor, "b t h w c"],
        reference: ReferenceFeatures,
        reference_mask: Tensor | None,
        past: Past | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`x` with what the references say, and what comes along for the fine scale."""
        coarse = reference.coarse[:, : x.shape[1]]
        x, coarse = aligned(past, self.coarse.conv, x, coarse)
        y, along = self.coarse(coarse, x.shape[1]), None
        if self.cross_attention is not None:
            more, along = self.cross_attention(x, reference)
            y = y + more
        if self.field_in is not None and self.field_out is not None and reference.field is not None:
            field = (reference.field[:, : x.shape[1]] / UNIT).to(y.dtype)
            field = self.field_out(F.silu(self.field_in(field, past)))
            x, y, field = aligned(past, self.field_out, x, y, field)
            y = y + field
        return x + stream_scale(x) * masked(reference_mask, y), along

    def copy_pixels(
        self,
        patches: Float[Tensor, "b t h w d"],
        features: Float[Tensor, "b t h3 w c"],
        reference: ReferenceFeatures,
        reference_mask: Tensor | None,
        past: Past | None = None,
    ) -> Float[Tensor, "b t h2 w d"]:
        """Patches moved towards the reference's, by a share that `features` choose."""
        assert self.copy_gate is not None
        still = reference.patches[:, : patches.shape[1]]
        patches, features, still = aligned(past, self.copy_gate, patches, features, still)
        return patches + masked(reference_mask, self.copy_gate(features) * (still - patches))


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


def stand_still(
    reference: WholeReference, patch: Patch, cells: slice | None = None
) -> ReferenceFeatures:
    """What joins of a reference that does not follow a motion, or its rows of some cells."""
    total = height_of(reference.coarse)
    cells = cells or slice(0, total)
    whole = reference.frame, reference.fine, reference.coarse
    frame, fine, coarse = (rows_at(x, patch, cells, height_of(x) // total) for x in whole)
    return ReferenceFeatures(fine=fine, coarse=coarse, patches=still_patches(patch, frame))


def rows_at(
    x: Tensor | SlidingRows, layer: Layer, cells: slice, high: int
) -> Float[Tensor, "b t h w c"]:
    """What a layer reads of `x`: the rows of some cells, of which each has `high`."""
    start, stop = cells.start * high, cells.stop * high
    x, first = rows_around(x, layer, start, stop)
    return x[:, :, start - first : stop - first]


def height_of(x: Tensor | SlidingRows) -> int:
    return x.shape[2] if isinstance(x, Tensor) else x.height


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


def replace_clips(past: Past, fresh: Past, clips: Bool[Tensor, " b"]) -> None:
    """Let `past` hold for `clips` what `fresh` holds."""
    for name, new in fresh.kept.items():
        old = past.kept.get(name, new)
        past.kept[name] = torch.where(along_batch(clips, new), new, old)
    past.begun += [name for name in fresh.begun if name not in past.begun]
