"""Judge one candidate over a data set: `evaluate` gives the `Result`.

Every finished clip is kept in a folder of its own, so that an interrupted run goes on where it
stopped; under torchrun each process takes its share of the videos. What breaks is counted.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import reeltok
from reeltok.allocator import release_freed
from reeltok.devices import describe_machine, peak_memory, pick_device, reset_peak_memory
from reeltok.evaluate.candidates.candidate import Candidate, CodedClip, read_back
from reeltok.evaluate.clips import ClipCache, ScoredClip, ScoredClips, clips
from reeltok.evaluate.protocols import DEFAULT, Protocol, find_protocol
from reeltok.evaluate.results import Result
from reeltok.evaluate.scores import ClipScore, Scorer, Scores, open_scorer
from reeltok.files.atomic import replacing, sweep, write_file
from reeltok.files.hashes import hash_files, hash_text
from reeltok.files.parsing import first_error, parse_config, read_json
from reeltok.nn.quantizers import Usage
from reeltok.parallel import gather, rank_and_world
from reeltok.tokens.ids import narrow_ids

MAX_BROKEN = 5  # clips
UNSCORED = ("cli", "viewer")  # rooms of this package that no score depends on
MEMORY = "coding_memory_bytes"
RANDOM = "no weights: it runs with random ones, for speed and memory only"


@dataclass(frozen=True, kw_only=True)
class ClipProgress:
    """How far a run is: told after every clip."""

    candidate: str
    clip: str
    frames: int
    done: int  # videos
    total: int  # videos of this process
    again: bool = False  # found from an earlier run


OnClip = Callable[[ClipProgress], None]
OnScored = Callable[[ScoredClip, CodedClip], None]


class ResultCache:
    """Finished clips of one candidate under one protocol, a file each; nowhere without a folder.

    The key holds what decides a score: weights, settings, protocol, metrics, this code; and the
    machine with its threads, since speeds and memory are of it.
    """

    def __init__(
        self, folder: Path | None, candidate: Candidate, plan: Protocol, scorer: Scorer
    ) -> None:
        made_of = {
            **describe_candidate(candidate),
            "protocol": asdict(plan),
            "metrics": [*scorer.metrics, *sorted(scorer.missing), *scorer.networks()],
            "code": code_hash(),
            "machine": describe_machine(),
        }
        text = json.dumps(made_of, sort_keys=True, default=str)
        self.folder = None if folder is None else folder / hash_text(text, 24)
        if self.folder is not None:
            sweep(self.folder)

    def path(self, clip: ScoredClip) -> Path | None:
        """Where the score of a clip is kept."""
        name = hash_text(f"{clip.name} {clip.sha256} {clip.video.fps} {clip.boxes}", 24)
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def find(self, clip: ScoredClip) -> tuple[ClipScore, Tensor | None] | None:
        """The score and the ids that an earlier run kept; None where it did not get there."""
        path = self.path(clip)
        if path is None or not path.exists():
            return None
        beside = path.with_suffix(".ids")
        return ClipScore.load(path), kept_ids(beside) if beside.exists() else None

    def keep(self, clip: ScoredClip, score: ClipScore, ids: Tensor | None) -> None:
        """Keep a score; the ids first, so that a score never lacks them."""
        path = self.path(clip)
        if path is not None:
            if ids is not None:
                with replacing(path.with_suffix(".ids")) as part:
                    save_file({"ids": narrow_ids(ids).contiguous()}, part)
            score.save(path)

    def measured(self, first: Path | None) -> bool:
        """Whether `facts` are kept beside the score of a set's `first` clip."""
        return first is not None and first.with_suffix(".json").exists()

    def facts(self, first: Path | None, found: Mapping[str, float]) -> dict[str, float]:
        """What is measured once for a set, kept beside the score of its `first` clip.

        What an earlier run found there stands.
        """
        path = None if first is None else first.with_suffix(".json")
        if path is None:
            return dict(found)
        kept = dict[str, float]()
        if path.exists():
            kept = parse_config(read_json(path), dict[str, float], str(path))
        facts = {**found, **kept}
        write_file(path, json.dumps(facts))
        return facts


def kept_ids(path: Path) -> Tensor:
    """The ids that `ResultCache.keep` kept. ValueError that names the file where it is damaged."""
    try:
        return load_file(path)["ids"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} holds no ids ({first_error(error)}): remove it, or evaluate with `again`"
        ) from error


