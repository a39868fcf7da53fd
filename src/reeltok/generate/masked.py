"""Masked generation of discrete tokens: mask all, predict all, keep the most confident, repeat.

`config_for` gives a prior's configuration for a tokenizer, `generate` gives `Tokens` that the
tokenizer decodes, `roll_out` goes on clip after clip. The network is in prior.py, its use in
decoding.py, schedules in schedule.py, what can be given in conditions.py, training in ids.py.
MAGVIT (Yu et al. 2023): COMMIT for a plain tokenizer; a RefTok is conditioned on its reference
frame instead.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reeltok.generate.classes import find_class
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.conditions import (
    Timing,
    actions_by_step,
    condition_video,
    frames_of_step,
    give_frames,
    padding_cells,
    settled_cells,
)
from reeltok.generate.decoding import Known, decode_masked
from reeltok.generate.folder import load_generator, save_generator
from reeltok.generate.prior import (
    Conditions,
    Prior,
    PriorConfig,
    choose_factors,
    need,
)
from reeltok.generate.schedule import ClipGenerators, Sampling, require_positive
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import hash_frame, on_bytes
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import said_vocabulary
from reeltok.tokens.record import Tokens
from reeltok.video.record import Video, unit_frames


def config_for(
    tokenizer: Tokenizer,
    *,
    frames: int,
    size: tuple[int, int],
    fps: float | None = None,
    actions: int = 0,
    **values: Any,
) -> PriorConfig:
    """A prior's configuration for clips of `frames` frames of `size` = (height, width).

    Those of a RefTok follow a reference frame, which is none of them. `actions` are numbers after
    each frame; `values` further values of `PriorConfig`, such as one of `prior.SIZES`. ValueError
    for a continuous tokenizer.
    """
    coder = following(tokenizer)
    spec, timing = coder.spec, Timing.of(coder.spec)
    if spec.vocabulary is None:
        raise ValueError(
            f"{spec.name} is continuous and a prior predicts ids: choose a flow, or a discrete one"
        )
    has_reference = isinstance(tokenizer, RefTok)
    settings = {"policy": coder.config.policy, "reference_start": "given"} if has_reference else {}
    grid = coder.grid_for(frames, size)
    if len(grid) != 3:
        raise ValueError(f"{spec.name} has no grid of time and space: a prior needs one")
    body = getattr(tokenizer.config, "body", tokenizer.config)  # a RefTok's holds the quantizer
    levels = getattr(getattr(body, "quantizer", None), "levels", ())
    each = actions_by_step(
        torch.zeros(1, frames, actions), timing, frames, follows=has_reference
    ).shape[2]
    clip = ClipSpec.of(tokenizer, frames=frames, size=size, fps=fps, grid=grid, settings=settings)
    return PriorConfig(
        grid=grid,
        timing=timing,
        factors=choose_factors(spec.vocabulary, levels),
        levels=levels if math.prod(levels) == spec.vocabulary else (),
        actions=each if actions else 0,
        reference=spec.factors[1:] if has_reference else None,
        clip=clip,
        **values,
    )


def following(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as it codes clips for a prior: a RefTok's follow a given frame."""
    return tokenizer.under(start="given") if isinstance(tokenizer, RefTok) else tokenizer


# Clips.


