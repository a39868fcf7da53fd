"""The video networks whose features FVD compares.

I3D in the layout of pytorch-i3d, and the TorchScript I3D of StyleGAN-V. Their weights are
the user's to bring (a path, or a URL with its sha256); values of two I3Ds do not compare, so the
network and the hash of its weights are part of every name that is printed.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from reeltok.devices import pick_device
from reeltok.files.checkpoints import load_weights
from reeltok.files.hashes import hash_files
from reeltok.metrics.lpips import WeightFile, find_weights, read_weights
from reeltok.metrics.paired import as_bytes
from reeltok.video.frames import OVERSHOOT
from reeltok.video.record import Video, unit_frames

RGBVideos = Float[Tensor, "b 3 t h w"]
Squares = Float[Tensor, "b 3 t s s"]
Triple = tuple[int, int, int]

FVD_SIDE = 224  # pixels, I3D's input
I3D_FILE = WeightFile(purpose="FVD with I3D (pytorch-i3d)", name="i3d_pretrained_400.pt")
STYLEGANV_FILE = WeightFile(
    purpose="FVD with StyleGAN-V's I3D",
    name="i3d_torchscript.pt",
    url="https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
)


# ---------------------------------------------------------------- I3D


def pad_same(x: Float[Tensor, "b c t h w"], kernel: Triple, stride: Triple) -> Tensor:
    """Zeros around a video so that a window of `kernel` gives ceil(size / stride) outputs.

    TensorFlow's rule: an odd number of zeros puts the larger half behind.
    """
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max(0, (math.ceil(size / s) - 1) * s + k - size)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    """A convolution with TensorFlow's padding, batch norm and ReLU; or a plain one with bias."""

    def __init__(
        self, width: int, out: int, kernel: int = 1, stride: int = 1, *, plain: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(width, out, kernel, stride, bias=plain)
        self.bn = None if plain else nn.BatchNorm3d(out, eps=0.001)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d i j k"]:
        """Channels `width` to `out`, every side divided by `stride`."""
        x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Pool(nn.Module):
    """A maximum with TensorFlow's padding; its zeros are harmless after a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c i j k"]:
        """Every side divided by its stride."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block: 1x1x1, two 3x3x3 behind a bottleneck, a pooled branch, side by side."""

    def __init__(self, width: int, one: int, mid: int, three: int, low: int, few: int, pool: int):
        super().__init__()
        self.b0 = Unit(width, one)
        self.b1a, self.b1b = Unit(width, mid), Unit(mid, three, 3)
        self.b2a, self.b2b = Unit(width, low), Unit(low, few, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(width, pool)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        """Channels `width` to one + three + few + pool."""
        parts = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))]
        return torch.cat(parts, dim=1)


class I3D(nn.Module):
    """Inception-v1 I3D (Carreira and Zisserman 2017), with the names of pytorch-i3d's state dict.

    12,697,264 parameters with 400 classes.
    """

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        stages = {
            "Conv3d_1a_7x7": Unit(3, 64, 7, 2),
            "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit(64, 64),
            "Conv3d_2c_3x3": Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
            "Mixed_3b": Mixed(192, 64, 96, 128, 16, 32, 32),
            "Mixed_3c": Mixed(256, 128, 128, 192, 32, 96, 64),
            "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
            "Mixed_4b": Mixed(480, 192, 96, 208, 16, 48, 64),
            "Mixed_4c": Mixed(512, 160, 112, 224, 24, 64, 64),
            "Mixed_4d": Mixed(512, 128, 128, 256, 24, 64, 64),
            "Mixed_4e": Mixed(512, 112, 144, 288, 32, 64, 64),
            "Mixed_4f": Mixed(528, 256, 160, 320, 32, 128, 128),
            "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
            "Mixed_5b": Mixed(832, 256, 160, 320, 32, 128, 128),
            "Mixed_5c": Mixed(832, 384, 192, 384, 48, 128, 128),
        }
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.stages = tuple(stages)
        self.logits = Unit(1024, classes, plain=True)

    def forward(self, x: RGBVideos) -> Float[Tensor, "b k"]:
        """Videos of 9 frames or more, 224x224, in [-1, 1], to logits averaged over time."""
        if x.shape[2] < 9 or min(x.shape[3:]) < 193:
            raise ValueError(
                f"I3D needs 9 frames of 193 pixels or more, but found {tuple(x.shape[2:])}"
            )
        for name in self.stages:
            x = self.get_submodule(name)(x)
        pooled = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(pooled).mean(dim=(2, 3, 4))


