"""A generator opened and asked from Python, as the command does it."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small_priors import prior_for

import reeltok
from reeltok.generate import masked
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.pipeline import (
    GenerationRequest,
    generate_files,
    open_generator,
    read_given,
)
from reeltok.generate.predictor import PriorPredictor
from reeltok.generate.sampling import count_steps
from reeltok.models.vidtok.network import VidTok
from reeltok.video.record import Video


@pytest.fixture
def folder(plain: VidTok, tmp_path: Path) -> Path:
    plain.save_pretrained(tmp_path / "tokenizer")
    return masked.save(prior_for(plain, 5, fps=8.0), tmp_path / "model")


def test_files_are_generated(folder: Path, tmp_path: Path) -> None:
    request = GenerationRequest(steps=2)
    pipeline = open_generator(folder, request, tokenizer=None, device="cpu")
    assert (pipeline.family, pipeline.fps, pipeline.max_batch) == ("masked", 8.0, None)
    steps = list[int]()
    for batch in (1, 3):
        targets = [tmp_path / f"{batch}-{number}.mkv" for number in range(3)]
        written = generate_files(
            pipeline, targets, batch=batch, lossless=True, on_step=lambda: steps.append(1)
        )
        assert [(one.path, one.frames, one.fps) for one in written] == [
            (t, 5, 8.0) for t in targets
        ]
    assert len(steps) == 2 * 3 + 2
    for number in range(3):
        one, other = (reeltok.read(tmp_path / f"{b}-{number}.mkv").frames.int() for b in (1, 3))
        assert (one - other).abs().max() <= 1  # whatever the batch


@pytest.mark.parametrize("fps", [0.0, -5.0])
def test_a_rate_that_is_none_is_refused(folder: Path, tmp_path: Path, fps: float) -> None:
    pipeline = open_generator(folder, GenerationRequest(), tokenizer=None, device="cpu")
    with pytest.raises(ValueError, match="fps must be positive"):
        list(generate_files(pipeline, [tmp_path / "a.mkv"], fps=fps))


def test_a_request_of_another_kind_is_refused(folder: Path) -> None:
    request = GenerationRequest(sampler="heun")
    with pytest.raises(ValueError, match=r"`sampler` was asked, but .* holds a prior: leave it"):
        open_generator(folder, request, tokenizer=None, device="cpu")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"given_frames": 5}, "this prior makes 5 frames and goes on from 5: give fewer"),
        ({"given_frames": 6}, "this prior makes 5 frames and goes on from 6: give fewer"),
        ({"steps": 0}, "`steps` is 0, it should be greater than or equal to 1"),
        ({"temperature": -1.0}, "`temperature` is -1.0, it should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(
    folder: Path, tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    pixels = torch.zeros(6, 16, 24, 3, dtype=torch.uint8)
    reeltok.write(Video.of(pixels, fps=8), tmp_path / "clip.mkv", lossless=True)
    request = GenerationRequest(given=tmp_path / "clip.mkv", **asked)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        open_generator(folder, request, tokenizer=None, device="cpu")


@pytest.mark.parametrize(
    ("own", "count", "said"),
    [
        (8.0, 3, "has 8 frames a second, the model was trained at 16: frames are repeated, so"),
        (32.0, 3, "has 32 frames a second, the model was trained at 16: frames are left out, so"),
        (16.0, 3, None),
        (8.0, 1, None),
    ],
)
def test_given_frames_of_another_rate_are_told(
    tmp_path: Path, own: float, count: int, said: str | None
) -> None:
    path = tmp_path / "clip.mkv"
    reeltok.write(Video.of(torch.zeros(12, 16, 16, 3, dtype=torch.uint8), fps=own), path)
    request = GenerationRequest(given=path, given_frames=count)
    clip = ClipSpec(tokenizer="", frames=5, height=16, width=16, fps=16.0, grid=(2, 2, 2))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        video = read_given(request, clip, whole=None)
    assert video is not None
    assert len(video) == count
    assert [said in str(one.message) for one in told] == ([] if said is None else [True])


def test_predictions_do_not_depend_on_the_batch(plain: VidTok, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path / "tokenizer")
    config = masked.config_for(plain, frames=5, size=(16, 16), width=16, depth=1, heads=2)
    torch.manual_seed(0)
    folder = masked.save(masked.Prior(config), tmp_path / "model")
    predictor = PriorPredictor(folder)
    x = predictor.prepare(torch.randint(0, 255, (6, 20, 30, 3), dtype=torch.uint8))
    assert x.shape == (1, 3, 6, 16, 16)
    both = predictor.predict(x[:, :, :5], count=2, seed=3, first=4)
    second = predictor.predict(x[:, :, :5], count=1, seed=3, first=5)
    assert both.shape == (2, 3, 5, 16, 16)
    torch.testing.assert_close(both[1:], second, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[:, :, 0], x[:, :, 0].expand(2, -1, -1, -1))


def test_predictions_are_as_long_as_the_clip(plain: VidTok, tmp_path: Path) -> None:
    plain.save_pretrained(tmp_path / "tokenizer")
    config = masked.config_for(
        plain, frames=5, size=(16, 16), width=16, depth=1, heads=2, actions=4
    )
    torch.manual_seed(0)
    predictor = PriorPredictor(masked.save(masked.Prior(config), tmp_path / "model"))
    frames = torch.randint(0, 255, (1, 16, 16, 3), dtype=torch.uint8)
    actions = torch.randn(1, 20, 4)
    x = predictor.prepare(frames).expand(-1, -1, 16, -1, -1)
    long = predictor.predict(x, actions, count=1, seed=3)
    short = predictor.predict(x[:, :, :3], actions, count=1, seed=3)
    assert (long.shape[2], short.shape[2]) == (16, 3)
    torch.testing.assert_close(long[:, :, :3], short)
    torch.testing.assert_close(long, predictor.follow(frames, actions, frames=16, seed=3))
    last = actions.clone()
    last[:, 14] = 100  # after frame 14, so that frame 15 alone comes after it
    other = predictor.predict(x, last, count=1, seed=3)
    assert not torch.equal(other[:, :, 13:], long[:, :, 13:])
    torch.testing.assert_close(other[:, :, :13], long[:, :, :13])


def test_an_unknown_sampler_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match="no sampler is called 'foo': choose one of euler-"):
        count_steps("foo", None)
