"""Generators ready for use: a flow or a prior, its tokenizer, and what is asked of it."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from reeltok.arguments import check_rate
from reeltok.devices import pick_device
from reeltok.generate import flow, masked
from reeltok.generate.actions import (
    frames_made,
    known_actions,
    require_actions,
    require_own_actions,
)
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.conditions import give_around, give_frames
from reeltok.generate.folder import family_of, open_tokenizer
from reeltok.generate.prior import Prior
from reeltok.generate.sampling import count_steps
from reeltok.generate.schedule import SHARES, Sampling
from reeltok.generate.sit import Flow
from reeltok.generate.starts import Starts, read_starts
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import Video, read, stream, write
from reeltok.video.sink import Written, check_form


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What is asked of a generator; None: its own default, or nothing of the kind."""

    class_name: str | None = None
    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    schedule: str | None = None
    temperature: float | None = None
    token_temperature: float | None = None
    given: Path | None = None
    given_frames: int | None = None
    last_frames: int | None = None
    inpaint: str | None = None
    outpaint: str | None = None
    blocks: int | None = None
    actions: Path | None = None

    @property
    def completes(self) -> str | None:
        """The option that asks to fill gaps of a given video instead of going on from it."""
        return next((option_of(n) for n in COMPLETING if getattr(self, n) is not None), None)


def option_of(name: str) -> str:
    return f"`{name}`"


COMPLETING = ("last_frames", "inpaint", "outpaint")
FOR_PRIORS = (
    *("schedule", "temperature", "token_temperature"),
    *("given", "given_frames", *COMPLETING, "blocks", "actions"),
)
FOR_FLOWS = ("sampler",)
"""What only one kind of generator can be asked for."""

RATE = 25.0  # frames per second of a generator that does not say its own: UCF-101's, as published


MakeClips = Callable[[int, int, int, Callable[[float], None]], Iterator[Tensor]]
"""(count, seed, first, progress) -> parts "b c t h w" in [-1, 1] of clips from `first` on."""


@dataclass(frozen=True, kw_only=True)
class GenerationPipeline:
    """A generator that is ready: what it makes, and how. `max_batch` bounds the clips at a time."""

    family: str
    clip: ClipSpec
    make: MakeClips
    fps: float
    max_batch: int | None = None


# Opening what is needed.


def open_generator(
    folder: Path, request: GenerationRequest, *, tokenizer: str | None, device: str
) -> GenerationPipeline:
    """The generator in a folder, with its tokenizer, ready to make what is asked for.

    ValueError or FileNotFoundError for a folder of something else, a request that this kind cannot
    fulfil, and a tokenizer that it was not trained on.
    """
    place, family = pick_device(device), family_of(folder)
    for name in FOR_PRIORS if family == "flow" else FOR_FLOWS:
        if getattr(request, name) is not None:
            kind = "a flow" if family == "flow" else "a prior"
            raise ValueError(
                f"{option_of(name)} was asked, but {folder} holds {kind}: leave it out"
            )
    if family == "flow":
        model = flow.load(folder, device=place)
        flow.need_statistics(model.config)
        tok = open_tokenizer(folder, model.config.clip, tokenizer, device)
        return flow_pipeline(model, tok, request)
    prior = masked.load(folder, device=place)
    tok = open_tokenizer(folder, prior.config.clip, tokenizer, device)
    starts = read_starts(folder, masked.pick_clip(prior.config, tok))
    return prior_pipeline(prior, tok, request, starts)


# Files.


def generate_files(
    pipeline: GenerationPipeline,
    targets: Sequence[Path],
    *,
    seed: int = 0,
    batch: int = 4,
    fps: float | None = None,
    lossless: bool = False,
    on_step: Callable[[], object] = lambda: None,
) -> Iterator[Written]:
    """Generate a video for each of `targets`, `batch` at a time, and write it; what was written.

    They play at `fps`, by default at the generator's own rate. `on_step` is called before every
    step of the generator. ValueError, before any, for a name whose suffix cannot hold such a video.
    """

    def tell(progress: float) -> None:
        on_step()

    check_rate(fps)
    for path in targets:
        check_form(path, lossless=lossless, frames=pipeline.clip.frames)
    batch, fps = min(batch, pipeline.max_batch or batch), fps or pipeline.fps
    for first in range(0, len(targets), batch):
        paths = targets[first : first + batch]
        parts = pipeline.make(len(paths), seed, first, tell)
        held = parts if len(paths) == 1 else list(parts)
        for number, path in enumerate(paths):
            yield write(clip_of(held, number, fps), path, fps=fps, lossless=lossless)


