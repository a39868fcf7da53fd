"""`train` for generators: latents and ids computed once, the loop, and the videos they make."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran
from small_generators import make_tokenizers
from small_models import DISCRETE
from thorough import slow_but

import reeltok
from reeltok import zoo
from reeltok.corpus import Corpus
from reeltok.generate import flow, masked
from reeltok.generate.folder import family_of
from reeltok.generate.recipes import GENERATORS
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import GaussianConfig
from reeltok.recipes import find_recipe
from reeltok.train.checkpoint import held_alone
from reeltok.train.recipe import as_json

Run = Callable[..., Ran]
LOOP = (
    *("--set", "loop.schedule.steps=3", "--set", "loop.schedule.warmup=0", "--device", "cpu"),
    *(
        "--set",
        "loop.schedule.cooldown=0",
        "--set",
        "loop.log_every=1",
        "--set",
        "data.holdout=0.4",
    ),
    *("--set", "loop.validate_every=3", "--set", "loop.precision=fp32"),
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("tokenizers")
    return {name: tok.save_pretrained(base / name) for name, tok in make_tokenizers().items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of 12 frames in two groups."""
    base = tmp_path_factory.mktemp("data")
    for number in range(8):
        place = base / ("left", "right")[number % 2]
        place.mkdir(exist_ok=True)
        reeltok.write(moving(12, 20, 24 + 2 * number), place / f"{number}.mkv", lossless=True)
    return base


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))


def words(
    recipe: str, tokenizer: Path | str, data: Path, out: Path, *, frames: int, **more: object
) -> list[object]:
    network = '{"width": 16, "depth": 1, "heads": 2}'
    window = f'[{{"frames": {frames}, "size": 16, "batch": 4}}]'
    changes = {"tokenizer": tokenizer, "settings": network, "data.windows": window, "every": "null"}
    pairs = [f"{key}={value}" for key, value in (changes | more).items()]
    sets = [word for pair in pairs for word in ("--set", pair)]
    return ["train", recipe, "--data", data, "--out", out, *sets, *LOOP]


def log_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k in ("step", "loss", "score")} for line in lines]


