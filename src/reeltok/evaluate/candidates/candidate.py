"""What can be judged: anything that takes a clip and gives it back, with what that cost.

A `Candidate` is a tokenizer of ours, a foreign autoencoder, a codec or a resize. `CodedClip` is
what came of one clip. Padding to the frames and sizes that a candidate takes, and cropping back, is
here too.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from reeltok.evaluate.candidates.macs import count_macs, counting
from reeltok.evaluate.clips import ScoredClip
from reeltok.evaluate.results import CandidateKind
from reeltok.files.atomic import scratch
from reeltok.files.hashes import hash_text
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.record import Tokens
from reeltok.transcode.packing import found_packing, packed_bits
from reeltok.video.record import Video, read, to_unit, write

TIMING = ("first_frames", "first_steps", "frames_per_group", "steps_per_group")
"""Values of a `Spec` that say which frames a step of ids is of."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CodedClip:
    """What came of one clip: its reconstruction in [-1, 1], its bits, its ids, the seconds.

    `bits` of a tokenizer are nominal, `stored_bits` what a file holds where its ids are packed.
    """

    x: Float[Tensor, "1 3 t h w"]
    bits: int | None = None
    stored_bits: int | None = None
    ids: Int[Tensor, "*grid"] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Candidate(Protocol):
    """Whatever is judged. `trained` is False for random weights: its quality says nothing."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def kind(self) -> CandidateKind:
        """What sort of thing it is."""
        ...

    @property
    def weights(self) -> str | None:
        """The sha256 of its weights, where it has any."""
        ...

    @property
    def trained(self) -> bool:
        """Whether its weights are not random."""
        ...

    @property
    def causal(self) -> bool:
        """Which of a protocol's clip lengths it is given."""
        ...

    @property
    def vocabulary(self) -> int | None:
        """How many ids there are; None: continuous."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used: all that decides its output but the weights."""
        ...

    def reconstruct(self, clip: ScoredClip) -> CodedClip:
        """Code a clip there and back. ValueError where it does not take such a clip."""
        ...

    def facts(self, clip: ScoredClip) -> dict[str, float]:
        """What does not depend on pixels: parameters, and MACs of one pass over this clip."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenizerCandidate:
    """A tokenizer as a candidate: one of this package, or (`kind="peer"`) a foreign one."""

    tokenizer: Tokenizer
    name: str
    trained: bool = True
    chunk: int | None = None
    tile: int | None = None
    sample: bool = False  # draw the latent instead of taking its mode

    kind: CandidateKind = "tokenizer"

    @property
    def weights(self) -> str | None:
        return self.tokenizer.hash() if self.trained else None

    @property
    def causal(self) -> bool:
        return self.tokenizer.spec.causal

    @property
    def vocabulary(self) -> int | None:
        return self.tokenizer.spec.vocabulary

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it is used, and what it is."""
        spec = self.tokenizer.spec
        return {
            "family": spec.family,
            "factors": list(spec.factors),
            "timing": {
                **{name: getattr(spec, name) for name in TIMING},
                "window": spec.window_for(self.chunk) if self.chunk else spec.window,
            },
            "channels": spec.channels,
            "vocabulary": spec.vocabulary,
            "config": hash_text(json.dumps(self.tokenizer.configuration, sort_keys=True), 12),
            "dtype": str(self.tokenizer.dtype).removeprefix("torch."),
            "device": self.tokenizer.device.type,
            "chunk": self.chunk,
            "tile": self.tile,
            "latent": "sample" if self.sample else "mode",
            **({"used": dict(spec.used)} if spec.used else {}),
            **({"packing": packing.hash} if (packing := found_packing(self.tokenizer)) else {}),
            **({"source": source} if (source := self.tokenizer.about.get("source")) else {}),
        }

    def reconstruct(self, clip: ScoredClip) -> CodedClip:
        """Encode and decode, timed apart; nothing is rounded on the way."""
        seconds = dict[str, float]()
        tokens, y = self._code(clip, seconds)
        ids = None if tokens.ids is None else tokens.ids[0].cpu()
        bits = tokens.bits * math.prod(tokens.grid) + tokens.reference_bits
        # Clamped as every file of it is: an untrained decoder goes far beyond [-1, 1].
        y = y.float().clamp(-1, 1)
        stored = packed_bits(self.tokenizer, tokens)
        return CodedClip(x=y, bits=bits, stored_bits=stored, ids=ids, seconds=seconds)

    def _code(self, clip: ScoredClip, seconds: dict[str, float]) -> tuple[Tokens, Tensor]:
        """The tokens and the frames of a clip; how long each took is put into `seconds`."""
        tokenizer, device = self.tokenizer, self.tokenizer.device
        x = clip.video.tensor(device=device)
        draws = self.sample and self.vocabulary is None  # ids are never drawn
        drawn = torch.Generator(device).manual_seed(0) if draws else None
        with torch.no_grad(), timed(seconds, "encode", device):
            tokens = tokenizer.encode(x, chunk=self.chunk, tile=self.tile, sample=drawn)
        with torch.no_grad(), timed(seconds, "decode", device):
            y = tokenizer.decode(tokens, chunk=self.chunk, tile=self.tile)
        assert isinstance(y, Tensor)
        return tokens, y

    def facts(self, clip: ScoredClip) -> dict[str, float]:
        """The number of parameters, and MACs of one pass over this clip.

        A network that only runs on values is run for them, and has none where coding a clip takes
        more than one pass: in parts it does, and where encoding decodes what the next block needs.
        """
        video = clip.video
        macs = count_macs(self.tokenizer, (len(video), video.height, video.width))
        if macs is None and not (self.chunk or self.tile or self.tokenizer.loops):
            with counting() as counted:
                self._code(clip, {})
            macs = counted.total
        found = {"parameters": float(self.tokenizer.parameter_count())}
        return found | {"macs": macs} if macs else found


def pad_clip(
    x: Shaped[Tensor, "b c t h w"], frames: int, cells: tuple[int, int]
) -> Shaped[Tensor, "b c t2 h2 w2"]:
    """`x` with its last frame repeated up to `frames`, and edges up to multiples of `cells`."""
    for dim, missing in (
        (2, frames - x.shape[2]),
        *((i, -x.shape[i] % cells[i - 3]) for i in (3, 4)),
    ):
        if missing > 0:
            edge = x.narrow(dim, x.shape[dim] - 1, 1)
            x = torch.cat([x, edge.repeat_interleave(missing, dim)], dim)
    return x


@contextmanager
def timed(
    seconds: dict[str, float], part: str, device: torch.device | None = None
) -> Iterator[None]:
    """Inside, the seconds of a part are added up; a GPU's work is waited for."""
    gpu = device is not None and device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    yield
    if gpu:
        torch.cuda.synchronize(device)
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - began


def read_back(x: Float[Tensor, "1 3 t h w"], fps: float | None) -> Float[Tensor, "1 3 t h w"]:
    """A reconstruction as a uint8 mp4 gives it back, for the protocols that judge such files."""
    with scratch() as folder:
        write(Video.of(x.cpu(), fps=fps or 25.0), folder / "made.mp4", pad_even=True)
        frames = read(folder / "made.mp4").frames[:, : x.shape[3], : x.shape[4]]
    return to_unit(frames).to(x.device)