# ---------------------------------------------------------------- inputs


def resize_and_crop(x: RGBVideos, side: int, *, size: tuple[int, int] | None = None) -> Squares:
    """Bilinear to a short side of `side` pixels (or to `size`), then the centre `side` x `side`.

    The long side is rounded up, and nothing is smoothed before it shrinks: as published FVDs do.
    """
    height, width = x.shape[3:]
    scale = side / min(height, width)
    tall, wide = size or (math.ceil(n * scale - 1e-9) for n in (height, width))
    flat = rearrange(x, "b c t h w -> (b t) c h w")
    flat = F.interpolate(flat, size=(tall, wide), mode="bilinear", align_corners=False)
    top, left = (tall - side) // 2, (wide - side) // 2
    flat = flat[..., top : top + side, left : left + side]
    return rearrange(flat, "(b t) c h w -> b c t h w", b=len(x))


def i3d_input(x: Shaped[Tensor, "b 3 t h w"], side: int = FVD_SIDE) -> Squares:
    """A video in [-1, 1], rounded to bytes, at the size and range of I3D ([-1, 1])."""
    return resize_and_crop(as_bytes(x), side)


# ---------------------------------------------------------------- ready to use


@dataclass(frozen=True, eq=False, kw_only=True)
class Extractor:
    """A network with its weights, as a function of videos in [-1, 1]."""

    name: str  # the network and the first eight digits of its weights' sha256
    apply: Callable[[RGBVideos], Float[Tensor, "b d"]]
    frames: int | None  # cut clips into parts of so many frames; None: the whole clip at once

    @torch.no_grad()
    def __call__(self, x: Video | Tensor) -> Float[Tensor, "n d"]:
        """One feature vector per clip, or per whole part of `frames` (a remainder is left out).

        ValueError for what are not frames in [-1, 1] (see `frames`), and too few of them.
        """
        x = unit_frames(x, slack=OVERSHOOT)
        if self.frames is None:
            return self.apply(x)
        if x.shape[2] < self.frames:
            raise ValueError(f"{self.name} needs {self.frames} frames, but found {x.shape[2]}")
        count = x.shape[2] // self.frames
        return torch.cat([self.apply(part) for part in x.split(self.frames, dim=2)[:count]])


def load_i3d(
    source: str | Path | None = None,
    *,
    sha256: str | None = None,
    frames: int | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """I3D in pytorch-i3d's layout, 400 logits averaged over time, for FVD.

    `source` is a path, or a URL with its `sha256`; None looks for i3d_pretrained_400.pt. Raises
    FileNotFoundError with the place to put it.
    """
    device = pick_device(device)
    path = find_weights(I3D_FILE, source, sha256=sha256)
    network = I3D()
    load_weights(network, read_weights(I3D_FILE, path), what=f"the file for {I3D_FILE.purpose}")
    network.to(device).eval().requires_grad_(False)
    apply = lambda x: network(i3d_input(x.to(device)))
    return Extractor(name=f"i3d-{hash_files(path)[:8]}", apply=apply, frames=frames)


def load_styleganv(
    source: str | Path | None = None,
    *,
    sha256: str | None = None,
    frames: int | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """StyleGAN-V's TorchScript I3D: 400 features of bytes, which it scales and resizes itself.

    A TorchScript file holds code: load only one whose source you trust, best with its `sha256`.
    """
    device = pick_device(device)
    path = find_weights(STYLEGANV_FILE, source, sha256=sha256)
    with warnings.catch_warnings():  # torch would rather have us use torch.export
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            network = torch.jit.load(str(path), map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(f"{path} is not a TorchScript file of an I3D") from error

    def apply(x: RGBVideos) -> Float[Tensor, "b d"]:
        pixels = ((as_bytes(x) + 1) * 127.5).round().to(device)
        return network(pixels, rescale=True, resize=True, return_features=True)

    return Extractor(name=f"i3d-styleganv-{hash_files(path)[:8]}", apply=apply, frames=frames)