@pytest.mark.parametrize("name", GENERATORS)
def test_every_recipe_has_its_name_and_survives_json(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    (tmp_path / "recipe.json").write_text(as_json(recipe))
    assert find_recipe(tmp_path) == recipe


def test_every_recipe_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert all(f"`{name}`" in page for name in GENERATORS)


def test_a_flow_from_clips_to_videos(
    run: Run,
    tokenizers: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, coded = tmp_path / "run", []
    show = lambda bar, clips: coded.append((bar.files, clips))
    monkeypatch.setattr("reeltok.cli.progress.Progress.finish_files", show)
    found = run(*words("sit_cpu", tokenizers["planes"], data, out, frames=4), "--json")
    assert found.code == 0, found.err
    assert (found.json["recipe"], found.json["steps"]) == ("sit_cpu", 3)
    assert found.json["best"] is not None
    corpus = Corpus(out / "corpus")
    assert len(corpus) == 8 * 3  # twelve frames are three clips of four
    assert {files for files, _ in coded} == {8}
    assert sum(clips for _, clips in coded) == 8
    model = flow.load(out / "model")
    assert model.config.statistics is not None
    assert model.config.clip is not None
    assert (model.config.clip.frames, model.config.clip.fps) == (4, 10)
    made = run("generate", out / "model", "--steps", 3, "--out", tmp_path / "videos", "--count", 2)
    assert made.code == 0, made.err
    assert len(reeltok.read(tmp_path / "videos" / "001.mp4")) == 4
    again = run(*words("sit_cpu", tokenizers["planes"], out / "corpus", tmp_path / "two", frames=4))
    assert again.code == 0, again.err
    assert not (tmp_path / "two" / "corpus").exists()  # nothing is encoded twice
    assert log_of(out) == log_of(tmp_path / "two")


@pytest.mark.parametrize("recipe", ["sit_cpu", "prior_cpu"])
def test_a_run_begins_with_the_weights_of_another(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path, recipe: str
) -> None:
    kind, frames = ("planes", 4) if recipe == "sit_cpu" else ("plain", 5)
    one, load = words(recipe, tokenizers[kind], data, tmp_path / "one", frames=frames), find_family
    assert run(*one).code == 0
    trained = load(tmp_path / "one" / "model").state_dict()
    corpus, still = tmp_path / "one" / "corpus", ("--set", "loop.optimizer.lr=1e-12")
    for out, more in (("fresh", {}), ("warm", {"warm": tmp_path / "one" / "model"})):
        again = words(recipe, tokenizers[kind], corpus, tmp_path / out, frames=frames, **more)
        found = run(*again, *still, "--set", "loop.seed=5")
        assert found.code == 0, found.err
        begun = load(tmp_path / out / "model").state_dict()
        near = [torch.allclose(begun[key], trained[key], atol=1e-6) for key in trained]
        assert all(near) == (out == "warm")
    deeper = ("--set", "settings.depth=2")
    refused = run(*again[:5], tmp_path / "deep", *again[6:], *deeper)
    assert (refused.code, "of another configuration" in refused.err) == (2, True), refused.err
    shallow = words(recipe, tokenizers[kind], corpus, tmp_path / "two", frames=frames)
    assert run(*shallow, *deeper).code == 0
    refused = run(
        *again[:5], tmp_path / "three", *again[6:], "--set", f"warm={tmp_path / 'two' / 'model'}"
    )
    assert (refused.code, "which this configuration has not" in refused.err) == (2, True)
    missing = words(recipe, tokenizers[kind], data, tmp_path / "none", frames=frames, warm="nobody")
    refused = run(*missing)
    assert (refused.code, "there is no generator nobody" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "none").exists()  # nothing was coded


def test_a_prior_that_sees_starts_begins_with_one_that_does_not(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    tokenizer, still = tokenizers["leaning"], ("--set", "loop.optimizer.lr=1e-12")
    assert run(*words("prior_cpu", tokenizer, data, tmp_path / "one", frames=5)).code == 0
    more = words("prior_cpu", tokenizer, data, tmp_path / "two", frames=5)
    warm = ("--set", f"warm={tmp_path / 'one' / 'model'}", "--set", "settings.start=true")
    found = run(*more, *still, *warm)
    assert found.code == 0, found.err
    one, two = (find_family(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    assert all(torch.allclose(two[key], value, atol=1e-6) for key, value in one.items())
    added = two.keys() - one.keys()
    assert added
    assert all(key.startswith("start.") for key in added)
    assert two["start.4.weight"].abs().max() < 1e-6


def find_family(folder: Path) -> torch.nn.Module:
    return (flow if family_of(folder) == "flow" else masked).load(folder)


@pytest.mark.parametrize("name", ["small", "default-kl"])
def test_a_flow_learns_the_latents_of_default_kl(
    run: Run, data: Path, tmp_path: Path, name: str
) -> None:
    place: Path | str = name
    if name == "small":  # its network, with fewer channels
        small = replace(DISCRETE, quantizer=GaussianConfig(channels=6))
        place = VidTok(small, "kl").eval().save_pretrained(tmp_path / "kl", small=True)
    elif name not in zoo.bundled():
        pytest.skip(f"{name} is not bundled")
    out = tmp_path / "run"
    found = run(*words("sit_cpu", place, data, out, frames=9), "--json")
    assert found.code == 0, found.err
    model, tokenizer = flow.load(out / "model"), zoo.load(place)
    assert model.config.channels == tokenizer.spec.channels
    assert model.config.statistics is not None
    assert len(model.config.statistics.std[0]) == tokenizer.spec.channels
    made = run("generate", out / "model", "--steps", 2, "--out", tmp_path / "videos")
    assert made.code == 0, made.err
    assert len(reeltok.read(tmp_path / "videos" / "000.mp4")) == 9


def test_a_flow_of_classes(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    more = {"classes": "true", "settings.label_dropout": 0.5}
    out = tmp_path / "run"
    found = run(*words("sit_cpu", tokenizers["planes"], data, out, frames=4, **more))
    assert found.code == 0, found.err
    assert flow.load(out / "model").config.classes == ("left", "right")
    asked = ("--class", "left", "--guidance", 2, "--steps", 2, "--out", tmp_path / "videos")
    assert run("generate", out / "model", *asked).code == 0


@pytest.mark.parametrize(
    ("name", "frames", "given", "made"),
    slow_but(
        [("plain", 5, 0, 5), ("leaning", 5, 2, 5)],
        [("plain", 5, 1, 5), ("plain", 5, 0, 5), ("leaning", 5, 1, 5), ("leaning", 5, 2, 5)],
    ),
)
def test_a_prior_from_clips_to_videos(
    run: Run,
    tokenizers: dict[str, Path],
    data: Path,
    tmp_path: Path,
    name: str,
    frames: int,
    given: int,
    made: int,
) -> None:
    out, more = tmp_path / "run", {"given": given}
    found = run(*words("prior_cpu", tokenizers[name], data, out, frames=frames, **more), "--json")
    assert found.code == 0, found.err
    assert found.json["best"] is not None
    prior = masked.load(out / "model")
    assert prior.config.vocabulary == 48
    clip = next(data.rglob("*.mkv"))
    asked = ["--steps", 2, "--out", tmp_path / "videos", "--json"]
    asked += ["--given", clip, "--given-frames", max(given, 1)]
    video = run("generate", out / "model", *asked)
    assert video.code == 0, video.err
    assert video.json["videos"][0]["frames"] == made


def test_resumed_runs_go_on_as_if_nothing_was(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    whole = words("prior_cpu", tokenizers["plain"], data, tmp_path / "whole", frames=5)
    assert run(*whole, "--set", "loop.schedule.shape=constant").code == 0
    part = words("prior_cpu", tokenizers["plain"], data, tmp_path / "part", frames=5)
    part += ["--set", "loop.schedule.shape=constant"]
    assert run(*part, "--set", "loop.schedule.steps=2").code == 0
    assert run(*part).code == 2  # there is a run already
    found = run(*part, "--resume")
    assert found.code == 0, found.err
    losses = [line for line in log_of(tmp_path / "whole") if "loss" in line]
    resumed = [line for line in log_of(tmp_path / "part") if "loss" in line]
    assert losses[-1] == resumed[-1]
    one, two = (masked.load(tmp_path / name / "model").state_dict() for name in ("whole", "part"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_corpus_of_a_folder_in_which_another_process_trains_is_left_alone(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    begun = run(*words("sit_cpu", tokenizers["planes"], data, out, frames=4))
    assert begun.code == 0, begun.err
    (out / "recipe.json").unlink()  # as before the first step, when the corpus is built
    for made in ("checkpoints", "model", "best"):
        shutil.rmtree(out / made, ignore_errors=True)
    (out / "log.jsonl").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    other = words("sit_cpu", tokenizers["planes"], data, out, frames=4, every=2)
    with held_alone(out, 0):
        found = run(*other)
    assert (found.code, found.out) == (2, "")
    assert f"another process trains in {out}: wait for it" in found.err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert run(*other).code == 0


def test_a_prior_is_trained_on_a_corpus(
    run: Run,
    tokenizers: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A corpus holds no condition videos: they are made of decoded frames, which is said."""
    monkeypatch.setattr("reeltok.generate.examples.SAY_AFTER", 0.0)
    made = tmp_path / "tokens"
    options = ("--model", tokenizers["plain"], "--frames", 5, "--size", "16x16", "--device", "cpu")
    built = run("corpus", "build", data, made, *options)
    assert built.code == 0, built.err
    out = tmp_path / "run"
    found = run(*words("prior_cpu", tokenizers["plain"], made, out, frames=5, given=1))
    assert found.code == 0, found.err
    assert "holds no condition videos" in found.err
    assert "3 of 8 examples are made" in found.err, found.err
    assert masked.load(out / "model").config.clip.fps == 10
    asked = ["--steps", 2, "--out", tmp_path / "videos", "--given", next(data.rglob("*.mkv"))]
    assert run("generate", out / "model", *asked, "--given-frames", 1).code == 0
    for recipe, tokenizer, frames, said in (
        ("prior_cpu", "leaning", 5, f"{made} holds tokens of plain"),
        ("prior_cpu", "plain", 9, "has 9 frames of 16 pixels"),
    ):
        again = words(recipe, tokenizers[tokenizer], made, tmp_path / "two", frames=frames)
        refused = run(*again)
        assert (refused.code, said in refused.err.splitlines()[-1]) == (2, True), refused.err


def test_examples_of_another_recipe_are_refused(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """The condition videos that a corpus holds are those of its own recipe."""
    asked = {"frames": 5, "given": 2}
    made = run(*words("prior_cpu", tokenizers["plain"], data, tmp_path / "one", **asked))
    assert made.code == 0, made.err
    corpus = tmp_path / "one" / "corpus"
    again = words("prior_cpu", tokenizers["plain"], corpus, tmp_path / "two", **asked)
    assert run(*again).code == 0
    for more, said in (
        ({"given": 1}, "made with given=2, the recipe has given=1: set it as the corpus has it"),
        ({"tasks": '["predict","interpolate"]'}, "made with tasks=['predict'], the recipe has"),
        ({"mirrored": "[]"}, "made with mirrored=None, the recipe has mirrored=[]"),
        ({"data.fps": 5}, "holds windows at each clip's own rate, and the recipe has data.fps=5"),
        ({"data.strides": "[2]"}, "with data.strides=[1], and the recipe has data.strides=[2]"),
    ):
        found = run(*again[:5], tmp_path / "no", *again[6:], *sets(more))
        assert (found.code, said in found.err) == (2, True), found.err


def sets(values: dict[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_two_processes_share_a_run(
    run: Run, tokenizers: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    alone = words("sit_cpu", tokenizers["planes"], data, tmp_path / "one", frames=4)
    assert run(*alone).code == 0
    both = words("sit_cpu", tokenizers["planes"], data, tmp_path / "two", frames=4)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, f"--master-port={port}", "-m", "reeltok", *map(str, both)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (
        flow.load(tmp_path / "two" / "model").config == flow.load(tmp_path / "one" / "model").config
    )


@pytest.mark.parametrize("recipe", ["sit_cpu", "prior_cpu"])
def test_dry_run(run: Run, tokenizers: dict[str, Path], recipe: str) -> None:
    place = tokenizers["planes" if recipe == "sit_cpu" else "leaning"]
    asked = words(recipe, place, Path("none"), Path("none"), frames=4)
    found = run(*asked, "--dry-run", "--json")
    assert found.code == 0, found.err
    assert found.json["parameters"] > 1000
    assert found.json["recipe"]["generator"] == ("flow" if recipe == "sit_cpu" else "prior")


@pytest.mark.parametrize(
    ("recipe", "tokenizer", "frames", "more", "said"),
    [
        ("sit_cpu", "plain", 4, {}, "is discrete: a flow makes continuous latents; choose a prior"),
        ("prior_cpu", "planes", 4, {}, "is continuous and a prior predicts ids: choose a flow"),
        ("sit_cpu", "planes", 4, {"given": 1}, "given=1 is for priors"),
        ("sit_cpu", "planes", 4, {"settings.widht": 8}, "widht"),
        ("sit_cpu", "planes", 4, {"tokenzier": "x"}, "did you mean 'tokenizer'?"),
        (
            "sit_cpu",
            "planes",
            4,
            {"groups": '["up"]'},
            "groups names 'up', but no clip belongs to it",
        ),
        ("prior_cpu", "plain", 40, {}, "training clips has 40 frames of 16 pixels"),
        ("prior_cpu", "plain", 5, {"noise": 0.1}, "reference frames, and plain has none"),
        ("sit_cup", "planes", 4, {}, "did you mean 'sit_cpu'?"),
        (
            "sit_cpu",
            "planes",
            4,
            {"classes": "true", "groups": '["left"]'},
            "classes=true needs two groups of clips, there are left",
        ),
    ],
)
def test_what_training_refuses(
    run: Run,
    tokenizers: dict[str, Path],
    data: Path,
    tmp_path: Path,
    recipe: str,
    tokenizer: str,
    frames: int,
    more: dict[str, object],
    said: str,
) -> None:
    out = tmp_path / "run"
    found = run(*words(recipe, tokenizers[tokenizer], data, out, frames=frames, **more))
    assert found.code == 2
    assert said in found.err.splitlines()[-1]
    assert not (out / "log.jsonl").exists()
