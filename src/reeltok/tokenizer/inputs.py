"""What people hand to a tokenizer, as the records that it works on.

A clip may be a `Video`, a path, an array, or a tensor with or without its batch and time axes;
tokens may be a record, a `.reel` file, or bare ids or latents of a clip of whole groups.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reeltok.arguments import require_kind, said
from reeltok.files.text import printable
from reeltok.nn.quantizers import Quantized
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.steps import require_grid
from reeltok.tokenizer.streaming import FrameRun, frame_size, type_name
from reeltok.tokenizer.weights import LateHash, Versions, Weighed
from reeltok.tokens.ids import check_latents, join_sizes
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel, load_tokens
from reeltok.video.frames import as_tensor, as_values, check_values, five_axes
from reeltok.video.record import Video, read
from reeltok.video.size import ratio_text

ClipLike = Any
"""What `as_clip` takes: a `Video`, a path, bytes or a file object, an array or a tensor."""
TokensLike = Any
"""What `as_tokens` takes: a `Tokens` or `Reel` record, a path, or bare ids or latents."""
HALF = 0.02  # how far codes within [-1, 1] and their like may move in half precision


@runtime_checkable
class Coder(Protocol):
    """What these functions ask of a tokenizer."""

    name: str
    reads: tuple[str, ...]
    earlier: Mapping[str, str]
    packing: Path | None
    training: bool
    about: Mapping[str, Any]

    @property
    def spec(self) -> Spec: ...
    @property
    def used(self) -> Mapping[str, Any]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def grid_for(self, frames: int, size: tuple[int, int]) -> tuple[int, ...]: ...
    def hash(self) -> str: ...
    def versions(self) -> Versions: ...
    def weighed(self) -> Weighed: ...
    def lookup(self, ids: Tensor) -> Tensor: ...
    @property
    def device(self) -> torch.device: ...


# ---------------------------------------------------------------- clips


def as_clip(x: ClipLike) -> Video | Tensor:
    """A clip as a `Video`, or as a tensor "b c t h w" of its own type; files are read.

    Bytes "t h w 3" or "h w 3" are a `Video` without a rate. Raises ValueError for other shapes.
    """
    if isinstance(x, str | Path | bytes) or hasattr(x, "read"):
        return read(x)
    if isinstance(x, Video):
        return x
    x = as_tensor(x)
    if x.dtype == torch.uint8 and x.ndim in (3, 4) and x.shape[-1] == 3:
        return Video.of(x)
    x = five_axes(x)
    if x.shape[1] != 3:
        raise ValueError(f"the clip came with shape {tuple(x.shape)}: give b c t h w with c = 3")
    return x


def forward_input(x: Tensor, tokenizer: Coder) -> Tensor:
    """Frames "b c t h w" as `forward` gets them, in [-1, 1]; in training some pixels are checked.

    ValueError for other types and ranges (see `frames`).
    """
    if not isinstance(x, Tensor) or x.ndim != 5 or x.shape[1] != 3:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"a call takes a tensor b c t h w with c = 3, found {found}: use encode")
    if not torch.compiler.is_compiling():
        require_whole(x, tokenizer.spec)
    if not x.is_floating_point():
        return as_values(x).to(tokenizer.dtype)
    check_values(x[..., ::4, ::4] if tokenizer.training else x)
    return x


def require_whole(x: Tensor, spec: Spec) -> None:
    """ValueError unless frames `b c t h w` are whole groups in whole cells."""
    (_, fh, fw), (frames, height, width) = spec.factors, x.shape[2:]
    if spec.window is None and spec.frames(spec.steps(frames)) != frames:
        raise ValueError(
            f"a call of {spec.name} takes {spec.first_frames} frames and then groups of "
            f"{spec.frames_per_group}, found {frames}: give whole groups, or use encode"
        )
    if height % fh or width % fw:
        raise ValueError(
            f"a call of {spec.name} takes sides that divide by {fh} and {fw}, found "
            f"{height}x{width}: crop the frames, or use encode"
        )


def check_sample(sample: Any, tokenizer: Coder) -> None:
    """ValueError unless `sample` can draw latents of `tokenizer`, or is None."""
    if sample is None:
        return
    if not isinstance(sample, torch.Generator):
        raise ValueError(
            f"sample={said(sample)} is no torch.Generator: give "
            "torch.Generator().manual_seed(0) to draw latents, or None for their mean"
        )
    if tokenizer.spec.vocabulary is not None and not tokenizer.training:
        raise ValueError(f"{tokenizer.name} has ids, which are not drawn: leave sample=None")


def drawing(tokenizer: Coder, generator: torch.Generator | None) -> torch.Generator | None:
    """What `forward` draws latents from: in training torch's own generator if there is none."""
    return torch.default_generator if generator is None and tokenizer.training else generator


