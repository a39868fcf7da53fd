"""Predictions of robot video from one frame, by the protocols `bair` and `bair-debiased` (MAGVIT).

Whatever predicts is handed over as a `Predictor`. FVD compares all real with all predicted clips;
the metrics of frames are those of the best prediction of each clip, without the given frame.
"""

import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reeltok.data.actions import ACTION, read_clip_actions
from reeltok.data.bair import read_push
from reeltok.data.clip import Clip
from reeltok.evaluate.protocols import PROTOCOLS
from reeltok.evaluate.protocols import Protocol as VideoProtocol
from reeltok.evaluate.results import find_metric
from reeltok.evaluate.scores import FRAME_METRICS, Scorer, open_scorer
from reeltok.metrics import paired as metrics
from reeltok.metrics.distances import feature_moments, frechet_distance
from reeltok.nn.moments import Moments

PROTOCOLS_OF = {"standard": PROTOCOLS["bair"], "debiased": PROTOCOLS["bair-debiased"]}
WHOLE = 30  # frames of a BAIR video: windows of longer ones are of its first ones
SIZE = 64  # pixels of a side of a BAIR video, at which published numbers are


@runtime_checkable
class Predictor(Protocol):
    """What is judged: it goes on from frame 0 of a clip.

    `knows_actions`: it is given those after each frame. `prepare` makes a video's frames a tensor
    "1 c t h w" of its own size, in [-1, 1]; `predict` gives `count` clips like x, the first of them
    the `first`-th of those that `seed` decides.
    """

    knows_actions: bool

    def prepare(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "1 c t i j"]: ...
    def predict(
        self,
        x: Float[Tensor, "1 c t h w"],
        actions: Float[Tensor, "1 n a"] | None,
        *,
        count: int,
        seed: int,
        first: int,
    ) -> Float[Tensor, "m c t h w"]: ...


@dataclass(frozen=True, kw_only=True)
class PredictionPlan:
    """Which clips of a video are judged, and how many predictions of each.

    `protocol` says which windows of a video are clips, and what is measured; `samples` and
    `repeats` are its own where they are None. Repeat k has the seed `seed` + 1000 k; `batch` clips
    are predicted at a time.
    """

    protocol: VideoProtocol = PROTOCOLS["bair"]
    samples: int | None = None
    repeats: int | None = None
    seed: int = 0
    batch: int = 20

    @property
    def predictions(self) -> int:
        """Of each clip."""
        return self.samples or self.protocol.samples

    @property
    def rounds(self) -> int:
        """Repeats of the whole measurement."""
        return self.repeats or self.protocol.repeats


