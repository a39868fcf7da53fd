"""A corpus as a stream of batches: shuffled by a seed, shared out among ranks and workers.

The order is a function of (seed, epoch) alone. It is made from the index, so a run goes on from
batch n without reading what came before.
"""

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import IterableDataset, get_worker_info

from reeltok.corpus.engines import rank_here
from reeltok.corpus.read import HELD_BYTES, HELD_GROUPS, Corpus
from reeltok.corpus.row import Batch, stack_rows
from reeltok.corpus.shard import GROUP_BYTES, GROUP_ROWS
from reeltok.files.hashes import hash_parts
from reeltok.parallel import rank_and_world

MIXED_BYTES = HELD_BYTES // 2  # of rows that are mixed with one another: their groups are held
LONG_SAVED = ("seed", "size", "ranks", "plan")  # what states always said of a stream
WORKERS = 256  # of a `DataLoader`, at most


class Batches(IterableDataset):
    """Batches of `size` rows of one bucket, epoch after epoch: `epochs` of them (None: for ever).

    >>> loader = DataLoader(Batches(Corpus("tokens/"), 8, seed=0), batch_size=None, num_workers=2)
    >>> for epoch in range(10):
    ...     for batch in loader: ...  # in another order each time

    Each `iter`, of the stream or of a loader, begins the next `epochs` epochs, also where the one
    before was left early. Rank r of `ranks` (None: what torch.distributed says, or else torchrun or
    SLURM) gets every ranks-th batch, so all have as many and no row twice in an epoch; what fills
    no whole batch of its bucket is left out of that epoch, and a bucket of fewer rows than a batch
    of all (a note says so).
    Number and order of batches do not depend on the workers of a `DataLoader`. `state_dict` says
    where the stream stands when read without workers; with them, `skip_to(epoch, batch)` after so
    many steps.
    """

    def __init__(
        self,
        corpus: Corpus,
        size: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        ranks: int | None = None,
        epochs: int | None = 1,
        shuffle: bool = True,
    ) -> None:
        if size < 1:
            raise ValueError(f"a batch has 1 row or more, not {size}")
        self.corpus, self.size, self.seed, self.shuffle = corpus, size, seed, shuffle
        grouped = rank_and_world()
        here, world = grouped if grouped[1] > 1 else rank_here()
        self.rank, self.ranks = here if rank is None else rank, world if ranks is None else ranks
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"there is no rank {self.rank} of {self.ranks}")
        if epochs is not None and epochs < 1:
            raise ValueError(f"a stream has 1 epoch or more (None: for ever), not {epochs}")
        self.epochs = epochs
        # Shared with the workers of a loader, which each count how often they began.
        self._first = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch and batch
        slots = _slot(WORKERS, WORKERS)
        self._begun = torch.zeros(slots, dtype=torch.int64).share_memory_()
        self._begin(0, 0)
        if not self._count:
            raise ValueError(
                f"no bucket of {corpus.place} fills {self.ranks} batches of {size} rows (it has "
                f"{len(corpus)} in all): give a smaller size"
            )
        self._note_small_buckets()

    def _note_small_buckets(self) -> None:
        """Say which rows are in no batch of any epoch."""
        sizes = np.bincount(self.corpus.bucket_of, minlength=len(self.corpus.bucket_names))
        small = [self.corpus.bucket_names[i] for i in np.flatnonzero(sizes < self.size)]
        if small:
            shown = ", ".join(small[:3]) + (", ..." if len(small) > 3 else "")
            warnings.warn(
                f"{sizes[sizes < self.size].sum()} of {len(self.corpus)} rows are in buckets of "
                f"fewer than {self.size} rows ({shown}): no batch has them",
                stacklevel=4,
            )

    def plan(self, epoch: int) -> Int64[np.ndarray, "n size"]:
        """The rows of every batch of an epoch, for all ranks; batch n is that of rank n % ranks."""
        random = np.random.default_rng((self.seed, epoch))
        batches, places = [np.empty((0, self.size), np.int64)], [np.empty(0)]
        buckets, sizes = len(self.corpus.bucket_names), self.corpus.row_bytes()
        for number in range(buckets):
            rows = np.flatnonzero(self.corpus.bucket_of == number)
            if self.shuffle:
                runs = _runs_of(rows, self.corpus.begins, sizes)
                rows = _mixed(runs, sizes, MIXED_BYTES / buckets, random)
            whole = len(rows) // self.size
            batches.append(rows[: whole * self.size].reshape(whole, self.size))
            places.append(np.sort(random.random(whole)))
        found = np.concatenate(batches)
        if self.shuffle:  # buckets among one another, each in its own order
            found = found[np.argsort(np.concatenate(places), kind="stable")]
        return found[: len(found) // self.ranks * self.ranks]

    @cached_property
    def _count(self) -> int:
        """Batches of an epoch for each rank."""
        sizes = np.bincount(self.corpus.bucket_of, minlength=len(self.corpus.bucket_names))
        return int((sizes // self.size).sum()) // self.ranks

    def __len__(self) -> int:
        """Batches of `epochs` epochs that this rank gets; TypeError where they have no end."""
        if self.epochs is None:
            raise TypeError("a stream of epochs=None has no end, and so no length")
        return self.epochs * self._count

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, count = (0, 0) if worker is None else (worker.id, worker.num_workers)
        if count > WORKERS:
            raise ValueError(f"a loader has {WORKERS} workers at most, not {count}")
        slot = _slot(index, count)
        passes = int(self._begun[slot])
        self._begun[slot] += 1
        epoch, batch = self._first.tolist()
        if passes:
            each = self.epochs or 1
            epoch, batch = (epoch // each + passes) * each, 0
        return self._read(epoch, batch, index, count)

    def _read(self, epoch: int, batch: int, index: int, count: int) -> Iterator[Batch]:
        """What worker `index` of `count` (0: there are none) gives, from a batch of an epoch on."""
        end = None if self.epochs is None else (epoch // self.epochs + 1) * self.epochs
        passed = 0  # batches of this rank since the start: worker n gets every n-th
        while end is None or epoch < end:
            mine = self.plan(epoch)[self.rank :: self.ranks]
            while batch < len(mine):
                rows = mine[batch]
                batch, passed = batch + 1, passed + 1
                if count and (passed - 1) % count != index:
                    continue
                made = stack_rows([self.corpus[int(row)] for row in rows])
                if not count:
                    self.epoch, self.batch = epoch, batch
                yield made
            epoch, batch = epoch + 1, 0
        if not count:
            self.epoch, self.batch = epoch, 0

    def skip_to(self, epoch: int, batch: int = 0) -> None:
        """Begin next at batch `batch` of an epoch, counted over this rank's."""
        # Behind the last of an epoch, not before the next: so what was read whole has ended.
        whole = max(batch - 1, 0) // self._count
        self._begin(epoch + whole, batch - whole * self._count)

    def _begin(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch
        self._first.copy_(torch.tensor([self.epoch, self.batch]))
        self._begun.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and what it depends on."""
        where = {"epoch": self.epoch, "batch": self.batch}
        return {**self._depends_on(), **where}

    def _depends_on(self) -> dict[str, Any]:
        """What says which batches there are, and in which order."""
        manifest = self.corpus.manifest
        files = hash_parts(f"{file['name']} {file['sha256']}\n" for file in manifest["files"])
        asked = {"seed": self.seed, "size": self.size, "ranks": self.ranks}
        return {**asked, "shuffle": self.shuffle, "plan": manifest["plan"], "files": files}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. ValueError for the state of another stream, naming what differs."""
        mine = self._depends_on()
        if state.get("plan") == mine["plan"] and state.get("files", mine["files"]) != mine["files"]:
            raise ValueError(
                f"shards of {self.corpus.place} were made again since this state was saved, and "
                "its batches are others now: start anew"
            )
        if self.shuffle and "files" not in state and int(state["batch"]) % self._count:
            raise ValueError(
                "this state was saved within an epoch by an earlier version, which mixed rows "
                f"otherwise: begin that epoch anew, by skip_to({state['epoch']})"
            )
        for name in mine if "files" in state else LONG_SAVED:
            if state.get(name) != mine[name]:
                raise ValueError(
                    f"this stream has {name} {mine[name]} and the state {state.get(name)}: go on "
                    "with what it was begun with, or start anew"
                )
        self._begin(int(state["epoch"]), int(state["batch"]))


def _slot(index: int, count: int) -> int:
    """Where worker `index` of `count` counts how often it began; the first is for no workers."""
    return 1 + count * (count - 1) // 2 + index if count else 0


def _runs_of(rows: np.ndarray, begins: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """A bucket's rows in the runs that lie together in a row group, going by their sizes."""
    file = np.searchsorted(begins, rows, side="right")
    place = np.arange(len(rows)) - np.searchsorted(file, file)  # among its own in its file
    group = place // np.maximum(GROUP_ROWS, np.ceil(GROUP_BYTES / sizes[rows]))
    return np.split(rows, np.flatnonzero(np.diff(file) | (np.diff(group) != 0)) + 1)


def _mixed(
    runs: list[np.ndarray], sizes: np.ndarray, most: float, random: np.random.Generator
) -> np.ndarray:
    """Rows in another order: runs of them shuffled, and what is in `most` bytes of runs mixed.

    So a batch is of many places, and those who read it need no more row groups than they hold.
    """
    order = random.permutation(len(runs))
    each = np.array([sizes[runs[i]].sum() for i in order])
    part = (np.cumsum(each) - each) // max(most, HELD_GROUPS * each.max(initial=1))
    parts = np.split(order, np.flatnonzero(np.diff(part)) + 1)
    return np.concatenate(
        [random.permutation(np.concatenate([runs[i] for i in some])) for some in parts]
    )
