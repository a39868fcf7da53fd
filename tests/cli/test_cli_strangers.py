"""Files of strangers: they decide neither what is opened nor what a terminal does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from moving_clips import moving
from ran import Ran
from small_generators import make_flow, make_tokenizers

from reeltok import zoo
from reeltok.files.text import printable
from reeltok.tokens import reel as files
from reeltok.tokens.record import Tokens

Run = Callable[..., Ran]
Models = dict[str, Path]
NASTY = "evil\x1b[31m\x1b]0;title\x07\nreeltok: all is well \u202eback"


@pytest.fixture
def reel(models: Models, tmp_path: Path) -> Callable[[str], Path]:
    """A .reel file that says it was made by a given tokenizer."""
    made: Tokens = zoo.load(models["discrete"]).encode(moving(5))

    def write(name: str) -> Path:
        path = tmp_path / "clip.reel"
        files.save_tokens(replace(made, model=name), path)
        return path

    return write


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is looked for on the hub, which nothing must be."""
    asked: list[str] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append(name)
        raise OSError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    return asked


def names(models: Models, tmp_path: Path) -> list[str]:
    (tmp_path / "near").mkdir(exist_ok=True)
    return ["attacker/model", "/etc", "..", str(models["discrete"]), "near", "default/../near"]


def test_a_reel_file_opens_presets_alone(
    run: Run,
    models: Models,
    reel: Callable[[str], Path],
    opened: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names(models, tmp_path):
        found = run("decode", reel(name), "x.mkv", "--lossless")
        assert found.code == 2, name
        assert f"was made by {name!r}" in found.err
        assert "--model" in found.err
        assert not Path("x.mkv").exists()
    assert not opened
    found = run("decode", reel("attacker/model"), "x.mkv", "--model", models["discrete"])
    assert found.code == 0, found.err


def test_a_folder_of_a_preset_s_name_is_not_taken_for_it(
    run: Run,
    models: Models,
    reel: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies in the working folder may have come with the file."""
    monkeypatch.chdir(tmp_path)
    zoo.load(models["discrete"]).save_pretrained("default")
    found = run("decode", reel("default"), "x.mkv")
    assert found.code == 2
    assert "other weights" in found.err or "vocabulary" in found.err


def test_a_generator_opens_presets_alone(
    run: Run, models: Models, opened: list[str], tmp_path: Path
) -> None:
    folder = make_flow(make_tokenizers()["planes"], tmp_path / "run" / "model")
    record = json.loads((folder / "config.json").read_text())
    for name in names(models, tmp_path):
        record["config"]["clip"]["tokenizer"] = name
        (folder / "config.json").write_text(json.dumps(record))
        found = run("generate", folder, "--out", tmp_path / "out")
        assert found.code == 2, name
        assert f"needs the tokenizer {name!r}" in found.err
        assert "--tokenizer" in found.err
    assert not opened


def test_presets_are_looked_up_by_name_alone(tmp_path: Path, opened: list[str]) -> None:
    assert zoo.load_preset("default").name == "default"
    for name in ("attacker/model", str(tmp_path), "../default", ""):
        with pytest.raises(ValueError, match="is not the name of a preset"):
            zoo.load_preset(name)
    with pytest.raises(FileNotFoundError, match="train it"):
        zoo.load_preset("vidtok_variant_1")
    assert not opened


# What a terminal is told.


def shown(found: Ran) -> str:
    return found.out + found.err


def harmless(text: str) -> bool:
    return all(char.isprintable() for line in text.splitlines() for char in line)


def test_names_are_printed_without_escapes(
    run: Run, reel: Callable[[str], Path], tmp_path: Path
) -> None:
    path = reel(NASTY)
    for words in (("info", path), ("decode", path, tmp_path / "x.mp4")):
        found = run(*words)
        assert harmless(shown(found)), words
        assert "evil\\x1b[31m" in shown(found)
        assert not any(line.startswith("reeltok: all is well") for line in shown(found).split("\n"))
    assert run("info", path, "--json").json["model"] == NASTY


def test_folders_and_checkpoints_of_any_name_are_printed_without_escapes(
    run: Run, models: Models, tmp_path: Path
) -> None:
    folder = tmp_path / "evil\x1b[31m\n"
    zoo.load(models["discrete"]).save_pretrained(folder)
    assert harmless(shown(run("info", folder)))
    record = json.loads((folder / "config.json").read_text())
    for change in (
        {"family": NASTY},
        {"name": NASTY, "config": {}},
        {"config": {**record["config"], NASTY: 1}},
    ):
        (folder / "config.json").write_text(json.dumps(record | change))
        found = run("info", folder)
        assert (found.code, found.err.count("\n")) == (2, 1)
        assert harmless(shown(found))
    torch.save({NASTY: torch.zeros(3)}, tmp_path / "a.ckpt")
    found = run("convert", tmp_path / "a.ckpt", tmp_path / "o", "--preset", "default")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert harmless(shown(found))
    assert "evil\\x1b[31m" in found.err


def test_printable_keeps_what_can_be_seen() -> None:
    assert printable("Größe 日本 é 🎬") == "Größe 日本 é 🎬"
    assert printable("a\tb\x1b\x7f\x9b\u2028\ud800") == "a\\tb\\x1b\\x7f\\x9b\\u2028\\ud800"
