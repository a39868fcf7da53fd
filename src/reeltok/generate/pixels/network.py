"""A deterministic network that predicts the next frame from the last one and an action.

    last frame, first frame ─ U-Net, its middle a GRU that sees the action ─ field, colours, mask
    last frame moved along the field, first frame, colours ─ mixed by the mask ─ next frame

Nothing is drawn at random, so where the future is open it gives the mean, which is blurred. After
Finn, Goodfellow and Levine, "Unsupervised learning for physical interaction", 2016, with one dense
field instead of ten kernels or transformations.
"""

from dataclasses import dataclass as record
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from reeltok.generate.folder import load_generator, save_generator
from reeltok.models.reftok.motion import warp
from reeltok.nn.bounds import Side, Width
from reeltok.nn.layers import Conv, Norm, Residual
from reeltok.nn.linear import Linear
from reeltok.nn.quantizers.contract import full_precision

FAMILY = "pixels"
SPACE, ONE = (1, 3, 3), (1, 1, 1)
UNIT = 4.0  # pixels of motion that one unit of the network's output stands for
MASK = (2.0, 0.0, -2.0)  # at the start: most of the moved frame, some of the first, few colours
Frame = Float[Tensor, "b 1 h w c"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class FramePredictorConfig:
    """Frames of `size` pixels square, and the numbers of an action.

    `widths` are channels from half the frame's size on, each at half the size of the one before.
    """

    size: Side = 64
    actions: int = Field(default=4, ge=1, le=1024)
    widths: tuple[Width, ...] = Field(default=(48, 96, 128), min_length=1, max_length=8)

    def __post_init__(self) -> None:
        if self.size % 2 ** len(self.widths):
            raise ValueError(
                f"{len(self.widths)} widths halve the size {self.size} as often, which does not "
                f"go: choose a multiple of {2 ** len(self.widths)}"
            )


@record(frozen=True, eq=False, kw_only=True)
class Seen:
    """What a prediction goes on from: the first and the last frame, and what the GRU remembers."""

    first: Frame
    last: Frame
    memory: Float[Tensor, "b 1 h2 w2 d"]


class Memory(nn.Module):
    """A gated recurrent unit whose products are convolutions (Ballas et al., 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = Conv(2 * width, 2 * width, SPACE)
        self.fresh = Conv(2 * width, width, SPACE)

    def forward(
        self, x: Float[Tensor, "b 1 h w d"], before: Float[Tensor, "b 1 h w d"]
    ) -> Float[Tensor, "b 1 h w d"]:
        keep, take = self.gates(torch.cat([x, before], dim=-1)).sigmoid().chunk(2, dim=-1)
        fresh = self.fresh(torch.cat([x, take * before], dim=-1)).tanh()
        return keep * before + (1 - keep) * fresh


class FramePredictor(nn.Module):
    """`forward` predicts as many frames as there are actions, each from the one before."""

    def __init__(self, config: FramePredictorConfig) -> None:
        super().__init__()
        self.config = config
        widths, coarse = config.widths, config.widths[-1]
        self.conv_in = Conv(4 * 2 * 3, widths[0], SPACE)
        self.encoder = nn.ModuleList(Residual(w, w, SPACE, edge="past-first") for w in widths)
        pairs = list(pairwise(widths))
        self.lowered = nn.ModuleList(Conv(a, b, SPACE, stride=(1, 2, 2)) for a, b in pairs)
        self.memory = Memory(coarse)
        self.act = nn.Sequential(Linear(config.actions, 64), nn.SiLU())
        self.acts = nn.ModuleList(Linear(64, w) for w in widths)
        self.raised = nn.ModuleList(Conv(b, 4 * a, ONE) for a, b in pairs)
        self.decoder = nn.ModuleList(Residual(w, w, SPACE, edge="past-first") for w in widths)
        self.norm = Norm(widths[0])
        self.conv_out = Conv(widths[0], 4 * (2 + 3 + len(MASK)), SPACE, zero=True)

    def forward(
        self, start: Float[Tensor, "b c 1 h w"], actions: Float[Tensor, "b t a"]
    ) -> Float[Tensor, "b c t h w"]:
        """The frames that follow `start`, in [-1, 1] but for what the network overshoots."""
        seen, made = self.begin(start), []
        for action in actions.unbind(1):
            seen = self.step(seen, action)
            made.append(seen.last)
        return rearrange(torch.cat(made, dim=1), "b t h w c -> b c t h w")

    def begin(self, start: Float[Tensor, "b c 1 h w"]) -> Seen:
        """With one frame alone, nothing is remembered. ValueError for another size."""
        size = self.config.size
        if start.shape[-2:] != (size, size):
            found = "x".join(map(str, start.shape[-2:]))
            raise ValueError(f"a frame is {found}, this network predicts {size}x{size}: scale it")
        frame = rearrange(start.float(), "b c t h w -> b t h w c").contiguous()
        side, width = size >> len(self.config.widths), self.config.widths[-1]
        return Seen(
            first=frame, last=frame, memory=frame.new_zeros(len(frame), 1, side, side, width)
        )

    def step(self, seen: Seen, action: Float[Tensor, "b a"]) -> Seen:
        """One frame further, by the action between it and the last one."""
        told = self.act(action)
        acts = [act(told)[:, None, None, None] for act in self.acts]
        y = self.conv_in(to_squares(torch.cat([seen.last, seen.first], dim=-1)))
        kept = []
        for number, block in enumerate(self.encoder):
            y = block(self.lowered[number - 1](y) if number else y)
            kept.append(y)
        memory = self.memory(y + acts[-1], seen.memory)
        y = self.decoder[-1](y + memory)
        for number in reversed(range(len(self.raised))):
            y = from_squares(self.raised[number](y)) + kept[number] + acts[number]
            y = self.decoder[number](y)
        y = self.norm(y)
        with full_precision(y):  # bfloat16 would round 8 pixels to sixteenths
            parts = from_squares(self.conv_out(y.to(self.conv_out.weight.dtype)).float())
        return Seen(first=seen.first, last=compose(seen, parts), memory=memory)


def to_squares(x: Float[Tensor, "b t h w c"]) -> Float[Tensor, "b t h2 w2 d"]:
    """Squares of 2x2 pixels side by side in the channels."""
    return rearrange(x, "b t (h i) (w j) c -> b t h w (i j c)", i=2, j=2)


def from_squares(x: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b t h2 w2 c"]:
    """The inverse of `to_squares`."""
    return rearrange(x, "b t h w (i j c) -> b t (h i) (w j) c", i=2, j=2)


def compose(seen: Seen, parts: Float[Tensor, "b 1 h w 8"]) -> Frame:
    """The next frame: a field (rows, columns), colours, and the weights of three layers."""
    moved = warp(seen.last[:, 0], UNIT * parts[..., :2])
    mask = (parts[..., 5:] + parts.new_tensor(MASK)).softmax(dim=-1)
    layers = torch.stack([moved, seen.first, parts[..., 2:5]], dim=-1)
    return (layers * mask[..., None, :]).sum(-1)


# On disk.


def save(model: FramePredictor, folder: str | Path) -> Path:
    """Write config.json and model.safetensors into `folder`, made if need be."""
    return save_generator(model, folder, family=FAMILY)


def load(folder: str | Path, *, device: torch.device | str | None = None) -> FramePredictor:
    """The network that `save` wrote, in evaluation mode. Errors are `load_generator`'s."""
    return load_generator(
        folder,
        FramePredictorConfig,
        FramePredictor,
        family=FAMILY,
        noun="predictor of pixels",
        device=device,
    )
