"""Token steps on their way into a decoder: which are needed, in what parts, whose frames they are.

A causal network decodes whole groups of steps one after another, any other whole windows, each as a
clip of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from reeltok.arguments import is_count, require_kind, said
from reeltok.tokenizer.spec import Spec
from reeltok.tokenizer.streaming import require_parts
from reeltok.tokens.ids import join_sizes
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel
from reeltok.video.record import Video


@dataclass(frozen=True)
class StepSpan:
    """Steps `early` to `late` of a clip, and how many of its frames come before them."""

    early: int
    late: int
    before: int


def coded_parts(parts: Iterable[Tokens]) -> Iterable[Tokens]:
    """The same. ValueError for what is no stream, or a part of it no tokens."""
    parts = require_parts(parts, "decode for a whole clip, or the parts of a Reel")
    return (require_kind(part, Tokens, "parts of a clip are Tokens") for part in parts)


def require_all(missing: int) -> None:
    """ValueError where tokens ended and so many of their frames did not come."""
    if missing:
        raise ValueError(
            f"these tokens lack the last {missing} of the frames that they are said to be of: "
            "decode the whole clip with start and stop, or give their own number of frames"
        )


def require_grid(part: Tokens, spec: Spec, cells: tuple[int, ...]) -> None:
    """ValueError unless each step of `part` is a grid of `cells`, with the channels of `spec`."""
    if len(part.grid) == 3 and part.grid[1:] != cells:
        held = (side * factor for side, factor in zip(part.grid, spec.factors, strict=True))
        raise ValueError(
            f"these tokens hold frames of {join_sizes([*held][1:])} pixels, not of the "
            f"{part.height}x{part.width} that they are said to be: give their own size"
        )
    channels = None if part.latents is None else part.latents.shape[1]
    if part.grid[1:] != cells or channels not in (None, spec.channels):
        raise ValueError(
            f"{spec.name} codes frames of {part.height}x{part.width} on grids of "
            f"{join_sizes(cells)} with "
            f"{spec.channels} channels, these are {part}: load the tokenizer that made them"
        )


def frame_range(frames: int, start: int | None, stop: int | None) -> tuple[int, int]:
    """`start` and `stop` with their defaults. ValueError unless 0 <= start < stop <= frames."""
    if not frames:
        raise ValueError(
            "these tokens stand for no frame: give as many steps of the clip as a frame takes"
        )
    first, end = 0 if start is None else start, frames if stop is None else stop
    if not (is_count(first, 0) and is_count(end) and first < end <= frames):
        raise ValueError(
            f"frames {said(first)} to {said(end)} were asked of a clip of {frames}: "
            f"give 0 <= start < stop <= {frames}"
        )
    return first, end


def split_steps(part: Tokens, spec: Spec, chunk: int) -> Iterator[Tokens]:
    """`part` in runs of whole groups of at most `chunk` frames, but at least one group."""
    total, frame = part.grid[0], 0
    few = max(1, chunk // spec.frames_per_group) * spec.steps_per_group
    opening = 0 if part.step else spec.first_steps
    opening += max(0, (chunk - spec.first_frames) // spec.frames_per_group) * spec.steps_per_group
    for step in [0, *range(opening or few, total, few)]:
        late = min(total, step + few if step else opening or few)
        end = part.frames if late == total else part.share(0, late)[1]
        yield part.part(step, late, frames=(frame, end))
        frame = end


def whole_windows(parts: Iterable[Tokens], spec: Spec, *, ended: bool = True) -> Iterator[Tokens]:
    """The parts of a stream as they came, or cut and joined to the windows that it was coded in.

    The last window may be shorter. ValueError for parts that begin within a window, or that end in
    one where the stream has not `ended`.
    """
    if not spec.independent:
        yield from parts
        return
    held: Tokens | None = None
    for part in parts:
        held = part if held is None else Tokens.join([held, part])
        window = coded_window(held, spec)
        steps, count, frames = spec.steps(window), held.grid[0], held.frames
        if held.step % steps:
            raise ValueError(
                f"these tokens begin at step {held.step}, within a window of {steps} steps that "
                "are decoded together: begin at a multiple of that"
            )
        ends = [min(frames, i * window) for i in range(count // steps + 1)]
        for i, (first, end) in enumerate(pairwise(ends)):
            yield held.part(i * steps, (i + 1) * steps, frames=(first, end))
        whole = count // steps * steps
        held = held.part(whole, count, frames=(ends[-1], frames)) if whole < count else None
    if held is not None:
        if not ended:
            raise ValueError(
                f"these tokens end within a window of {steps} steps that are decoded together: "
                "give whole windows, or say last=True"
            )
        yield held


def coded_window(tokens: Tokens | Reel, spec: Spec) -> int:
    """The frames of the windows that tokens were coded in; where they do not say, one of all.

    ValueError for what is not a number of frames.
    """
    window = tokens.settings.get("window", spec.window or spec.frames(tokens.grid[0]))
    if not isinstance(window, int) or window < 1:
        raise ValueError(
            f"these tokens were coded in windows of {window!r} frames: give settings with the "
            "number that their tokenizer coded at a time as 'window'"
        )
    return window


def find_span(spec: Spec, tokens: Tokens | Reel, first: int, end: int) -> StepSpan:
    """The steps to decode for frames `first` to `end`, with all that they depend on."""
    total = tokens.grid[0]
    if spec.independent:
        window = coded_window(tokens, spec)
        number, steps = first // window, spec.steps(window)
        late = min(total, -(-end // window) * steps)
        return StepSpan(number * steps, late, number * window)
    late = min(total, spec.steps(end) + spec.lookahead_steps)
    needed = spec.steps(first + 1) if spec.receptive_steps is not None else 0
    group = max(0, needed - spec.first_steps - (spec.receptive_steps or 0)) // spec.steps_per_group
    early = spec.first_steps + group * spec.steps_per_group if group else 0
    return StepSpan(early, late, spec.frames(late) - spec.frames(late - early))


def require_beginning(tokens: Tokens | Reel, spec: Spec) -> None:
    """ValueError for a part of a clip that is decoded only with what comes before."""
    if tokens.step and not spec.independent:
        raise ValueError(
            f"these tokens are a part of a clip, from step {tokens.step} on, and need what "
            "comes before: decode the whole clip with start and stop, or its parts in their "
            "order with stream_decode"
        )


def require_streamed(part: Tokens) -> None:
    """ValueError for tokens of a clip that was completed in front: they are decoded at once."""
    if part.settings.get("pad") == "front":
        raise ValueError(
            "these tokens were made with pad='front', which codes a clip whole, and came as parts "
            "of a stream: use decode"
        )


def seconds_before(tokens: Tokens | Reel, spec: Spec, first: int) -> float:
    """Seconds from where a clip starts to frame `first` of `tokens`, which may be a part of it."""
    if tokens.times is not None:
        return float(tokens.times[first] - (0.0 if tokens.step else tokens.times[0]))
    if tokens.step:
        window = coded_window(tokens, spec)
        first += tokens.step // spec.steps(window) * window
    return first / tokens.fps if tokens.fps else 0.0


def begun_at(first: int, x: Video | Tensor, tokens: Tokens | Reel, spec: Spec) -> Video | Tensor:
    """What was decoded of `tokens` from frame `first` on, with times that begin there."""
    seconds = seconds_before(tokens, spec, first)
    if isinstance(x, Tensor) or not seconds:
        return x
    times = None if x.times is None else x.times - seconds
    return replace(x, start=x.start + seconds, times=times)
