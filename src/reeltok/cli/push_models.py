"""The models that `push` judges, as candidates: tokenizers, priors, predictors of pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reeltok.evaluate.push.candidates import Coded, Make
    from reeltok.generate.pixels.predictor import PixelPredictor
    from reeltok.generate.predictor import PriorPredictor

RUN_FOLDERS = ("model", "best")  # of a run, whose name says more


@dataclass(frozen=True, eq=False, kw_only=True)
class Judged:
    """What a model stands for: candidates by name, the first its own; what gives the bits.

    `sampling` says how a prior is decoded.
    """

    makes: "dict[str, Make]"
    coded: "Coded | None" = None
    sampling: dict[str, Any] = field(default_factory=dict)


def open_judged(
    model: str,
    *,
    tokenizer: str | None = None,
    device: Any,
    how: Mapping[str, Any] | None = None,
    seed: int = 0,
    refined: Mapping[str, Any] | None = None,
) -> Judged:
    """A model ready to be judged; `how` a prior is decoded, where not as its folder says.

    `refined` is how latents of a tokenizer are refined, as `zoo.load` takes it. ValueError for a
    `tokenizer` where no prior is judged.
    """
    from reeltok import zoo
    from reeltok.evaluate.push.candidates import Coded

    family = generator_family(model)
    if tokenizer is not None and family != "masked":
        raise ValueError(
            f"--tokenizer {tokenizer} is for priors, and {model} is none: leave it out"
        )
    if family == "pixels":
        from reeltok.generate.pixels.predictor import PixelPredictor

        return Judged(makes=followers("pixels", PixelPredictor(model, device=device), seed))
    if is_tokenizer(model):
        coded = Coded(tokenizer=zoo.load(model, device=device, **(refined or {})))
        return Judged(makes={"tokenizer": coded}, coded=coded)
    from reeltok.generate.masked import following
    from reeltok.generate.predictor import PriorPredictor

    prior = PriorPredictor(model, tokenizer=tokenizer, device=device)
    prior.sampling = prior.sampling.with_(**(how or {}))
    has_reference = prior.prior.config.reference is not None
    coded = Coded(tokenizer=following(prior.tokenizer), given=has_reference)
    makes: dict[str, Make] = {**followers("prior", prior, seed), "ceiling": coded}
    return Judged(makes=makes, coded=coded, sampling=asdict(prior.sampling))


def open_beside(
    models: Sequence[str],
    ours: Judged,
    *,
    device: Any,
    how: Mapping[str, Any],
    seed: int,
    refined: Mapping[str, Any] | None = None,
) -> Judged:
    """Other models beside `ours`, each by its own name before that of its candidates.

    ValueError where two candidates would be called the same, and where no prior takes `how`.
    """
    makes, sampling = dict[str, "Make"](), dict[str, Any]()
    for model in models:
        name = model_name(model)
        found = open_judged(model, device=device, how=how, seed=seed, refined=refined)
        first = next(iter(found.makes))
        for each, make in found.makes.items():
            told = name + each.removeprefix(first) if each.startswith(first) else f"{name}, {each}"
            if told in makes or told in ours.makes:
                raise ValueError(
                    f"beside {model} would be called {told!r}, as another line: rename its folder"
                )
            makes[told] = make
        sampling |= {name: found.sampling} if found.sampling else {}
    asked = [
        f"--{key.replace('_', '-')} {value}" for key, value in how.items() if value is not None
    ]
    if asked and not (ours.sampling or sampling):
        raise ValueError(f"{asked[0]} is for priors, and none is judged: leave it out")
    return Judged(makes=makes, sampling=sampling)


def is_tokenizer(model: str) -> bool:
    """Whether a model is neither a prior nor a predictor of pixels."""
    return generator_family(model) not in ("masked", "pixels")


def require_tokenizers(refined: Mapping[str, float], models: Sequence[str]) -> None:
    """ValueError for latents that are to be refined where no model is a tokenizer."""
    for name, value in refined.items():
        if value and not any(is_tokenizer(model) for model in models):
            told = f"--{name.replace('_', '-')} {value:g}"
            raise ValueError(f"{told} is for tokenizers, and none is judged: leave it out")


def generator_family(model: str) -> str | None:
    """The family in a folder's or a bundled generator's config.json; None where there is none."""
    from reeltok.files.parsing import read_object
    from reeltok.generate.folder import bundled_generators, find_generator

    folder = find_generator(model) if model in bundled_generators() else Path(model)
    config = folder / "config.json"
    return read_object(config).get("family") if config.is_file() else None


def model_name(model: str) -> str:
    """What a model is called: of RUN/model the run."""
    path = Path(model).absolute()
    return path.parent.name if path.name in RUN_FOLDERS else path.name


def followers(name: str, model: "PriorPredictor | PixelPredictor", seed: int) -> "dict[str, Make]":
    """A model that goes on from a frame, by the true actions and by those of another episode."""
    found = {name: follower(model, seed, shift=0)}
    if model.knows_actions:
        found[f"{name}, other actions"] = follower(model, seed, shift=1)
    return found


def follower(model: "PriorPredictor | PixelPredictor", seed: int, *, shift: int) -> "Make":
    """A predictor as a candidate; with `shift`, by the actions of the episode so many before."""
    import numpy as np
    import torch

    from reeltok.evaluate.push.candidates import Clips, EpisodeBatch, pixels_of
    from reeltok.video.size import size_text

    def make(batch: EpisodeBatch) -> Clips:
        found, wanted = batch.frames.shape[2:4], (model.size, model.size)
        if found != wanted:
            raise ValueError(
                f"the model makes frames of {size_text(*wanted)}, the episodes are "
                f"{size_text(*found)}: make them with --size {model.size}"
            )
        actions = torch.from_numpy(np.roll(batch.actions, shift, axis=0))
        made = model.follow(
            torch.from_numpy(batch.frames[:, 0]),
            actions if model.knows_actions else None,
            frames=batch.frames.shape[1],
            seed=seed,
            first=batch.first,
        )
        return pixels_of(made)

    return make
