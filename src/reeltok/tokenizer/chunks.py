"""Coding in chunks: where a stream stands, and one chunk on its way in or out.

`Tokenizer.new_encode_state` and `new_decode_state` make states, `encode_chunk` and `decode_chunk`
use them. A state belongs to one stream and is a pytree: its leaves are tensors.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from reeltok.arguments import require_kind
from reeltok.nn.quantizers import Quantized
from reeltok.records import register
from reeltok.tokenizer.inputs import check_sample, check_tokens, record_tokens
from reeltok.tokenizer.steps import require_all, require_beginning, require_streamed, whole_windows
from reeltok.tokenizer.streaming import (
    FrameRun,
    conversion_for,
    count_frames,
    crop_padding,
    join_frames,
    mark_last,
    require_alike,
    to_input_type,
    whole_groups,
)
from reeltok.tokenizer.strips import FrameSource
from reeltok.tokenizer.tiling import Convert, Options, StreamRunner, StreamState
from reeltok.tokens.ids import check_latents, join_sizes, require_gridded, require_step
from reeltok.tokens.record import Tokens
from reeltok.video.record import Video
from reeltok.video.timing import PartTimes, moments_of


@dataclass(eq=False, kw_only=True)
class EncodeState(StreamState):
    """Where an encoder stands in a stream of frames.

    The next token step is number `step`, after the frame `before`, as it came. `ended`: the last
    chunk was no whole group or window, which only the end of a stream may be. `clock` times the
    chunks. `start`, in seconds, and `window` are the first one's: the clip has one of each.
    """

    step: int = 0
    before: Tensor | None = None
    ended: bool = False
    start: float = 0.0
    window: int | None = None
    clock: PartTimes = field(default_factory=PartTimes)


@dataclass(eq=False, kw_only=True)
class DecodeState(StreamState):
    """Where a decoder stands in a stream of tokens.

    Of the frames that tokens so far stand for, `due` have not been given out, shown at `times`.
    `held` are frames of the last group beyond what its tokens stand for. The next token step is
    number `step`, of `cells` = (clips, rows, columns) tokens (None: nothing has come yet).
    """

    step: int | None = None
    cells: tuple[int, ...] | None = None
    due: int = 0
    times: Tensor | None = None
    held: Tensor | None = None

    @property
    def begun(self) -> bool:
        """Whether tokens have come, of which bare ones say no step."""
        return self.step is not None or self.cells is not None


register(EncodeState, "pasts", "strips", "reference", "before")
register(DecodeState, "pasts", "strips", "reference", "times", "held")


def runner_for(tokenizer: Any, state: StreamState) -> StreamRunner:
    """What carries a chunk of the stream `state` through the network of a `Tokenizer`."""
    spec, frames = tokenizer.spec, isinstance(state, EncodeState)
    return StreamRunner(
        network=tokenizer,
        cell=spec.factors[1:],
        first_length=spec.first_frames if frames else spec.first_steps,
        group_length=spec.frames_per_group if frames else spec.steps_per_group,
        causal=not spec.independent,
        state=state,
        strips=tokenizer.encodes_in_strips if frames else spec.strips,
    )


def encode_run(
    tokenizer: Any,
    run: FrameRun,
    given: Video | Tensor,
    state: EncodeState,
    *,
    window: int | None,
    sample: torch.Generator | None,
) -> Tokens:
    """Tokens of a run of whole groups of the frames of `given`."""
    check_sample(sample, tokenizer)
    if state.before is not None:
        require_alike(state.before, run.x)
    side = tokenizer.side_information(run, state.step, state.before, state.reference)
    source = FrameSource(run.x, tokenizer.network_input, tokenizer.spec.factors[1])
    with tokenizer.gradient(run.x):
        options = {"sample": sample, **side.options}
        quantized = runner_for(tokenizer, state).encode(source, run.real, options)
    require_finite(quantized.z, tokenizer)
    require_drawn(quantized, sample, tokenizer)
    tokens = record_tokens(tokenizer, quantized, run, given, window)
    tokens = tokens.with_(
        step=state.step,
        extras=side.extras,
        reference_bits=side.bits,
        settings={**tokens.settings, **side.settings},
    )
    state.step, state.before = state.step + tokens.grid[0], run.x[:, :, -1:].clone()
    state.ended = run.real < (window or run.x.shape[2])
    return tokens


def require_drawn(quantized: Quantized, sample: Any, tokenizer: Any) -> None:
    """ValueError where latents were to be drawn that are not of a Gaussian."""
    draws = quantized.logvar is not None or quantized.ids is not None
    if sample is not None and not draws and quantized.z.numel():
        raise ValueError(f"{tokenizer.name} gives latents that are not drawn: leave sample=None")


def require_finite(z: Tensor, tokenizer: Any) -> None:
    """ValueError where half precision overflowed on the way to latents."""
    if z.dtype == torch.float16 and not z.isfinite().all():
        raise ValueError(
            f"{tokenizer.name} leaves the range of float16 on these frames: load it with "
            "dtype=torch.bfloat16 or float32"
        )


def decode_run(
    tokenizer: Any, part: Tokens, state: DecodeState, *, last: bool
) -> Video | Tensor | None:
    """The frames that are due once `part` has come, as what was encoded; None where none are."""
    require_streamed(part)
    begun = state.begun
    if not begun:
        require_beginning(part, tokenizer.spec)
    elif not state.independent and state.step is not None:
        require_step(part.step, state.step)
    state.step = part.step + part.grid[0]
    z = tokenizer.find_latents(part)
    options = tokenizer.decoding_options(part, state.reference, begun=begun)
    convert = conversion_for(part)
    x = decode_latents(tokenizer, z, state, options, last=last, convert=convert)
    x = crop_padding(x, part)
    state.due += part.frames
    if part.times is not None:
        state.times = part.times if state.times is None else torch.cat([state.times, part.times])
    x = x if state.held is None else torch.cat([state.held, x], dim=2)
    x, beyond = x[:, :, : state.due], x[:, :, state.due :]
    state.held = beyond.clone() if beyond.shape[2] else None
    count, times = x.shape[2], state.times
    if not count:
        return None
    state.due -= count
    state.times = None if times is None else times[count:]
    return to_input_type(x, part, *moments_of(times, part.last, 0, count))


def require_state(state: Any, kind: type[StreamState]) -> None:
    """ValueError for a state that is not of `kind`."""
    if not isinstance(state, kind):
        way = "encode" if kind is EncodeState else "decode"
        raise ValueError(
            f"a stream has a state, found {type(state).__name__}: give what new_{way}_state() makes"
        )


def require_cells(state: DecodeState, z: Tensor) -> None:
    """ValueError for latents of another batch or size than those before them in a stream."""
    if state.independent or torch.compiler.is_compiling():
        return
    cells = (z.shape[0], *z.shape[3:])
    if state.cells is not None and state.cells != cells:
        raise ValueError(
            f"the stream began with steps of {join_sizes(state.cells)} tokens (clips first) and "
            f"continues with {join_sizes(cells)}: begin another with new_decode_state()"
        )
    state.cells = cells


def decode_latents(
    tokenizer: Any,
    z: Tensor,
    state: DecodeState,
    options: Options,
    *,
    last: bool,
    convert: Convert = lambda rows: rows,
) -> Tensor:
    """The frames `b c t h w` that latents `b d *grid` of whole groups make, in whole cells.

    `convert` makes of rows of frames what is kept of them.
    """
    require_cells(state, z)
    with tokenizer.gradient(z):
        z = z.to(device=tokenizer.device, dtype=tokenizer.dtype)
        return runner_for(tokenizer, state).decode(z, options, last=last, convert=convert)


def encode_next(
    tokenizer: Any, clip: Video | Tensor, state: EncodeState, *, sample: torch.Generator | None
) -> Tokens:
    """Tokens of the next whole groups of a stream; what is left over is filled, and its end."""
    require_state(state, EncodeState)
    if state.ended:
        raise ValueError(
            "this stream ended with a chunk that was not a whole "
            + (f"window of {state.window} frames" if state.window else "group of frames")
            + ": begin another with new_encode_state()"
        )
    if not count_frames(clip):
        raise ValueError("the chunk holds no frames: give at least one")
    spec = tokenizer.spec
    if state.before is None:
        state.start = clip.start if isinstance(clip, Video) else 0.0
        state.window = spec.window_for(count_frames(clip))
    clip = replace(clip, start=state.start) if isinstance(clip, Video) else clip
    begun = state.before is not None and not spec.independent
    runs = whole_groups([clip], spec, window=state.window, begun=begun, clock=state.clock)
    options: dict[str, Any] = {"window": state.window, "sample": sample}
    return Tokens.join([encode_run(tokenizer, run, clip, state, **options) for run in runs])


def decode_next(
    tokenizer: Any, tokens: Tokens | Tensor, state: DecodeState, *, last: bool
) -> Video | Tensor | None:
    """The frames that are due once `tokens` have come; None where none are."""
    require_state(state, DecodeState)
    if isinstance(tokens, Tensor):
        if state.reference is not None:
            raise ValueError("bare ids and latents have no reference: leave it out, or give Tokens")
        ids = not tokens.is_floating_point()
        z = tokenizer.lookup(tokens.to(tokenizer.device)) if ids else tokens
        require_gridded(z, "batch channels steps rows columns")
        check_latents(z, tokenizer.spec.channels)
        x = decode_latents(tokenizer, z, state, {}, last=last)
        return x if x.shape[2] else None
    require_kind(tokens, Tokens, "a chunk is Tokens, or a tensor of ids or latents")
    check_tokens(tokens, tokenizer)
    parts = mark_last(whole_windows([tokens], tokenizer.spec, ended=last))
    made = [decode_run(tokenizer, part, state, last=last and end) for part, end in parts]
    if last:
        require_all(state.due)
    frames = [each for each in made if each is not None]
    return join_frames(frames, 0) if frames else None
