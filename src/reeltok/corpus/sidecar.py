"""What is said of a finished shard, in a file that is written last: once there, it is done."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from reeltok.corpus.place import Place
from reeltok.corpus.shard import file_name, sidecar_name
from reeltok.files.parsing import parse_json


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A clip that gave no rows, and why; `short`: it is whole, but has no window."""

    source: str
    reason: str
    short: bool = False


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One parquet file: its bytes, their hash, and its rows."""

    name: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Of latents by channel: how many values, their mean, and their squared deviations summed."""

    count: int
    mean: tuple[float, ...]
    scatter: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What shard `shard` holds: files, counts, failures, and its rows by id and bucket.

    `bits` are the nominal ones of its tokens, `stored_bits` those of packed ones as they lie in the
    files; None where nothing is packed, and both are the same.
    """

    version: int
    shard: int
    plan: str
    files: tuple[ShardFile, ...]
    clips: int
    rows: int
    frames: int
    seconds: float
    tokens: int
    bits: int
    pixels: int
    stored_bits: int | None = None
    failures: tuple[Failure, ...] = ()
    spread: Spread | None = None
    ids: tuple[str, ...] = field(default=(), repr=False)
    buckets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def broken(self) -> list[Failure]:
        """The clips that could not be read: another try may find them whole."""
        return [failure for failure in self.failures if not failure.short]


def write_sidecar(sidecar: Sidecar, place: Place) -> None:
    """Write it beside its shard, which is done from then on."""
    record = asdict(sidecar)
    if sidecar.stored_bits is None:
        del record["stored_bits"]
    place.write(sidecar_name(sidecar.shard), json.dumps(record, indent=1) + "\n")


def read_sidecar(place: Place, shard: int) -> Sidecar:
    """What is said of a shard. FileNotFoundError where it is not done, ValueError for damage."""
    name = place.where(sidecar_name(shard))
    record = parse_json(place.read(sidecar_name(shard)), name)
    try:
        return of_record(record)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} was altered ({error}): remove it and build again") from error


def of_record(record: dict[str, Any]) -> Sidecar:
    """The record of a JSON object. TypeError where it is another."""
    tupled = lambda kind, values: tuple(kind(**value) for value in values)
    held = record["spread"]
    inner = {
        "files": tupled(ShardFile, record["files"]),
        "failures": tupled(Failure, record["failures"]),
        "spread": held
        and Spread(count=held["count"], mean=tuple(held["mean"]), scatter=tuple(held["scatter"])),
        "ids": tuple(record["ids"]),
        "buckets": tuple(record["buckets"]),
    }
    return Sidecar(**{**record, **inner})


def done_shards(names: set[str]) -> set[int]:
    """The shards whose sidecars are among the names of files, and which were not removed since."""
    stems = (name[6:-5] for name in names if name.startswith("shard-") and name.endswith(".json"))
    numbers = {int(stem) for stem in stems if stem.isdecimal()}
    return {number for number in numbers if file_name(number) in names}


def require_plan(sidecars: Sequence[Sidecar], plan: str, place: Place) -> None:
    """ValueError where a shard was made by another plan."""
    for sidecar in sidecars:
        if sidecar.plan != plan:
            raise ValueError(
                f"{place.where(sidecar_name(sidecar.shard))} was made by another plan than "
                f"{place}/plan.json: remove that shard and build again"
            )
