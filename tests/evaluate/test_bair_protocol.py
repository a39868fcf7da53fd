"""BAIR's protocol from Python: whatever predicts is judged, with no generator at hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import reeltok
from reeltok.data.find import find_clips
from reeltok.evaluate.bair import (
    PROTOCOLS_OF,
    PredictionPlan,
    PredictionScores,
    judge_predictions,
    prediction_cases,
)
from reeltok.video.record import Video, to_unit


class Still:
    """Predicts that nothing moves, with some noise that the seed decides."""

    knows_actions = False

    def __init__(self, noise: float) -> None:
        self.noise, self.seen = noise, list[tuple[int, int, int]]()

    def prepare(self, frames: Tensor) -> Tensor:
        return to_unit(frames)

    def predict(
        self, x: Tensor, actions: Tensor | None, *, count: int, seed: int, first: int
    ) -> Tensor:
        self.seen.append((count, seed, first))
        source = torch.Generator().manual_seed(1000 * seed + first)
        y = x[:, :, :1].expand(count, -1, x.shape[2], -1, -1)
        return (y + self.noise * torch.randn(y.shape, generator=source)).clamp(-1, 1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "absent"))
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))
    for number, frames in enumerate((5, 6, 3)):
        pixels = torch.full((frames, 16, 16, 3), 100 + number, dtype=torch.uint8)
        path = tmp_path / "clips" / f"{number}.mkv"
        path.parent.mkdir(exist_ok=True)
        reeltok.write(Video(frames=pixels, fps=10), path, lossless=True)
    return tmp_path / "clips"


def judged(still: Still, data: Path, kind: str = "standard") -> PredictionScores:
    rule = replace(PROTOCOLS_OF[kind], frames=4)
    settings = {"protocol": rule, "samples": 3, "repeats": 2, "batch": 2}
    with pytest.warns(UserWarning, match=r"2.mkv left out: it has 3 frames, 4 are needed"):
        return judge_predictions(still, find_clips(data), PredictionPlan(**settings))


def test_any_predictor_is_judged(data: Path) -> None:
    still = Still(0.1)
    found = judged(still, data)
    assert (found.videos, found.clips) == (2, 2)
    assert 20 < found.metrics["psnr"].mean < 30  # noise of 0.1 in [-1, 1] is 26 dB
    assert found.metrics["psnr"].std > 0
    assert set(found.missing) == {"lpips-vgg", "fvd-i3d", "fvd-styleganv"}
    assert still.seen[:4] == [(2, 0, 0), (1, 0, 2), (2, 0, 3), (1, 0, 5)]
    assert still.seen[4] == (2, 1000, 0)
    assert judged(still, data) == found


@pytest.mark.parametrize("metric", ["psnr", "flicker"])
def test_the_best_prediction_is_the_best_by_every_metric(data: Path, metric: str) -> None:
    class Once(Still):
        """One prediction of three is exact."""

        def predict(self, x: Tensor, *given: Any, **more: Any) -> Tensor:
            y = super().predict(x, *given, **more)
            return torch.cat([x, y[1:]])

    rule = replace(PROTOCOLS_OF["standard"], frames=4, metrics=(metric,))
    plan = PredictionPlan(protocol=rule, samples=3, repeats=1, batch=3)
    found = judge_predictions(Once(0.5), find_clips(data)[:2], plan).metrics[metric].mean
    assert found == (0 if metric == "flicker" else pytest.approx(found))
    assert found == 0 or found > 60


def test_the_given_frame_is_not_measured(data: Path) -> None:
    """It is exact in every prediction, and had raised the mean."""

    class Given(Still):
        """All is off by 0.1 of [-1, 1], but the given frame."""

        def predict(self, x: Tensor, *given: Any, **more: Any) -> Tensor:
            return torch.cat([x[:, :, :1], x[:, :, 1:] + 0.1], dim=2)

    rule = replace(PROTOCOLS_OF["standard"], frames=4, metrics=("psnr",))
    plan = PredictionPlan(protocol=rule, samples=1, repeats=1)
    found = judge_predictions(Given(0), find_clips(data)[:2], plan)
    assert found.metrics["psnr"].mean == pytest.approx(26.02, abs=0.01)


def test_windows_and_noise(data: Path) -> None:
    many = judged(Still(0.2), data, "debiased")
    assert (many.videos, many.clips) == (2, 5)
    assert many.metrics["psnr"].mean < judged(Still(0.1), data).metrics["psnr"].mean


def test_windows_beyond_the_length_of_bairs_videos_are_told(data: Path) -> None:
    video = Video(frames=torch.zeros(31, 16, 16, 3, dtype=torch.uint8), fps=10)
    reeltok.write(video, data / "1.mkv", lossless=True)
    reeltok.write(video[:30], data / "2.mkv", lossless=True)
    for kind, longer, clips in (("debiased", 1, 2 + 27 + 27), ("standard", 0, 3)):
        rule = replace(PROTOCOLS_OF[kind], frames=4, metrics=("psnr",))
        plan = PredictionPlan(protocol=rule, samples=1, repeats=1)
        found = judge_predictions(Still(0.1), find_clips(data), plan)
        assert (found.longer, found.clips, found.size) == (longer, clips, (16, 16))


class Told(Still):
    """Hears the actions of each window."""

    knows_actions = True

    def predict(self, x: Tensor, actions: Tensor | None, **asked: int) -> Tensor:
        assert actions is not None
        self.heard = [*getattr(self, "heard", []), actions[0, :3, 0].tolist()]
        return super().predict(x, None, **asked)


def test_actions_begin_where_the_window_does(data: Path) -> None:
    for number, frames in enumerate((5, 6)):
        rows = np.arange(frames * 4, dtype="float32").reshape(frames, 4) // 4 + 10 * number
        np.save(data / f"{number}.actions.npy", rows)
    (data / "2.mkv").unlink()
    told, rule = Told(0.1), replace(PROTOCOLS_OF["debiased"], frames=4)
    judge_predictions(told, find_clips(data), PredictionPlan(protocol=rule, repeats=1))
    assert told.heard == [[0, 1, 2], [1, 2, 3], [10, 11, 12], [11, 12, 13], [12, 13, 14]]


def test_videos_of_another_rate_are_resampled(data: Path) -> None:
    """Frame n holds the value 10 n: of 30 frames per second every third is judged."""
    rule = replace(PROTOCOLS_OF["standard"], frames=4)
    for number in range(3):
        values = torch.arange(12, dtype=torch.uint8)[:, None, None, None] * 10
        pixels = values.expand(-1, 16, 16, 3).contiguous()
        reeltok.write(Video(frames=pixels, fps=30), data / f"{number}.mkv", lossless=True)
        np.save(data / f"{number}.actions.npy", np.zeros((12, 4), "float32"))
    plan, quiet = PredictionPlan(protocol=rule), lambda *heard: None
    cases = list(prediction_cases(Still(0.1), find_clips(data), plan, quiet, quiet))
    levels = (cases[0].x[0, 0, :, 0, 0] + 1) * 127.5
    assert levels.round().tolist() == [0, 30, 60, 90]
    with pytest.raises(ValueError, match=r"0.mkv has 30 frames per second and bair asks for 10"):
        next(prediction_cases(Told(0.1), find_clips(data), plan, quiet, quiet))


def test_progress_hears_every_clip(data: Path) -> None:
    heard, videos = list[tuple[int, int]](), list[int]()
    plan = PredictionPlan(protocol=replace(PROTOCOLS_OF["debiased"], frames=4), repeats=1)
    clips = find_clips(data)[:2]
    judge_predictions(
        Still(0.1),
        clips,
        plan,
        on_clip=lambda frames, of: heard.append((frames, of)),
        on_video=lambda: videos.append(1),
    )
    assert heard == [(4, 8)] * 2 + [(4, 12)] * 3
    assert len(videos) == 2


def test_the_protocols_say_how_often_and_what_is_measured() -> None:
    standard, debiased = (PredictionPlan(protocol=rule) for rule in PROTOCOLS_OF.values())
    assert (standard.predictions, standard.rounds) == (100, 4)  # MAGVIT, appendix: 25,600 of 256
    assert (debiased.predictions, debiased.rounds) == (1, 4)
    assert PredictionPlan(samples=7, repeats=2).predictions == 7
