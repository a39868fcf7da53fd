"""The one function that makes a shard: windows as they are decoded, batches, rows, files, sidecar.

Whatever drives it (this process, several, ranks, Ray) gets the same bytes: what is in a batch, and
the order of rows, depend on the plan and the clips alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reeltok.corpus.coding import (
    Taken,
    add_beside,
    code_windows,
    measured,
    spread_of,
    without_pixels,
)
from reeltok.corpus.place import Place
from reeltok.corpus.plan import Plan
from reeltok.corpus.row import Row
from reeltok.corpus.shard import FileWriter, Layout, file_name
from reeltok.corpus.sidecar import Failure, ShardFile, Sidecar, write_sidecar
from reeltok.corpus.sources import ListedClip
from reeltok.corpus.texts import read_text
from reeltok.corpus.windows import ClipWindow, Short, cut_windows
from reeltok.data.clip import said_of
from reeltok.files.atomic import REASONS
from reeltok.files.hashes import hash_files
from reeltok.nn.moments import Moments
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.spec import Spec
from reeltok.tokens.header import bits_for
from reeltok.wording import one_line


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A clip that cannot be decoded, and why."""

    reason: str


Found = ClipWindow | Short | Broken
Decode = Callable[[Plan, Spec, Sequence[ListedClip]], Iterator[Iterator[Found]]]
"""For each clip in its order what is found in it: windows, the last of all what is wrong."""
OnClips = Callable[[int], None]
"""Called with the number of clips that are done."""


def find_windows(plan: Plan, spec: Spec, source: ListedClip) -> Iterator[Found]:
    """The windows of a clip; what is wrong with it instead of an error. OSError for a full disk."""
    try:
        yield from cut_windows(source, plan.shaping, spec)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in REASONS:
            raise
        yield Broken(reason=one_line(error))


def decode_here(plan: Plan, spec: Spec, sources: Sequence[ListedClip]) -> Iterator[Iterator[Found]]:
    """Clips decoded in this process, each when its turn has come."""
    for source in sources:
        yield find_windows(plan, spec, source)


def build_shard(
    plan: Plan,
    number: int,
    tokenizer: Tokenizer,
    place: Place,
    *,
    decode: Decode = decode_here,
    on_clips: OnClips | None = None,
) -> Sidecar:
    """Make shard `number` of a plan: its files, and at last its sidecar.

    A clip that cannot be decoded is among the failures, and none of its windows among the rows.
    Raises OSError where nothing can be written.
    """
    with fixed_threads(plan.coding.threads), ShardMaker(plan, number, tokenizer, place) as maker:
        for clip, found in enumerate(decode(plan, tokenizer.spec, plan.shard(number))):
            maker.take(clip, found)
            if on_clips is not None:
                on_clips(1)
        sidecar = maker.finish()
    remove_parts(place, number, len(sidecar.files))
    write_sidecar(sidecar, place)
    return sidecar


def remove_parts(place: Place, shard: int, first: int) -> None:
    """Remove the files of a shard that an earlier making left beyond those of this one."""
    while place.has(file_name(shard, first)):
        place.remove(file_name(shard, first))
        first += 1


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Inside, torch computes with so many threads: sums depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ShardMaker:
    """Takes clips window by window; rows are written in the order of clips and windows.

    A batch is filled by windows of one bucket, whatever clips they are of. Rows wait until those
    before them are coded, and until their own clip is known to be whole.
    """

    def __init__(self, plan: Plan, number: int, tokenizer: Tokenizer, place: Place) -> None:
        self.plan, self.number, self.tokenizer = plan, number, tokenizer
        self.sources = plan.shard(number)
        self.files = ShardFiles(plan, number, place)
        self.batches: dict[tuple[int, ...], list[Taken]] = {}
        self.rows: list[dict[int, Row]] = [{} for _ in self.sources]
        self.wanted: list[int | None] = [None] * len(self.sources)
        self.failures: dict[int, Failure] = {}
        self.written = 0

    def take(self, clip: int, found: Iterator[Found]) -> None:
        """The windows of one clip."""
        source, count = self.sources[clip], 0
        for each in found:
            if isinstance(each, ClipWindow):
                self._add(Taken(clip=clip, source=source, window=each))
                count += 1
            else:
                self._fail(clip, each.reason, short=isinstance(each, Short))
        self.wanted[clip] = count
        self._write()

    def _fail(self, clip: int, reason: str, *, short: bool = False) -> None:
        """None of the clip's windows becomes a row."""
        source = self.sources[clip]
        said = said_of(source.clip.name, said_of(str(source.clip.path), reason))
        self.failures[clip] = Failure(source=source.name, reason=said, short=short)
        self.rows[clip].clear()

    def _add(self, taken: Taken) -> None:
        batch = self.batches.setdefault(taken.bucket, [])
        batch.append(taken)
        if len(batch) >= self.plan.coding.batch:
            self._code(self.batches.pop(taken.bucket))

    def _code(self, batch: list[Taken]) -> None:
        """Code a batch; a clip whose window the tokenizer refuses is a failure."""
        try:
            rows = code_windows(self.plan, self.tokenizer, batch)
        except ValueError as error:
            if len(batch) > 1:
                for each in batch:
                    self._code([each])
            else:
                self._fail(batch[0].clip, one_line(error))
            return
        rows = add_beside(self.plan, self.tokenizer, batch, rows)
        for each, row in zip(map(without_pixels, batch), rows, strict=True):
            if each.clip not in self.failures:
                self.rows[each.clip][each.window.number] = row

    def _write(self) -> None:
        """Write the rows whose turn has come."""
        while self.written < len(self.sources):
            rows, wanted = self.rows[self.written], self.wanted[self.written]
            if self.written not in self.failures and (wanted is None or len(rows) < wanted):
                return
            self._write_clip(self.sources[self.written], [rows[number] for number in sorted(rows)])
            rows.clear()
            self.written += 1

    def _write_clip(self, source: ListedClip, rows: list[Row]) -> None:
        """Write the rows of one clip, with the embedding of its caption."""
        text = None
        if rows and self.plan.texts is not None:
            try:
                text = read_text(Path(self.plan.texts.folder), source.clip.stem)
            except ValueError as error:
                self._fail(self.written, one_line(error))
                return
        for row in rows:
            self.files.add(row if text is None else replace(row, text=text))

    def finish(self) -> Sidecar:
        """Code what is left, close the files, and say what is in them."""
        for bucket in sorted(self.batches):
            self._code(self.batches[bucket])
        self._write()
        assert self.written == len(self.sources)
        failures = tuple(self.failures[clip] for clip in sorted(self.failures))
        return self.files.finish(failures, clips=len(self.sources))

    def __enter__(self) -> "ShardMaker":
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()


