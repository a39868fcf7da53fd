"""`fvd`: two sets of videos, with and without weights, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok.evaluate import scores
from reeltok.metrics.distances import feature_moments, frechet_distance
from reeltok.metrics.networks import Extractor

Run = Callable[..., Ran]


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Three real and two made clips of 6 frames, longer than `short`, which knows no weights."""
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "absent"))
    monkeypatch.delenv("REELTOK_WEIGHTS", raising=False)
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))
    for name, count in {"real": 3, "made": 2}.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            video = moving(6 + 3 * number, 32, 32 + 2 * (name == "made"))
            reeltok.write(video, tmp_path / name / f"{number}.mkv", lossless=True)
    return tmp_path / "made", tmp_path / "real"


def test_fvd_of_two_folders(
    run: Run, sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(**options: object) -> Extractor:
        return Extractor(name="test", apply=lambda x: x.mean((3, 4)).flatten(1)[:, :8], frames=None)

    monkeypatch.setitem(scores.EXTRACTORS, "i3d", opened)
    out = tmp_path / "fvd.json"
    found = run("fvd", *sets, "--out", out)
    assert found.code == 0, found.err
    assert "3 real clips, ucf-128 has 2,048: not comparable" in found.err
    record = json.loads(out.read_text())
    assert (record["made"], record["real"]) == (2, 3)
    assert set(record["missing"]) == {"fvd-styleganv", "appearance"}
    features = [torch.cat([feature(p) for p in sorted(place.iterdir())]) for place in sets]
    wanted = frechet_distance(*(feature_moments(each) for each in features))
    assert record["distances"]["fvd-i3d-test"] == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    same = run("fvd", sets[1], sets[1], "--json")
    assert same.json["distances"]["fvd-i3d-test"] == pytest.approx(0, abs=1e-6)


def test_a_note_counts_clips_of_another_rate(run: Run, sets: tuple[Path, Path]) -> None:
    found = run("fvd", *sets, "--protocol", "k600-fp")
    assert found.code == 0, found.err
    assert "2 of 2 made clips are not at the 25 frames per second of k600-fp: each" in found.err


def feature(path: Path) -> torch.Tensor:
    """What the test's network sees of a clip that is filled up to 128 frames of 128 pixels."""
    from reeltok.evaluate.clips import clips

    (clip,) = clips("ucf-128", path)
    return clip.video.tensor().mean((3, 4)).flatten(1)[:, :8]


def test_without_weights_it_says_so(run: Run, sets: tuple[Path, Path]) -> None:
    found = run("fvd", *sets)
    assert found.code == 0
    assert "no weights (FVD with I3D" in found.out


def test_a_distance_needs_two_clips(run: Run, sets: tuple[Path, Path]) -> None:
    found = run("fvd", sets[0] / "0.mkv", sets[1])
    assert found.code == 2
    assert "gives 1 clips under ucf-128, a distance needs two" in found.err.splitlines()[-1]
    found = run("fvd", *sets, "--protocol", "ucf")
    assert "no protocol 'ucf'" in found.err.splitlines()[-1]
    found = run("fvd", *sets, "--max-broken", -1)
    assert found.code == 2
    assert "invalid value for '--max-broken'" in found.err


@pytest.mark.slow
@pytest.mark.weights
def test_appearance_stands_beside(
    run: Run, sets: tuple[Path, Path], shared: Path, monkeypatch
) -> None:
    monkeypatch.setenv("REELTOK_SHARED", str(shared))
    near, far = (run("fvd", *pair, "--json").json for pair in ((sets[1], sets[1]), sets))
    assert near["distances"]["appearance"] == pytest.approx(0, abs=1e-4)
    assert far["distances"]["appearance"] > 0.001
