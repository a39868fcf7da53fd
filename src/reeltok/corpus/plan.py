"""What a corpus is to be: its clips in shards, how they are shaped and coded, by which tokenizer.

`plan.json` is written before the first shard. A later run has to agree with it, so that any number
of runs, one after another or at once, make one corpus.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from math import ceil
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from reeltok.corpus.packing import CarriedPacking, packing_of
from reeltok.corpus.place import Place
from reeltok.corpus.row import FLOATS
from reeltok.corpus.shaping import Bucket, Shaping
from reeltok.corpus.sources import ListedClip, digest_of
from reeltok.corpus.texts import Texts
from reeltok.data.kinds import CORPUS_PLAN
from reeltok.files.hashes import hash_text
from reeltok.files.parsing import parse_json
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.refinement import REFINEMENT
from reeltok.tokens.packing.model import NAME as PACKING

PLAN = CORPUS_PLAN
VERSION = 2  # of packed corpora; that of others is 1
Keep = Literal["ids", "latents", "moments"]


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class WindowCoding:
    """How windows are coded, and what of it is kept.

    `keep` None: ids where the tokenizer is discrete, else latents, in `dtype`. `batch` windows of a
    bucket are coded at once, by `threads` threads, in tiles of `tile` pixels; `clips` are in a
    shard. `pack`: ids are packed without loss, by the tokenizer's packing model. All of these
    decide the bytes.
    """

    keep: Keep | None = None
    dtype: str = "float16"
    batch: int = Field(default=8, ge=1)
    threads: int = Field(default=1, ge=1)
    tile: int | None = Field(default=None, ge=1)
    clips: int = Field(default=64, ge=1)
    pack: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in FLOATS:
            raise ValueError(f"latents are kept in {', '.join(FLOATS)}, not {self.dtype!r}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which tokenizer a corpus is of: enough to read its tokens, and the name that loads it.

    `used` is how its weights were used (`Spec.used`), `config` what of its configuration decides
    tokens and frames; of corpora of earlier versions these are empty and None.
    """

    name: str
    weights: str
    family: str
    load: str
    precision: str
    vocabulary: int | None
    channels: int
    factors: tuple[int, int, int]
    first_frames: int
    frames_per_group: int
    causal: bool
    used: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, load: str = "") -> "Model":
        """That of a tokenizer, which `load` names."""
        spec = tokenizer.spec
        return cls(
            name=spec.name,
            weights=tokenizer.hash(),
            family=spec.family,
            load=load or spec.name,
            precision=str(tokenizer.dtype).removeprefix("torch."),
            vocabulary=spec.vocabulary,
            channels=spec.channels,
            factors=spec.factors,
            first_frames=spec.first_frames,
            frames_per_group=spec.frames_per_group,
            causal=spec.causal,
            used=spec.used,
            config=tokenizer.configuration,
        )


