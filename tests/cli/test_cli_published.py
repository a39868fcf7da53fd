"""`convert --family`: CoordTok's public checkpoints; `statistics` of a converted generator."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran
from small_generators import make_flow, make_tokenizers

import reeltok
from reeltok import zoo
from reeltok.generate import flow
from reeltok.models.convert import to_public

Run = Callable[..., Ran]
ARGUMENTS = {
    "video_shape": "[4, 16, 16]",
    "enc_embed_dim": 16,
    "enc_num_layers": 1,
    "enc_num_heads": 2,
    "enc_patch_size_xy": 8,
    "enc_patch_size_t": 4,
    "enc_patch_num_layers": 1,
    "latent_resolution_xy": 4,
    "latent_resolution_t": 2,
    "latent_n_features": 3,
    "latent_patch_size_xy": 2,
    "latent_patch_size_t": 2,
    "dec_embed_dim": 16,
    "dec_num_layers": 1,
    "dec_num_heads": 2,
}
SETS = [word for key, value in ARGUMENTS.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder with a public tokenizer, and a public generator whose mean weights are others."""
    planes = make_tokenizers()["planes"]
    planes.config = replace(planes.config, padding="public")
    public = {f"module.{key}": value for key, value in to_public(planes).items()}
    extra = {"module.decoder.lpips_loss.x": torch.zeros(1)}
    torch.save({"model": public | extra, "epoch": 3}, tmp_path / "coordtok.pth")
    model = flow.load(make_flow(planes, tmp_path / "made", known=False))
    mean = flow.generator_to_public(model)
    content = {"model": {k: v + 1 for k, v in mean.items()}, "ema": mean, "opt": {}}
    torch.save({**content, "args": Namespace(lr=1e-4)}, tmp_path / "sit.pt")
    return tmp_path


def test_a_tokenizer_and_its_generator(run: Run, checkpoints: Path) -> None:
    tok, out = checkpoints / "tok", checkpoints / "sit"
    found = run("convert", checkpoints / "coordtok.pth", tok, "--family", "coordtok", *SETS)
    assert found.code == 0, found.err
    assert "dropped 1 keys" in found.out
    assert zoo.load(tok).config.padding == "public"
    words = ("--family", "sit", "--tokenizer", tok, "--set", "num_heads=2")
    found = run("convert", checkpoints / "sit.pt", out, *words, "--json")
    assert found.code == 0, found.err
    assert "hold no statistics of latents" in found.err
    one, two = (flow.load(folder).state_dict() for folder in (checkpoints / "made", out))
    assert all(torch.equal(one[key], two[key]) for key in one)
    asked = ("--tokenizer", tok, "--steps", 2, "--out", checkpoints / "videos")
    refused = run("generate", out, *asked)
    assert "no latent statistics" in refused.err.splitlines()[-1]
    (checkpoints / "clips").mkdir()
    for number in range(2):
        video = moving(9, 20, 24 + number)
        reeltok.write(video, checkpoints / "clips" / f"{number}.mkv", lossless=True)
    words = ("statistics", out, checkpoints / "clips", "--tokenizer", tok)
    idle = run(*words, "--frames", 9).err
    assert "--frames is for tokenizers, and MODEL is a flow: leave it out" in idle
    measured = run(*words, "--json")
    assert measured.code == 0, measured.err
    assert measured.json["examples"] == 10  # nine frames at 10 Hz are 22 at the generator's 25
    assert [len(row) for row in measured.json["mean"]] == [3, 3, 3]
    known = (out / "config.json").read_bytes()
    again = run(*words)
    assert (again.code, (out / "config.json").read_bytes()) == (2, known)
    assert "leave them, or give --force to measure others" in again.err
    assert run(*words, "--force").code == 0
    made = run("generate", out, *asked, "--json")
    assert made.code == 0, made.err
    assert made.json["videos"][0]["fps"] == 25


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("sit.pt", ("--family", "sti"), "--family sti is not known: give coordtok or sit"),
        ("sit.pt", ("--family", "sit", "--preset", "default"), "leave --preset out"),
        ("coordtok.pth", ("--family", "sit"), "it is not a public SiT of CoordTok's"),
        ("sit.pt", ("--family", "sit", "--set", "depth=2"), "the checkpoint has no blocks.1"),
        ("sit.pt", ("--family", "sit", "--set", "num_heads=3"), "does not divide by 3 heads"),
        ("sit.pt", ("--family", "sit", "--set", "num_headz=2"), "did you mean 'num_heads'?"),
        ("sit.pt", ("--family", "sit", "--set", "input_size=4"), "input_size=4: Input should be"),
        ("sit.pt", ("--family", "sit", "--set", "num_classes=x"), "num_classes='x': Input should"),
        ("sit.pt", ("--family", "sit", "--set", "class_dropout_prob=7"), "than or equal to 1"),
        ("coordtok.pth", ("--family", "coordtok"), "give the arguments or the preset"),
        (
            "coordtok.pth",
            ("--family", "coordtok", *SETS, "--set", "enc_nmu_heads=2"),
            "'enc_nmu_heads' is unknown: did you mean 'enc_num_heads'?",
        ),
        (
            "coordtok.pth",
            ("--family", "coordtok", *SETS, "--set", "video_shape=8"),
            "video_shape=8: Input should be a valid tuple",
        ),
        ("coordtok.pth", ("--family", "coordtok", "--tokenizer", "x"), "is for --family sit"),
        ("coordtok.pth", ("--preset", "default", "--tokenizer", "x"), "is for --family sit"),
        (
            "sit.pt",
            ("--family", "sit", "--tokenizer", "default", "--set", "num_heads=2"),
            "discrete",
        ),
    ],
)
def test_what_is_refused(
    run: Run, checkpoints: Path, name: str, words: tuple[str, ...], said: str
) -> None:
    found = run("convert", checkpoints / name, checkpoints / "out", *words)
    assert found.code == 2
    assert said in found.err.splitlines()[-1]
    assert not (checkpoints / "out").exists()
