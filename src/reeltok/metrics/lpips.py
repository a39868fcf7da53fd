"""LPIPS v0.1 (Zhang et al. 2018): the distance of two frames as a network sees them.

Training uses it as a loss and judging as a metric, never with the same backbone. The backbones
are plain torch with torchvision's key names; their weights are files that this room finds or
fetches (`find_weights`, `fetch_weights`), for the networks of evaluate/ too.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from reeltok.files.atomic import cache_folder, replacing
from reeltok.files.checkpoints import find_part, load_weights, read_checkpoint
from reeltok.files.hashes import hash_files, hash_parts
from reeltok.video.frames import OVERSHOOT, as_values

NetworkName = Literal["alex", "squeeze", "vgg"]
Images = Float[Tensor, "n 3 h w"]
State = dict[str, Tensor]

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet statistics for [-1, 1]


# ---------------------------------------------------------------- backbones


class Fire(nn.Module):
    """SqueezeNet's block: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side."""

    def __init__(self, width: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Frames of `width` channels to frames of 2 x `expand` channels."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def alexnet() -> list[nn.Module]:
    """The convolutional layers of AlexNet, as torchvision numbers them."""
    return [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def squeezenet() -> list[nn.Module]:
    """The convolutional layers of SqueezeNet 1.1, as torchvision numbers them."""
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)
    return [
        *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool()),
        *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    ]


