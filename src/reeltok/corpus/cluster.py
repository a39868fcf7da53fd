"""Shards made by a Ray cluster (extra `ray`): one task makes one shard, with `max_retries`.

On CPUs a task decodes and encodes. With GPUs an actor on each of them encodes, and clips are
decoded by tasks on the CPUs, wherever they are. What is done is told by the sidecars alone, so a
driver that was killed is started again like any other run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from logging import ERROR
from typing import Any

from reeltok.corpus.build import Found, OnClips, build_shard, decode_here, find_windows
from reeltok.corpus.opening import Open
from reeltok.corpus.place import Place
from reeltok.corpus.plan import Plan
from reeltok.corpus.sources import ListedClip
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.spec import Spec
from reeltok.wording import one_line

RETRIES = 5  # of a shard whose node went away
AHEAD = 4  # clips that are decoded while one is encoded


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the work goes: a cluster's address ("auto": the one at hand, else a new one here).

    `cpus` of each task that makes a shard. `gpus` actors encode on as many GPUs, and leave the CPUs
    to tasks that decode (0: tasks encode on CPUs). `most` shards are in the making at a time (None:
    as many as there is room for).
    """

    address: str | None = None
    cpus: float = 1
    gpus: int = 0
    most: int | None = None


def run_on_ray(
    plan: Plan,
    numbers: Sequence[int],
    opener: Open,
    place: Place,
    cluster: Cluster,
    *,
    on_clips: OnClips | None = None,
) -> None:
    """Make the shards of these numbers on a cluster; what was lost with a node is made again.

    Every node must see the clips and the place. OSError where a shard cannot be made.
    """
    import ray

    if not numbers:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=ERROR)
    try:
        given = ray.put((plan, opener, str(place)))
        if cluster.gpus:
            _by_actors(plan, numbers, given, cluster, on_clips)
        else:
            _by_tasks(plan, numbers, given, cluster, on_clips)
    finally:
        if started:
            ray.shutdown()


def _by_tasks(
    plan: Plan, numbers: Sequence[int], given: Any, cluster: Cluster, on_clips: OnClips | None
) -> None:
    """One task for each shard, `most` of them handed out at a time."""
    import ray

    task = ray.remote(num_cpus=cluster.cpus, max_retries=RETRIES)(make_shard)
    left, running = iter(numbers), dict[Any, int]()
    room = cluster.most or max(2, 2 * int(ray.cluster_resources().get("CPU", 1) / cluster.cpus))
    while True:
        for number in left:
            running[task.remote([given], number)] = number
            if len(running) >= room:
                break
        if not running:
            return
        (done,), _ = ray.wait([*running], num_returns=1)
        _settle(done, running.pop(done), plan, on_clips)


def _by_actors(
    plan: Plan, numbers: Sequence[int], given: Any, cluster: Cluster, on_clips: OnClips | None
) -> None:
    """Actors on GPUs that make shards; an actor whose node went away is started elsewhere."""
    import ray

    kind: Any = ray.remote(num_gpus=1, num_cpus=0, max_restarts=RETRIES, max_task_retries=RETRIES)(
        EncoderActor
    )
    actors = [kind.remote([given]) for _ in range(min(cluster.gpus, len(numbers)))]
    left, running = iter(numbers), dict[Any, tuple[int, Any]]()
    for actor in actors:
        for number in left:
            running[actor.make.remote(number)] = (number, actor)
            break
    while running:
        (done,), _ = ray.wait([*running], num_returns=1)
        number, actor = running.pop(done)
        _settle(done, number, plan, on_clips)
        for number in left:
            running[actor.make.remote(number)] = (number, actor)
            break


def _settle(done: Any, number: int, plan: Plan, on_clips: OnClips | None) -> None:
    """Count a shard that is made; OSError, in one sentence, where it was not."""
    import ray

    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise OSError(f"shard {number} cannot be made: {one_line(cause)}") from error
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split())[:200]
        raise OSError(
            f"shard {number} was lost {RETRIES + 1} times ({said}): if nodes lack memory give "
            "fewer shards at a time; run it again, what is done stays"
        ) from error
    if on_clips is not None:
        on_clips(len(plan.shard(number)))


# ---------------------------------------------------------------- on the nodes


def make_shard(given: list[Any], number: int) -> int:
    """One shard, decoded and encoded on a CPU; its number. What is done already stays."""
    import ray

    plan, opener, place = ray.get(given[0])
    return _make(plan, number, _tokenizer(opener, "cpu"), Place(place), decode_here)


def _make(plan: Plan, number: int, tokenizer: Tokenizer, place: Place, decode: Any) -> int:
    from reeltok.corpus.shard import sidecar_name

    if not place.has(sidecar_name(number)):  # a task that is tried again may have ended well
        build_shard(plan, number, tokenizer, place, decode=decode)
    return number


@lru_cache(maxsize=1)
def _tokenizer(opener: Open, device: str) -> Tokenizer:
    """The tokenizer; a worker process keeps the one that it opened by name."""
    return opener(device)


class EncoderActor:
    """An actor on a GPU: it encodes what tasks on CPUs decode."""

    def __init__(self, given: list[Any]) -> None:
        import ray

        self.plan, opener, place = ray.get(given[0])
        self.place, self.tokenizer = Place(place), opener("auto")

    def make(self, number: int) -> int:
        """One shard; its number."""
        return _make(self.plan, number, self.tokenizer, self.place, decode_on_ray)


def decode_on_ray(
    plan: Plan, spec: Spec, sources: Sequence[ListedClip]
) -> Iterator[Iterator[Found]]:
    """Clips decoded by tasks, a few ahead of the one whose turn it is; windows stream in."""
    import ray

    slim = Plan(model=plan.model, shaping=plan.shaping, coding=plan.coding, sources=())
    task: Any = ray.remote(num_cpus=1, num_returns="streaming", max_retries=RETRIES)(decode_clip)
    task = task.options(_generator_backpressure_num_objects=16)
    begun = [task.remote(slim, spec, source) for source in sources[:AHEAD]]
    for number in range(len(sources)):
        if number + AHEAD < len(sources):
            begun.append(task.remote(slim, spec, sources[number + AHEAD]))
        yield (ray.get(each) for each in begun[number])
        begun[number] = None  # its windows may go


def decode_clip(plan: Plan, spec: Spec, source: ListedClip) -> Iterator[Found]:
    """What is found in a clip."""
    yield from find_windows(plan, spec, source)
