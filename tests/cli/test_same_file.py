"""An output never replaces what it is made from, whatever the two are called."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from moving_clips import moving
from ran import Ran

import reeltok

Run = Callable[..., Ran]


@pytest.fixture
def place(
    tmp_path: Path, models: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A video, its tokens, its pictures and a model, each under several names."""
    monkeypatch.chdir(tmp_path)
    reeltok.write(moving(2), "a.mkv", lossless=True)
    reeltok.write(moving(2), "pictures")
    shutil.copytree(models["discrete"], "model")
    assert run("encode", "a.mkv", "a.reel", "--model", "model").code == 0
    for name in ("a.mkv", "a.reel"):
        os.symlink(name, f"soft-{name}")
        os.link(name, f"hard-{name}")
        shutil.copy(name, f"other-{name}")
    os.symlink("pictures", "soft-pictures")
    return tmp_path


CASES = [
    "reconstruct a.mkv a.mkv",
    "reconstruct a.mkv soft-a.mkv",
    "reconstruct soft-a.mkv a.mkv",
    "reconstruct a.mkv hard-a.mkv",
    "reconstruct a.mkv ./pictures/../a.mkv",
    "reconstruct a.mkv ABSOLUTE/a.mkv",
    "reconstruct other-a.mkv new.mkv --side-by-side other-a.mkv",
    "reconstruct pictures pictures",
    "reconstruct pictures soft-pictures",
    "reconstruct pictures pictures/new",
    "reconstruct pictures pictures/000000.png",
    "encode pictures pictures/a.reel",
    "encode soft-a.reel a.reel",
    "decode soft-a.mkv a.mkv",
    "decode a.reel new.mkv --audio-from new.mkv",
    "decode a.reel a.mkv --audio-from soft-a.mkv",
    "demo --video a.mkv --out .",
    "convert model model",
    "convert model model/deeper",
    "convert model/model.safetensors model --preset default",
    "convert model model/model.safetensors --to public",
    "evaluate model a.mkv --out soft-a.mkv",
    "fvd a.mkv other-a.mkv --out hard-a.mkv",
]


@pytest.mark.parametrize("line", CASES)
def test_what_is_read_is_never_written(run: Run, place: Path, line: str) -> None:
    if line.startswith("demo"):
        shutil.copy("a.mkv", "demo.mp4")
        line = line.replace("a.mkv", "demo.mp4")
    words = line.replace("ABSOLUTE", str(place)).split()
    more = ["--model", "model"] if words[0] in ("reconstruct", "encode", "decode") else []
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    found = run(*words, *more, "--force")
    assert found.code == 2
    assert found.err.count("\n") == 1, found.err
    assert "is what is read" in found.err or "lies in what is read" in found.err, found.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_what_is_read_may_lie_in_no_folder_that_is_replaced(run: Run, place: Path) -> None:
    """Nor may a folder of other files be: --force had removed a whole tree of runs."""
    runs = place / "runs"
    runs.mkdir()
    shutil.move(place / "model", runs / "model")
    (runs / "keep.txt").write_text("mine")
    inside = run("export", "runs/model", "runs", "--to", "torch-export", "--force")
    assert "runs/model, which is read, lies in runs: name another folder" in inside.err
    shutil.copytree(runs, place / "other")
    words = ("runs/model", "other", "--to", "torch-export", "--force")
    assert (
        "the folder other holds other files: name a new or an empty one"
        in run("export", *words).err
    )
    assert (runs / "keep.txt").read_text() == (place / "other" / "keep.txt").read_text() == "mine"


def test_two_spellings_are_one_output(run: Run, place: Path) -> None:
    words = ("a.mkv", "new.mkv", "--side-by-side", "./new.mkv", "--model", "model")
    assert "new.mkv cannot hold both videos" in run("reconstruct", *words).err
    assert not (place / "new.mkv").exists()


def test_a_suffix_has_a_dot(run: Run, place: Path) -> None:
    """Without one, videos had become folders of pictures."""
    found = run("decode", "a.reel", "other-a.reel", "out", "--suffix", "mp4")
    assert "--suffix mp4 has no dot: give --suffix .mp4" in found.err


def test_a_copy_may_be_replaced(run: Run, place: Path) -> None:
    words = ("a.mkv", "other-a.mkv", "--model", "model", "--side-by-side", "none", "--force")
    assert run("reconstruct", *words).code == 0
