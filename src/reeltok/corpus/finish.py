"""What is made of all sidecars once the last shard is there: index, failures, manifest.

Every run that finds all shards done makes the same bytes, so it does not matter which one does.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reeltok.corpus.coding import measured
from reeltok.corpus.place import Place
from reeltok.corpus.plan import plan_digest, read_plan
from reeltok.corpus.shard import TABLES
from reeltok.corpus.sidecar import Sidecar, done_shards, read_sidecar, require_plan

MANIFEST, INDEX, FAILED = "manifest.json", "index.parquet", "failed.parquet"
GROUP = 2**17  # rows of a row group of a table
COUNTS = ("clips", "rows", "frames", "seconds", "tokens", "bits", "pixels")


def missing_shards(place: Place) -> list[int]:
    """The numbers of shards that are not done. FileNotFoundError where there is no corpus."""
    done = done_shards(place.names())
    return [number for number in range(read_plan(place)["shards"]) if number not in done]


def finish_corpus(place: Place) -> dict[str, Any]:
    """Write the index, the failures and the manifest; the manifest.

    ValueError where shards are missing, or one was made by another plan.
    """
    plan = read_plan(place)
    missing = missing_shards(place)
    if missing:
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{place} is not complete: {len(missing)} of {plan['shards']} shards are missing "
            f"({some}); run `reeltok corpus build` again"
        )
    sidecars = [read_sidecar(place, number) for number in range(plan["shards"])]
    require_plan(sidecars, plan_digest(plan), place)
    write_table(place, INDEX, TABLES["index"], index_rows(sidecars))
    write_table(place, FAILED, TABLES["failed"], [failed_rows(sidecars)])
    manifest = manifest_of(plan, sidecars)
    place.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def index_rows(sidecars: Sequence[Sidecar]) -> Iterator[list[dict[str, Any]]]:
    """The rows of the index, shard by shard."""
    for sidecar in sidecars:
        at, rows = 0, []
        for part, file in enumerate(sidecar.files):
            for row in range(file.rows):
                bucket = sidecar.buckets[at]
                frames = int(bucket.rpartition("x")[2])
                about = {"shard": sidecar.shard, "part": part, "row": row, "frames": frames}
                rows.append({"id": sidecar.ids[at], "bucket": bucket, **about})
                at += 1
        yield rows


def failed_rows(sidecars: Sequence[Sidecar]) -> list[dict[str, Any]]:
    """The rows of the list of failures."""
    return [
        {"source": failure.source, "shard": sidecar.shard, "reason": failure.reason}
        for sidecar in sidecars
        for failure in sidecar.failures
    ]


def write_table(place: Place, name: str, schema: pa.Schema, parts: Any) -> None:
    """Write a table that comes in parts; many of them are one row group, which is quick to read."""
    with place.making(name) as path, pq.ParquetWriter(path, schema, compression="ZSTD") as writer:
        held = pa.Table.from_pylist([], schema)
        for rows in parts:
            held = pa.concat_tables([held, pa.Table.from_pylist(rows, schema)])
            if len(held) >= GROUP:
                writer.write_table(held)
                held = held.slice(len(held))
        if len(held):
            writer.write_table(held)


def manifest_of(plan: dict[str, Any], sidecars: Sequence[Sidecar]) -> dict[str, Any]:
    """What is said of a corpus as a whole."""
    files = [asdict(file) for sidecar in sidecars for file in sidecar.files]
    counts = {name: sum(getattr(s, name) for s in sidecars) for name in COUNTS}
    buckets = Counter[str]()
    for sidecar in sidecars:
        buckets.update(sidecar.buckets)
    if all(sidecar.stored_bits is not None for sidecar in sidecars):
        counts["stored_bits"] = sum(sidecar.stored_bits or 0 for sidecar in sidecars)
    return {
        **counts,
        "version": plan["version"],
        "plan": plan_digest(plan),
        "tokenizer": plan["tokenizer"],
        "build": plan["build"],
        "columns": plan["columns"],
        **({"column": plan["column"]} if "column" in plan else {}),
        "shards": len(sidecars),
        "files": files,
        "bytes": sum(file["bytes"] for file in files),
        "seconds": round(counts["seconds"], 6),
        "failed": sum(len(s.broken) for s in sidecars),
        "short": sum(len(s.failures) - len(s.broken) for s in sidecars),
        "buckets": dict(sorted(buckets.items())),
        "statistics": plan["statistics"] or measured([s.spread for s in sidecars]),
    }
