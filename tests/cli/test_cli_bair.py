"""`bair`: the standard and the debiased protocol on small files, and what is refused."""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_clips import moving
from ran import Ran
from small_generators import make_prior, make_tokenizers
from thorough import slow_but

import reeltok
from reeltok.cli.bair import notes_on
from reeltok.corpus import Corpus
from reeltok.data.bair import read_push
from reeltok.evaluate import scores
from reeltok.evaluate.bair import PredictionScores
from reeltok.generate import masked
from reeltok.metrics.networks import Extractor

sys.path.append(str(Path(__file__).parents[1] / "data"))
from test_bair import write_bair

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base, toks = tmp_path_factory.mktemp("priors"), make_tokenizers()
    made = {
        "plain": make_prior(toks["plain"], base / "plain" / "model", frames=5),
        "leaning": make_prior(toks["leaning"], base / "leaning" / "model", frames=4),
        "actions": make_prior(toks["plain"], base / "actions" / "model", frames=5, actions=4),
    }
    for name, tok in {"plain": "plain", "leaning": "leaning", "actions": "plain"}.items():
        toks[tok].save_pretrained(base / name / "tokenizer")
    return made


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "absent"))
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", slow_but(["actions"], ["plain", "leaning", "actions"]))
def test_both_protocols(run: Run, priors: dict[str, Path], tmp_path: Path, name: str) -> None:
    data = write_bair(tmp_path / "test.tfrecords", motions=2, frames=18)
    asked = ("--samples", 2, "--repeats", 2, "--batch", 2, "--device", "cpu")
    out = tmp_path / "found.json"
    one = run("bair", priors[name], data, *asked, "--out", out)
    assert one.code == 0, one.err
    assert "fvd-i3d" in one.out
    assert "no weights" in one.out
    record = json.loads(out.read_text())
    assert (record["videos"], record["clips"], record["samples"]) == (2, 2, 2)
    assert record["size"] == [16, 16]
    assert "16x16" in one.out
    assert "judged at 16x16 pixels, bair is of 64x64: not comparable" in one.err
    assert set(record["metrics"]) == {"psnr", "ssim-grey"}
    assert set(record["missing"]) == {"lpips-vgg", "fvd-i3d", "fvd-styleganv"}
    same = run("bair", priors[name], data, *asked, "--json")
    assert same.json["metrics"] == record["metrics"]
    windows = run("bair", priors[name], data, *asked, "--protocol", "debiased", "--json")
    assert windows.json["clips"] == 6  # three windows of 16 frames in 18


def test_actions_beside_clips_are_those_of_the_records(
    run: Run, priors: dict[str, Path], tmp_path: Path
) -> None:
    data, clips = write_bair(tmp_path / "test.tfrecords", motions=2, frames=17), tmp_path / "clips"
    assert run("data", "bair", data, "--out", clips).code == 0
    asked = ("--samples", 1, "--repeats", 1, "--protocol", "debiased", "--json")
    records, files = (run("bair", priors["actions"], each, *asked) for each in (data, clips))
    assert records.json["metrics"] == files.json["metrics"]
    changed = np.load(clips / "test-0000.actions.npy") + 1
    np.save(clips / "test-0000.actions.npy", changed)
    other = run("bair", priors["actions"], clips, *asked)
    assert other.json["metrics"] != files.json["metrics"]


def test_notes_say_where_judging_differs_from_the_protocol() -> None:
    found = PredictionScores(videos=3, clips=9, size=(64, 64), longer=0, metrics={}, missing={})
    assert notes_on(found, "bair") == []
    (size, beyond) = notes_on(replace(found, size=(16, 16), longer=2), "bair-debiased")
    assert size == "judged at 16x16 pixels, bair-debiased is of 64x64: not comparable"
    assert beyond.startswith("2 of 3 videos are longer than BAIR's 30 frames: no window")


def test_more_predictions_are_no_worse(run: Run, priors: dict[str, Path], tmp_path: Path) -> None:
    for number in range(2):
        video = moving(16 + number, 20, 24)
        reeltok.write(video, tmp_path / f"{number}.mkv", lossless=True)
    found = [
        run("bair", priors["plain"], tmp_path, "--samples", n, "--repeats", 1, "--json").json
        for n in (1, 4)
    ]
    assert found[1]["metrics"]["psnr"]["mean"] >= found[0]["metrics"]["psnr"]["mean"]


