"""A task under training: optimizers, mean weights, counters; all that a checkpoint holds."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reeltok.arguments import float_type
from reeltok.configuration import FINITE, parse
from reeltok.devices import multiplies
from reeltok.files.text import hint
from reeltok.nn.past import Past
from reeltok.nn.quantizers.vector import VQ
from reeltok.parallel import Rank
from reeltok.train import checkpoint as checkpoints
from reeltok.train.optimizers import OptimizerConfig, ScheduleConfig, build_optimizers
from reeltok.train.parallel import Strategy, full_parameters, total_norm, unsharded, wrap_loss
from reeltok.train.schedule import Schedule


@runtime_checkable
class Task(Protocol):
    """What a run trains. `loss` returns a record with a scalar `total` and named `terms`.

    A task may also have `save(folder)` (write the model), `pictures()` (of the last validation),
    `to(device)`, and `leaves_out`: True where a step may give some parameters no gradient.
    """

    def parameters(self) -> nn.Module: ...
    def loss(self, batch: Any, step: int, generator: torch.Generator | None) -> Any: ...
    def validate(self, step: int) -> dict[str, float]: ...


@runtime_checkable
class AdversarialTask(Task, Protocol):
    """A task with a discriminator, which is trained on `loss(...).made` from `discriminator_from`.

    `memory()` names what else must survive a restart.
    """

    discriminator: nn.Module | None
    discriminator_from: int

    def discriminator_loss(self, made: Any, step: int) -> Any: ...
    def memory(self) -> dict[str, nn.Module]: ...


@config_dataclass(frozen=True, kw_only=True, config=FINITE)
class LoopConfig:
    """How a run is run.

    `freeze` and `compile` name parts of the model, `activation_checkpointing` classes of modules
    whose activations are recomputed in the backward pass. `grad_clip` bounds the norm of all
    gradients; `ema` is the decay of the mean weights. A checkpoint is written every
    `minutes` (and every `save_every` steps), the last `keep` stay. `best` names the score whose
    best model is kept; with a minus before it, less is better.
    `bad_steps` steps running without finite gradients stop the run. `exit_on_term` is the exit
    code after SIGTERM.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    optimizer: OptimizerConfig = OptimizerConfig()
    discriminator: OptimizerConfig = OptimizerConfig(kind="adam", lr=1e-5)
    schedule: ScheduleConfig = ScheduleConfig()
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    accumulate: int = Field(default=1, ge=1)
    grad_clip: float | None = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    freeze: tuple[str, ...] = ()
    compile: tuple[str, ...] = ()
    activation_checkpointing: tuple[str, ...] = ()
    strategy: Strategy = "ddp"
    log_every: int = Field(default=20, ge=1)
    validate_every: int = Field(default=500, ge=1)
    best: str = "psnr"
    minutes: float = Field(default=10.0, gt=0)
    save_every: int | None = Field(default=None, ge=1)
    save_async: bool = False
    keep: int = Field(default=2, ge=1)
    bad_steps: int = Field(default=20, ge=1)
    exit_on_term: int = 143
    tensorboard: bool = False


@config_dataclass(frozen=True, kw_only=True)
class Counters:
    """The numbers of a run in its checkpoints (run.json)."""

    step: int = Field(ge=0)
    best: float | None = None
    best_of: str | None = None  # `loop.best` then; older checkpoints do not say
    best_on: str | None = None  # what was judged, nor this
    skipped: int = Field(default=0, ge=0)
    scaler: dict[str, int | float] = Field(default_factory=dict)
    schedule: Schedule | None = None


def read_counters(found: checkpoints.Checkpoint, numbers: Any) -> Counters:
    """The numbers in a checkpoint; ValueError names the file where one is odd."""
    path = found.folder / "run.json"
    counters = parse(numbers, str(path), Counters)
    if counters.step != found.step:
        raise ValueError(f"{path} is of step {counters.step}, its folder of step {found.step}")
    return counters


class EMA:
    """A running mean of a module's trained parameters (EMA), with a quick start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.weights = {name: p.detach().clone() for name, p in trained}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the weights after step `step`."""
        live = dict(module.named_parameters())
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        targets = [live[name].detach() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), targets, share)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Inside, `module` holds the mean; afterwards its own weights, to the bit."""
        own = {name: p.detach().clone() for name, p in module.named_parameters()}
        copy_weights(module, self.weights)
        try:
            yield
        finally:
            copy_weights(module, own)


@torch.no_grad()
def copy_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into the parameters of the same name."""
    live = dict(module.named_parameters())
    for name, value in weights.items():
        live[name].copy_(value)


@dataclass(frozen=True)
class StepResult:
    """A step of one optimizer: the norm of its gradients, and whether they were finite."""

    norm: float
    finite: bool