def clip_of(
    parts: Iterable[Float[Tensor, "b c t h w"]], number: int, fps: float
) -> Iterator[Video]:
    """One clip of a batch, part by part."""
    for part in parts:
        yield Video.of(part[number : number + 1].float().clamp(-1, 1), fps=fps)


# Flows.


def flow_pipeline(
    model: Flow, tokenizer: Tokenizer, request: GenerationRequest
) -> GenerationPipeline:
    """Whole clips from noise."""
    clip = flow.pick_clip(model.config, tokenizer)
    guidance = 1.0 if request.guidance is None else request.guidance
    flow.pick_label(model.config, request.class_name, guidance)
    sampler = request.sampler or "euler-maruyama"
    count_steps(sampler, request.steps)

    def make(count: int, seed: int, first: int, tell: Callable) -> Iterator[Tensor]:
        tokens = flow.generate(
            model,
            tokenizer,
            count=count,
            seed=seed,
            first=first,
            class_name=request.class_name,
            steps=request.steps,
            sampler=sampler,
            guidance=guidance,
            progress=tell,
        )
        yield tokenizer.decode(tokens)

    fps = clip.fps or default_rate()
    max_batch = 1 if sampler == "dopri5" else None  # its steps would depend on the batch
    return GenerationPipeline(family="flow", clip=clip, make=make, fps=fps, max_batch=max_batch)


def default_rate() -> float:
    """The rate of a generator that does not say its own, with a note."""
    said = f"the generator does not say its rate: {RATE:g} frames per second; `fps` says another"
    warnings.warn(said, stacklevel=2)
    return RATE


# Priors.


def prior_pipeline(
    prior: Prior,
    tokenizer: Tokenizer,
    request: GenerationRequest,
    starts: Starts | None = None,
) -> GenerationPipeline:
    """Clips from masked tokens, from nothing or on from given frames, block after block.

    Where a reference is needed and none is given, each video begins with another of `starts`.
    """
    clip = masked.pick_clip(prior.config, tokenizer)
    sampling = sampling_of(request, prior.config.sampling)
    masked.pick_label(prior.config, request.class_name, sampling.guidance)
    has_reference = prior.config.reference is not None
    shown = given_pixels(request, clip, has_reference=has_reference)
    whole = None if shown is None else clip.frames + int(has_reference)
    video = read_given(request, clip, whole=whole)
    if video is not None or not has_reference:
        starts = None
    elif starts is None:
        raise ValueError("this prior continues a reference frame: name a video with `given`")
    options = {"sampling": sampling, "class_name": request.class_name}
    actions, blocks = None, request.blocks or 1
    if request.actions is not None or starts is None or starts.actions is None:
        actions = known_actions(request.actions, prior.config.actions)
    given = int(has_reference) if video is None else len(video)
    frames = whole or frames_made(clip, given, blocks, has_reference)
    if actions is not None:
        require_actions(actions, prior.config, frames - 1, str(request.actions), starts)
    elif starts is not None and starts.actions is not None:
        require_own_actions(starts, frames - 1)

    def make(count: int, seed: int, first: int, tell: Callable) -> Iterator[Tensor]:
        more = {**options, "first": first, "progress": tell, "actions": actions}
        start = None if video is None else video.tensor().expand(count, -1, -1, -1, -1)
        if starts is not None:
            chosen = starts.take(seed, first, count)
            start = chosen.frames
            more["actions"] = chosen.actions if actions is None else actions
        if shown is not None and start is not None:
            filled = masked.inpaint(prior, tokenizer, start, shown, count=count, seed=seed, **more)
            return iter([filled])
        return continue_video(
            prior, tokenizer, start, count=count, blocks=blocks, seed=seed, **more
        )

    fps = clip.fps or (video.fps if video is not None else None) or default_rate()
    max_batch = 1 if blocks > 1 else None  # parts of a long video are written as they come
    return GenerationPipeline(family="masked", clip=clip, make=make, fps=fps, max_batch=max_batch)