def evaluate(
    candidate: Candidate,
    data: str | Path,
    *,
    protocol: str | Protocol = DEFAULT,
    root: str | Path | None = None,
    scorer: Scorer | None = None,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    max_broken: int = MAX_BROKEN,
    progress: OnClip | None = None,
    keep: OnScored | None = None,
    kept: Callable[[ScoredClip], bool] = lambda clip: True,
    cache: ClipCache | None = None,
) -> Result:
    """Judge a candidate on the clips that a protocol makes of a data set.

    `work` holds finished clips for the next run. `keep` is given every clip with what came of it,
    and `kept` says whether it already was; `cache` shares decoded clips with the next run.
    Raises ValueError where no clip fits the protocol, more than `max_broken` clips break, or the
    protocol is for generators only.
    """
    plan = find_protocol(protocol) if isinstance(protocol, str) else protocol
    if plan.context_frames or plan.scored_size:
        raise ValueError(f"{plan.name} judges generators: give a protocol of reconstruction")
    scorer = scorer or open_scorer(plan.metrics, frames=plan.fvd_frames, device=device)
    if not candidate.trained:
        scorer = Scorer(metrics=(), missing=dict.fromkeys(plan.metrics, RANDOM))
    found = clips(
        plan, data, root=root, causal=candidate.causal, shard=rank_and_world(), cache=cache
    )
    kept_scores = ResultCache(work, candidate, plan, scorer)
    run = Evaluation(candidate, plan, scorer, kept_scores, found, pick_device(device))
    run.data = Path(data).resolve().name
    for clip in found:
        try:
            again = run.take(clip, keep, kept)
        except ValueError as error:
            found.broken[clip.name] = str(error)
            again = False
        check_broken(found.broken, max_broken, candidate.name)
        if progress is not None:
            progress(run.progress(clip, again))
    return run.result(max_broken)