def axes_of(x: Any, clip: Video | Tensor) -> str | None:
    """The axes of what became `clip`, where a tensor lacked some of "b c t h w", else None."""
    if isinstance(clip, Video) or x.ndim == 5:
        return None
    if x.ndim == 3:
        return "c h w"
    return "c t h w" if x.shape[0] == 3 else "b c h w"


def say_axes(tokens: Tokens, axes: str | None) -> Tokens:
    """Tokens that tell `decode` of axes that their frames lacked."""
    return tokens if axes is None else tokens.with_(settings={**tokens.settings, "axes": axes})


def with_axes(x: Video | Tensor, axes: str | None) -> Video | Tensor:
    """Frames "b c t h w" with the axes that `axes_of` found, a `Video` as it is."""
    if axes is None or isinstance(x, Video):
        return x
    x = x if axes.startswith("b") else x[0]
    return x if "t" in axes else x.select(-3, 0)


# ---------------------------------------------------------------- tokens


def as_tokens(x: TokensLike, tokenizer: Coder) -> Tokens | Reel:
    """Tokens to decode, on their grid, from a record, a `.reel` path, or bare tensors.

    These are ids "b *grid" or latents "b d *grid" of a clip of whole groups and cells, and may lack
    the batch. Raises ValueError for shapes that no such clip has.
    """
    if isinstance(x, Reel):
        x.packing = x.packing or tokenizer.packing
        return x
    if isinstance(x, Tokens):
        grid = tokenizer.grid_for(x.frames, (x.height, x.width))
        return x.on_grid(grid) if x.grid == (math.prod(grid),) else x
    if isinstance(x, str | Path):
        return load_tokens(x, packing=tokenizer.packing)
    try:
        tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"tokens came as {type(x).__name__}: give Tokens, or a tensor of ids or latents"
        ) from error
    spec, floating = tokenizer.spec, tensor.is_floating_point()
    _, fh, fw = spec.factors
    axes = len(tokenizer.grid_for(spec.first_frames, spec.size or (fh, fw)))
    tensor = tensor if tensor.ndim != axes + floating else tensor[None]
    if tensor.ndim != 1 + floating + axes or not tensor.numel():
        named = (
            "batch " + "channels " * floating + ("tokens" if axes == 1 else "steps rows columns")
        )
        raise ValueError(
            f"{spec.name} decodes {'latents' if floating else 'ids'} {named!r}, found shape "
            f"{join_sizes(tensor.shape)}: give those, or Tokens made with frames= and size="
        )
    steps, *cells = tensor.shape[-axes:]
    if steps < spec.first_steps or (steps - spec.first_steps) % spec.steps_per_group:
        raise ValueError(
            f"{spec.name} decodes {spec.first_steps} steps and then groups of "
            f"{spec.steps_per_group}, found {steps}: give whole groups"
        )
    about: dict[str, Any] = {
        "frames": spec.frames(steps),
        "size": spec.size or (cells[0] * fh, cells[1] * fw),
        "tokenizer": tokenizer,
        "settings": {"given": str(tensor.dtype if floating else tokenizer.dtype)[6:]},
    }
    return Tokens.from_latents(tensor, **about) if floating else Tokens.from_ids(tensor, **about)


def said_vocabulary(vocabulary: int | None) -> str:
    """What tokens are, in words: ids of a vocabulary, or latents."""
    return "latents" if vocabulary is None else f"a vocabulary of {vocabulary}"


