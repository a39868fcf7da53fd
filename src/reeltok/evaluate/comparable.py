"""Whether results were made in the same way, or would be: what a table is made of must be."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from reeltok.evaluate.protocols import Protocol

if TYPE_CHECKING:
    from reeltok.evaluate.results import Result


@dataclass(frozen=True, kw_only=True)
class PlannedResult:
    """A model that is to be judged, or was: under which protocol, and with which of its clips."""

    model: str
    protocol: Protocol
    causal: bool

    @classmethod
    def of(cls, result: "Result") -> "PlannedResult":
        """What a result was made of."""
        return cls(model=result.model, protocol=result.protocol, causal=result.causal)

    @property
    def clips(self) -> dict[str, Any]:
        """All of the protocol that decides this model's clips and numbers."""
        record = asdict(self.protocol) | {
            "frames": self.protocol.clip_frames(causal=self.causal),
        }
        return {key: value for key, value in record.items() if key != "data"}


def check_planned(models: Sequence[PlannedResult]) -> None:
    """Raise ValueError, naming what differs, unless results of all of these will compare."""
    for first, second in combinations(models, 2):
        _refuse(first, second, _differing(first, second))


def check_comparable(first: "Result", second: "Result") -> None:
    """Raise ValueError, naming what differs, unless two results were made in the same way."""
    pair = PlannedResult.of(first), PlannedResult.of(second)
    parts = _differing(*pair)
    theirs = {clip["name"]: clip["sha256"] for clip in second.clips}
    moved = [c["name"] for c in first.clips if theirs.get(c["name"], c["sha256"]) != c["sha256"]]
    if moved and not parts:
        parts.append(f"the originals of {len(moved)} clips, such as {moved[0]}")
    known = dict(name.rsplit("-", 1) for name in second.networks)
    judges = [name.rsplit("-", 1) for name in first.networks]
    parts += [f"weights of {name}" for name, hash in judges if known.get(name, hash) != hash]
    meant = second.definitions
    parts += [
        f"the definition of {k}" for k, v in first.definitions.items() if meant.get(k, v) != v
    ]
    _refuse(*pair, parts)


def _differing(first: PlannedResult, second: PlannedResult) -> list[str]:
    """The values of two protocols that differ, with both."""
    pairs = first.clips, second.clips
    differ = [key for key in pairs[0] if pairs[0][key] != pairs[1][key]]
    return [f"{key} ({pairs[0][key]!r} and {pairs[1][key]!r})" for key in differ]


def _refuse(first: PlannedResult, second: PlannedResult, parts: Sequence[str]) -> None:
    """ValueError where `parts` differ between two models."""
    if not parts:
        return
    advice = "judge both under one protocol, by one version of reeltok"
    if first.protocol == second.protocol and first.clips != second.clips:
        advice = (
            f"{first.protocol.name} gives causal tokenizers other clips than those that are not "
            "causal, so judge both under a protocol of one length, such as shared-eval"
        )
    raise ValueError(
        f"{first.model} and {second.model} do not compare, they differ in {', '.join(parts)}: "
        f"{advice}"
    )
