"""`reconstruct`, `demo`, and the pictures and numbers that both show."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok import zoo
from reeltok.cli.demo import named_beside
from reeltok.demo import render_clip
from reeltok.metrics import paired as metrics
from reeltok.transcode.side_by_side import GAP, MARGIN

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


def test_demo_shows_other_tokenizers_beside(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", models["causal"]
    words = ["demo", "--video", clip, "--out", out, "--model", models["discrete"]]
    found = run(*words, "--beside", other, "--json")
    assert found.code == 0, found.err
    (beside,) = found.json["beside"]
    assert beside["reconstruction"] == str(out / f"demo-{other.name}.mp4")
    tokenizer, video = zoo.load(other), reeltok.read(clip)
    decoded = tokenizer.decode(tokenizer.encode(video))
    psnr = metrics.psnr(video.tensor(), decoded.tensor()).mean().item()
    assert beside["psnr"] == pytest.approx(psnr, abs=0.02)
    assert len(reeltok.read(beside["reconstruction"])) == 18
    assert reeltok.read(out / "side-by-side.png").height == 3 * (32 + MARGIN) + GAP
    assert f"beside: {tokenizer.name}" in run(*words, "--beside", other, "--force").out


def test_demo_keeps_folders_of_one_name_apart(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    """As every training run calls its folder."""
    runs = [tmp_path / name / "model" for name in ("a", "b")]
    for run_folder in runs:
        shutil.copytree(models["causal"], run_folder)
    words = ["demo", "--video", clip, "--out", tmp_path / "out", "--model", models["discrete"]]
    found = run(*words, "--beside", runs[0], "--beside", runs[1], "--json")
    assert found.code == 0, found.err
    files = [tmp_path / "out" / f"demo-{name}.mp4" for name in "ab"]
    assert [other["reconstruction"] for other in found.json["beside"]] == [*map(str, files)]
    assert all(file.exists() for file in files)
    twice = run(*words, "--beside", f"x={runs[0]}", "--beside", f"x={runs[1]}", "--force")
    assert twice.code == 2
    assert f"{runs[0]} and {runs[1]} are both called x: name one as LABEL=" in twice.err


def test_the_default_is_shown_beside_what_is_bundled() -> None:
    others = [name for name in ("reftok-default", "default-kl") if name in zoo.bundled()]
    assert named_beside("default", None, None) == others
    assert named_beside("default", [], None) == []
    assert named_beside("default", None, "random") == []
    assert named_beside("mine", None, None) == []


@pytest.mark.slow
def test_demo(run: Run, models: Models, tmp_path: Path) -> None:
    found = run("demo", "--out", tmp_path / "out", "--model", models["discrete"], "--json")
    assert found.code == 0, found.err
    assert found.json["frames"] == 48
    assert found.json["size"] == [256, 256]
    frames = reeltok.read(tmp_path / "out" / "clip.mkv").frames
    assert np.array_equal(frames, render_clip().frames)