def continue_video(
    prior: Prior,
    tokenizer: Tokenizer,
    start: Tensor | None,
    *,
    count: int,
    blocks: int,
    seed: int,
    **options: Any,
) -> Iterator[Tensor]:
    """The given frames (or a first block of nothing given), then block after block."""
    if start is not None:
        overlap = start.shape[2]
    else:
        tokens = masked.generate(prior, tokenizer, count=count, seed=seed, **options)
        made = tokenizer.decode(tokens)
        assert isinstance(made, Tensor), "generated tokens stand for tensors"
        start = made.clamp(-1, 1)
        blocks, seed, overlap = blocks - 1, seed + 1, 1
        if options["actions"] is not None:  # those after the last frame, and further ones
            options["actions"] = options["actions"][:, start.shape[2] - 1 :]
    more = masked.roll_out(
        prior, tokenizer, start, clips=blocks, overlap=overlap, seed=seed, **options
    )
    yield from chain([start], more)


def sampling_of(request: GenerationRequest, usual: Sampling) -> Sampling:
    """How a prior's tokens are decoded. ValueError for a schedule or number that does not exist."""
    if request.schedule is not None and request.schedule not in SHARES:
        raise ValueError(
            f"no schedule is called {request.schedule!r}: choose one of {', '.join(SHARES)}"
        )
    return usual.with_(**{each.name: getattr(request, each.name) for each in fields(usual)})


def given_pixels(
    request: GenerationRequest, clip: ClipSpec, *, has_reference: bool
) -> Tensor | None:
    """Which pixels of a whole clip are given, "t h w"; None where its first frames alone are.

    A reference frame is given anyway and is none of these.
    ValueError for two such requests at once, or a box that is none.
    """
    if request.completes is None:
        return None
    asked = [option_of(name) for name in COMPLETING if getattr(request, name) is not None]
    asked += ["`blocks`"] if request.blocks is not None else []
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} do not go together: leave all but one")
    size = (clip.height, clip.width)
    if request.last_frames is not None:
        first = max(0, (request.given_frames or 1) - int(has_reference))
        return give_frames(clip.frames, size, first=first, last=request.last_frames)
    if request.given_frames is not None:
        raise ValueError(f"`given_frames` and {asked[0]} do not go together: leave one out")
    around = give_around(clip.frames, size, parse_box(request.inpaint or request.outpaint or ""))
    return around if request.inpaint else ~around


def parse_box(text: str) -> tuple[int, int, int, int]:
    """TOP,LEFT,BOTTOM,RIGHT in pixels. ValueError for anything else."""
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a box: give TOP,LEFT,BOTTOM,RIGHT in pixels of the prior's frames"
        ) from None
    return top, left, bottom, right


def read_given(request: GenerationRequest, clip: ClipSpec, *, whole: int | None) -> Video | None:
    """What a video begins with, scaled and cropped to what the prior makes; or `whole` frames."""
    if request.given is None:
        for option, value in ((request.completes, True), ("`given_frames`", request.given_frames)):
            if option and value:
                raise ValueError(f"{option} needs a video: name one with `given`")
        return None
    count = whole or request.given_frames or 1
    fps = clip.fps if count > 1 else None
    with stream(request.given, fps=fps) as source:
        warn_resampled(request.given, fps)
        shrink = max(clip.height / source.height, clip.width / source.width)
        size = (round(source.height * shrink), round(source.width * shrink))
        if whole is not None and source.frames > whole:
            said = f"the first {whole} of {source.frames} frames of {request.given} are used"
            warnings.warn(said, stacklevel=2)
    video = read(request.given, frames=count, fps=fps, size=size)
    if len(video) < count:
        raise ValueError(f"{request.given} has {len(video)} frames, {count} were to be given")
    top, left = (size[0] - clip.height) // 2, (size[1] - clip.width) // 2
    return video_of(video, top, left, clip)


def warn_resampled(given: Path, fps: float | None) -> None:
    """Say where frames of another rate than the prior's are repeated or left out."""
    with warnings.catch_warnings(action="ignore"), stream(given) as source:
        own = source.fps
    if fps is not None and own is not None and abs(own - fps) > 0.01 * fps:
        warnings.warn(
            f"{given} has {own:g} frames a second, the model was trained at {fps:g}: frames are "
            f"{'repeated' if own < fps else 'left out'}, so that motion keeps its speed",
            stacklevel=3,
        )


def video_of(video: Video, top: int, left: int, clip: ClipSpec) -> Video:
    """The middle of a video, as large as the prior's frames."""
    if (top, left) != (0, 0):
        said = f"the given frames are cropped to the middle {clip.height}x{clip.width}"
        warnings.warn(said, stacklevel=2)
    cut = video.frames[:, top : top + clip.height, left : left + clip.width].contiguous()
    return replace(video, frames=cut)
