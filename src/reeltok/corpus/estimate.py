"""What a whole corpus will take, from one shard that is made for the purpose."""

import time
from dataclasses import dataclass

from reeltok.corpus.build import build_shard
from reeltok.corpus.opening import Open
from reeltok.corpus.place import Place
from reeltok.corpus.plan import Plan
from reeltok.files.atomic import scratch


@dataclass(frozen=True, kw_only=True)
class BuildEstimate:
    """Hours and bytes for all shards by `workers` workers, if all are as the measured one.

    `clips` were measured in `seconds` of one worker, and gave `rows` and `size` bytes.
    """

    clips: int
    rows: int
    seconds: float
    size: int
    all_clips: int
    shards: int
    workers: int

    @property
    def hours(self) -> float:
        """For the whole: clips of the same length, workers that do not hinder one another."""
        rounds = -(-self.shards // self.workers)
        by_clip = self.seconds / max(1, self.clips)
        return rounds * by_clip * self.all_clips / max(1, self.shards) / 3600

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return round(self.size * self.all_clips / max(1, self.clips))

    @property
    def all_rows(self) -> int:
        """Rows of all shards."""
        return round(self.rows * self.all_clips / max(1, self.clips))

    @property
    def assumption(self) -> str:
        """What the numbers rest on, in a sentence."""
        return (
            f"assumed: all {self.all_clips:,} clips are as long and as large as the {self.clips} "
            f"that were measured ({self.seconds:.1f} s on this machine), and {self.workers} such "
            "workers do not wait for one another, for the data or for the network"
        )


def estimate_build(
    plan: Plan, opener: Open, *, device: str = "auto", workers: int = 1
) -> BuildEstimate:
    """Make one shard, from clips spread over the whole, and throw it away.

    ValueError for fewer workers than one.
    """
    from dataclasses import replace

    if workers < 1:
        raise ValueError(f"`workers` {workers} do nothing: give 1 or more")
    size = min(plan.coding.clips, len(plan.sources))
    step = len(plan.sources) / size
    some = tuple(plan.sources[int(i * step)] for i in range(size))
    tokenizer = opener(device)
    with scratch() as folder:
        began = time.perf_counter()
        made = build_shard(replace(plan, sources=some), 0, tokenizer, Place(folder))
        seconds = time.perf_counter() - began
    return BuildEstimate(
        clips=size,
        rows=made.rows,
        seconds=seconds,
        size=sum(file.bytes for file in made.files),
        all_clips=len(plan.sources),
        shards=plan.count,
        workers=workers,
    )
