"""`build_corpus`: from clips to a corpus, or what is still missing of one."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reeltok.corpus.build import OnClips
from reeltok.corpus.cluster import Cluster, run_on_ray
from reeltok.corpus.engines import Engine, rank_here, run_shards, share_of
from reeltok.corpus.finish import MANIFEST, finish_corpus, missing_shards
from reeltok.corpus.opening import Open
from reeltok.corpus.place import Place
from reeltok.corpus.plan import ExtraEncoder, Plan, WindowCoding, make_plan, write_plan
from reeltok.corpus.read import read_manifest
from reeltok.corpus.shaping import Shaping
from reeltok.corpus.shard import sidecar_name
from reeltok.corpus.sidecar import done_shards, read_sidecar
from reeltok.corpus.sources import find_sources
from reeltok.corpus.texts import find_texts


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a run did: shards that it made, of how many that are there or are still missing.

    `share` is (rank, ranks): which shards were this run's. `manifest` is that of the whole corpus,
    None while shards are missing. `stale` are clips of shards that were there, by shard, which were
    written since.
    """

    place: str
    made: int
    shards: int
    missing: int
    share: tuple[int, int]
    manifest: dict[str, Any] | None
    stale: Mapping[int, Sequence[str]] = field(default_factory=dict)


def plan_corpus(
    data: str | Path,
    opener: Open,
    *,
    shaping: Shaping,
    coding: WindowCoding,
    root: str | Path | None = None,
    column: str | None = None,
    texts: str | Path | None = None,
    beside: ExtraEncoder | None = None,
) -> Plan:
    """The plan of a corpus of `data`; nothing is decoded or written.

    Raises FileNotFoundError or ValueError where there are no clips, none has an embedding in the
    folder `texts`, or the tokenizer does not take such windows.
    """
    sources = find_sources(data, root=root, column=column)
    stems = (source.clip.stem for source in sources)
    held = None if texts is None else find_texts(texts, stems)
    tokenizer = opener("cpu")
    return make_plan(
        sources,
        tokenizer,
        shaping=shaping,
        coding=coding,
        load=opener.load,
        texts=held,
        column=column,
        beside=beside,
    )


def build_corpus(
    plan: Plan,
    out: str | Path | Place,
    opener: Open,
    *,
    engine: Engine | Cluster | None = None,
    share: tuple[int, int] | None = None,
    retry: bool = False,
    on_clips: OnClips | None = None,
) -> Built:
    """Make what is missing of a corpus in the folder or at the address `out`.

    `engine` is this machine or a Ray cluster. `share` is (rank, ranks): which shards are this
    run's; by default what torchrun, SLURM or Kubernetes say. `retry`: shards with clips that could
    not be read are made again. When all shards are there, index and manifest are made. ValueError
    where `out` was begun differently,
    OSError where nothing can be written.
    """
    place = out if isinstance(out, Place) else Place(out)
    plan = write_plan(plan, place)
    index, count = share or rank_here()
    mine = share_of(range(plan.count), index, count)
    done = done_shards(place.names())
    if retry:
        done -= forget_broken(place, [number for number in mine if number in done])
    todo = [number for number in mine if number not in done]
    stale = stale_clips(plan, place, [number for number in mine if number in done])
    if (todo or missing_shards(place)) and place.has(MANIFEST):
        place.remove(MANIFEST)  # it is of other shards than those that there will be
    if isinstance(engine, Cluster):
        run_on_ray(plan, todo, opener, place, engine, on_clips=on_clips)
    else:
        run_shards(plan, todo, opener, place, engine or Engine(), on_clips=on_clips)
    missing = len(missing_shards(place))
    manifest = None
    if not missing:
        stands = not todo and place.has(MANIFEST)
        manifest = read_manifest(place) if stands else finish_corpus(place)
    return Built(
        place=str(place),
        made=len(todo),
        shards=plan.count,
        missing=missing,
        share=(index, count),
        manifest=manifest,
        stale=stale,
    )


def stale_clips(plan: Plan, place: Place, numbers: list[int]) -> dict[int, list[str]]:
    """The clips that were written after their shards, by shard; at addresses nobody knows."""
    found: dict[int, list[str]] = {}
    for number in numbers:
        made = place.written(sidecar_name(number))
        for source in plan.shard(number):
            with suppress(OSError):  # it is no longer there
                if made < source.clip.changed < sys.maxsize:
                    found.setdefault(number, []).append(source.name)
    return found


def forget_broken(place: Place, numbers: list[int]) -> set[int]:
    """The shards that hold clips that could not be read; they count as not made from now on."""
    found = {number for number in numbers if read_sidecar(place, number).broken}
    if found:
        place.remove(MANIFEST)
    for number in found:
        place.remove(sidecar_name(number))
    return found