def check_tokens(tokens: Tokens | Reel, tokenizer: Coder) -> None:
    """ValueError unless `tokenizer` can have made `tokens`, or their maker is not known."""
    if not isinstance(tokens, Reel):
        require_kind(tokens, Tokens, "a tokenizer decodes Tokens")
    spec, latents = tokenizer.spec, None if isinstance(tokens, Reel) else tokens.latents
    known = tokens.vocabulary is not None or tokens.model
    if known and tokens.vocabulary != spec.vocabulary:
        ours, theirs = said_vocabulary(spec.vocabulary), said_vocabulary(tokens.vocabulary)
        if isinstance(tokens, Tokens) and tokens.ids is not None and tokens.vocabulary is None:
            theirs = "ids of an unknown vocabulary"
        raise ValueError(
            f"{spec.name} has {ours}, these tokens come from {tokens.model!r} with {theirs}: load "
            "that tokenizer"
        )
    late = vars(tokens).get("weights")
    own = isinstance(late, LateHash) and late.is_of(tokenizer)
    if not own and tokens.weights is not None and not made_by(tokens.weights, tokenizer):
        theirs, ours = printable(tokens.weights[:12]), tokenizer.hash()[:12]
        commit = tokenizer.earlier.get(tokens.weights)
        advice = (
            "load the model that has them (`model`, or reeltok.load(FOLDER))"
            if commit is None
            else f"reeltok at commit {commit} reads them; decode there, or encode the clip again"
        )
        raise ValueError(
            f"these tokens come from {tokens.model!r} with {'earlier' if commit else 'other'} "
            f"weights ({theirs}, here {ours}): {advice}"
        )
    if latents is not None:
        check_latents(latents)


def made_by(weights: str | None, tokenizer: Coder) -> bool:
    """Whether `weights` is the hash of `tokenizer`, or of one that makes the same tokens."""
    return weights in (tokenizer.hash(), *tokenizer.reads)


def stored_latents(tokens: Tokens, tokenizer: Coder) -> Tensor:
    """The latents that tokens hold, or those that their ids stand for.

    ValueError where they are of another size, or hold both and the latents are of other ids;
    training may change codes.
    """
    size = (tokens.height, tokens.width)
    require_grid(tokens, tokenizer.spec, tokenizer.grid_for(1, size)[1:])
    if tokens.ids is None:
        return tokens.first_tensor
    codes = tokenizer.lookup(tokens.ids.to(tokenizer.device))
    if tokens.latents is None:
        return codes
    latents = tokens.latents.detach().to(codes)
    same = latents.shape == codes.shape and latents.allclose(codes, rtol=0, atol=HALF)
    if not same and not tokenizer.training and not tokens.latents.requires_grad:
        raise ValueError(
            "these tokens hold ids and the latents of other ids: replace one with "
            "tokens.with_(ids=...) or with_(latents=...), which drops the other"
        )
    return tokens.latents


def record_tokens(
    tokenizer: Coder, quantized: Quantized, run: FrameRun, given: Video | Tensor, window: int | None
) -> Tokens:
    """What a tokenizer made of a run of frames, with all that `decode` needs to know of `given`."""
    video, (height, width) = given if isinstance(given, Video) else None, frame_size(given)
    settings: dict[str, Any] = {"given": type_name(given), **tokenizer.about}
    settings |= tokenizer.used
    if video is not None and video.start:
        settings["start"] = video.start  # where sound begins
    if video is not None and video.aspect != 1:
        settings["pixel_aspect"] = ratio_text(video.aspect)
    return Tokens(
        ids=quantized.ids,
        latents=quantized.z,
        grid=tuple(quantized.z.shape[2:]),
        frames=run.real,
        height=height,
        width=width,
        fps=None if video is None else video.fps,
        times=run.times,
        last=run.last,
        damaged=0 if video is None else video.damaged,
        colour=None if video is None else asdict(video.colour),
        model=tokenizer.name,
        weights=LateHash(tokenizer, tokenizer.weighed()),
        vocabulary=tokenizer.spec.vocabulary,
        settings=settings if window is None else settings | {"window": window},
    )