def vgg16() -> list[nn.Module]:
    """The convolutional layers of VGG-16 up to its last ReLU, as torchvision numbers them."""
    layers: list[nn.Module] = []
    width = 3
    for stage, (out, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        layers += [nn.MaxPool2d(2)] if stage else []
        for _ in range(count):
            layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
            width = out
    return layers


@dataclass(frozen=True)
class BackboneLayers:
    """One backbone: its layers, after which of them features are read, its smallest side."""

    layers: Callable[[], list[nn.Module]]
    cuts: tuple[int, ...]
    widths: tuple[int, ...]
    smallest: int


PLANS: dict[str, BackboneLayers] = {
    "alex": BackboneLayers(alexnet, (2, 5, 8, 10, 12), (64, 192, 384, 256, 256), 31),
    "squeeze": BackboneLayers(
        squeezenet, (2, 5, 8, 10, 11, 12, 13), (64, 128, 256, 384, 384, 512, 512), 17
    ),
    "vgg": BackboneLayers(vgg16, (4, 9, 16, 23, 30), (64, 128, 256, 512, 512), 16),
}


class Backbone(nn.Module):
    """A frozen image network that gives the features of each of its stages."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        if net not in PLANS:
            raise ValueError(f"no LPIPS backbone {net!r}; there are {', '.join(PLANS)}")
        self.net, self.cuts, self.smallest = net, PLANS[net].cuts, PLANS[net].smallest
        self.features = nn.Sequential(*PLANS[net].layers())
        self.register_buffer("shift", torch.tensor(SHIFT).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        for weight in self.parameters():
            if weight.ndim == 4:  # up to twice as fast on a CPU
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Images) -> list[Float[Tensor, "n c i j"]]:
        """Frames in [-1, 1] to one feature map per stage, finest first."""
        if min(x.shape[-2:]) < self.smallest:
            side, size = self.smallest, tuple(x.shape[-2:])
            raise ValueError(f"{self.net} needs frames of at least {side}x{side}, but found {size}")
        x = ((x - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        maps, start = [], 0
        for stop in self.cuts:
            x = self.features[start:stop](x)
            maps.append(x)
            start = stop
        return maps


# ---------------------------------------------------------------- LPIPS


class LPIPS(nn.Module):
    """LPIPS v0.1 with an AlexNet, SqueezeNet-1.1 or VGG-16 backbone, frozen, without dropout.

    `backbone` and `heads` are files or state dicts; None looks for the public files (see
    `find_weights`). Raises FileNotFoundError with the place to put a missing file, ValueError
    where one of the right name holds other weights than the published ones.
    """

    def __init__(
        self,
        net: str = "alex",
        *,
        backbone: str | Path | State | None = None,
        heads: str | Path | State | None = None,
        chunk: int = 16,
    ) -> None:
        super().__init__()
        self.net, self.chunk = net, chunk
        self.backbone = Backbone(net)
        state = read_weights(BACKBONES[net], backbone)
        load_weights(self.backbone, state, what=f"the {net} backbone's file")
        self.heads = nn.ParameterList(_heads(net, read_weights(HEADS[net], heads)))
        self.requires_grad_(False)
        for file, source, part in (
            (BACKBONES[net], backbone, self.backbone),
            (HEADS[net], heads, self.heads),
        ):
            if source is None:
                check_published(file, part.state_dict().values())

    def forward(
        self, x: Shaped[Tensor, "n 3 h w"], y: Shaped[Tensor, "n 3 h w"]
    ) -> Float[Tensor, "n"]:
        """The distance of each pair of frames, floats in [-1, 1] or uint8; gradients reach both.

        Raises ValueError for other types and ranges, but as a loss, where gradients are asked for,
        it takes what a network makes.
        """
        if not (x.requires_grad or y.requires_grad):
            x, y = (as_values(each, "a frame", OVERSHOOT) for each in (x, y))
        return self.distance(x, y)

    def distance(self, x: Images, y: Images) -> Float[Tensor, "n"]:
        """The same without a look at the values."""
        parts = zip(x.split(self.chunk), y.split(self.chunk), strict=True)
        return torch.cat([self.compare(self.backbone(a), self.backbone(b)) for a, b in parts])

    def compare(self, a: list[Tensor], b: list[Tensor]) -> Float[Tensor, "n"]:
        """The distance of each pair of frames, from their backbone features."""
        total = torch.zeros(len(a[0]), device=a[0].device, dtype=self.heads[0].dtype)
        for head, left, right in zip(self.heads, a, b, strict=True):
            difference = (_normalize(left) - _normalize(right)).square()
            total = total + torch.einsum("nchw,c->nhw", difference, head).mean(dim=(1, 2))
        return total


def random_lpips(net: NetworkName, **_: object) -> LPIPS:
    """LPIPS of random weights: as large and as slow as the real one, for a dry run."""
    heads = {f"lin{i}.model.1.weight": torch.rand(w) for i, w in enumerate(PLANS[net].widths)}
    return LPIPS(net, backbone=Backbone(net).state_dict(), heads=heads)


def _normalize(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    # vector_norm has a gradient of 0 at 0, where the root of a sum of squares has NaN.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


def _heads(net: str, state: State) -> list[Float[Tensor, "c"]]:
    wanted = {f"lin{i}.model.1.weight": w for i, w in enumerate(PLANS[net].widths)}
    state = within(state, wanted)
    found = {k: state[k].numel() for k in wanted if k in state}
    if found != wanted:
        raise ValueError(
            f"the LPIPS heads for {net} should hold {wanted}, but this file holds {found}: "
            f"give v0.1 heads of the same network"
        )
    return [state[key].flatten().float() for key in wanted]


# ---------------------------------------------------------------- weight files


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A public weight file: what it is for, its name, where it is published, its sha256.

    `aliases` are names that others give it, or a file with the same weights; `values` is the
    sha256 of those weights' float32 values, one tensor after the other, where it is known.
    """

    purpose: str
    name: str
    url: str | None = None
    sha256: str | None = None
    values: str | None = None
    aliases: tuple[str, ...] = ()


_TORCH = "https://download.pytorch.org/models/"
_LPIPS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
BACKBONES: dict[str, WeightFile] = {
    "alex": WeightFile(
        purpose="LPIPS with AlexNet",
        name="alexnet-owt-7be5be79.pth",
        url=_TORCH + "alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        values="2b566cc3a4d6f0a7343701af22f461f1ac3dcd03a3ac28cce10968a1d3c85fdc",
        aliases=("alexnet_features_torchvision.pth", "alexnet-owt-4df8aa71.pth"),
    ),
    "squeeze": WeightFile(
        purpose="LPIPS with SqueezeNet",
        name="squeezenet1_1-b8a52dc0.pth",
        url=_TORCH + "squeezenet1_1-b8a52dc0.pth",
        sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        values="31a70309e8549af9ed7a9ac21db00c246844293b72a774f4d1a18e9edfde8605",
        aliases=("squeezenet1_1_features_torchvision.pth", "squeezenet1_1-f364aa15.pth"),
    ),
    "vgg": WeightFile(
        purpose="LPIPS with VGG-16",
        name="vgg16-397923af.pth",
        url=_TORCH + "vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        aliases=("vgg16_features_torchvision.pth",),
    ),
}
HEADS: dict[str, WeightFile] = {
    net: WeightFile(
        purpose=f"LPIPS with {net}",
        name=f"lpips_lin_v0.1_{net}.pth",
        url=f"{_LPIPS}{net}.pth",
        sha256=sha256,
        values=values,
        aliases=(f"{net}.pth",),  # in the lpips package
    )
    for net, sha256, values in (
        (
            "alex",
            "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            "718a8b40b0d22f96192d34ab93c0db5c7943558ff6c2407f44812dce2f29b5f4",
        ),
        (
            "squeeze",
            "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
            "68f1b1752260e0335c6394983132e210e3ed5c2540e78d239be07671a77130e4",
        ),
        (
            "vgg",
            "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            "9153a2043dccf3b525d4f13db916e93ef040548ea923b6f2100de5ebac141a78",
        ),
    )
}


def weights_folder() -> Path:
    """Where weight files are kept: REELTOK_WEIGHTS, or the cache."""
    return Path(os.environ.get("REELTOK_WEIGHTS") or cache_folder())


def find_weights(
    file: WeightFile, source: str | Path | None = None, *, sha256: str | None = None
) -> Path:
    """The path of a weight file; nothing is fetched unless `source` is a URL.

    Looked for are `source` (a path, or a URL with its `sha256`), then the file's names in
    `weights_folder()`, where torch keeps what torchvision fetched, and in REELTOK_SHARED's
    `weights` folder (default ../shared/weights). Raises FileNotFoundError with one sentence that
    says which file belongs where, ValueError where the file has another sha256 than the one given.
    """
    if source is not None and str(source).startswith(("http://", "https://")):
        return fetch_weights(str(source), sha256 or file.sha256, weights_folder())
    if source is not None:
        if not Path(source).is_file():
            raise FileNotFoundError(f"{file.purpose}: there is no weight file at {source}")
        return _checked(file, Path(source), sha256)
    shared = Path(os.environ.get("REELTOK_SHARED") or Path("..", "shared")) / "weights"
    names = (file.name, *file.aliases)
    for folder in (weights_folder(), Path(torch.hub.get_dir(), "checkpoints"), shared):
        for name in names:
            if (folder / name).is_file():
                return _checked(file, folder / name, sha256)
    others = f"; it may also be called {' or '.join(file.aliases)}" if file.aliases else ""
    raise FileNotFoundError(
        f"{file.purpose} has no weights: put {file.name} into {weights_folder()} "
        f"(REELTOK_WEIGHTS names another folder{others})"
        + (f"; it is at {file.url}" if file.url else "")
    )


def _checked(file: WeightFile, path: Path, sha256: str | None) -> Path:
    if sha256 is not None and (found := hash_files(path)) != sha256.lower():
        raise ValueError(
            f"{file.purpose}: {path} should have sha256 {sha256}, but has {found}: give another "
            "file, or the hash of this one"
        )
    return path


def check_published(file: WeightFile, tensors: Iterable[Tensor]) -> None:
    """ValueError unless these, read from where `file` is found, are the published weights.

    Their values are compared, since the same weights lie in unlike files; where those are not
    known, the sha256 of a file of the published name.
    """
    path, wanted = find_weights(file), file.values
    if wanted is not None:
        rows = (tensor.detach().cpu().float().flatten() for tensor in tensors)
        found = hash_parts(row.view(torch.uint8).numpy().data for row in rows)
    elif path.name == file.name and file.sha256 is not None:
        wanted, found = file.sha256, hash_files(path)
    else:
        return
    if found != wanted:
        where = f" of {file.url}" if file.url else ""
        raise ValueError(
            f"{file.purpose}: {path} does not hold the published weights (hash {found[:8]}, not "
            f"{wanted[:8]}): put {file.name}{where} in its place"
        )


def fetch_weights(url: str, sha256: str | None, folder: Path, *, timeout: float = 60) -> Path:
    """Fetch `url` into `folder` unless a file of this sha256 lies there; nothing unchecked stays.

    Raises ValueError for a missing or different sha256, OSError where the URL cannot be read.
    """
    if sha256 is None:
        raise ValueError(f"downloading {url} needs the sha256 of the file, to check what arrives")
    target = folder / Path(urlsplit(url).path).name
    if target.is_file() and hash_files(target) == sha256.lower():
        return target
    try:
        with replacing(target) as part:
            with part.open("wb") as out, urllib.request.urlopen(url, timeout=timeout) as reply:
                while block := reply.read(1 << 20):
                    out.write(block)
            if (found := hash_files(part)) != sha256.lower():
                raise ValueError(
                    f"{url} should have sha256 {sha256}, but has {found}: it was not kept"
                )
    except urllib.error.URLError as error:
        raise OSError(f"{url} could not be read ({error.reason}): fetch it to {target}") from error
    return target


def read_weights(file: WeightFile, source: str | Path | State | None = None) -> State:
    """A weight file as a state dict on the CPU (.pth without code execution, or safetensors)."""
    if isinstance(source, dict):
        return source
    path = find_weights(file, source)
    try:
        return read_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"{file.purpose}: not a readable weight file: {error}") from error


def within(state: State, names: Iterable[str]) -> State:
    """The part of a state dict, under whatever prefix, that holds most of `names`."""
    part = find_part(state, set(names))
    return state if part is None else dict(part.tensors)
