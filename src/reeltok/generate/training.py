"""Training a generator: its examples as latents or ids, then the loop of `train`."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reeltok import zoo
from reeltok.corpus.read import Corpus
from reeltok.files.checkpoints import find_file, load_weights
from reeltok.files.parsing import parse_config, read_object
from reeltok.generate import flow, masked
from reeltok.generate.condition_encoder import ConditionEncoder
from reeltok.generate.examples import (
    ShowClips,
    Split,
    ids_of,
    latents_of,
    open_examples,
    say_examples,
    split_rows,
    with_clip,
)
from reeltok.generate.folder import find_generator
from reeltok.generate.ids import Examples, PriorTask
from reeltok.generate.latents import ExampleSet, Feed, FlowTask, Latents, measure_moments
from reeltok.generate.own_corpus import load_coder
from reeltok.generate.prior import Prior, PriorConfig
from reeltok.generate.recipes import GeneratorRecipe
from reeltok.generate.sit import Flow, FlowConfig, Statistics
from reeltok.models.reftok.network import RefTok
from reeltok.parallel import Rank, in_turn, init_distributed
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.rows import read_packed
from reeltok.train.checkpoint import held_alone, newest_step
from reeltok.train.checks import require_new, require_shares
from reeltok.train.launch import begin
from reeltok.train.loop import last_checkpoint, run_task
from reeltok.train.run import Run, Task
from reeltok.train.trial import DryRun, tokenizer_to_try, try_steps


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task that is ready, the examples that it draws its batches from, and how they are split."""

    task: Task
    examples: Any
    split: Split


def train_generator(
    recipe: GeneratorRecipe,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    device: str | None = None,
    show: ShowClips | None = None,
) -> Run:
    """Train a generator on the clips of `data`; the folder `out` is as that of any run.

    `data` is a corpus of the recipe's tokenizer and windows, or clips, of which one is built in
    `out`/corpus; under torchrun by the first process of each machine. `OUT/tokenizer` is the
    tokenizer, unless it is a preset. `show` displays how far the coding of clips is.
    """
    out = Path(out)
    require_new(recipe, out, resume)
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        tokenizer = load_coder(recipe, data)
        config = generator_config(recipe, tokenizer)
        begun = begun_config(out, type(config)) if resume else None
        tokenizer.to(at.device)

        def ready() -> None:
            begin(recipe, out, at)
            if at.first and recipe.tokenizer not in zoo.PRESETS:
                tokenizer.save_pretrained(out / "tokenizer")

        with held_alone(out, newest_step(out), first=at.first):  # its corpus is in the folder too
            with in_turn(at):
                corpus = open_examples(
                    recipe,
                    tokenizer,
                    config,
                    data,
                    out,
                    at,
                    resume=resume,
                    show=show if at.first else None,
                )
            made = make(recipe, config, corpus, tokenizer, at, begun)
            if hasattr(made.task, "to"):
                made.task.to(at.device)
            return run_task(
                made.task,
                feed_of(recipe, made.examples, at),
                recipe.loop,
                out=out,
                resume=resume,
                at=at,
                ready=ready,
                facts=made.split,
                held=True,
            )


def feed_of(recipe: GeneratorRecipe, examples: ExampleSet, at: Rank) -> Feed:
    """Batches of the recipe's size, shared by all processes.

    The examples lie on a GPU where they take less than a quarter of what is free there.
    """
    if at.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(at.device)
        tensors = [value for value in vars(examples).values() if isinstance(value, torch.Tensor)]
        if sum(tensor.nbytes for tensor in tensors) < free / 4:
            examples = examples.to(at.device)
    return Feed(
        examples,
        recipe.window.batch,
        seed=recipe.loop.seed,
        rank=at.rank,
        world=at.world,
        device=at.device,
    )


def generator_config(recipe: GeneratorRecipe, tokenizer: Tokenizer) -> FlowConfig | PriorConfig:
    """The generator's configuration but for what only the examples say.

    ValueError for a tokenizer that this kind of generator cannot follow, settings that are unknown,
    and noise where nothing takes it, FileNotFoundError where there is no generator to begin with.
    """
    window, settings = recipe.window, dict(recipe.settings)
    if recipe.warm is not None:
        find_generator(recipe.warm)  # not there: said before clips are coded
    size = (window.size, window.size)
    fps = recipe.data.fps
    if recipe.generator == "prior":
        has_reference = isinstance(tokenizer, RefTok)
        if recipe.noise and not has_reference:
            raise ValueError(
                f"noise={recipe.noise} is added to reference frames, and {tokenizer.name} has "
                "none: leave it out"
            )
        frames = window.frames - int(has_reference)
        settings["actions"] = recipe.actions
        return masked.config_for(tokenizer, frames=frames, size=size, fps=fps, **settings)
    settings.pop("label_dropout", None)  # of classes that are not known yet
    return flow.config_for(tokenizer, frames=window.frames, size=size, fps=fps, **settings)


# Examples to a task.


