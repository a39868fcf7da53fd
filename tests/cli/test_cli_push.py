"""`push`: a tokenizer and priors with and without actions, and what is refused."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from push_episodes import write_episodes
from ran import Ran
from small_generators import make_prior, make_tokenizers
from small_packing import add_packing
from thorough import slow_but

from reeltok import load
from reeltok.cli.push import codecs_beside, open_lpips
from reeltok.cli.push_models import followers
from reeltok.cli.push_sets import show_nearest
from reeltok.cli.report import save_record
from reeltok.data.find import find_clips
from reeltok.evaluate.push.candidates import Coded, EpisodeBatch
from reeltok.files.parsing import read_json
from reeltok.generate.pixels.network import FramePredictor, FramePredictorConfig, save
from reeltok.transcode.packing import packed_bits
from reeltok.video.record import read, stream, write

Run = Callable[..., Ran]


def test_a_model_follows_the_actions_of_its_episode_or_of_the_one_before() -> None:
    """From frame 0, by the action after frame 0 first."""
    frames = np.arange(3 * 5, dtype=np.uint8).reshape(3, 5, 1, 1, 1).repeat(8, 2).repeat(8, 3)
    batch = EpisodeBatch(
        frames=frames.repeat(3, 4),
        actions=np.arange(3 * 5 * 4, dtype=np.float32).reshape(3, 5, 4),
        truths=(),
        first=7,
    )
    asked = list[Any]()

    def follow(start: torch.Tensor, actions: torch.Tensor, **more: Any) -> torch.Tensor:
        asked.append((start[:, 0, 0, 0].tolist(), actions[:, :, 0].tolist(), more))
        return torch.zeros(3, 3, 5, 8, 8)

    model: Any = SimpleNamespace(size=8, knows_actions=True, follow=follow)
    for make in followers("prior", model, seed=4).values():
        assert make(batch).shape == batch.frames.shape
    own = [[0, 4, 8, 12, 16], [20, 24, 28, 32, 36], [40, 44, 48, 52, 56]]
    more = {"frames": 5, "seed": 4, "first": 7}
    assert asked == [([0, 5, 10], own, more), ([0, 5, 10], [own[2], *own[:2]], more)]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("push") / "held", 3, 9)


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base, toks = tmp_path_factory.mktemp("priors"), make_tokenizers()
    made = {
        "plain": make_prior(toks["plain"], base / "plain" / "model", frames=5, size=(32, 32)),
        "leaning": make_prior(
            toks["leaning"], base / "leaning" / "model", frames=4, size=(32, 32), actions=4
        ),
    }
    for name in made:
        toks[name].save_pretrained(base / name / "tokenizer")
    return made


def test_a_tokenizer(
    run: Run,
    priors: dict[str, Path],
    held: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("REELTOK_SHARED", "REELTOK_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path))
    out = tmp_path / "found.json"
    words = (priors["plain"].parent / "tokenizer", held, "--frames", 9, "--device", "cpu")
    found = run("push", *words, "--out", out)
    assert found.code == 0, found.err
    assert "h264 at its bits" in found.out
    record = json.loads(out.read_text())
    assert set(record["scores"]) == {"tokenizer", "h264 at its bits", "first frame", "mean frame"}
    assert record["bits"]["model"] > 0
    ids = record["ids"]["tokenizer"]
    assert 0 < ids["entropy"] <= ids["bits"]
    assert 2 ** -ids["entropy"] <= ids["commonest"] < 1
    assert "bits of an id, and its entropy" in found.out
    assert record["world"]["episodes"] == 3
    assert record["distances"] == {}  # no weights are found here, which is said
    assert "no lpips-alex: LPIPS with AlexNet has no weights" in found.out
    assert "lpips-alex" in record["missing"]


def test_stored_bits_where_ids_can_be_packed(
    run: Run, priors: dict[str, Path], held: Path, tmp_path: Path
) -> None:
    """H.264 at those of the files that `encode --pack` would write, and at nominal ones."""
    model = tmp_path / "model"
    shutil.copytree(priors["plain"].parent / "tokenizer", model)
    add_packing(model)
    found = run("push", model, held, "--frames", 9, "--device", "cpu", "--json")
    assert found.code == 0, found.err
    assert {"h264 at its bits", "h264 at its stored bits"} <= set(found.json["scores"])
    bits = found.json["bits"]
    tokenizer, clips = load(model), find_clips(held)
    x = torch.cat([clip.read(frames=9).tensor() for clip in clips])
    assert bits["model stored"] * 3 == packed_bits(tokenizer, tokenizer.encode(x))
    assert bits["model stored"] != bits["model"]
    assert bits["h264 stored"] > 0


def test_each_h264_is_given_the_bits_of_its_name() -> None:
    coded = Coded(tokenizer=make_tokenizers()["plain"], bits={0: 9}, stored={0: 5}, given=True)
    assert not coded.packs
    assert [*codecs_beside(coded)[0]] == ["h264 at its bits"]
    with patch.object(Coded, "packs", True):
        makes, spent = codecs_beside(coded)
    found = {name: (make.bits, make.given) for name, make in makes.items()}
    assert found == {"h264 at its bits": ({0: 9}, True), "h264 at its stored bits": ({0: 5}, True)}
    assert (spent["model"], spent["model stored"]) == (coded.bits, coded.stored)
    assert spent["h264 stored"] is makes["h264 at its stored bits"].spent
    assert codecs_beside(None) == ({}, {})


def test_a_refined_tokenizer(run: Run, priors: dict[str, Path], held: Path, tmp_path: Path) -> None:
    scores = []
    for refine in (0, 3):
        out = tmp_path / f"{refine}.json"
        words = (priors["plain"].parent / "tokenizer", held, "--frames", 9, "--refine", refine)
        found = run("push", *words, "--out", out)
        assert found.code == 0, found.err
        record = json.loads(out.read_text())
        assert record.get("refine", 0) == refine
        scores.append(record["scores"]["tokenizer"]["psnr"]["1-7"]["mean"])
    assert scores[1] > scores[0]


def test_a_record_is_json_whatever_it_holds(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    save_record({"world": {"offset": (math.nan, 1.0), "scatter": math.inf}}, out)
    assert read_json(out) == {"world": {"offset": [None, 1.0], "scatter": None}}


@pytest.mark.weights
def test_frames_too_small_for_lpips(
    shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REELTOK_WEIGHTS", str(shared / "weights"))
    clip = find_clips(write_episodes(tmp_path / "held", 1, 2, side=30))[0]
    said = {"lpips-alex": "it needs frames of 31 pixels a side, these have 30"}
    assert open_lpips(clip) == (None, said)


@pytest.mark.parametrize("name", slow_but(["leaning"], ["plain", "leaning"]))
def test_a_prior(run: Run, priors: dict[str, Path], held: Path, name: str) -> None:
    """Nine frames are two blocks of both; the same seed gives the same."""
    words = ("push", priors[name], held, "--frames", 9, "--steps", 2, "--device", "cpu", "--json")
    found = run(*words)
    assert found.code == 0, found.err
    scores = found.json["scores"]
    assert ("prior, other actions" in scores) == (name == "leaning")
    assert scores["prior"]["psnr"]["1-7"]["clips"] == 3
    assert found.json["sampling"]["steps"] == 2
    assert run(*words).json["scores"]["prior"] == scores["prior"]
    if name == "leaning":  # random weights, yet actions decide
        bits = found.json["bits"]
        assert bits["h264"] < 2 * bits["model"], "frame 0 is given, and counts for neither"
        other = scores["prior, other actions"]["psnr"]
        assert other["1-7"]["mean"] != scores["prior"]["psnr"]["1-7"]["mean"]


def make_pixels(folder: Path, size: int = 32) -> Path:
    """A predictor of pixels with random weights."""
    torch.manual_seed(0)
    model = FramePredictor(FramePredictorConfig(size=size, widths=(8, 8)))
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)
    return save(model, folder)


def test_pixels_with_a_prior_beside(
    run: Run, priors: dict[str, Path], held: Path, tmp_path: Path
) -> None:
    """Each on the same episodes; nothing has bits to give H.264 where pixels come first."""
    network = make_pixels(tmp_path / "runs" / "deep" / "best")
    words = ("push", network, held, "--frames", 5, "--device", "cpu", "--json")
    found = run(*words, "--beside", priors["leaning"], "--steps", 3)
    assert found.code == 0, found.err
    scores, name = found.json["scores"], "leaning"
    mine, still = ("pixels", "pixels, other actions"), ("first frame", "mean frame")
    theirs = (name, f"{name}, other actions", f"{name}, ceiling")
    assert tuple(scores) == (*mine, *theirs, *still)
    assert set(found.json["gains"]) == {*mine[1:], *theirs, *still}
    means = [scores[each]["psnr"]["1-4"]["mean"] for each in (*mine, name)]
    assert len(set(means)) == 3
    assert (found.json["bits"], found.json["sampling"]) == ({}, {})
    assert found.json["beside"] == {name: str(priors["leaning"])}
    assert found.json["sampling_beside"][name]["steps"] == 3
    other = ("--beside", network, "--steps", 3)
    alone = run("push", priors["leaning"], held, *words[3:], *other).json["scores"]
    assert alone["deep"] == scores["pixels"]
    assert alone["prior"] == scores[name]
    assert "h264 at its bits" in alone


def test_names_beside_each_other(
    run: Run, priors: dict[str, Path], held: Path, tmp_path: Path
) -> None:
    network = make_pixels(tmp_path / "net" / "model")
    twice = run("push", network, held, "--beside", network, "--beside", network)
    assert "would be called 'net', as another line: rename its folder" in twice.err
    idle = run("push", network, held, "--frames", 5, "--guidance", 2)
    assert "--guidance 2.0 is for priors, and none is judged: leave it out" in idle.err
    tiny = make_pixels(tmp_path / "small", 16)
    small = run("push", priors["plain"], held, "--frames", 5, "--beside", tiny)
    assert "makes frames of 16x16, the episodes are 32x32: make them with --size 16" in small.err


def test_another_size(run: Run, held: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizers()["plain"]
    prior = make_prior(tokenizer, tmp_path / "model", frames=5)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    found = run("push", prior, held, "--frames", 5)
    said = "makes frames of 16x16, the episodes are 32x32: make them with --size 16"
    assert (found.code, said in found.err) == (2, True)


def test_what_is_refused(run: Run, priors: dict[str, Path], held: Path, tmp_path: Path) -> None:
    tokenizer = priors["plain"].parent / "tokenizer"
    found = run("push", tokenizer, held, "--frames", 99)
    assert "has 9 frames, 99 are to be judged: give fewer" in found.err.splitlines()[-1]
    bare = write_episodes(tmp_path / "bare", 2, 4)
    (bare / "push-0-00001.truth.safetensors").unlink()
    found = run("push", tokenizer, bare, "--frames", 4)
    assert "there are no true positions of push-0-00001.mkv" in found.err.splitlines()[-1]
    pixels = make_pixels(tmp_path / "pixels")
    found = run("push", pixels, held, "--refine", 2, "--frames", 5)
    assert found.code == 2
    assert "--refine 2 is for tokenizers, and none is judged" in found.err.splitlines()[-1]
    found = run("push", pixels, held, "--rate-weight", 10, "--frames", 5)
    assert "--rate-weight 10 is for tokenizers, and none is judged" in found.err.splitlines()[-1]
    for model in (tokenizer, pixels):
        found = run("push", model, held, "--tokenizer", "absent", "--frames", 5)
        said = f"--tokenizer absent is for priors, and {model} is none: leave it out"
        assert (found.code, said in found.err) == (2, True), found.err


def test_sets(run: Run, priors: dict[str, Path], held: Path, tmp_path: Path) -> None:
    real = write_episodes(tmp_path / "real", 6, 9)
    train = write_episodes(tmp_path / "train", 4, 25)
    shown = tmp_path / "shown.mp4"
    words = ("push", "sets", held, real, "--frames", 9, "--train", train, "--device", "cpu")
    coded = ("--tokenizer", priors["plain"].parent / "tokenizer")
    found = run(*words, *coded, "--shown", shown, "--json")
    assert found.code == 0, found.err
    sets = found.json["sets"]
    known = {"real, other half", "reconstructions", "frozen", "shuffled", "blurred"}
    assert set(sets) == {"made", *known}
    assert sets["real, other half"]["gap"] > 0  # they are others
    assert (sets["made"]["videos"], found.json["reference"]) == (3, 3)
    assert set(found.json["distances"]) in (set(sets), set())  # none without weights
    assert found.json["nearest"]["made"] == pytest.approx(0, abs=1e-3)
    assert found.json["nearest"]["starts"] == [0, 0, 0]  # of 0 and 16
    written = stream(shown)
    assert (written.frames, written.height, written.width) == (9, 64, 96)
    told = run(*words).out
    told = run(*words).out
    assert "of 8 training windows is 0.0 levels away" in told
    assert "by gap, made" in told
    assert " than to shuffled" in told
    assert "keeps all" not in run(*words).err
    lossy = tmp_path / "lossy" / "a.mp4"
    lossy.parent.mkdir()
    write(read(real / "push-0-00000.mkv"), lossy)
    said = run("push", "sets", lossy.parent, real, "--frames", 9).err
    assert "note: MADE are h264: what that loses counts as the generator's" in said
    wide = tmp_path / "wide" / "a.mkv"
    write(read(real / "push-0-00000.mkv", size=128), wide, lossless=True)
    said = run("push", "sets", wide.parent, real, "--frames", 9)
    assert "a.mkv has 128x128 pixels, the videos before it 32x32" in said.err
    short = run("push", "sets", held, real, "--frames", 12)
    assert "has 9 frames: give --frames so many" in short.err
    alone = run("push", "sets", held, real, "--shown", shown)
    assert "needs episodes to show: give --train" in alone.err


def test_the_nearest_window_is_shown_from_its_start(tmp_path: Path) -> None:
    (clip, *_) = find_clips(write_episodes(tmp_path / "train", 1, 25))
    frames = clip.read().frames.numpy()
    show_nearest([frames[16:]], [(clip, 16)], 9, tmp_path / "shown.mkv")
    shown = read(tmp_path / "shown.mkv").frames.numpy().astype(int)
    assert shown.shape == (9, 64, 32, 3)
    assert (
        np.abs(shown[:, 32:] - frames[16:]).mean() < 5 < np.abs(shown[:, 32:] - frames[:9]).mean()
    )


def test_too_still_to_be_judged(run: Run, priors: dict[str, Path], held: Path) -> None:
    words = ("push", priors["plain"].parent / "tokenizer", held, "--device", "cpu")
    still = run(*words, "--frames", 2)
    assert "objects move in only 0% of episodes, 3% and 50% or more are meant" in still.out
    assert "looked for as in pictures of 64x64 pixels, these have 32x32" in still.err
    assert "are meant" not in run(*words, "--frames", 9).out
