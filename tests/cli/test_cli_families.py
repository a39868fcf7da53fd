"""The commands on RefTok and CoordTok: files, ranges, reconstructions, as for VidTok."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran
from small_generators import BODY, PLANES

import reeltok
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok

Run = Callable[..., Ran]
WINDOWS = replace(PLANES, size=(8, 32, 40), cells=(4, 4, 4))


@pytest.fixture(scope="module", params=["plain", "webp", "planes"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of random weights: a RefTok by how its first frame is kept, or planes.

    The RefTok's injections, zero when fresh, are not.
    """
    torch.manual_seed(1)
    if request.param == "planes":
        model = CoordTok(WINDOWS, "planes")
    else:
        model = RefTok(RefTokConfig(body=BODY, width=4, start=request.param), request.param)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "_injection" in name:
                    weight.normal_(std=0.3)
    return model.eval().save_pretrained(tmp_path_factory.mktemp("family") / request.param)


def test_a_file_comes_back(run: Run, family: Path, clip: Path, tmp_path: Path) -> None:
    made = run("encode", clip, tmp_path / "a.reel", "--model", family)
    assert made.code == 0, made.err
    assert run("info", tmp_path / "a.reel").code == 0
    asked = ("--model", family, "--lossless")
    assert run("decode", tmp_path / "a.reel", tmp_path / "a.mkv", *asked).code == 0
    video, model = reeltok.read(clip), reeltok.load(family)
    whole = reeltok.read(tmp_path / "a.mkv")
    assert whole.frames.shape == video.frames.shape
    wanted = model.decode(model.encode(video))
    apart = whole.frames.int() - wanted.frames.int()
    assert apart.abs().max() <= 1  # as a whole, and in parts
    part = run(
        "decode", tmp_path / "a.reel", tmp_path / "p.mkv", "--start", 7, "--stop", 12, *asked
    )
    assert part.code == 0, part.err
    apart = reeltok.read(tmp_path / "p.mkv").frames.int() - whole.frames[7:12].int()
    assert apart.abs().max() <= 1


def test_where_a_part_began_is_kept(run: Run, family: Path, tmp_path: Path) -> None:
    """The time at which a video was cut out of a longer one is not a setting of the model."""
    reeltok.write(moving(18), tmp_path / "clip.mkv", lossless=True)
    video = reeltok.read(tmp_path / "clip.mkv", start=0.5)
    model = reeltok.load(family)
    tokens = model.encode(video)
    again = model.decode(tokens)
    assert again.start == video.start > 0
    assert len(again) == len(video)


def test_there_and_back(run: Run, family: Path, clip: Path, tmp_path: Path) -> None:
    found = run("reconstruct", clip, tmp_path / "r.mkv", "--model", family, "--json")
    assert found.code == 0, found.err
    assert reeltok.read(tmp_path / "r.mkv").frames.shape == reeltok.read(clip).frames.shape
    assert found.json["psnr"] > 5