@runtime_checkable
class ExtraEncoder(Protocol):
    """What makes further tensors of a window, beside its tokens; it can be sent to processes.

    `record` says in JSON what it depends on. An error of it ends the run.
    """

    @property
    def record(self) -> dict[str, Any]: ...

    def __call__(
        self,
        tokenizer: Tokenizer,
        x: Tensor,
        sources: Sequence[ListedClip],
        firsts: Sequence[int],
    ) -> list[dict[str, Tensor]]:
        """Tensors by name of each window "c t h w", and at which frame of its clip it begins."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole of a corpus before it is made.

    `extras`: tokens come with more tensors. `beside` makes others of each window. `texts` are
    embeddings, or None. `column` held the classes, where one was named. `packing` packs
    ids. `statistics` are those that the tokenizer says its latents have, where latents are kept.
    `notes` are a sentence each for people.
    """

    model: Model
    shaping: Shaping
    coding: WindowCoding
    sources: tuple[ListedClip, ...]
    extras: bool = False
    beside: "ExtraEncoder | None" = None
    texts: Texts | None = None
    column: str | None = None
    packing: CarriedPacking | None = None
    statistics: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def further(self) -> tuple[str, ...]:
        """The further columns of the manifest, in order of their names."""
        return tuple(sorted({name for source in self.sources for name in source.further}))

    @property
    def count(self) -> int:
        """How many shards there are."""
        return ceil(len(self.sources) / self.coding.clips)

    def shard(self, number: int) -> tuple[ListedClip, ...]:
        """The clips of one shard."""
        size = self.coding.clips
        return self.sources[number * size : (number + 1) * size]

    @cached_property
    def record(self) -> dict[str, Any]:
        """What plan.json holds: all that decides the bytes, in JSON's own kinds."""
        shaping = {**asdict(self.shaping), "buckets": [str(b) for b in self.shaping.buckets]}
        text = False if self.texts is None else self.texts.record
        build = {**shaping, **asdict(self.coding), "text": text}
        build["beside"] = None if self.beside is None else self.beside.record
        del build["pack"]  # which plans of version 1 do not have
        tokenizer = asdict(self.model)
        if not self.model.used:
            del tokenizer["used"]
        if self.model.config is None:
            del tokenizer["config"]
        if self.packing is not None:
            build["packing"] = self.packing.model.hash
        named = {} if self.column is None else {"column": self.column}
        record = {
            "version": 1 if self.packing is None else VERSION,
            "tokenizer": tokenizer,
            "build": build,
            "columns": self.further,
            **named,
            "statistics": self.statistics,
            "clips": {"count": len(self.sources), "digest": digest_of(self.sources)},
            "shards": self.count,
        }
        return json.loads(json.dumps(record))

    @cached_property
    def digest(self) -> str:
        """What stands for the plan in shards and sidecars."""
        return plan_digest(self.record)


def plan_digest(record: dict[str, Any]) -> str:
    """The hash of a plan's record, whatever else is said beside it."""
    return hash_text(json.dumps(record, sort_keys=True), 64)


def make_plan(
    sources: Sequence[ListedClip],
    tokenizer: Tokenizer,
    *,
    shaping: Shaping,
    coding: WindowCoding,
    load: str = "",
    texts: Texts | None = None,
    column: str | None = None,
    beside: ExtraEncoder | None = None,
) -> Plan:
    """The plan of a corpus. ValueError for windows or kinds that the tokenizer does not make."""
    spec = tokenizer.spec
    keep = coding.keep or ("latents" if spec.vocabulary is None else "ids")
    if keep == "ids" and spec.vocabulary is None:
        raise ValueError(f"{spec.name} is continuous and has no ids: give `keep` latents")
    if keep == "moments" and spec.vocabulary is not None:
        raise ValueError(f"{spec.name} is discrete and has no variance: give `keep` ids or latents")
    notes = shaping.check(spec)
    if texts is not None and texts.clips < len(sources):
        notes += (f"{texts.clips} of {len(sources)} clips have an embedding in {texts.folder}",)
    own = tokenizer.scale.statistics(spec.channels) or tokenizer.statistics
    leans = type(tokenizer).side_information is not Tokenizer.side_information
    return Plan(
        model=Model.of(tokenizer, load),
        shaping=shaping,
        coding=replace(coding, keep=keep),
        sources=tuple(sources),
        extras=leans,
        texts=texts,
        column=column,
        packing=packing_of(tokenizer, keep) if coding.pack else None,
        beside=beside,
        notes=notes,
        statistics={"from": "tokenizer", **own} if own and keep != "ids" else None,
    )


def plan_of_record(record: dict[str, Any], sources: Sequence[ListedClip]) -> Plan:
    """The plan that a manifest or plan.json holds, of clips that are found again."""
    build = {**record["build"], "pack": "packing" in record["build"]}
    shaped, coded = (
        {f.name: build[f.name] for f in fields(kind)} for kind in (Shaping, WindowCoding)
    )
    size = shaped["size"]
    shaped["size"] = tuple(size) if isinstance(size, list) else size
    shaped["buckets"] = tuple(Bucket.of(each) for each in shaped["buckets"])
    model = record["tokenizer"]
    return Plan(
        model=Model(**{**model, "factors": tuple(model["factors"])}),
        shaping=Shaping(**shaped),
        coding=WindowCoding(**coded),
        sources=tuple(sources),
        column=record.get("column"),
        statistics=record["statistics"],
    )


