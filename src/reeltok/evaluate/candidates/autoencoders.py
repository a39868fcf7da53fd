"""Foreign tokenizers as subjects: a network of others, Cosmos' TorchScript, any function.

Each is given frames and sizes that it takes (the last frame and the edges repeated) and is cropped
back. What it compresses by is found by running it, not by its attributes.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reeltok.evaluate.candidates.subjects import Trial, complete, timed
from reeltok.evaluate.clips import Clip
from reeltok.evaluate.results import Kind
from reeltok.files.atomic import sha256
from reeltok.files.parsing import read_object

# Frames of the two clips that show how a network counts time: 24 more, a multiple of all known
# groups (2, 3, 4, 6, 8, 12), and one more than such a multiple.
PROBE = (25, 49)
PROBE_SIZE = 64  # pixels a side of those


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a network counts: groups of `time` frames, after a first of one where `causal`."""

    time: int
    height: int
    width: int
    causal: bool
    channels: int
    front: int = 0  # copies of the first frame that it wants before a clip, and drops itself

    def frames(self, count: int) -> int:
        """The frames that a clip of `count` is completed to."""
        first = int(self.causal)
        return first + -(-max(0, count - first) // self.time) * self.time


@dataclass(frozen=True, eq=False, kw_only=True)
class Coded:
    """What an encoder gave: a tensor for the decoder, integers where it is discrete."""

    z: Tensor
    ids: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Foreign:
    """A network of others with an encoder and a decoder."""

    name: str
    encode: Callable[[Tensor], Coded]
    decode: Callable[[Coded], Tensor]
    shape: Shape
    module: nn.Module
    vocabulary: int | None = None
    trained: bool = True
    weights: str | None = None
    source: str = ""
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    kind: Kind = "peer"

    @property
    def causal(self) -> bool:
        return self.shape.causal

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used, and what it is."""
        return {
            "factors": [self.shape.time, self.shape.height, self.shape.width],
            "channels": self.shape.channels,
            "vocabulary": self.vocabulary,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "source": self.source,
        }

    def whole(self, x: Float[Tensor, "1 3 t h w"]) -> Float[Tensor, "1 3 u i j"]:
        """A clip completed to what the network takes."""
        shape = self.shape
        x = complete(x, shape.frames(x.shape[2]), (shape.height, shape.width))
        if shape.front:
            x = torch.cat([x[:, :, :1].expand(-1, -1, shape.front, -1, -1), x], dim=2)
        return x

    def reconstruct(self, clip: Clip) -> Trial:
        """Encode and decode. ValueError naming this peer where it gives frames of another shape."""
        x, seconds = clip.video.tensor(), dict[str, float]()
        given = self.whole(x).to(self.device, self.dtype)
        with torch.no_grad(), timed(seconds, "encode", self.device):
            coded = self.encode(given)
        with torch.no_grad(), timed(seconds, "decode", self.device):
            y = self.decode(coded)
        y = cropped(self.name, y, given[:, :, self.shape.front :], x)
        if coded.ids is not None and self.vocabulary:
            bits = coded.ids.numel() * (self.vocabulary - 1).bit_length()
        else:
            bits = 16 * coded.z.numel()
        ids = None if coded.ids is None else coded.ids[0].cpu()
        return Trial(x=y.float(), bits=bits, ids=ids, seconds=seconds)

    def facts(self, clip: Clip) -> dict[str, float]:
        """The number of parameters."""
        return {"parameters": float(sum(p.numel() for p in self.module.parameters()))}


def cropped(name: str, y: Any, given: Tensor, x: Tensor) -> Tensor:
    """What a peer made of the completed clip `given`, cut to `x`'s frames and size.

    Raises ValueError naming the peer where it is not frames of the same number and size.
    """
    if not isinstance(y, Tensor) or y.shape != given.shape:
        found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"{name} was given frames {tuple(given.shape)} and gave back {found}: a peer must keep "
            "frames and size"
        )
    return y[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]


def find_shape(encode: Callable[[Tensor], Coded], like: Tensor, *, front: int = 0) -> Shape:
    """How an encoder counts, from two clips that it is given on the device of `like`.

    Raises ValueError where its latent is not a volume, or its steps are not regular.
    """
    found = []
    for frames in PROBE:
        x = like.new_zeros(1, 3, frames + front, PROBE_SIZE, PROBE_SIZE)
        with torch.no_grad():
            coded = encode(x)
        z = coded.z if coded.ids is None else coded.ids[:, None]
        if z.ndim != 5:
            raise ValueError(f"its latent has shape {tuple(z.shape)}, not batch d t h w")
        found.append(tuple(z.shape))
    steps = found[1][2] - found[0][2]
    time = (PROBE[1] - PROBE[0]) // max(1, steps)
    causal = PROBE[0] == 1 + (found[0][2] - 1) * time
    channels, height, width = found[0][1], PROBE_SIZE // found[0][3], PROBE_SIZE // found[0][4]
    return Shape(
        time=time, height=height, width=width, causal=causal, channels=channels, front=front
    )


# ---------------------------------------------------------------- TorchScript


def open_scripted(folder: Path, *, device: torch.device) -> Foreign:
    """A pair `encoder.jit`, `decoder.jit` in the manner of Cosmos.

    The encoder gives a latent, or ids (below 64,000 unless config.json says "vocabulary") first.
    """
    paths = [folder / "encoder.jit", folder / "decoder.jit"]
    try:
        encoder, decoder = (torch.jit.load(path, map_location=device).eval() for path in paths)
    except RuntimeError as error:
        raise ValueError(f"{folder}: {str(error).splitlines()[0]}: copy the pair again") from error
    dtype = next((p.dtype for p in encoder.parameters()), torch.float32)

    def encode(x: Tensor) -> Coded:
        first = _first(encoder(x))
        return Coded(z=first, ids=None if first.is_floating_point() else first)

    shape = find_shape(encode, torch.empty(0, device=device, dtype=dtype))
    discrete = not encode(
        torch.zeros(1, 3, PROBE[0], PROBE_SIZE, PROBE_SIZE, device=device, dtype=dtype)
    ).z.is_floating_point()
    config = folder / "config.json"
    record = read_object(config) if config.exists() else {}
    return Foreign(
        name=folder.name,
        encode=encode,
        decode=lambda coded: _first(decoder(coded.z)),
        shape=shape,
        module=nn.ModuleList([encoder, decoder]),
        vocabulary=int(record.get("vocabulary", 64_000)) if discrete else None,
        weights=sha256(*paths),
        source="TorchScript",
        dtype=dtype,
        device=device,
    )


def _first(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


# ---------------------------------------------------------------- any function


@dataclass(frozen=True, eq=False, kw_only=True)
class Function:
    """`module:function` from a clip "1 3 t h w" in [-1, 1] to its reconstruction, or that and ids.

    The function may have attributes `group` (it takes 1 + k x group frames), `cells` (it takes
    multiples of these heights and widths) and `vocabulary` (of its ids).
    """

    name: str
    function: Callable[[Tensor], Any]

    kind: Kind = "peer"
    weights: None = None
    trained: bool = True
    causal: bool = True

    @property
    def vocabulary(self) -> int | None:
        return getattr(self.function, "vocabulary", None)

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used."""
        found = {key: getattr(self.function, key, None) for key in ("group", "cells")}
        return found | {"vocabulary": self.vocabulary, "source": "function"}

    def reconstruct(self, clip: Clip) -> Trial:
        """Call it. ValueError naming it where it gives frames of another shape."""
        x, seconds = clip.video.tensor(), dict[str, float]()
        group = getattr(self.function, "group", 1)
        frames = 1 + -(-(x.shape[2] - 1) // group) * group
        given = complete(x, frames, getattr(self.function, "cells", (1, 1)))
        with torch.no_grad(), timed(seconds, "both"):
            out = self.function(given)
        y, ids = out if isinstance(out, tuple) else (out, None)
        bits = None
        if ids is not None and self.vocabulary:
            bits = ids.numel() * (self.vocabulary - 1).bit_length()
        y = cropped(self.name, y, given, x)
        return Trial(
            x=y.float(), bits=bits, ids=None if ids is None else ids.cpu(), seconds=seconds
        )

    def facts(self, clip: Clip) -> dict[str, float]:
        """Nothing that a function tells."""
        return {}


def open_function(name: str) -> Function:
    """The function that "module:function" names; modules of the working folder are found too."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the peer {name} cannot be imported ({error}): give module:function"
        ) from (error)
    return Function(name=name, function=found)
