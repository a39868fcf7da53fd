"""Whether a corpus is as it was made: hashes, counts, and a sample that is decoded and compared."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from reeltok.corpus.build import find_windows
from reeltok.corpus.coding import Taken, code_windows
from reeltok.corpus.finish import (
    FAILED,
    INDEX,
    MANIFEST,
    failed_rows,
    index_rows,
    manifest_of,
    missing_shards,
)
from reeltok.corpus.place import Place
from reeltok.corpus.plan import PLAN, Plan, plan_digest, read_plan
from reeltok.corpus.read import Corpus, read_manifest
from reeltok.corpus.row import Row
from reeltok.corpus.shard import TABLES, FileReader
from reeltok.corpus.sidecar import Sidecar, read_sidecar, sidecar_name
from reeltok.corpus.windows import ClipWindow
from reeltok.files.hashes import hash_files, hash_parts
from reeltok.metrics.paired import psnr
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import Video, to_unit

AGAIN = "`corpus finish` makes it again"
ALIKE = 0.5
"""The least share of a row's tokens that its clip makes again: other processors differ in few."""
SHARD_FILE = re.compile(r"shard-\d{6,}(-\d+)?\.parquet")


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found: files and rows that are as they were made, and each fault in a sentence."""

    files: int = 0
    rows: int = 0
    faults: tuple[str, ...] = ()


def verify_files(place: Place) -> Verified:
    """Compare all files with their sidecars. FileNotFoundError where there is no corpus."""
    plan, faults, files, rows = read_plan(place), [], 0, 0
    listed = list[Sidecar]()
    missing = missing_shards(place)
    faults += [f"shard {number} is missing: run `corpus build` again" for number in missing]
    for number in sorted({*range(plan["shards"])} - {*missing}):
        try:
            sidecar = read_sidecar(place, number)
            found = faults_of(sidecar, plan_digest(plan), place)
        except ValueError as error:
            found, sidecar = [str(error)], None
        faults += found
        listed += [] if sidecar is None else [sidecar]
        if sidecar is not None and not found:
            files, rows = files + len(sidecar.files), rows + sidecar.rows
    if not missing and not faults:
        faults += faults_of_manifest(plan, listed, place)
    return Verified(files=files, rows=rows, faults=tuple(faults))


def faults_of_manifest(plan: dict[str, Any], sidecars: list[Sidecar], place: Place) -> list[str]:
    """What is wrong with the manifest, a sentence each, where all sidecars are right."""
    if not place.has(MANIFEST):
        return [f"{place} has no {MANIFEST}: {AGAIN}"]
    known = {file.name for sidecar in sidecars for file in sidecar.files}
    odd = sorted(n for n in place.names() if SHARD_FILE.fullmatch(n) and n not in known)
    faults = [
        f"{place.where(name)} is of no shard, but patterns read it: remove it" for name in odd
    ]
    try:
        held = read_manifest(place)
    except ValueError as error:
        return [*faults, str(error)]
    made = json.loads(json.dumps(manifest_of(plan, sidecars)))
    keys = sorted({*made, *held}, key=lambda key: key != "files")
    other = next((key for key in keys if not _alike(held.get(key), made.get(key))), None)
    if other is not None:
        faults.append(f"{place.where(MANIFEST)} is of other {other}: {AGAIN}")
    for name, parts in ((INDEX, index_rows(sidecars)), (FAILED, [failed_rows(sidecars)])):
        if not _holds(place, name, parts):
            faults.append(f"{place.where(name)} is missing or not as its shards say: {AGAIN}")
    return faults


def _alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON are equal, numbers with a point but for their last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == other


def _holds(place: Place, name: str, parts: Iterable[list[dict[str, Any]]]) -> bool:
    """Whether a table is there and holds these rows, which come in parts."""
    if not place.has(name):
        return False
    data, at = pa.BufferReader(place.read(name)), 0
    try:
        held = pq.read_table(data)
    except (pa.ArrowInvalid, OSError):
        return False
    for rows in parts:
        part = pa.Table.from_pylist(rows, TABLES[Path(name).stem])
        if not held.slice(at, len(part)).equals(part):
            return False
        at += len(part)
    return at == len(held)


def faults_of(sidecar: Sidecar, plan: str, place: Place) -> list[str]:
    """What is wrong with one shard, a sentence each."""
    name = place.where(sidecar_name(sidecar.shard))
    again = f"remove {sidecar_name(sidecar.shard)} and run `corpus build` again"
    if sidecar.plan != plan:
        return [f"{name} was made by another plan than {PLAN}: {again}"]
    faults = []
    for file in sidecar.files:
        where = place.where(file.name)
        if not place.has(file.name):
            faults.append(f"{where} is missing: {again}")
            continue
        if _hash(place, file.name) != file.sha256:
            faults.append(f"{where} was altered after it was written: {again}")
            continue
        with place.opened(file.name) as opened:
            held = FileReader(opened, where).parquet.metadata.num_rows
        if held != file.rows:
            faults.append(f"{where} has {held} rows, its sidecar says {file.rows}: {again}")
    listed = sum(file.rows for file in sidecar.files)
    if not listed == sidecar.rows == len(sidecar.ids) == len(sidecar.buckets):
        faults.append(f"{name} lists {len(sidecar.ids)} rows of {listed}: {again}")
    return faults


def _hash(place: Place, name: str) -> str:
    if place.folder is not None:
        return hash_files(place.folder / name)
    return hash_parts([place.read(name)])


# ---------------------------------------------------------------- a sample, decoded


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """A row that was decoded, beside the frames that it was made of.

    `psnr` in dB; `same` is the share of its ids, or of its latents within 1 %, that are made
    again. Both are None where the clip is not to be had.
    """

    row: Row
    again: Video
    psnr: float | None = None
    same: float | None = None
    frames: np.ndarray | None = field(default=None, repr=False)


def draw_rows(corpus: Corpus, count: int, seed: int = 0) -> list[int]:
    """Rows to look at, spread over the corpus by a seed."""
    random = np.random.default_rng(seed)
    chosen = random.choice(len(corpus), min(count, len(corpus)), replace=False)
    return sorted(int(number) for number in chosen)


def look(
    corpus: Corpus, tokenizer: Tokenizer, numbers: Sequence[int], plan: Plan | None = None
) -> list[Sample]:
    """Decode rows; with the `plan`, whose clips are at hand, compare them with their windows."""
    corpus.require_own(tokenizer)
    return [_sample(corpus, tokenizer, number, plan) for number in numbers]


def _sample(corpus: Corpus, tokenizer: Tokenizer, number: int, plan: Plan | None) -> Sample:
    row, again = corpus[number], corpus.decode(number, tokenizer)
    taken = None if plan is None else _window(plan, tokenizer, row)
    if plan is None or taken is None:
        return Sample(row=row, again=again)
    frames = torch.from_numpy(taken.window.frames)
    value = psnr(to_unit(frames), again.tensor())  # dB, a number for each frame
    (fresh,) = code_windows(plan, tokenizer, [taken])
    return Sample(
        row=row,
        again=again,
        psnr=float(value.mean()),
        same=share_alike(row, fresh),
        frames=taken.window.frames,
    )


def _window(plan: Plan, tokenizer: Tokenizer, row: Row) -> Taken | None:
    """The window of a row, decoded again; None where its clip is not there."""
    source = next((each for each in plan.sources if each.name == row.source), None)
    wanted = int(row.id.rpartition("#")[2])
    if source is None:
        return None
    for found in find_windows(plan, tokenizer.spec, source):
        if isinstance(found, ClipWindow) and found.number == wanted:
            return Taken(clip=0, source=source, window=found)
    return None


def share_alike(one: Row, other: Row) -> float:
    """The share of two rows' ids that agree, or of latents that do within 1 % of their spread."""
    if one.ids is not None and other.ids is not None:
        return float((one.ids == other.ids).float().mean())
    assert one.latents is not None
    assert other.latents is not None
    a, b = one.latents.float(), other.latents.float()
    near: Tensor = (a - b).abs() <= 0.01 * a.std().clamp(min=1e-6)
    return float(near.float().mean())


def contact_sheet(samples: Sequence[Sample], path: str | Path, *, columns: int = 6) -> Path:
    """Write a picture: a row of frames for each sample, the original above what was decoded."""
    from PIL import Image

    from reeltok.files.atomic import replacing

    strips = []
    for sample in samples:
        decoded = sample.again.frames.numpy()
        for frames in (sample.frames, decoded):
            if frames is not None:
                places = np.linspace(0, len(frames) - 1, columns).round().astype(int)
                strips.append(np.concatenate([frames[i] for i in places], axis=1))
    width = max(strip.shape[1] for strip in strips)
    whole = np.concatenate(
        [np.pad(s, ((0, 2), (0, width - s.shape[1]), (0, 0))) for s in strips], axis=0
    )
    with replacing(path) as part:
        Image.fromarray(whole).save(part)
    return Path(path)
