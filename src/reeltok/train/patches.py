"""The task of CoordTok: give back some patches of a clip, not all of them.

Memory in training then grows with the patches asked for, not with the clip (CoordTok, section 3.3
and appendix A.1). Stage 1 asks for random patches, stage 2 for whole random frames, which LPIPS can
judge.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.configuration import FINITE
from reeltok.metrics.lpips import LPIPS, NetworkName
from reeltok.models.coordtok.network import CoordTok, decode_box
from reeltok.models.coordtok.triplane import CoordTokConfig, assemble
from reeltok.nn.quantizers.contract import full_precision
from reeltok.train.clips import ClipBatch
from reeltok.train.losses import Losses
from reeltok.train.reconstruct import LoadLPIPS, Score, mean_of_groups, score_frames


@dataclass(frozen=True, kw_only=True, config=FINITE)
class PatchConfig:
    """Which patches a step asks for, and what their error costs.

    `share` of the window's patches, drawn one by one (with replacement) or as whole frames.
    `perceptual` weighs the mean LPIPS of these frames beside the mean squared error; the published
    stage 2 sums it over 16 frames, which is a weight of 16 here. `short` is the share of clips that
    are cut to a random length, so that the model learns clips shorter than its window. `slices`
    is how held-out clips are decoded.
    """

    sampling: Literal["patches", "frames"] = "patches"
    share: float = Field(default=1 / 32, gt=0, le=1)
    perceptual: float = Field(default=0.0, ge=0)
    net: NetworkName = "vgg"
    weights: str | None = None
    quantizer: float = Field(default=1.0, ge=0)
    short: float = Field(default=0.0, ge=0, le=1)
    slices: int = Field(default=1, ge=1)

    def __post_init__(self) -> None:
        if self.perceptual and self.sampling != "frames":
            raise ValueError(
                f"perceptual={self.perceptual} needs whole frames: choose sampling='frames'"
            )


STAGE_1 = PatchConfig()
"""1,024 random patches of a 128-frame clip: 1M steps of 256 clips, AdamW 1e-4, decay 1e-3."""

STAGE_2 = PatchConfig(sampling="frames", share=1 / 8, perceptual=16.0)
"""All patches of 16 random frames, 50K further steps; LPIPS without its dropout."""


class Patches:
    """Train a CoordTok on `config`'s patches; validate on held-out batches with `score`."""

    def __init__(
        self,
        tokenizer: CoordTok,
        config: PatchConfig,
        *,
        held_out: Callable[[], Iterable[ClipBatch]] | None = None,
        score: Score | None = None,
        lpips: LoadLPIPS = LPIPS,
    ) -> None:
        self.tokenizer, self.config, self.held_out = tokenizer, config, held_out
        self.score = score or score_frames
        self.perceptual = None
        if config.perceptual:
            self.perceptual = lpips(config.net, backbone=config.weights).eval()
        tokenizer.check_slices(config.slices)

    def parameters(self) -> nn.Module:
        return self.tokenizer

    def to(self, device: torch.device | str) -> None:
        """Move everything to `device`."""
        self.tokenizer.to(device)
        if self.perceptual is not None:
            self.perceptual.to(device)

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator | None) -> Losses:
        """The loss of a batch of clips of up to a window."""
        config, model, x = self.config, self.tokenizer, batch.x
        frames = draw_lengths(x, config.short, generator)
        planes = model.encode_planes(x, frames if config.short else None)
        quantized = model.quantize(planes, step=step, sample=generator)
        count = round(config.share * model.config.places[0])
        if config.sampling == "patches":
            index = draw_patches(frames, config.share, model.config, generator)
        else:
            index = draw_frames(frames, max(1, count), model.config, generator)
        made = model.decode_patches(model.split_planes(quantized.z), index).float()
        wanted = patches_at(x, index, model.config)
        squared = (made - wanted).square().mean()
        terms, total = {"l2": squared, **quantized.terms}, squared
        if self.perceptual is not None:
            pair = (join_patches(patches, model.config) for patches in (wanted, made))
            terms["lpips"] = self.perceptual(*pair).mean()
            total = total + config.perceptual * terms["lpips"]
        return Losses(total + config.quantizer * quantized.loss, terms)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """Scores of whole held-out clips, meaned over the groups' means; nothing without clips."""
        if self.held_out is None:
            return {}
        groups: dict[str, list[dict[str, float]]] = {}
        model = self.tokenizer.eval()
        for batch in self.held_out():
            x = batch.x.to(model.device)
            planes = model.split_planes(model.quantize(model.encode_planes(x)).z)
            y = decode_box(
                model.decoder,
                planes,
                tuple((0, side) for side in x.shape[2:]),
                frames=x.shape[2],
                slices=self.config.slices,
                budget=model.budget,
            )
            with full_precision(y):
                found = self.score(x, y.float().clamp(-1, 1))
            groups.setdefault(batch.groups[0], []).append(found)
        return mean_of_groups(groups)

    def save(self, folder: Path) -> None:
        """Write the tokenizer where `reeltok.load` finds it."""
        self.tokenizer.save_pretrained(folder)


