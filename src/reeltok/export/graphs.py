"""What of a tokenizer becomes a graph: its encoder, its decoder, and the steps of a stream.

    encoder         frames b 3 t h w             -> latents b d *grid, ids b *grid (discrete)
    decoder         ids, or latents              -> frames
    encoder_begin   the first frames             -> latents, ids, next
    encoder_step    the next group, state        -> latents, ids, next
    decoder_begin   the first steps              -> frames, next
    decoder_step    the next group's, state      -> frames, next
    decoder_end     the last group's, state      -> frames            (with look-ahead)

State is what a `Past` keeps, one tensor for each layer that remembers: it comes in as
"state.LAYER", and "next.LAYER" is handed to the next call.
Inputs and outputs are flat tensors, so that a program that runs a graph needs none of our records.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from reeltok.arguments import is_count, said
from reeltok.nn.past import Past
from reeltok.tokenizer.contract import Tokenizer

Run = Callable[[Tensor, Past | None], tuple[Tensor, ...]]
SIDES = {"batch": 2, "rows": 3, "columns": 4}  # of the example that is traced, in clips and cells
OTHER = {"batch": 1, "rows": 2, "columns": 5}  # of that which is compared
CHUNKS = 6  # after which a stream's state must have settled


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """One function of tensors, and what its inputs are at the sizes that it can have."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    sizes: Mapping[str, Mapping[int, tuple[str, int]]]
    """By input and axis, the name of a size and how many of the axis one of it makes."""
    examples: Callable[[Mapping[str, int]], Mapping[str, Tensor]]

    def shape_of(self, name: str) -> list[int | str]:
        """The shape of an input: numbers, and names with their factors ("8*rows")."""
        said = {
            axis: size if factor == 1 else f"{factor}*{size}"
            for axis, (size, factor) in self.sizes[name].items()
        }
        return [said.get(axis, length) for axis, length in enumerate(self.inputs[name].shape)]


class Call(nn.Module):
    """A function of a tokenizer as a module, so that a graph holds its weights."""

    def __init__(self, tokenizer: Tokenizer, run: Run) -> None:
        super().__init__()
        self.tokenizer, self.run = tokenizer, run

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.run(x, None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """A state between two chunks of a stream: the layers that have begun, and what each keeps."""

    kept: Mapping[str, Tensor] = field(default_factory=dict)
    begun: tuple[str, ...] = ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.kept.items()}

    def past(self, kept: Sequence[Tensor] | None = None) -> Past:
        """A `Past` that stands here, with other tensors where `kept` are given."""
        values = self.kept.values() if kept is None else kept
        return Past(dict(zip(self.kept, values, strict=True)), list(self.begun))