class Evaluation:
    """A run on its way: what was scored, counted and measured so far, on this process."""

    def __init__(
        self,
        candidate: Candidate,
        plan: Protocol,
        scorer: Scorer,
        results: ResultCache,
        found: ScoredClips,
        device: torch.device,
    ) -> None:
        self.candidate, self.plan, self.scorer = candidate, plan, scorer
        self.results, self.found, self.device = results, found, device
        self.data = ""
        self.scores = Scores(scorer.missing)
        self.usage = None if candidate.vocabulary is None else Usage(candidate.vocabulary)
        self.facts: dict[str, float] | None = None
        self.begins: Path | None = None  # where the score of the first clip is kept
        self.videos: set[str] = set()

    def take(
        self, clip: ScoredClip, keep: OnScored | None, kept: Callable[[ScoredClip], bool]
    ) -> bool:
        """Score a clip, or find its score; whether it was found."""
        self.videos.add(clip.file)
        self.begins = self.begins or self.results.path(clip)
        known = self.results.find(clip)
        again = known is not None and (keep is None or kept(clip))
        if known is None or not again:
            coded, score = self.judged(clip)
            if keep is not None:
                keep(clip, coded)
            self.results.keep(clip, score, coded.ids)
            known = score, coded.ids
        elif self.facts is None and not self.results.measured(self.begins):
            self.coded(clip)  # it was scored amid another set's clips
        score, ids = known
        self.scores.add(replace(score, source=clip.together))
        if self.usage is not None and ids is not None and ids.numel():
            self.usage.update(ids.long())
        return again

    def judged(self, clip: ScoredClip) -> tuple[CodedClip, ClipScore]:
        """What came of a clip, and its score. ValueError names the candidate that is at fault."""
        coded = self.coded(clip)
        device = scorer_device(self.scorer)
        x = clip.video.tensor(device=device)
        y = read_back(coded.x, clip.video.fps) if self.plan.via_mp4 else coded.x
        score = self.scorer.score(
            f"{self.candidate.name}, {clip.name}",
            x,
            y.to(device),
            boxes=clip.boxes,
            sha256=clip.sha256,
            bits=coded.bits,
            stored_bits=coded.stored_bits,
            seconds=coded.seconds,
            notes=[f"its last frame was repeated {clip.filled} times"] if clip.filled else [],
        )
        return coded, replace(score, name=clip.name)

    def coded(self, clip: ScoredClip) -> CodedClip:
        """What came of a clip; of the first one also what is measured once, which is kept."""
        if self.facts is not None:
            return self.candidate.reconstruct(clip)
        coded, measured = self.first(clip)
        self.facts = self.results.facts(self.begins, measured)  # at once: it may be interrupted
        return coded

    def first(self, clip: ScoredClip) -> tuple[CodedClip, dict[str, float]]:
        """What came of the first clip, and what is measured once: parameters, MACs, memory."""
        release_freed()  # of earlier candidates: it would be taken again unseen
        reset_peak_memory(self.device)
        before = peak_memory(self.device)
        coded = self.candidate.reconstruct(clip)
        if torch.cuda.is_available():  # the first pass chooses kernels: it is not timed
            coded = self.candidate.reconstruct(clip)
        taken = peak_memory(self.device) - before
        memory = {MEMORY: float(taken)} if taken > 0 else {}  # not every system resets its peak
        return coded, self.candidate.facts(clip) | memory

    def progress(self, clip: ScoredClip, again: bool) -> ClipProgress:
        """How far this is."""
        seen = self.videos | self.found.broken.keys() | self.found.left_out.keys()
        return ClipProgress(
            candidate=self.candidate.name,
            clip=clip.name,
            frames=len(clip.video),
            done=len(seen),
            total=len(self.found.items),
            again=again,
        )

    def result(self, max_broken: int) -> Result:
        """The record of all processes together."""
        mine = self.scores, self.found.broken, self.found.left_out, self.found.filled
        scores, filled = Scores(self.scorer.missing), 0
        broken, left_out = dict[str, str](), dict[str, str]()
        for theirs in gather(mine):
            scores.merge(theirs[0])
            broken |= theirs[1]
            left_out |= theirs[2]
            filled += theirs[3]
        scores.broken = dict(broken)
        check_broken(broken, max_broken, self.candidate.name)
        if not scores.clips:
            raise ValueError(
                f"no clip could be judged under {self.plan.name} ({why_none(broken, left_out)}): "
                "give other data or another `protocol`"
            )
        scores.clips = dict(sorted(scores.clips.items()))
        return Result.of(
            scores,
            model=self.candidate.name,
            kind=self.candidate.kind,
            data=self.data,
            weights=self.candidate.weights,
            protocol=self.plan,
            causal=self.candidate.causal,
            left_out=left_out,
            filled=filled,
            extra=self.extra(),
            settings=dict(self.candidate.settings) | {"trained": self.candidate.trained},
            networks=self.scorer.networks(),
        )

    def extra(self) -> dict[str, float]:
        """Parameters, MACs, memory, and how much of the codebook was used over the set."""
        found = self.results.facts(self.begins, self.facts or {})
        if self.usage is not None:
            whole = self.usage.over_ranks()
            if whole.counts.sum():
                found |= {"utilization": whole.utilization, "perplexity": whole.perplexity}
        return found


# ---------------------------------------------------------------- small pieces


def why_none(broken: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    """Why no clip is left: for how many each reason holds, with the first clip of each kind."""
    found = []
    for reasons, what in ((left_out, "does not fit it"), (broken, "failed")):
        for name, why in [*reasons.items()][:1]:
            several = f"{len(reasons)} clips, such as {name}"
            found.append(f"{several if len(reasons) > 1 else f'{name} {what}'}: {why}")
    return "; ".join(found) or "there are none"


def describe_candidate(candidate: Candidate) -> dict[str, Any]:
    """What decides a candidate's reconstructions."""
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "weights": candidate.weights,
        "trained": candidate.trained,
        "settings": dict(candidate.settings),
    }


@cache
def code_hash() -> str:
    """The hash of this package's sources: other code may give other scores."""
    folder = Path(reeltok.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return hash_files(*(f for f in files if f.relative_to(folder).parts[0] not in UNSCORED))


def check_broken(broken: Mapping[str, str], most: int, candidate: str) -> None:
    """ValueError where more clips broke than are allowed."""
    if len(broken) > most:
        name, why = next(iter(broken.items()))
        count = f"{len(broken)} clip{'s' if len(broken) > 1 else ''}"
        raise ValueError(
            f"{count} could not be judged with {candidate}, more than `max_broken` "
            f"{most}; the first, {name}: {why}"
        )


def scorer_device(scorer: Scorer) -> torch.device:
    """Where the networks of the metrics lie."""
    for net in scorer.lpips:
        return next(net.parameters()).device
    return torch.device("cpu")
