"""What a table says below its numbers: clips that were left out, bits or machines that do not
match.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reeltok.evaluate.results import Result

UNMATCHED = 0.1  # share by which a codec's bits may be off before a note says so


def all_left_out(results: "Sequence[Result]") -> dict[str, str]:
    """The clips that the protocol's rule left out for any of the results, and why."""
    return {name: why for result in results for name, why in result.left_out.items()}


def note_left_out(left_out: Mapping[str, str], clips: int, *, most: int = 10) -> list[str]:
    """The line that names clips left out beside `clips` that were judged, if there are any."""
    if not left_out:
        return []
    shown = [f"{name} ({why})" for name, why in [*left_out.items()][:most]]
    more = [f"{len(left_out) - most} more"] if len(left_out) > most else []
    total = clips + len(left_out)
    return [f"The protocol leaves out {len(left_out)} of {total}: {', '.join(shown + more)}."]


def note_unmatched(results: "Sequence[Result]", common: Collection[str]) -> list[str]:
    """A line for each codec that was to take the bits of a tokenizer and is far from them."""
    taken = [_bits(result, common) for result in results]
    like = next((i for i, r in enumerate(results) if taken[i] and r.kind != "codec"), None)
    if like is None:
        return []
    return [
        f"{result.model} took {taken[i] / taken[like]:.2f} times the bits of "
        f"{results[like].model}: no quality of this codec comes nearer, so do not read the two as "
        "equal in bits."
        for i, result in enumerate(results)
        if taken[i] and result.settings.get("role") in ("clip", "set")
        if abs(taken[i] / taken[like] - 1) > UNMATCHED
    ]


def note_machines(results: "Sequence[Result]") -> list[str]:
    """A line where results come from unlike machines, or ran with unlike numbers of threads."""
    models: dict[str, list[str]] = {}
    for result in results:
        held = result.machine
        if held:
            about = f"{held.get('cpu')}, {held.get('threads')} threads, GPU {held.get('gpu')}"
            models.setdefault(about, []).append(result.model)
    if len(models) < 2:
        return []
    each = "; ".join(f"{', '.join(names)} on {about}" for about, names in models.items())
    return [f"Speeds and memory are of unlike machines, so do not compare them: {each}."]


def _bits(result: "Result", names: Collection[str]) -> int:
    """The bits of the named clips together; 0 where they were not counted."""
    bits = [clip["bits"] for clip in result.clips if clip["name"] in names]
    return sum(n for n in bits if n is not None) if None not in bits else 0