@dataclass(frozen=True, kw_only=True)
class MeanStd:
    """Mean and standard deviation over the repeats."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class PredictionScores:
    """What was judged and its scores; `missing` says why a metric has no weights.

    `size` is (height, width) in pixels, as the predictor has it. Of `longer` videos windows were
    wanted all over, and are of the first `WHOLE` frames.
    """

    videos: int
    clips: int
    size: tuple[int, int]
    longer: int
    metrics: dict[str, MeanStd]
    missing: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PredictionCase:
    """A clip to predict, and the actions after its frames if the predictor knows any.

    `longer`: its video has windows beyond those that are judged.
    """

    name: str
    longer: bool
    x: Float[Tensor, "1 c t h w"]
    actions: Float[Tensor, "1 n a"] | None


@dataclass(frozen=True, kw_only=True)
class Round:
    """One repeat over all clips: sums of features, and the best scores of each clip."""

    real: dict[str, Moments] = field(default_factory=dict)
    fake: dict[str, Moments] = field(default_factory=dict)
    best: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def scores(self) -> dict[str, float]:
        """Distances of the sums, and means of the best scores."""
        distances = {n: frechet_distance(m, self.fake[n]) for n, m in self.real.items()}
        return distances | {name: statistics.fmean(values) for name, values in self.best.items()}


def judge_predictions(
    predictor: Predictor,
    clips: Sequence[Clip],
    plan: PredictionPlan,
    *,
    source: str = "the data",
    device: torch.device | str = "cpu",
    on_clip: Callable[[int, int], object] = lambda frames, of: None,
    on_video: Callable[[], object] = lambda: None,
) -> PredictionScores:
    """All repeats over all clips.

    `on_clip` hears the frames of each clip and of all of its video's, `on_video` that one is done.
    A video that is too short is left out with a warning. FileNotFoundError where a predictor that
    knows actions is given a clip without any; ValueError, with the name of the `source`, for fewer
    than two clips.
    """
    scorer = open_scorer(plan.protocol.metrics, device=device)
    rounds: dict[str, list[float]] = defaultdict(list)
    used, longer, size, count = set[str](), set[str](), (0, 0), 0
    for repeat in range(plan.rounds):
        found, count = Round(), 0
        for scene in prediction_cases(predictor, clips, plan, on_clip, on_video):
            used.add(scene.name)
            longer |= {scene.name} if scene.longer else set()
            size = (scene.x.shape[3], scene.x.shape[4])
            merge_moments(found.real, features(scorer, scene.x, device))
            judge_case(scorer, predictor, scene, plan, (repeat, count), found, device)
            count += 1
        if count < 2:
            length = clip_length(plan.protocol)
            raise ValueError(f"{source} holds {count} clips of {length} frames: give 2")
        for name, value in found.scores().items():
            rounds[name].append(value)
    means = {
        name: MeanStd(mean=statistics.fmean(values), std=statistics.pstdev(values))
        for name, values in rounds.items()
    }
    return PredictionScores(
        videos=len(used),
        clips=count,
        size=size,
        longer=len(longer),
        metrics=means,
        missing=dict(scorer.missing),
    )


def prediction_cases(
    predictor: Predictor,
    clips: Sequence[Clip],
    plan: PredictionPlan,
    on_clip: Callable[[int, int], object],
    on_video: Callable[[], object],
) -> Iterator[PredictionCase]:
    """The windows of all videos that are judged."""
    length = clip_length(plan.protocol)
    for clip in clips:
        if predictor.knows_actions:
            require_clip_rate(clip, plan.protocol)
        frames = clip.read(frames=WHOLE + 1, fps=plan.protocol.fps).frames
        video = predictor.prepare(frames[:WHOLE])
        actions = actions_of_clip(clip, video.shape[2]) if predictor.knows_actions else None
        last = video.shape[2] - length
        if last < 0:
            said = f"it has {video.shape[2]} frames, {length} are needed"
            warnings.warn(f"{clip.name} left out: {said}", stacklevel=2)
        every = plan.protocol.window == "every"
        for start in range(last + 1 if every else min(1, last + 1)):
            acts = None if actions is None else actions[:, start:]
            x = video[:, :, start : start + length]
            longer = every and len(frames) > WHOLE
            yield PredictionCase(name=clip.name, longer=longer, x=x, actions=acts)
            on_clip(length, length * max(1, last + 1))
        on_video()


def clip_length(protocol: VideoProtocol) -> int:
    """Frames of a clip, the given one included."""
    assert protocol.frames is not None, "predictions are of a fixed length"
    return protocol.frames


def require_clip_rate(clip: Clip, protocol: VideoProtocol) -> None:
    """ValueError where a clip would be resampled, though its actions are one a frame."""
    with clip.stream(chunk=1) as video:
        found, asked = video.fps, protocol.fps
    if not protocol.is_rate(found):
        raise ValueError(
            f"{clip.name} has {found:g} frames per second and {protocol.name} asks for {asked:g}, "
            "but there is an action after each frame: give videos and actions of that rate"
        )


def actions_of_clip(clip: Clip, frames: int) -> Float[Tensor, "1 n a"]:
    """What was done after each of so many frames but the last: of BAIR's record, or beside a clip.

    FileNotFoundError where there are none.
    """
    if clip.record is None:
        return read_clip_actions(clip, count=frames - 1, numbers=ACTION)
    return read_push(clip.path, clip.record).actions[None, : frames - 1]


def judge_case(
    scorer: Scorer,
    predictor: Predictor,
    scene: PredictionCase,
    plan: PredictionPlan,
    at: tuple[int, int],
    found: Round,
    device: torch.device | str,
) -> None:
    """Predict one clip `plan.predictions` times; add its features and its best scores to `found`.

    `at` counts the repeats and the clips before this one.
    """
    (repeat, number), scores = at, defaultdict[str, list[float]](list)
    for since in range(0, plan.predictions, plan.batch):
        y = predictor.predict(
            scene.x,
            scene.actions,
            count=min(plan.batch, plan.predictions - since),
            seed=plan.seed + 1000 * repeat,
            first=number * plan.predictions + since,
        )
        merge_moments(found.fake, features(scorer, y, device))
        for name, values in score_prediction(scorer, plan.protocol, scene.x, y, device).items():
            scores[name] += values
    for name, values in scores.items():
        best = min if find_metric(name).better == "lower" else max
        found.best[name].append(best(values))


def features(
    scorer: Scorer, x: Float[Tensor, "n c t h w"], device: torch.device | str
) -> dict[str, Moments]:
    """What FVD compares, of every network that has weights."""
    return {
        f"fvd-{key}-{extractor.name}": feature_moments(extractor(x.to(device)))
        for key, extractor in scorer.extractors.items()
    }


def score_prediction(
    scorer: Scorer,
    protocol: VideoProtocol,
    x: Float[Tensor, "1 c t h w"],
    y: Float[Tensor, "n c t h w"],
    device: torch.device | str,
) -> dict[str, list[float]]:
    """The protocol's metrics of frames of each prediction, meaned over the frames not given."""
    since = protocol.context_frames
    a, b = x[:, :, since:].expand(len(y), -1, -1, -1, -1), y[:, :, since:]
    each = {name: FRAME_METRICS[name](a, b) for name in protocol.metrics if name in FRAME_METRICS}
    for net in scorer.lpips:
        each[f"lpips-{net.net}"] = metrics.lpips(net, a.to(device), b.to(device))
    return {name: values.mean(1).tolist() for name, values in each.items()}


def merge_moments(sums: dict[str, Moments], more: dict[str, Moments]) -> None:
    """Count further features."""
    for name, moments in more.items():
        sums[name] = sums[name] + moments if name in sums else moments
