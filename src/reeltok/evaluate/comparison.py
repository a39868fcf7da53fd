"""Several tokenizers, peers and codecs judged on the same clips, matched to one another."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from reeltok.devices import pick_device
from reeltok.evaluate.candidates.candidate import Candidate
from reeltok.evaluate.candidates.codecs import RateTarget
from reeltok.evaluate.candidates.peers import open_peers
from reeltok.evaluate.clips import ClipCache, ScoredClip, clips
from reeltok.evaluate.protocols import Protocol
from reeltok.evaluate.report.build import Media
from reeltok.evaluate.results import Result
from reeltok.evaluate.run import OnClip, evaluate
from reeltok.evaluate.scores import Scorer, open_scorer
from reeltok.parallel import rank_and_world

CURVE = ("psnr", "psnr-uint8", "lpips-alex")  # what points of a codec's curve are judged by
Watch = Callable[[str], AbstractContextManager[OnClip]]


class Comparison:
    """What all candidates of a comparison share: clips, scorers, the folder of the report.

    `watch` is called with each candidate's name; inside what it gives, it is told of every clip.
    """

    def __init__(
        self,
        plan: Protocol,
        data: str,
        media: Media,
        device: str,
        root: Path | None,
        work: Path | None,
        max_broken: int,
        watch: Watch,
    ) -> None:
        self.plan, self.data, self.media, self.root = plan, data, media, root
        self.device = pick_device(device)
        self.work, self.max_broken, self.watch = work, max_broken, watch
        self.cache = ClipCache()
        self.full = open_scorer(plan.metrics, frames=plan.fvd_frames, device=self.device)
        found = tuple(key for key in CURVE if key in plan.metrics)
        self.brief: Scorer = replace(self.full, metrics=found, extractors={}, missing={})

    def judge(self, candidate: Candidate) -> Result:
        """One candidate's result; its videos go into the report, but for points of a curve."""
        brief = candidate.settings.get("role") == "curve"
        more: dict[str, Any] = {}
        if not brief:
            more["keep"] = self.media.keep(candidate)
            more["kept"] = self.media.kept(candidate)
        with self.watch(candidate.name) as progress:
            return evaluate(
                candidate,
                self.data,
                protocol=self.plan,
                root=self.root,
                scorer=self.brief if brief else self.full,
                work=self.work,
                max_broken=self.max_broken,
                progress=progress,
                cache=self.cache,
                **more,
            )

    def judge_peers(self, names: Iterable[str], results: list[Result]) -> list[Result]:
        """The results of all candidates that these names stand for, matched to those before."""
        like = self.rate_target(results)
        return [
            self.judge(one) for name in names for one in open_peers(name, like, device=self.device)
        ]

    def rate_target(self, results: list[Result]) -> RateTarget:
        """What peers are matched to: the first result that counted bits."""
        for result in results:
            bits = {c["name"]: c["bits"] for c in result.clips if c["bits"] is not None}
            factors = result.settings.get("factors")
            if bits and factors:
                return RateTarget(
                    bits=bits,
                    factors=tuple(factors),
                    clips=partial(self._clips, result.causal),
                    causal=result.causal,
                )
        return RateTarget(clips=partial(self._clips, True))

    def _clips(self, causal: bool) -> Iterable[ScoredClip]:
        return clips(
            self.plan,
            self.data,
            root=self.root,
            causal=causal,
            shard=rank_and_world(),
            cache=self.cache,
        )