def test_videos_are_drawn_from_all(run: Run, priors: dict[str, Path], tmp_path: Path) -> None:
    """With the protocols' seed: the first ones by name had been taken, which may be of one kind."""
    chosen = random.Random(0).sample(range(5), 2)
    assert sorted(chosen) != [0, 1]
    for number in range(5):
        path = tmp_path / f"{number}.mkv"
        if number in chosen:
            reeltok.write(moving(16, 20, 24), path, lossless=True)
        else:
            path.write_bytes(b"never opened")
    asked = ("--videos", 2, "--samples", 1, "--repeats", 1, "--json")
    assert run("bair", priors["plain"], tmp_path, *asked).json["videos"] == 2


def test_fvd_where_there_are_weights(
    run: Run, priors: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(**options: object) -> Extractor:
        return Extractor(name="i3d-test", apply=lambda x: x.mean((3, 4)).flatten(1), frames=None)

    monkeypatch.setitem(scores.EXTRACTORS, "i3d", opened)
    data = write_bair(tmp_path / "test.tfrecords", motions=4, frames=16)
    found = run("bair", priors["plain"], data, "--samples", 2, "--repeats", 2, "--json")
    assert found.code == 0, found.err
    fvd = found.json["metrics"]["fvd-i3d-i3d-test"]  # with the name that its weights have
    assert fvd["mean"] > 0
    assert fvd["std"] > 0  # the repeats have seeds of their own
    assert "fvd-i3d" not in found.json["missing"]


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("plain", ("--protocol", "biased"), "give standard or debiased"),
        ("actions", (), "no actions for 0.mkv: write 4 numbers after each frame to 0.actions.npy"),
        ("plain", ("--out", "/dev/null/x.json"), "is not a folder"),
    ],
)
def test_what_is_refused(
    run: Run, priors: dict[str, Path], tmp_path: Path, name: str, words: tuple[str, ...], said: str
) -> None:
    for number in range(2):
        reeltok.write(moving(16, 16, 16), tmp_path / f"{number}.mkv", lossless=True)
    found = run("bair", priors[name], tmp_path, *words)
    assert found.code == 2
    assert said in found.err.splitlines()[-1]


def test_files_that_are_not_bairs(run: Run, priors: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "x.tfrecords").write_bytes(b"these are not records of anything at all")
    found = run("bair", priors["plain"], tmp_path / "x.tfrecords")
    assert (found.code, "is not a TFRecord file" in found.err) == (2, True)
    short = write_bair(tmp_path / "short.tfrecords", motions=2, frames=3)
    found = run("bair", priors["plain"], short)
    assert "holds 0 clips of 16 frames: give 2" in found.err.splitlines()[-1]


def test_a_prior_is_trained_on_actions(run: Run, priors: dict[str, Path], tmp_path: Path) -> None:
    data, clips = write_bair(tmp_path / "train.tfrecords", motions=4, frames=7), tmp_path / "clips"
    found = run("data", "bair", data, "--out", clips, "--json")
    assert (found.code, found.json["written"], found.json["kept"]) == (0, 4, 0), found.err
    push = read_push(data, 0)
    assert torch.equal(reeltok.read(clips / "train-0000.mkv").frames, push.frames)
    actions = torch.from_numpy(np.load(clips / "train-0000.actions.npy"))
    assert torch.equal(actions, push.actions)
    assert run("data", "bair", data, "--out", clips, "--json").json["kept"] == 4
    changes = {
        "tokenizer": priors["plain"].parent / "tokenizer",
        "actions": 4,
        "tasks": '["predict", "inpaint"]',
        "settings": '{"width": 16, "depth": 1, "heads": 2}',
        "data.windows": '[{"frames": 5, "size": 16, "batch": 2}]',
        "loop.schedule.steps": 2,
        "loop.precision": "fp32",
    }
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    asked = ("--data", clips, "--out", tmp_path / "run", "--device", "cpu", *sets)
    assert run("train", "prior_cpu", *asked).code == 0
    prior = masked.load(tmp_path / "run" / "model")
    assert prior.config.actions == 16  # four frames a token step
    first = next(row for row in Corpus(tmp_path / "run" / "corpus"))
    assert first.beside["shown"].shape == (1, 2, first.ids.numel())
    assert torch.equal(first.beside["actions"][0, 1], push.actions[:4].flatten())
    (clips / "train-0001.actions.npy").unlink()
    again = run("train", "prior_cpu", *asked[:3], tmp_path / "b", *asked[4:], "--set", "given=2")
    assert "there are no actions for train-0001.mkv" in again.err.splitlines()[-1]
    strided = run("train", "prior_cpu", *asked, "--set", "data.strides=[2]")
    assert "set data.strides=[1]" in strided.err.splitlines()[-1]
