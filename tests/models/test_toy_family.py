"""A new family needs one file and one line in two tables; everything else works with it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reeltok
from reeltok import zoo
from reeltok.cli.main import main
from reeltok.models.presets import PRESETS
from reeltok.tokens.reel import Reel, ReelWriter, load_tokens, save_tokens
from reeltok.train import change, train

sys.path.insert(0, str(Path(__file__).parent))  # where the family's one file lies
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

from small_run import make_clips, small_recipe
from toy_family import Toy, ToyConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*random weights.*:UserWarning")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> reeltok.Tokenizer:
    monkeypatch.setitem(zoo.FAMILIES, "toy", (ToyConfig, Toy))  # the two lines of CONTRIBUTING
    monkeypatch.setitem(PRESETS, "toy", ("toy", ToyConfig()))
    return reeltok.load("toy", weights="random")


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 8, 8), (2, 9, 13), (7, 16, 10)])
def test_any_frames_and_size_come_back(
    toy: reeltok.Tokenizer, frames: int, height: int, width: int
) -> None:
    video = reeltok.Video.of(torch.rand(1, 3, frames, height, width) * 2 - 1, fps=10.0)
    tokens = toy.encode(video)
    assert tokens.grid == toy.grid_for(frames, (height, width))
    assert toy.decode(tokens).frames.shape == video.frames.shape


def test_streams_ranges_and_tiles_equal_the_whole(toy: reeltok.Tokenizer) -> None:
    x = torch.rand(2, 3, 9, 16, 24) * 2 - 1
    tokens = toy.encode(x)
    for chunk, tile in ((1, None), (4, None), (None, 8)):
        assert torch.equal(toy.encode(x, chunk=chunk, tile=tile).ids, tokens.ids)
    whole = toy.decode(tokens)
    assert torch.allclose(toy.decode(tokens, start=3, stop=6), whole[:, :, 3:6], atol=1e-5)
    assert torch.allclose(toy.decode(tokens, chunk=2), whole, atol=1e-5)


def test_files(toy: reeltok.Tokenizer, tmp_path: Path) -> None:
    tokens = toy.encode(reeltok.Video.of(torch.rand(1, 3, 5, 8, 8) * 2 - 1, fps=10.0))
    save_tokens(tokens, tmp_path / "clip.reel")
    assert torch.equal(load_tokens(tmp_path / "clip.reel").ids, tokens.ids)
    with ReelWriter(tmp_path / "stream.reel") as writer:
        for part in toy.stream_encode([torch.zeros(1, 3, 3, 8, 8)] * 3):
            writer.write(part)
    with Reel(tmp_path / "stream.reel") as reel:
        assert toy.decode(reel, start=8, stop=9).shape == (1, 3, 1, 8, 8)
    toy.save_pretrained(tmp_path / "model")
    again = reeltok.load(tmp_path / "model")
    assert again.hash() == toy.hash()


def test_it_trains_and_the_commands_take_it(
    toy: reeltok.Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clips = make_clips(tmp_path / "clips")
    recipe = change(
        replace(small_recipe(), model="toy", settings={}),
        {
            "loop.schedule.steps": "4",
            "data.windows.0.frames": "6",
            "data.validation.frames": "6",
        },
    )
    train(recipe, data=clips, out="run", device="cpu")
    assert reeltok.load("run/model").family == "toy"
    assert main(["encode", "clips/0.mkv", "clip.reel", "--model", "run/model"]) == 0
    assert main(["decode", "clip.reel", "again.mkv", "--model", "run/model", "--lossless"]) == 0
    before, after = reeltok.read("clips/0.mkv"), reeltok.read("again.mkv")
    assert after.frames.shape == before.frames.shape