def write_plan(plan: Plan, place: Place) -> Plan:
    """Write plan.json, or find it as it would be; the plan, whose tokenizer keeps its first name.

    The packing model, where there is one, is written before it.
    ValueError where another plan is there.
    """
    if not place.has(PLAN):
        if plan.packing is not None:
            place.write(PACKING, plan.packing.file)
        if place.write_new(PLAN, json.dumps(plan.record, indent=1, sort_keys=True) + "\n"):
            return plan
    held = read_plan(place)
    load = str(held["tokenizer"].get("load"))
    used = plan.model.used
    if "used" not in held["tokenizer"]:  # earlier versions kept none, and refined nothing
        used = {name: value for name, value in used.items() if name in REFINEMENT}
    column = plan.column if "column" in held else None  # likewise
    texts = plan.texts
    if texts is not None and held["build"].get("text") is True:  # likewise
        texts = Texts(folder=texts.folder)
    config = plan.model.config if "config" in held["tokenizer"] else None  # likewise
    model = replace(plan.model, load=load, used=used, config=config)
    same = replace(plan, model=model, column=column, texts=texts)
    if held != same.record:
        raise ValueError(f"{place} was begun differently: {_difference(held, same.record)}")
    return same


def read_plan(place: Place) -> dict[str, Any]:
    """The record of plan.json. FileNotFoundError where there is none."""
    try:
        record = parse_json(place.read(PLAN), place.where(PLAN))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{place} holds no corpus (no {PLAN}): `reeltok corpus build` makes one"
        ) from None
    keys = {"version", "tokenizer", "build", "columns", "clips", "shards", "statistics"}
    if not isinstance(record, dict) or not keys <= {*record}:
        raise ValueError(f"{place.where(PLAN)} was altered: copy it again")
    if record["version"] > VERSION:
        raise ValueError(
            f"{place} has version {record['version']} and this reeltok reads up to {VERSION}: "
            "upgrade reeltok"
        )
    return record


def _difference(held: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first thing in which two plans differ, in words that name both."""
    advice = "go on as it was begun, or name another folder"
    one, other = held["tokenizer"], wanted["tokenizer"]
    if one != other:
        names = (f"{m.get('name')} ({str(m.get('weights'))[:12]})" for m in (one, other))
        before, now = names
        if before == now:
            was, now = use_difference(one, other)
            before = f"{before} {was}"
        return f"by the tokenizer {before}, now it is {now}; {advice}"
    begun, asked = held["build"], wanted["build"]
    for key in [*asked, *(begun.keys() - asked.keys())]:
        before, now = begun.get(key), asked.get(key)
        if before != now:
            if key == "packing":
                before, now = (each and f"by the model {each[:12]}" for each in (before, now))
            if key == "text":
                before, now = map(_texts_text, (before, now))
            name = f"`{OPTIONS.get(key, key)}`"
            return f"with {name} {setting_text(before)}, now it is {setting_text(now)}; {advice}"
    before, now = held["clips"], wanted["clips"]
    if before["count"] != now["count"]:
        return f"from {before['count']} clips, now there are {now['count']}; {advice}"
    return f"from other clips, or other captions and columns of them; {advice}"


def use_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str]:
    """The first thing in which two uses of the same weights differ: "with edge both", of each."""
    one, other = (
        {**m, **m.get("used", {}), **(m.get("config") or {}), "used": None, "config": None}
        for m in (one, other)
    )
    key = next(k for k in {**other, **one} if one.get(k) != other.get(k))
    usual = 0 if key in REFINEMENT else "as usual"
    was, now = (f"with {key} {setting_text(m.get(key, usual))}" for m in (one, other))
    return was, now


OPTIONS = {"clips": "shard_clips", "dtype": "latents", "packing": "pack"}
"""Settings that commands call otherwise than plans."""


def _texts_text(record: Any) -> str:
    """What a plan says of embeddings, for people."""
    if not isinstance(record, dict):
        return "some" if record else "none"
    return f"of {record['clips']} clips, {record['width']} wide ({record['digest'][:12]})"


def setting_text(value: Any) -> str:
    """A setting for people."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
