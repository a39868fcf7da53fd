"""The pictures and numbers that show an original beside its reconstruction."""

from dataclasses import replace

import pytest
from moving_clips import moving

from reeltok.metrics.paired import psnr, ssim
from reeltok.transcode.side_by_side import GAP, PairScores, SampledFrames, together


def test_small_frames_have_no_ssim() -> None:
    comparison, video = PairScores(), moving(3, 8, 8)
    comparison.add(video, video)
    assert comparison.record() == {"psnr": pytest.approx(80, abs=1e-3), "ssim": None}


def test_scores_are_those_of_the_metrics() -> None:
    comparison, original = PairScores(), moving(40, 160, 200)  # measured in two parts
    decoded = replace(original, frames=original.frames // 2 + 20)
    comparison.add(original, decoded)
    assert comparison.psnr == pytest.approx(psnr(original, decoded)[0].tolist(), rel=1e-6)
    assert comparison.ssim == pytest.approx(ssim(original, decoded)[0].tolist(), rel=1e-6)


def test_wide_frames_stand_above_one_another() -> None:
    assert together(moving(2, 20, 40), moving(2, 20, 40)).shape == (2, 40 + GAP, 40, 3)
    assert together(moving(2, 40, 20), moving(2, 40, 20)).shape == (2, 40, 40 + GAP, 3)


@pytest.mark.parametrize("frames", [1, 3, 48])
def test_a_picture_shows_frames_from_the_whole_clip(frames: int) -> None:
    shown, video = SampledFrames(frames), moving(frames)
    for start in range(0, frames, 7):
        shown.add(video[start : start + 7], video[start : start + 7])
    assert len(shown.pairs) == min(4, frames)
    assert shown.picture(("a", "b")).shape[1] == min(4, frames) * (40 + GAP) + GAP