class ShardFiles:
    """The parquet files of one shard, and what is counted in them."""

    def __init__(self, plan: Plan, number: int, place: Place) -> None:
        self.plan, self.number, self.place = plan, number, place
        self.layout = Layout(
            keep=plan.coding.keep or "ids",
            vocabulary=plan.model.vocabulary,
            packing=None if plan.packing is None else plan.packing.model,
            extras=plan.extras,
            beside=plan.beside is not None,
            text=plan.texts is not None,
            further=plan.further,
        )
        self.bits = plan_bits(plan)
        self.files: list[ShardFile] = []
        self.order: list[tuple[str, str, int]] = []
        self.moments: Moments | None = None
        self.counts = dict.fromkeys(("rows", "frames", "tokens", "pixels"), 0)
        self.extra_bits, self.id_bytes, self.seconds = 0, 0, 0.0
        self.open: OpenFile | None = None

    def add(self, row: Row) -> None:
        """Write a row, into another file where this one is full."""
        if self.open is not None and self.open.writer.full:
            self._close_file()
        if self.open is None:
            self.open = OpenFile(self, len(self.files))
        self.open.writer.add(row)
        if row.latents is not None:
            more = Moments.of(row.latents[None], axis=1)
            self.moments = more if self.moments is None else self.moments + more
        self.counts["rows"] += 1
        self.counts["frames"] += row.frames
        self.counts["tokens"] += row.tokens
        self.counts["pixels"] += row.frames * row.height * row.width
        self.extra_bits += 8 * sum(t.nelement() * t.element_size() for t in row.extras.values())
        self.seconds += row.frames / row.fps if row.fps else 0.0

    def about(self, part: int) -> dict[str, Any]:
        """What the metadata of a file say."""
        record = self.plan.record
        return {
            "version": record["version"],
            "shard": self.number,
            "part": part,
            "plan": self.plan.digest,
            "tokenizer": record["tokenizer"],
            "build": record["build"],
            "statistics": self.plan.statistics or measured([spread_of(self.moments)]),
        }

    def _close_file(self) -> None:
        assert self.open is not None
        self.files.append(self.open.finish())
        self.order += self.open.writer.order
        self.id_bytes += self.open.writer.id_bytes
        self.open = None

    def finish(self, failures: tuple[Failure, ...], *, clips: int) -> Sidecar:
        """Close the last file; one without rows is there where the shard has none."""
        if self.open is None:
            self.open = OpenFile(self, len(self.files))
        self._close_file()
        stored = None
        if self.layout.packing is not None:
            stored = 8 * self.id_bytes + self.extra_bits
        return Sidecar(
            version=self.plan.record["version"],
            shard=self.number,
            plan=self.plan.digest,
            files=tuple(self.files),
            clips=clips,
            bits=self.counts["tokens"] * self.bits + self.extra_bits,
            stored_bits=stored,
            seconds=round(self.seconds, 6),
            failures=failures,
            spread=spread_of(self.moments),
            ids=tuple(id for id, _, _ in self.order),
            buckets=tuple(bucket for _, bucket, _ in self.order),
            **self.counts,
        )

    def close(self) -> None:
        """Leave nothing of a file that is not finished."""
        if self.open is not None:
            self.open.abandon()
            self.open = None


class OpenFile:
    """A file that is being written; it has its name once it is finished."""

    def __init__(self, files: ShardFiles, part: int) -> None:
        self.files, self.part, self.name = files, part, file_name(files.number, part)
        with ExitStack() as stack:
            self.path: Path = stack.enter_context(files.place.making(self.name))
            self.writer = FileWriter(self.path, files.layout)
            self.stack = stack.pop_all()

    def finish(self) -> ShardFile:
        """Close it, name it, and say what it is."""
        with self.stack:
            self.writer.finish(self.files.about(self.part))
            made = ShardFile(
                name=self.name,
                bytes=self.path.stat().st_size,
                sha256=hash_files(self.path),
                rows=self.writer.rows,
            )
        return made

    def abandon(self) -> None:
        """Remove it, as after an error."""
        self.writer.abandon()
        error = OSError("given up")
        self.stack.__exit__(OSError, error, None)


def plan_bits(plan: Plan) -> int:
    """Bits of one token as it is kept: of its id, or of its latent values."""
    if plan.coding.keep == "ids":
        return bits_for(plan.model.vocabulary or 1)
    size = 32 if plan.coding.dtype == "float32" else 16
    return size * plan.model.channels * (2 if plan.coding.keep == "moments" else 1)
