"""Models of a command line are called by their runs, and apart."""

from pathlib import Path

import pytest

from reeltok.evaluate.labels import label_models


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = ("runs/a/model", "runs/a/best", "runs/b/model", "old/a/model", "runs/default/model")
    for name in (*runs, "plain"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "k=v").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("runs/a/model", "a"),
        ("runs/a/model/", "a"),
        ("runs/a/model runs/b/model", "a b"),
        ("runs/a/model runs/a/best", "a/model a/best"),
        ("runs/a/model old/a/model", "runs/a old/a"),
        ("runs/a/model runs/a/best old/a/model", "a/model a/best a"),
        ("plain default owner/repository", "plain default owner/repository"),
        ("default runs/default/model", "default runs/default"),
        ("ours=runs/a/model theirs=default", "ours theirs"),
        ("ours=runs/a/model runs/a/model", "ours a"),
        ("runs/a/model ./runs/a/../a/model", "a a"),
        ("k=v", "k=v"),
        ("first=one.json two.json", "first two.json"),
    ],
)
def test_labels(words: str, labels: str) -> None:
    assert [each.label for each in label_models(words.split())] == labels.split()


def test_a_label_is_taken_off_its_source() -> None:
    (found,) = label_models(["my model=runs/a/model"])
    assert (found.label, found.source) == ("my model", "runs/a/model")


def test_inside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "runs" / "b" / "model")
    assert [each.label for each in label_models([".", "../../a/best"])] == ["b", "a"]