def generate(
    prior: Prior,
    tokenizer: Tokenizer | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    class_name: str | None = None,
    actions: Float[Tensor, "#b n a"] | None = None,
    video: Video | Float[Tensor, "b c t h w"] | None = None,
    start: Float[Tensor, "m c 1 h2 w2"] | None = None,
    given: Bool[Tensor, "t2 h w"] | None = None,
    sampling: Sampling | None = None,
    batch: int = 16,
    first: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Tokens:
    """Ids of `count` new clips; clip i depends on `seed` and `first` + i alone, not on the batch.

    `count` is by default as many as are given, or 1. `video` holds what is given, for all clips or
    for each: its frames are the first ones, unless `given` marks pixels of a whole clip. A RefTok's
    clips follow the video's frame 0; decode them with that frame as the reference. `start` is the
    frame that the whole video began with (None: frame 0 of `video`). `actions` are those after each
    frame. ValueError for what the prior was not trained for, for a tokenizer whose ids it does not
    make, and for numbers of clips that differ.
    """
    config, clip = prior.config, pick_clip(prior.config, tokenizer)
    sampling = sampling or config.sampling
    label = pick_label(config, class_name, sampling.guidance)
    frames = None if video is None else unit_frames(video)
    count = count_clips(count, frames, start, actions)
    require_positive(batch=batch)
    conditions, settings = condition(prior, clip, frames, start, actions, label, count)
    known = recognise(prior, clip, tokenizer, frames, given)
    parts = []
    for now in torch.arange(count).split(batch):
        rng = ClipGenerators(seed, range(first + int(now[0]), first + int(now[-1]) + 1))
        some = None if known is None else select_clips(known, now)
        ids = decode_masked(
            prior, select_clips(conditions, now), rng, sampling, known=some, progress=progress
        )
        parts.append(ids.cpu())
    ids = torch.cat(parts).unflatten(1, config.grid)
    return clip.tokens(ids=ids, vocabulary=config.vocabulary, settings=settings)


def count_clips(count: int | None, *given: Tensor | None) -> int:
    """How many clips are made of what is given for all of them, or for each.

    ValueError for none, and for numbers that differ.
    """
    sizes = {len(each) for each in given if each is not None} - {1}
    wanted = max(sizes, default=1) if count is None else count
    require_positive(count=wanted)
    for size in sizes - {wanted}:
        raise ValueError(f"{size} were given for {wanted} clips: give one for all, or one for each")
    return wanted


def condition(
    prior: Prior,
    clip: ClipSpec,
    video: Tensor | None,
    start: Tensor | None,
    actions: Float[Tensor, "#b n a"] | None,
    label: int,
    count: int,
) -> tuple[Conditions, dict[str, str]]:
    """What `count` clips are generated from, and the reference's hash for their tokens."""
    device, settings, reference = prior.mask.device, {}, None
    if video is not None and tuple(video.shape[3:]) != (clip.height, clip.width):
        raise ValueError(
            f"this prior makes frames of {clip.height}x{clip.width}, the video has "
            f"{video.shape[3]}x{video.shape[4]}: read it with size={(clip.height, clip.width)}"
        )
    if start is not None and start.shape[3:] != (clip.height, clip.width):
        raise ValueError(
            f"this prior makes frames of {clip.height}x{clip.width}, the start has "
            f"{start.shape[3]}x{start.shape[4]}: give one of that size"
        )
    if prior.config.reference is not None:
        reference = on_bytes(need(video, "a reference frame (the first of video=)")[:, :, :1])
        settings["reference"] = hash_frame(reference)
        start = reference if start is None else on_bytes(start)
    if actions is not None and not prior.config.actions:
        raise ValueError("actions were given, but this prior was trained without: leave them out")
    if prior.config.actions:
        actions, follows = need(actions, "actions"), reference is not None
        actions = actions_by_step(actions, prior.config.timing, clip.frames, follows=follows)
        if actions.shape[2] != prior.config.actions:
            each = frames_of_step(prior.config.timing)
            raise ValueError(
                f"the actions have {actions.shape[2] // each} numbers after each frame, this prior "
                f"was trained on {prior.config.actions // each}: give as many"
            )
    start = start if prior.config.start else None
    tensors = {"actions": actions, "reference": reference, "start": start}
    several = {
        name: None if tensor is None else expand_clips(tensor, count).to(device)
        for name, tensor in tensors.items()
    }
    labels = torch.full((count,), label, device=device)
    return Conditions(labels=labels, **several), settings


def recognise(
    prior: Prior,
    clip: ClipSpec,
    tokenizer: Tokenizer | None,
    video: Float[Tensor, "b c t h w"] | None,
    given: Bool[Tensor, "t2 h w"] | None,
) -> Known | None:
    """The tokens of the condition video, for as many clips as `video` has; None without one."""
    if video is None:
        return None
    has_reference = prior.config.reference is not None
    rest = video[:, :, 1:] if has_reference else video
    if rest.shape[2] == 0:
        return None
    if tokenizer is None:
        raise ValueError("frames are given: their tokens need the tokenizer; give it too")
    if given is None:
        shown = min(rest.shape[2], clip.frames)
        given = give_frames(clip.frames, (clip.height, clip.width), first=shown)
        last = rest[:, :, -1:].expand(-1, -1, max(0, clip.frames - rest.shape[2]), -1, -1)
        rest = torch.cat([rest, last], dim=2)[:, :, : clip.frames]
    if given.shape != (rest.shape[2], clip.height, clip.width) or len(given) != clip.frames:
        raise ValueError(
            f"given= marks pixels of {tuple(given.shape)} where the prior's clips are "
            f"{(clip.frames, clip.height, clip.width)} and the video has {rest.shape[2]} frames"
        )
    coder, reference = following(tokenizer), on_bytes(video[:, :, :1]) if has_reference else None
    ids = (
        coder.encode(condition_video(rest, given), reference=reference).flat().to(prior.mask.device)
    )
    padding = padding_cells(given, coder.spec, prior.config.grid).flatten()
    settled = settled_cells(given, coder.spec, prior.config.grid).flatten()
    return Known(ids=ids, padding=padding.to(ids.device), settled=settled.to(ids.device))


def select_clips(record: Any, index: Int[Tensor, " b"]) -> Any:
    """Some clips of `Conditions` or `Known`; what one clip has counts for all."""
    rows: dict[str, Tensor] = {}
    for name, tensor in vars(record).items():
        if tensor is not None and name not in ("padding", "settled"):
            rows[name] = expand_clips(tensor, int(index.max()) + 1)[index.to(tensor.device)]
    return replace(record, **rows)


def expand_clips(x: Tensor, count: int) -> Tensor:
    """One clip's tensor for `count` clips; those of several as they are."""
    return x.expand(count, *x.shape[1:]) if len(x) == 1 else x


def pick_clip(config: PriorConfig, tokenizer: Tokenizer | None) -> ClipSpec:
    """What the ids stand for. ValueError where that is unknown, or not what `tokenizer` reads."""
    clip = config.clip
    if clip is None:
        raise ValueError("this prior does not say what it makes: make its config by `config_for`")
    if tokenizer is None:
        return clip
    if tokenizer.spec.vocabulary != config.vocabulary:
        raise ValueError(
            f"this prior predicts {config.vocabulary} ids of {clip.tokenizer!r}, "
            f"{tokenizer.name!r} has {said_vocabulary(tokenizer.spec.vocabulary)}: load the "
            "tokenizer it was trained on"
        )
    clip.require(tokenizer)
    return clip


def pick_label(config: PriorConfig, name: str | None, guidance: float) -> int:
    """The label of a class, or of any. ValueError for any of these that was not trained.

    Also for guidance, other than the prior's own, where it would change nothing.
    """
    if guidance != 1 and not config.dropout:
        raise ValueError(
            f"guidance={guidance} was asked, but this prior was trained without dropout of "
            "its conditions: leave guidance=1"
        )
    is_guided = bool(name is not None or config.actions or config.reference is not None)
    if guidance not in (1, config.sampling.guidance) and not is_guided:
        if config.classes:
            raise ValueError(
                f"guidance={guidance} needs a class: name one of {', '.join(config.classes)}"
            )
        raise ValueError(
            f"guidance={guidance} was asked, but this prior has no classes, actions or reference "
            "frame to follow: leave guidance=1"
        )
    if name is not None:
        return find_class(config.classes, name)
    if len(config.classes) > 1 and not config.dropout:
        raise ValueError(
            "this prior was trained without dropout of its classes: name one of "
            f"{', '.join(config.classes)}"
        )
    return len(config.classes)


def frames_after(clip: ClipSpec, given: int, has_reference: bool) -> int:
    """How many new frames of a clip follow those that are given. ValueError where none do."""
    whole = clip.frames + int(has_reference)
    if given >= whole:
        raise ValueError(f"this prior makes {whole} frames and goes on from {given}: give fewer")
    return whole - given


def roll_out(
    prior: Prior,
    tokenizer: Tokenizer,
    video: Video | Float[Tensor, "b c t h w"],
    *,
    clips: int,
    overlap: int = 1,
    seed: int = 0,
    start: Float[Tensor, "m c 1 h2 w2"] | None = None,
    actions: Float[Tensor, "#b n a"] | None = None,
    **options: Any,
) -> Iterator[Float[Tensor, "b c t h w"]]:
    """New frames that follow `video`, clip after clip, in memory that does not grow.

    Each clip is generated from the last `overlap` frames so far, and by a prior that sees it from
    `start` (None: frame 0 of `video`); `actions` are those after each of the last frames and all
    further ones. Clip k has the seed `seed` + k. ValueError for an overlap that leaves no new
    frames, or is none.
    """
    require_positive(overlap=overlap)
    clip, has_reference = pick_clip(prior.config, tokenizer), prior.config.reference is not None
    given, at = unit_frames(video).to(tokenizer.device), 0
    start = given[:, :, :1] if start is None else start
    seen = given[:, :, -overlap:]
    for number in range(clips):
        new = frames_after(clip, seen.shape[2], has_reference)
        acts = None if actions is None else actions[:, at : at + new + seen.shape[2]]
        tokens = generate(
            prior,
            tokenizer,
            count=len(seen),
            seed=seed + number,
            video=seen,
            start=start,
            actions=acts,
            **options,
        )
        reference = on_bytes(seen[:, :, :1]) if has_reference else None
        made = tokenizer.decode(tokens, reference=reference)
        assert isinstance(made, Tensor), "generated tokens stand for tensors"
        made = made[:, :, seen.shape[2] - int(has_reference) :]
        yield made
        known = torch.cat([seen, made.clamp(-1, 1)], dim=2)
        seen = known[:, :, -overlap:]
        at += known.shape[2] - seen.shape[2]


def inpaint(
    prior: Prior,
    tokenizer: Tokenizer,
    video: Video | Float[Tensor, "b c t h w"],
    given: Bool[Tensor, "t2 h w"],
    **options: Any,
) -> Float[Tensor, "n c t h w"]:
    """Clips that keep the `given` pixels of `video` and are new everywhere else.

    Both have the prior's frames, after frame 0 for a RefTok, which is kept whole; `options` are
    those of `generate`. ValueError for another number of frames.
    """
    has_reference, x = prior.config.reference is not None, unit_frames(video)
    tokens = generate(prior, tokenizer, video=x, given=given, **options)
    made = tokenizer.decode(tokens, reference=on_bytes(x[:, :, :1]) if has_reference else None)
    assert isinstance(made, Tensor), "generated tokens stand for tensors"
    x = x.to(made)
    filled = torch.where(given.to(made.device), x[:, :, int(has_reference) :], made)
    return torch.cat(
        [x[:, :, : int(has_reference)].expand(len(made), -1, -1, -1, -1), filled], dim=2
    )


# On disk.


def save(prior: Prior, folder: str | Path) -> Path:
    """Write config.json and model.safetensors into `folder`, made if need be."""
    return save_generator(prior, folder, family="masked")


def load(folder: str | Path, *, device: torch.device | str | None = None) -> Prior:
    """The prior that `save` wrote, in evaluation mode. Errors are `load_generator`'s."""
    return load_generator(folder, PriorConfig, Prior, family="masked", noun="prior", device=device)
