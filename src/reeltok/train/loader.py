"""Batches fetched ahead of the step that they are for."""

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from reeltok.data.clip import Clip
from reeltok.train.clips import ClipBatch, ClipError
from reeltok.train.data import ClipSource, collate
from reeltok.train.device_batches import device_batch
from reeltok.train.logbook import say

REDRAWS = 10  # for a batch of which no clip decodes, before that is an error


class Loader:
    """Batches of consecutive steps, made by threads some steps ahead: `loader(step)`.

    A clip that turns out broken is missing from its batch, named once in `lost`, and counted; where
    nothing is left of a batch, another clip is drawn. Of `steps` steps none behind the last is
    begun. `together`: batches are cut by `device_batch`, by default where the clips lie on a GPU,
    there in a stream of its own.
    """

    def __init__(
        self,
        source: ClipSource,
        *,
        rank: int = 0,
        world: int = 1,
        steps: int | None = None,
        together: bool | None = None,
    ) -> None:
        self.source, self.rank, self.world, self.next = source, rank, world, 0
        self.steps = steps
        self.lost = Counter[str]()
        self.pool = ThreadPoolExecutor(source.config.workers)
        self.queue = deque[Callable[[], ClipBatch]]()
        self.stream: torch.cuda.Stream | None = None
        if source.device is not None and source.device.type == "cuda":
            self.stream = torch.cuda.Stream(source.device)
            self.stream.wait_stream(torch.cuda.current_stream(source.device))  # it wrote the clips
        self.together = self.stream is not None if together is None else together

    def __call__(self, step: int) -> ClipBatch:
        """The batch of step `step`; the steps after it are begun."""
        if step != self.next:
            self.next = step
            self.queue.clear()
        ahead = 1 + self.source.config.prefetch
        if self.steps is not None:
            ahead = max(1, min(ahead, self.steps - step))
        while len(self.queue) < ahead:
            self.queue.append(self._begin(self.next + len(self.queue)))
        self.next += 1
        return self.queue.popleft()()

    def _begin(self, step: int) -> Callable[[], ClipBatch]:
        """Have threads make this process's share of a batch; what waits for it."""
        share = self.source.window(step).batch // self.world
        indices = range(self.rank * share, (self.rank + 1) * share)
        if self.together:
            return partial(self._receive, self.pool.submit(self._on_device, step, indices))
        work = [self.pool.submit(self.source.sample, step, index) for index in indices]
        return partial(self._collect, step, indices, work)

    def _on_device(self, step: int, indices: range) -> tuple[ClipBatch, torch.cuda.Event | None]:
        """A batch that a device makes, and where that is a GPU, what tells when it has."""
        if self.stream is None:
            return device_batch(self.source, step, indices), None
        with torch.cuda.stream(self.stream):
            return device_batch(self.source, step, indices), self.stream.record_event()

    def _receive(self, work: "Future[tuple[ClipBatch, torch.cuda.Event | None]]") -> ClipBatch:
        batch, made = work.result()
        if made is not None:
            current = torch.cuda.current_stream(batch.x.device)
            current.wait_event(made)
            batch.x.record_stream(current)  # so that its memory is not given away before it is used
        return batch

    def _collect(self, step: int, indices: range, work: list[Future]) -> ClipBatch:
        made = [sample for each in work if (sample := self._result(each.result))]
        for again in range(1, 1 + REDRAWS):
            if not made:
                drawn = partial(self.source.sample, step, indices[0], again)
                made = [sample] if (sample := self._result(drawn)) else []
        if not made:
            raise ValueError(
                f"no clip of step {step} decodes ({len(self.lost)} were broken so far, such as "
                f"{next(iter(self.lost))}): run `reeltok data check` and train on its clean.csv"
            )
        return collate(made)

    def _result(self, work: Callable[[], tuple[Tensor, Clip]]) -> tuple[Tensor, Clip] | None:
        try:
            return work()
        except ClipError as error:
            if not self.lost[str(error)]:
                say(f"left out: {error}")
            self.lost[str(error)] += 1
            return None

    def close(self) -> None:
        """Stop the threads; samples that have not begun are dropped. Says how many were lost."""
        if self.lost:
            say(f"{self.lost.total()} samples did not decode, left out")
        self.pool.shutdown(wait=True, cancel_futures=True)
