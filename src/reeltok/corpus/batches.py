"""A corpus as a stream of batches: shuffled by a seed, shared out among ranks and workers.

The order is a function of (seed, epoch) alone. It is made from the index, so a run goes on from
batch n without reading what came before.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch.utils.data import IterableDataset, get_worker_info

from reeltok.corpus.read import Corpus
from reeltok.corpus.row import Batch, stack_rows

MIXED = 16  # runs of rows that are mixed with one another
RUN = 64  # rows that follow one another, and are read together


class Batches(IterableDataset):
    """Batches of `size` rows of one bucket, epoch after epoch: `epochs` of them (None: for ever).

    >>> stream = Batches(Corpus("tokens/"), 8, seed=0)
    >>> for batch in DataLoader(stream, batch_size=None, num_workers=2): ...

    Rank r of `ranks` (None: what torchrun says) gets every ranks-th batch, so all have as many and
    no row twice in an epoch; what fills no whole batch of its bucket is left out. Number and order
    of batches do not depend on the workers of a `DataLoader`. `state_dict` says where the stream
    stands when read without workers; with them, `skip_to(epoch, batch)` after so many steps.
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
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.ranks = int(os.environ.get("WORLD_SIZE", "1")) if ranks is None else ranks
        if not 0 <= self.rank < self.ranks:
            raise ValueError(f"there is no rank {self.rank} of {self.ranks}")
        self.epochs, self.epoch, self.batch = epochs, 0, 0
        if not self._count(0):
            raise ValueError(
                f"no bucket of {corpus.place} fills {self.ranks} batches of {size} rows (it has "
                f"{len(corpus)} in all): give a smaller size"
            )

    def plan(self, epoch: int) -> Int64[np.ndarray, "n size"]:
        """The rows of every batch of an epoch, for all ranks; batch n is that of rank n % ranks."""
        random = np.random.default_rng((self.seed, epoch))
        batches, places = [np.empty((0, self.size), np.int64)], [np.empty(0)]
        for number in range(len(self.corpus.bucket_names)):
            rows = np.flatnonzero(self.corpus.bucket_of == number)
            rows = _mixed(rows, random) if self.shuffle else rows
            whole = len(rows) // self.size
            batches.append(rows[: whole * self.size].reshape(whole, self.size))
            places.append(np.sort(random.random(whole)))
        found = np.concatenate(batches)
        if self.shuffle:  # buckets among one another, each in its own order
            found = found[np.argsort(np.concatenate(places), kind="stable")]
        return found[: len(found) // self.ranks * self.ranks]

    def _count(self, epoch: int) -> int:
        """Batches of an epoch for each rank."""
        sizes = np.bincount(self.corpus.bucket_of, minlength=len(self.corpus.bucket_names))
        return int((sizes // self.size).sum()) // self.ranks

    def __len__(self) -> int:
        """Batches of an epoch that this rank gets."""
        return self._count(0)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, batch = self.epoch, self.batch
        passed = 0  # batches of this rank since the start: worker n gets every n-th
        while self.epochs is None or epoch < self.epochs:
            mine = self.plan(epoch)[self.rank :: self.ranks]
            while batch < len(mine):
                rows = mine[batch]
                batch, passed = batch + 1, passed + 1
                if (passed - 1) % count != index:
                    continue
                made = stack_rows([self.corpus[int(row)] for row in rows])
                if worker is None:
                    self.epoch, self.batch = epoch, batch
                yield made
            epoch, batch = epoch + 1, 0
        if worker is None:
            self.epoch, self.batch = 0, 0

    def skip_to(self, epoch: int, batch: int) -> None:
        """Begin at batch `batch` of an epoch, counted over this rank's."""
        whole, rest = divmod(batch, len(self))
        self.epoch, self.batch = epoch + whole, rest

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and what it depends on."""
        about = {"seed": self.seed, "size": self.size, "ranks": self.ranks}
        where = {"epoch": self.epoch, "batch": self.batch}
        return {**about, "plan": self.corpus.manifest["plan"], **where}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. ValueError for the state of another stream, naming what differs."""
        mine = self.state_dict()
        for name in ("plan", "seed", "size", "ranks"):
            if state.get(name) != mine[name]:
                raise ValueError(
                    f"this stream has {name} {mine[name]} and the state {state.get(name)}: go on "
                    "with what it was begun with, or start anew"
                )
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])


def _mixed(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows in another order: runs of them shuffled, and what is in `MIXED` runs mixed.

    So a batch is of as many places, and those who read it need few row groups at a time.
    """
    runs = [rows[i : i + RUN] for i in range(0, len(rows), RUN)]
    order = random.permutation(len(runs))
    mixed = []
    for start in range(0, len(order), MIXED):
        some = np.concatenate([runs[i] for i in order[start : start + MIXED]])
        mixed.append(random.permutation(some))
    return np.concatenate(mixed) if mixed else rows