def make(
    recipe: GeneratorRecipe,
    config: FlowConfig | PriorConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    at: Rank,
    begun: FlowConfig | PriorConfig | None = None,
) -> PreparedTask:
    """The generator with fresh weights, and its examples.

    Of a run that goes on, the classes and latent statistics are those that it has `begun` with.
    ValueError for examples of other classes.
    """
    split = split_rows(recipe, corpus)
    require_classes(split.classes, begun)
    config = with_clip(config, recipe, split)
    torch.manual_seed(recipe.loop.seed)
    if isinstance(config, FlowConfig):
        say_examples(corpus, split, at)
        known = begun.statistics if isinstance(begun, FlowConfig) else None
        return make_flow(recipe, config, split, corpus, tokenizer, known)
    encoder = ConditionEncoder(recipe=recipe, config=config)
    say_examples(corpus, split, at, decoded=encoder.needed and not split.train[0].beside)
    prior = Prior(replace(config, classes=split.classes, noise=recipe.noise))
    of = partial(
        ids_of, split=split, corpus=corpus, tokenizer=tokenizer, recipe=recipe, config=config
    )
    examples = of(split.train)
    assert examples is not None
    prior.fit_biases(examples.ids)
    begin_with(prior, recipe.warm)
    task = PriorTask(prior, held_out=of(split.held), batch=recipe.window.batch)
    return PreparedTask(task=task, examples=examples, split=split)


def begun_config(
    out: Path, kind: type[FlowConfig] | type[PriorConfig]
) -> FlowConfig | PriorConfig | None:
    """The configuration of the generator that the run in `out` trains; None where it begins anew.

    FileNotFoundError where there is no run, ValueError where its file is damaged.
    """
    file = out / "model" / "config.json"
    if last_checkpoint(out) is None or not file.is_file():
        return None
    return parse_config(read_object(file).get("config"), kind, str(file))


def require_classes(classes: tuple[str, ...], begun: FlowConfig | PriorConfig | None) -> None:
    """ValueError where a run that goes on would take its labels for other classes."""
    if begun is not None and classes != begun.classes:
        now, before = (", ".join(names) or "none" for names in (classes, begun.classes))
        raise ValueError(
            f"the classes of these examples are {now}, those of the run {before}: resume it on "
            "clips of the same groups, or begin in another folder"
        )


def make_flow(
    recipe: GeneratorRecipe,
    config: FlowConfig,
    split: Split,
    corpus: Corpus,
    tokenizer: Tokenizer,
    statistics: Statistics | None = None,
) -> PreparedTask:
    """A flow with the `statistics` of its latents, which are measured where there are none."""
    assert config.clip is not None
    of = partial(latents_of, split=split, corpus=corpus, tokenizer=tokenizer, clip=config.clip)
    latents = of(split.train)
    assert latents is not None
    config = replace(
        config,
        classes=latents.classes,
        statistics=statistics or measure_moments(latents, config),
        label_dropout=recipe.settings.get("label_dropout", 0.0),
    )
    sit = Flow(config)
    begin_with(sit, recipe.warm)
    task = FlowTask(sit, held_out=of(split.held), batch=recipe.window.batch)
    return PreparedTask(task=task, examples=latents, split=split)


def begin_with(network: nn.Module, warm: str | None) -> None:
    """Take the weights of the generator `warm`, if any. ValueError where they do not fit."""
    if warm is None:
        return
    path = find_file(find_generator(warm))
    weights, advice = dict(read_packed(path)), "name one of the same kind and shape for warm"
    for name, value in network.state_dict().items():
        if name.startswith("start."):  # it ends in zeros: without it a prior is the same
            weights.setdefault(name, value)
    load_weights(network, weights, what=str(path), advice=advice)
    if more := sorted(weights.keys() - network.state_dict().keys()):
        raise ValueError(f"{path} has {more[0]}, which this configuration has not: {advice}")


# Trying it.


def try_generator(recipe: GeneratorRecipe, *, device: str | None = None) -> DryRun:
    """A few steps of a generator on noise: what a run needs. The tokenizer may be random."""
    with init_distributed(device) as at:
        require_shares(recipe, at.world)
        tokenizer = tokenizer_to_try(recipe.tokenizer)
        config = generator_config(recipe, tokenizer)
        torch.manual_seed(recipe.loop.seed)
        if isinstance(config, PriorConfig):
            task: Task = PriorTask(Prior(config))
            return try_steps(task, partial(noise_ids, config), recipe.loop, at, recipe.window)
        noise = partial(noise_latents, config)
        task = FlowTask(Flow(replace(config, statistics=measure_moments(noise(2), config))))
        return try_steps(task, noise, recipe.loop, at, recipe.window)


def noise_latents(config: FlowConfig, count: int) -> Latents:
    """Random latents in the form of a flow's examples."""
    shape = (count, config.channels, config.cells)
    return Latents(torch.randn(shape), torch.zeros(count, dtype=torch.long))


def noise_ids(config: PriorConfig, count: int) -> Examples:
    """Random ids in the form of a prior's examples."""
    references, starts = None, None
    if config.reference is not None and config.clip is not None:
        shape = (count, config.clip.height, config.clip.width, 3)
        references = torch.zeros(shape, dtype=torch.uint8)
        starts = references if config.start else None
    ids = torch.randint(config.vocabulary, (count, config.cells))
    labels = torch.zeros(count, dtype=torch.long)
    actions = torch.zeros(count, config.grid[0], config.actions) if config.actions else None
    frames = {"references": references, "starts": starts}
    return Examples(ids=ids, labels=labels, actions=actions, **frames)
