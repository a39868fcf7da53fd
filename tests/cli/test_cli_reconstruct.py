"""`reconstruct`, `demo`, and the pictures and numbers that both show."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ran import Ran, moving

import reeltok
from reeltok import zoo
from reeltok.cli.reconstruct import Clock
from reeltok.cli.side_by_side import GAP, Comparison, Shown, together
from reeltok.demo import render_clip
from reeltok.metrics import paired as metrics

Run = Callable[..., Ran]
Models = dict[str, Path]


def test_reconstruct_measures_what_the_api_gives(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.mp4"
    found = run("reconstruct", clip, out, "--model", models["discrete"], "--chunk", 5, "--json")
    assert found.code == 0, found.err
    tokenizer, video = zoo.load(models["discrete"]), reeltok.read(clip)
    tokens = tokenizer.encode(video)
    decoded = tokenizer.decode(tokens)
    psnr = metrics.psnr(video.tensor(), decoded.tensor()).mean().item()
    record = found.json
    assert record["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert record["bits_per_pixel"] == pytest.approx(tokens.bits_per_pixel)
    assert record["tokens"] == list(tokens.grid)
    assert set(record["seconds"]) == {"read", "encode", "decode", "compare", "write"}
    assert len(reeltok.read(out)) == 18
    both = reeltok.read(tmp_path / "r-side-by-side.mp4")
    assert both.frames.shape[:2] == (18, 64 + GAP)  # 40 wide, 32 high: one above the other


def test_side_by_side_may_be_a_picture_or_nothing(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    words = ["reconstruct", clip, tmp_path / "r.mkv", "--model", models["discrete"]]
    found = run(*words, "--side-by-side", tmp_path / "both.png")
    assert found.code == 0, found.err
    assert "PSNR" in found.out
    assert "frames per second" in found.out
    height, width = reeltok.read(tmp_path / "both.png").frames.shape[1:3]
    assert width == 4 * 40 + 5 * GAP
    assert height > 2 * 32
    assert run(*words, "--side-by-side", "none").code == 2  # r.mkv is there
    assert run(*words, "--side-by-side", "none", "--force").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.png", "r.mkv"]


def test_one_image(run: Run, models: Models, tmp_path: Path) -> None:
    reeltok.write(moving(1), tmp_path / "i.png")
    found = run("reconstruct", tmp_path / "i.png", tmp_path / "o.png", "--model", models["causal"])
    assert found.code == 0, found.err
    assert (tmp_path / "o-side-by-side.png").is_file()


def test_small_frames_have_no_ssim() -> None:
    comparison, video = Comparison(), moving(3, 8, 8)
    comparison.add(video, video)
    assert comparison.record() == {"psnr": pytest.approx(80, abs=1e-3), "ssim": None}


def test_wide_frames_stand_above_one_another() -> None:
    assert together(moving(2, 20, 40), moving(2, 20, 40)).shape == (2, 40 + GAP, 40, 3)
    assert together(moving(2, 40, 20), moving(2, 40, 20)).shape == (2, 40, 40 + GAP, 3)


@pytest.mark.parametrize("frames", [1, 3, 48])
def test_a_picture_shows_frames_from_the_whole_clip(frames: int) -> None:
    shown, video = Shown(frames), moving(frames)
    for start in range(0, frames, 7):
        shown.add(video[start : start + 7], video[start : start + 7])
    assert len(shown.pairs) == min(4, frames)
    assert shown.picture(("a", "b")).shape[1] == min(4, frames) * (40 + GAP) + GAP


def test_the_clock_gives_each_stage_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("reeltok.cli.reconstruct.monotonic", lambda: now[0])

    def work(parts: object, seconds: float) -> object:
        for part in parts:
            now[0] += seconds
            yield part

    clock = Clock("write")
    inner = clock.around("read", work(range(3), 1))
    for _ in clock.around("encode", work(inner, 10)):
        now[0] += 100
    clock.switch("done")
    assert clock.seconds == {"read": 3, "encode": 30, "write": 300}


def test_the_clip_of_the_demonstration() -> None:
    clip, again = (render_clip(frames=3, side=64).frames for _ in range(2))
    assert clip.shape == (3, 64, 64, 3)
    assert torch.equal(clip, again)
    assert (clip[0] != clip[2]).float().mean() > 0.5  # it moves
    assert clip.float().std() > 40  # and shows something


def test_demo_on_a_clip_of_ones_own(run: Run, models: Models, clip: Path, tmp_path: Path) -> None:
    words = ["demo", "--video", clip, "--out", tmp_path / "out", "--model", models["discrete"]]
    found = run(*words)
    assert found.code == 0, found.err
    names = ["demo.mp4", "demo.reel", "side-by-side.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert "bits per pixel" in found.out
    assert run(*words).code == 2
    assert run(*words, "--force").code == 0


@pytest.mark.slow
def test_demo(run: Run, models: Models, tmp_path: Path) -> None:
    found = run("demo", "--out", tmp_path / "out", "--model", models["discrete"], "--json")
    assert found.code == 0, found.err
    assert found.json["frames"] == 48
    assert found.json["size"] == [256, 256]
    frames = reeltok.read(tmp_path / "out" / "clip.mkv").frames
    assert np.array_equal(frames, render_clip().frames)