class StreamStep(nn.Module):
    """The next chunk of a stream: tensors and the state before, to tensors and the state after."""

    def __init__(self, tokenizer: Tokenizer, run: Run, before: Stage, after: Sequence[str]) -> None:
        super().__init__()
        self.tokenizer, self.run, self.after = tokenizer, run, list(after)
        self.before = Stage(kept=dict(before.kept), begun=before.begun)

    def forward(self, x: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        past = self.before.past(kept)
        made = self.run(x, past)
        return (*made, *(past.kept[name] for name in self.after))


@torch.no_grad()
def graphs_of(tokenizer: Tokenizer, frames: int) -> list[Graph]:
    """The graphs of a tokenizer for clips of `frames` frames (made up to whole groups).

    One that codes windows of a fixed length has graphs of one window, whatever `frames` is. Graphs
    are of a tokenizer in evaluation mode, in which it is left.
    ValueError for one that decodes as it encodes, and for fewer than 1 frame.
    """
    if not is_count(frames):
        raise ValueError(f"`frames` {said(frames)} is not a number of frames: give 1 or more")
    if tokenizer.loops:
        raise ValueError(
            f"{tokenizer.name} decodes as it encodes (reference frames, or refined latents), which "
            "is not a fixed graph: give a VidTok or a CoordTok, with refine=0"
        )
    spec = tokenizer.spec
    steps = spec.steps(spec.window or frames)
    encode, decode = encoding(tokenizer), decoding(tokenizer)
    found = [
        clip_graph(tokenizer, "encoder", encode, random_clips(tokenizer, spec.frames(steps))),
        clip_graph(tokenizer, "decoder", decode, tokens(tokenizer, steps)),
    ]
    if not spec.independent:
        first, group = spec.first_frames, spec.frames_per_group
        found += stream_graphs(tokenizer, "encoder", encode, random_clips, (first, group))
        first, group = spec.first_steps, spec.steps_per_group
        found += stream_graphs(tokenizer, "decoder", decode, tokens, (first, group))
    return found


# ---------------------------------------------------------------- functions and examples


def encoding(tokenizer: Tokenizer) -> Run:
    """Latents of whole groups, and their ids where the tokenizer has any."""

    def run(x: Tensor, past: Past | None) -> tuple[Tensor, ...]:
        quantized = tokenizer.encode_part(x, past)
        return (quantized.z,) if quantized.ids is None else (quantized.z, quantized.ids)

    return run


def decoding(tokenizer: Tokenizer, *, last: bool = False) -> Run:
    """Frames of ids, or of latents where the tokenizer has no ids."""
    discrete = tokenizer.spec.vocabulary is not None

    def run(z: Tensor, past: Past | None) -> tuple[Tensor, ...]:
        z = tokenizer.lookup(z) if discrete else z
        return (tokenizer.decode_part(z.to(tokenizer.dtype), past, last=last or past is None),)

    return run


Examples = Callable[[Mapping[str, int]], Tensor]
"""An input at given sizes."""


def random_clips(tokenizer: Tokenizer, frames: int) -> Examples:
    """Random frames in [-1, 1]."""
    _, fh, fw = tokenizer.spec.factors
    fixed = tokenizer.spec.size

    def make(sizes: Mapping[str, int]) -> Tensor:
        size = fixed or (fh * sizes["rows"], fw * sizes["columns"])
        draw = torch.Generator().manual_seed(frames)
        x = torch.rand(sizes["batch"], 3, frames, *size, generator=draw) * 2 - 1
        return x.to(device=tokenizer.device, dtype=tokenizer.dtype)

    return make


def tokens(tokenizer: Tokenizer, steps: int) -> Examples:
    """Random ids, or latents drawn from a normal distribution."""
    spec = tokenizer.spec
    _, fh, fw = spec.factors

    def make(sizes: Mapping[str, int]) -> Tensor:
        size = spec.size or (fh * sizes["rows"], fw * sizes["columns"])
        grid = tokenizer.grid_for(spec.frames(steps), size)
        grid = (steps, *grid[1:]) if len(grid) > 1 else grid
        draw = torch.Generator().manual_seed(steps)
        if spec.vocabulary is not None:
            ids = torch.randint(spec.vocabulary, (sizes["batch"], *grid), generator=draw)
            return ids.to(tokenizer.device)
        z = torch.randn(sizes["batch"], spec.channels, *grid, generator=draw)
        return z.to(device=tokenizer.device, dtype=tokenizer.dtype)

    return make


def names_of(tokenizer: Tokenizer, side: str) -> tuple[str, list[str]]:
    """The name of the input of an encoder or decoder, and those of its outputs."""
    discrete = tokenizer.spec.vocabulary is not None
    coded = ["latents", "ids"] if discrete else ["latents"]
    return ("frames", coded) if side == "encoder" else (coded[-1], ["frames"])


# ---------------------------------------------------------------- whole clips and streams


def clip_graph(tokenizer: Tokenizer, name: str, run: Run, example: Examples) -> Graph:
    """A graph of whole clips."""
    given, made = names_of(tokenizer, name)
    return graph(name, Call(tokenizer, run), lambda sizes: {given: example(sizes)}, made)


def stream_graphs(
    tokenizer: Tokenizer,
    side: str,
    run: Run,
    example: Callable[[Tokenizer, int], Examples],
    lengths: tuple[int, int],
) -> list[Graph]:
    """The graphs of a stream: from nothing to a settled state, from there on, and to its end."""
    first, group = lengths
    given, made = names_of(tokenizer, side)
    begin, opening = settling_steps(run, lambda n: example(tokenizer, n)(SIDES), first, group)
    kept, after = ([f"{way}.{name}" for name in opening.kept] for way in ("state", "next"))

    def stepped(sizes: Mapping[str, int]) -> dict[str, Tensor]:
        past = Past()
        run(example(tokenizer, begin)(sizes), past)
        states = (past.kept[name] for name in opening.kept)
        return {given: example(tokenizer, group)(sizes), **dict(zip(kept, states, strict=True))}

    start = StreamStep(tokenizer, run, Stage(), [*opening.kept])
    step = StreamStep(tokenizer, run, opening, [*opening.kept])
    opened = lambda sizes: {given: example(tokenizer, begin)(sizes)}
    found = [
        graph(f"{side}_begin", start, opened, [*made, *after]),
        graph(f"{side}_step", step, stepped, [*made, *after]),
    ]
    if side == "decoder" and tokenizer.spec.lookahead_steps:
        end = StreamStep(tokenizer, decoding(tokenizer, last=True), opening, [])
        found.append(graph(f"{side}_end", end, stepped, made))
    return found


def settling_steps(
    run: Run, example: Callable[[int], Tensor], first: int, group: int
) -> tuple[int, Stage]:
    """How long a beginning brings a stream's state to what every further group leaves it at.

    A decoder that looks ahead needs a group more than others.
    """
    length, before = first, Stage()
    for _ in range(CHUNKS):
        past = Past()
        run(example(length), past)
        stage = Stage(kept=past.kept, begun=tuple(past.begun))
        if before.begun == stage.begun and before.shapes == stage.shapes:
            return length - group, stage
        length, before = length + group, stage
    raise AssertionError("the state of a stream settles after its first groups")


def graph(
    name: str,
    module: nn.Module,
    examples: Callable[[Mapping[str, int]], Mapping[str, Tensor]],
    outputs: Sequence[str],
) -> Graph:
    """A graph with the axes that follow each of `SIDES`."""
    inputs = examples(SIDES)
    sizes: dict[str, dict[int, tuple[str, int]]] = {given: {} for given in inputs}
    for size, length in SIDES.items():
        for given, tensor in examples(SIDES | {size: length + 1}).items():
            for axis, (old, new) in enumerate(zip(inputs[given].shape, tensor.shape, strict=True)):
                if new != old:
                    assert new * length == old * (length + 1), "axes are multiples of a size"
                    sizes[given][axis] = (size, new - old)
    return Graph(
        name=name,
        module=module.eval(),
        inputs=inputs,
        outputs=outputs,
        sizes=sizes,
        examples=examples,
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far outputs are from those of the model: the largest difference of latents and frames,
    that of states, and the share of ids that are the same (None without ids).

    States are values from inside of a network, larger than what it gives, and rounding shows there.
    """

    outputs: float
    states: float
    ids: float | None


def agreement_of(outputs: Sequence[str], made: Sequence[Any], wanted: Sequence[Any]) -> Agreement:
    """The agreement of two lists of outputs.

    Latents are compared where ids are the same: a code on the edge may fall on either side. What is
    not finite is infinitely far from all but itself.
    """
    pairs = {
        name: (torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu())
        for name, one, other in zip(outputs, made, wanted, strict=True)
    }
    ids = pairs.pop("ids", None)
    same = None if ids is None else ids[0] == ids[1]
    far = {"outputs": 0.0, "states": 0.0}
    for name, (one, other) in pairs.items():
        apart = (one.double() - other.double()).abs().nan_to_num(nan=inf, posinf=inf)
        apart = apart.masked_fill((one == other) | (one.isnan() & other.isnan()), 0.0)
        if name == "latents" and same is not None:
            apart = apart.masked_fill(~same.unsqueeze(1), 0.0)
        kind = "states" if name.startswith("next.") else "outputs"
        far[kind] = max(far[kind], float(apart.max()) if apart.numel() else 0.0)
    return Agreement(**far, ids=None if same is None else float(same.double().mean()))
