"""`encode --pack`, and what is done with packed files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ran import Ran
from small_models import DISCRETE, save_random
from small_packing import add_packing

import reeltok
from reeltok.tokens import reel
from reeltok.tokens.packing.model import NAME

pytest.importorskip("constriction")
Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """A small discrete model with a packing model."""
    folder = save_random({"discrete": DISCRETE}, tmp_path_factory.mktemp("models"))["discrete"]
    add_packing(folder, reeltok.read(clip))
    return folder


def test_a_packed_file_there_and_back(run: Run, model: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.reel"
    made = run("encode", clip, path, "--model", model, "--pack")
    assert made.code == 0, made.err
    assert "bits per pixel stored" in made.out
    assert "nominal" in made.out
    again = run("encode", clip, tmp_path / "plain.reel", "--model", model, "--json")
    plain = again.json
    assert plain["packing"] is None
    assert plain["stored_bits_per_pixel"] == plain["bits_per_pixel"]
    said = run("info", path, "--json").json
    assert said["bits_per_pixel"] == plain["bits_per_pixel"]
    assert said["stored_bits_per_pixel"] < 0.8 * plain["stored_bits_per_pixel"]
    ids = reel.load_tokens(tmp_path / "plain.reel").ids
    assert torch.equal(reel.load_tokens(path, packing=model / NAME).ids, ids)
    for name in ("a", "plain"):
        out = tmp_path / f"{name}.mkv"
        made = run("decode", tmp_path / f"{name}.reel", out, "--model", model, "--lossless")
        assert made.code == 0, made.err
    one, other = (reeltok.read(tmp_path / f"{name}.mkv").frames for name in ("a", "plain"))
    assert torch.equal(one, other)


def test_a_folder_is_packed_once(run: Run, model: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("encode", clip, f"{out}/", "--model", model).code == 0
    plain = (out / "clip.reel").read_bytes()
    refused = run("encode", clip, f"{out}/", "--model", model, "--pack")
    assert "was made differently: give --force" in refused.err
    packing = run("encode", clip, f"{out}/", "--model", model, "--pack", "--force")
    assert packing.code == 0, packing.err
    packed = (out / "clip.reel").read_bytes()
    assert len(packed) != len(plain)
    kept = run("encode", clip, f"{out}/", "--model", model, "--pack")
    assert kept.code == 0, kept.err
    assert (out / "clip.reel").read_bytes() == packed


def test_a_model_without_packing_says_how_to_train_one(
    run: Run, models: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    made = run("encode", clip, tmp_path / "a.reel", "--model", models["discrete"], "--pack")
    assert made.code == 2
    assert "discrete has no packing model: train one" in made.err
    made = run("encode", clip, tmp_path / "a.reel", "--model", models["causal"], "--pack")
    assert "causal has latents, and only ids are packed" in made.err
    assert not (tmp_path / "a.reel").exists()