class Run:
    """Everything of a task under training that changes from step to step.

    `judged` is short for what validation sees: the best score is that of one and the same.
    """

    def __init__(
        self, task: Task, config: LoopConfig, at: Rank | None = None, judged: str | None = None
    ) -> None:
        self.task, self.config, self.judged = task, config, judged
        self.at = at or Rank(device=torch.device("cpu"))
        self.step, self.bad, self.skipped, self.judged_anew = 0, 0, 0, False
        self.best: float | None = None
        self.schedule = Schedule(plan=config.schedule)
        self.model = task.parameters()
        self.discriminator, self.discriminator_from = None, 0
        self.frozen = freeze(self.model, config.freeze)
        checkpoint_activations(self.model, config.activation_checkpointing)
        for name in config.compile:
            # Windows have few shapes; guessing which axes vary fails on the folds of time.
            part_of(self.model, name, "loop.compile")[0].compile(dynamic=False)
        leaves_out = getattr(task, "leaves_out", False)
        self.loss = wrap_loss(self.model, task.loss, config.strategy, leaves_out=leaves_out)
        self.optimizers = {"model": build_optimizers(self.model, config.optimizer)}
        if isinstance(task, AdversarialTask) and task.discriminator is not None:
            self.discriminator = task.discriminator
            self.discriminator_from = task.discriminator_from
            self.discriminator_loss = wrap_loss(task.discriminator, task.discriminator_loss, "ddp")
            self.optimizers["discriminator"] = build_optimizers(
                task.discriminator, config.discriminator, "loop.discriminator"
            )
        self.ema = EMA(self.model, config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(self.at.device.type, enabled=config.precision == "fp16")
        self.train()

    @property
    def modules(self) -> dict[str, nn.Module]:
        memory = self.task.memory() if isinstance(self.task, AdversarialTask) else {}
        adversary = {"discriminator": self.discriminator} if self.discriminator is not None else {}
        return {"model": self.model, **adversary, **memory}

    def train(self) -> None:
        """Everything in training mode but for the frozen parts."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def adversarial_active(self) -> bool:
        """Whether the discriminator has its turn in this step."""
        return self.discriminator is not None and self.step >= self.discriminator_from

    @property
    def precision(self) -> str:
        """In what the network computes: as asked, but float32 on a CPU that lacks it."""
        asked = self.config.precision
        return asked if multiplies(float_type(asked), self.at.device) else "fp32"

    def autocast(self) -> AbstractContextManager:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.at.device.type, dtype=float_type(self.precision))

    def seeded(self, part: int) -> torch.Generator:
        """Random state for this step and part of the batch, for the task and for layers."""
        key = (self.config.seed, self.step, self.at.rank, part)
        words = np.random.SeedSequence(key).generate_state(2)
        torch.manual_seed(int(words[0]))
        return torch.Generator(self.at.device).manual_seed(int(words[1]))

    def optimizer_step(self, name: str) -> StepResult:
        """Clip the gradients and take a step, unless they are not finite."""
        optimizers, module = self.optimizers[name], self.modules[name]
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        norm = float(total_norm(grads))
        finite = math.isfinite(norm)
        if finite and self.config.grad_clip:
            torch._foreach_mul_(grads, min(1.0, self.config.grad_clip / (norm + 1e-6)))
        for optimizer in optimizers:
            if finite:  # of all: the scaler looks at the gradients of one optimizer alone
                self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        return StepResult(norm=norm, finite=finite)

    def count(self, finite: bool) -> None:
        """One more step is done; if its gradients were not finite, it was skipped."""
        self.step += 1
        self.bad = 0 if finite else self.bad + 1
        self.skipped += not finite

    def ema_weights(self) -> AbstractContextManager:
        """Inside, the model holds its mean weights, where the run keeps them."""
        return self.ema.swapped(self.model) if self.ema else nullcontext()

    def validate(self) -> dict[str, float]:
        """The task's scores of the mean weights."""
        eager = torch.compiler.set_stance("force_eager")  # else every held-out size compiles anew
        with self.ema_weights(), unsharded(self.loss), self.autocast(), eager:
            scores = self.task.validate(self.step)
        self.train()
        return scores

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds but for the counters."""
        mean = self.ema.weights if self.ema else {}
        return checkpoints.named_tensors(self.modules, self.optimizers) | {
            f"ema.{name}": weight for name, weight in mean.items()
        }

    def numbers(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_of": self.config.best,
            "best_on": self.judged,
            "skipped": self.skipped,
            "scaler": self.scaler.state_dict(),
            "schedule": self.schedule.numbers(),
        }

    def load(self, found: checkpoints.Checkpoint) -> None:
        """Continue from a checkpoint. Raises ValueError where it is damaged or of another model."""
        checkpoints.verify_checkpoint(found)
        checkpoints.allocate_states(found, self.modules, self.optimizers)
        counters = read_counters(found, checkpoints.load_tensors(found, self.tensors()))
        self.step, self.skipped = found.step, counters.skipped
        same = counters.best_on == self.judged or None in (counters.best_on, self.judged)
        if same and counters.best_of in (None, self.config.best):
            self.best = counters.best
        self.judged_anew = counters.best is not None and self.best is None
        steps = self.config.schedule.steps
        if self.step > steps:
            raise ValueError(
                f"the run in {found.folder.parent.parent} has made {self.step:,} steps, "
                f"loop.schedule.steps={steps} are fewer: give more to go on"
            )
        before = counters.schedule or self.schedule  # older checkpoints have none
        self.schedule = before.resumed(self.config.schedule, self.step)
        if counters.scaler:  # of fp16 alone
            try:
                self.scaler.load_state_dict(counters.scaler)
            except KeyError as error:
                raise ValueError(f"{found.folder / 'run.json'}: scaler lacks {error}") from error

    def export(self, folder: Path) -> None:
        """Write the mean weights as a model that `reeltok.load` reads, if the task can."""
        if hasattr(self.task, "save"):
            with self.ema_weights(), full_parameters(self.model):
                if self.at.first:
                    self.task.save(folder)


def part_of(module: nn.Module, name: str, setting: str) -> list[nn.Module]:
    """The parts with this name; ValueError where there is none."""
    found = [m for path, m in module.named_modules() if name and f".{path}".endswith(f".{name}")]
    if not found:
        known = {path.removeprefix("tokenizer.") for path, _ in module.named_modules()}
        named = sorted(path for path in known if path and path.count(".") < 2)
        raise ValueError(f"{setting} names {name!r}, which the model lacks: {hint(name, named)}")
    return found


def freeze(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Stop the training of the parts with these names.

    A part may have no parameters (as an FSQ has none): it is not in training mode then.
    """
    frozen = [part for name in names for part in part_of(module, name, "loop.freeze")]
    for part in frozen:
        part.requires_grad_(False)
    return frozen


def checkpoint_activations(module: nn.Module, kinds: tuple[str, ...]) -> None:
    """Recompute activations of modules of these classes in the backward pass, to save memory."""
    called = [part for part in module.modules() if type(part).forward is not nn.Module.forward]
    known = sorted({type(part).__name__ for part in called})
    for kind in kinds:
        if kind not in known:
            raise ValueError(
                f"loop.activation_checkpointing names {kind!r}, which no part of the model is: "
                f"{hint(kind, known)}"
            )
    for part in called:
        if type(part).__name__ in kinds:
            require_still(part)
            part.forward = partial(recompute, part.forward)


def require_still(part: nn.Module) -> None:
    """ValueError where a second pass through a part would move running means once more."""
    if any(isinstance(inner, VQ) and inner.config.ema is not None for inner in part.modules()):
        raise ValueError(
            f"loop.activation_checkpointing names {type(part).__name__!r}, in which a VQ keeps "
            "running means that a second pass would move again: name classes without it, or set "
            "ema=null in its configuration"
        )


def recompute(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """What `forward` makes of its inputs, made again in the backward pass.

    The first pass changes a `Past` and draws from a generator: later ones find both as they were.
    """
    given = (*inputs, *named.values())
    states = {g: g.get_state() for g in given if isinstance(g, torch.Generator)}
    if not states and not any(isinstance(value, Past) for value in given):
        return checkpoint(forward, *inputs, use_reentrant=False, **named)
    first, before = True, copy_pasts(inputs, named)

    def run(*inputs: Any, **named: Any) -> Any:
        nonlocal first
        if first:
            first = False
            return forward(*inputs, **named)
        inputs, named = copy_pasts(*before)
        with generators_at(states):
            return forward(*inputs, **named)

    return checkpoint(run, *inputs, use_reentrant=False, **named)


@contextmanager
def generators_at(states: dict[torch.Generator, Tensor]) -> Iterator[None]:
    """Inside, generators draw on from these states; afterwards from those they had."""
    own = {generator: generator.get_state() for generator in states}
    for generator, state in states.items():
        generator.set_state(state)
    try:
        yield
    finally:
        for generator, state in own.items():
            generator.set_state(state)


def copy_pasts(
    inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a module, with a `Past` of their own."""
    own = lambda value: value.copy() if isinstance(value, Past) else value
    return tuple(map(own, inputs)), {name: own(value) for name, value in named.items()}
