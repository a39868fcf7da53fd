"""A disk that is full: one sentence that names the file, and nothing half-written.

Files may not grow beyond a limit here, which the system tells in the same way.
"""

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok.files.atomic import write_file

Run = Callable[..., Ran]


@contextmanager
def no_larger(size: int) -> Iterator[None]:
    """Inside, no file may become larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def place(
    tmp_path: Path, models: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of two clips, a .reel file, and nothing kept from other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "absent"))
    for name in "ab":
        reeltok.write(moving(9), tmp_path / "clips" / f"{name}.mkv", lossless=True)
    assert run("encode", "clips/a.mkv", "a.reel", "--model", models["discrete"]).code == 0
    return tmp_path


CASES = [
    ("encode clips/a.mkv x.reel --model MODEL", "x.reel"),
    ("encode clips deep/out --model MODEL", "deep/out/a.reel"),
    ("decode a.reel deep/x.mkv --lossless --model MODEL", "deep/x.mkv"),
    ("decode a.reel frames --model MODEL", "frames"),
    ("reconstruct clips/a.mkv x.mp4 --model MODEL", "x-side-by-side.mp4"),
    ("convert MODEL copy", "copy"),
    ("evaluate MODEL clips --protocol shared-eval-whole --out x.json", "x.json"),
    ("compare MODEL clips --protocol shared-eval-whole --out report", "report/media/original"),
    ("data check clips --out lists", "lists/check.json"),
]


@pytest.mark.parametrize(("line", "named"), CASES, ids=[line.split()[0] for line, _ in CASES])
def test_the_file_is_named_and_nothing_is_left(
    run: Run, models: dict[str, Path], place: Path, line: str, named: str
) -> None:
    def files() -> set[Path]:
        return {path for path in place.rglob("*") if not path.is_relative_to(place / "cache")}

    before = files()
    words = line.replace("MODEL", str(models["discrete"])).split()
    if words[0] == "evaluate":  # what is kept of clips is smaller than the record
        assert run(*words[:-2]).code == 0
    with no_larger({"evaluate": 1500, "data": 45}.get(words[0], 100)):
        found = run(*words)
    assert found.code == 2
    last = found.err.splitlines()[-1]
    assert last.startswith("reeltok: cannot write "), found.err
    assert named in last
    assert "files may not become so large here" in last
    assert files() == before


def test_training_names_the_file(run: Run, place: Path) -> None:
    words = ("train", "small", "--data", "clips", "--out", "runs/x", "--set", "data.holdout=0")
    with no_larger(100):
        found = run(*words)
    assert found.code == 2
    assert "cannot write " in found.err.splitlines()[-1]
    assert str(place / "cache" / "decoded") in found.err
    assert not (place / "runs").exists()
    assert not [path for path in (place / "cache").rglob("*") if path.is_file()]


def write_limited(target: Path, size: int) -> None:
    with no_larger(size):
        write_file(target, "x" * 100)


@pytest.mark.parametrize("size", [10, 60])  # below what the lock beside it takes, and above
def test_a_report_names_its_own_files(tmp_path: Path, size: int) -> None:
    with pytest.raises(OSError, match=r"report/page\.css: files may not") as caught:
        write_limited(tmp_path / "report" / "page.css", size)
    assert caught.value.errno == errno.EFBIG
    assert not (tmp_path / "report").exists()
