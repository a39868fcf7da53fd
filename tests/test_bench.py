"""What the measuring scripts record: of which size, by which machine, at which commit."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Find = Callable[[str], ModuleType]
OLD, NEW = {"cpu": "old", "commit": "a"}, {"cpu": "new", "commit": "b"}


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Find:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    return import_module


def printed(monkeypatch: pytest.MonkeyPatch, script: ModuleType, row: dict[str, Any]) -> list[str]:
    """Let every process that a script starts print a row; the last words of each, as they come."""
    words: list[str] = []

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        words.append(command[-1])
        return SimpleNamespace(stdout=json.dumps(row))

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=run, PIPE=None))
    return words


def test_growth_codes_the_sizes_that_it_names(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    growth = find("growth")
    seen: list[tuple[int, int]] = []
    code = lambda model, folder, frames, height, width: seen.append((height, width)) or {}
    monkeypatch.setattr(growth, "code_video", code)
    words = printed(monkeypatch, growth, {"encode, s": 2.0})
    found = growth.grow("sizes", "default")
    for amount in words:
        growth.PARTS["sizes"].measure("default", Path(), json.loads(amount))
    assert seen[-2:] == [(720, 1280), (1080, 1920)]
    assert [(row["height"], row["width"]) for row in found["rows"]] == seen
    assert found["rows"][-1]["work"] == 1920 * 1080
    assert found["slopes"] == {"encode, s": {"all": 0.0, "last": 0.0}}


def test_growth_records_the_sizes_that_were_coded() -> None:
    record = json.loads((Path(__file__).parents[1] / "docs" / "growth.json").read_text())
    for row in record["sizes"]["rows"]:
        assert row["height"] * row["width"] == row["work"]


def test_medians_of_peers_are_of_one_machine(
    find: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peers, out = find("peers"), tmp_path / "peers.json"
    theirs, mine = next(iter(peers.WAYS)), "reeltok default"

    def row(seconds: float) -> dict[str, Any]:
        times = {"encode s": seconds, "decode s": seconds, "latent": [4]}
        return times | {"encode GFLOP": 1.0, "decode GFLOP": 1.0}

    former = [row(10.0), row(10.0) | {"machine": OLD}, row(10.0) | {"machine": NEW | {"cpu": "x"}}]
    rows = {theirs: list(former), mine: list(former)}
    out.write_text(json.dumps({"17x64x64": {"machine": OLD, "rows": rows}}))
    monkeypatch.setattr(peers, "describe", lambda: NEW)
    printed(monkeypatch, peers, row(2.0))
    asked = ["peers.py", "--ways", mine, "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", asked)
    peers.main()
    found = json.loads(out.read_text())["17x64x64"]
    assert found["machine"] == NEW
    assert list(found["ways"]) == [mine]
    assert found["ways"][mine]["encode s"] == 2.0
    assert "machine" not in found["ways"][mine]
    assert found["rows"] == rows | {mine: former + [row(2.0) | {"machine": NEW}] * 2}


def test_rows_of_memory_keep_their_machine(
    find: Find, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory, out = find("memory"), tmp_path / "memory.json"
    former = {"a": {"s": 1.0}, "b": {"s": 1.0}}
    out.write_text(json.dumps({"default": {"size": former}, "machine": OLD}))
    monkeypatch.setattr(memory, "describe", lambda: NEW)
    memory.keep(SimpleNamespace(out=out, model="default"), "size", {"b": {"s": 2.0}})
    rows = {"a": {"s": 1.0}, "b": {"s": 2.0, "machine": NEW}}
    assert json.loads(out.read_text()) == {"default": {"size": rows}, "machine": OLD}
