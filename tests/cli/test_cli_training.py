"""`train`, `runs` and `data check`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok import zoo

Run = Callable[..., Ran]
TINY = (
    *("--set", "settings.width=8", "--set", "settings.multipliers=[1,1]"),
    *("--set", "settings.blocks=[1,1]", "--set", "loop.optimizer.kind=adam"),
    *("--set", "data.windows.0.batch=2", "--set", "data.windows.0.size=32"),
    *("--set", "data.windows.0.frames=5", "--set", "loop.schedule.steps=3"),
    *("--set", "loop.schedule.warmup=1", "--set", "loop.schedule.cooldown=0.3"),
    *("--set", "data.weights={}", "--set", "data.other=1", "--set", "data.strides=[1]"),
    *(
        "--set",
        "data.scale=[1,1]",
        "--set",
        "data.validation.frames=5",
        "--set",
        "data.validation.size=32",
    ),
)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Six short clips and a broken one."""
    place = tmp_path / "data"
    place.mkdir()
    for number in range(6):
        reeltok.write(moving(6 + number), place / f"{number}.mkv", lossless=True)
    (place / "broken.mp4").write_text("no video")
    return place


@pytest.fixture
def words(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A run of three steps."""
    monkeypatch.setenv("REELTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "absent"))
    return ["train", "small", "--data", clips, "--out", tmp_path / "runs" / "first", *TINY]


def test_train(run: Run, words: list[object], tmp_path: Path) -> None:
    found = run(*words)
    assert found.code == 0, found.err
    assert "3 steps" in found.out
    assert "reeltok: note: judging without LPIPS" in found.err
    assert zoo.load(tmp_path / "runs" / "first" / "model").spec.vocabulary == 32768
    stored = json.loads((tmp_path / "runs" / "first" / "recipe.json").read_text())
    assert stored["settings"]["width"] == 8
    # A model of its own, whatever it began as: tables and tokens call it by its run.
    assert zoo.load(tmp_path / "runs" / "first" / "model").name == "first"
    again = run(*words)
    assert again.code == 2
    assert "resume it" in again.err.splitlines()[-1]


@pytest.mark.slow
def test_resume(run: Run, words: list[object]) -> None:
    assert run(*words).code == 0
    more = run(*words, "--resume", "--set", "loop.schedule.steps=4", "--json")
    assert more.code == 0, more.err
    assert more.json["steps"] == 4


def test_runs_draws_curves(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = [{"step": step, "time": step, "loss": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = run("runs", tmp_path, "--json")
    assert found.code == 0, found.err
    assert found.json["latest"] == {"step": 3, "time": 3, "loss": 1 / 3}
    assert (tmp_path / "curves.png").is_file()


def test_dry_run(run: Run) -> None:
    found = run("train", "small", "--dry-run", *TINY, "--exit-on-term", 9, "--json")
    assert found.code == 0, found.err
    assert found.json["steps_per_second"] > 0
    assert found.json["recipe"]["loop"]["exit_on_term"] == 9
    assert "trained parameters" in run("train", "small", "--dry-run", *TINY).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("smal",), "did you mean 'small'?"),
        (("small",), "--data DATA and --out RUN"),
        (("small", "--set", "loop.sed=1"), "did you mean 'seed'?"),
        (("small", "--set", "loop.seed"), "KEY=VALUE"),
        (("small", "--data", "absent", "--out", "run"), "there is no file or folder absent"),
        (("small", "--data", ".", "--out", "/dev/null/run"), "is not a folder"),
    ],
)
def test_what_train_refuses(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run("train", *words)
    assert found.code == 2
    assert said in found.err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_data_check(run: Run, clips: Path) -> None:
    found = run("data", "check", clips)
    assert found.code == 0, found.err
    assert "6 clips are whole: 51 frames" in found.out
    assert "broken: broken.mp4: it is not a video" in found.out
    assert len((clips / "clean.csv").read_text().splitlines()) == 7
    record = run("data", "check", clips / "clean.csv", "--json").json
    assert (record["clips"], record["broken"]) == (6, [])


def test_runs_without_a_run(run: Run, tmp_path: Path) -> None:
    found = run("runs", tmp_path)
    assert found.code == 2
    assert "no log of a run" in found.err