def draw_lengths(
    x: Float[Tensor, "b c t h w"], short: float, generator: torch.Generator | None
) -> Int[Tensor, "b"]:
    """How many frames each clip keeps: all, or for a share `short` of the clips any number."""
    (b, _, t, _, _), place = x.shape, x.device
    cut = torch.rand(b, generator=generator, device=place) < short
    any_number = torch.randint(1, t + 1, (b,), generator=generator, device=place)
    return torch.where(cut, any_number, t)


def draw_patches(
    frames: Int[Tensor, "b"],
    share: float,
    config: CoordTokConfig,
    generator: torch.Generator | None,
) -> Int[Tensor, "b n 3"]:
    """Random places (time, row, column) within each clip's frames, with replacement."""
    t, h, w = config.places
    count = max(1, round(share * t * h * w))
    drawn = torch.rand(len(frames), count, 3, generator=generator, device=frames.device)
    ends = torch.stack([runs_of(frames, config), *(torch.full_like(frames, n) for n in (h, w))], -1)
    return (drawn * ends[:, None]).long().minimum(ends[:, None] - 1)


def draw_frames(
    frames: Int[Tensor, "b"], count: int, config: CoordTokConfig, generator: torch.Generator | None
) -> Int[Tensor, "b n 3"]:
    """All places of `count` random frames of each clip; distinct where it has as many."""
    t, h, w = config.places
    ends = runs_of(frames, config)[:, None]
    order = torch.rand(len(frames), t, generator=generator, device=frames.device)
    order = order.masked_fill(torch.arange(t, device=frames.device) >= ends, 2.0).argsort(1)
    chosen = order[:, :count].remainder(ends)
    rows = torch.cartesian_prod(*(torch.arange(n, device=frames.device) for n in (h, w)))
    index = torch.cat(
        [chosen[:, :, None, None].expand(-1, -1, h * w, 1), rows.expand(*chosen.shape, -1, -1)], -1
    )
    return index.flatten(1, 2)


def runs_of(frames: Int[Tensor, "b"], config: CoordTokConfig) -> Int[Tensor, "b"]:
    """Decoder patches along time that hold real frames."""
    return -(-frames // config.decoder_patch[0])


def patches_at(
    x: Float[Tensor, "b c t h w"], index: Int[Tensor, "b n 3"], config: CoordTokConfig
) -> Float[Tensor, "b n d"]:
    """The clip's own patches (time, row, column, rgb; rgb fastest) at integer places."""
    p, q, r = config.decoder_patch
    missing = -x.shape[2] % p
    x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2).float()
    patches = rearrange(x, "b c (t p) (h q) (w r) -> b (t h w) (p q r c)", p=p, q=q, r=r)
    _, h, w = config.places
    flat = (index[..., 0] * h + index[..., 1]) * w + index[..., 2]
    return patches.gather(1, flat[..., None].expand(-1, -1, patches.shape[-1]))


def join_patches(
    patches: Float[Tensor, "b n d"], config: CoordTokConfig
) -> Float[Tensor, "k c h w"]:
    """Whole frames from the patches that `draw_frames` asked for."""
    _, h, w = config.places
    count = patches.shape[1] // (h * w)
    x = assemble(patches, ((0, count), (0, h), (0, w)), config.decoder_patch)
    return x.transpose(1, 2).flatten(0, 1)
