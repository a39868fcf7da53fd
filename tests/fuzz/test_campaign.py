"""A little of the campaign: a few inputs of every target, in workers with limits."""

import json
from pathlib import Path
from random import Random

import mutate
import pytest
from campaign import fuzz, table
from thorough import examples, slow_but

COUNTS = {  # up to two seconds each on a quiet core, but for a worker's start
    "reel_header": 1000,
    "reel_hashed": 100,
    "records": 200,
    "model_folders": 80,
    "checkpoints": 200,
    "containers": 100,
    "command_lines": 10,
    "kills": examples(1, 3),
}
FREE = ("command_lines", "kills")  # have no first check


@pytest.mark.parametrize("name", slow_but(("reel_header", "containers", "kills"), COUNTS))
def test_damaged_files_give_documented_errors(name: str) -> None:
    tally = fuzz(name, 0, COUNTS[name], 300.0)
    assert not tally.faults, "\n".join(table({name: tally}))
    assert name in FREE or tally.share >= 0.6, f"{tally.share:.0%} got past the first check"


def test_a_number_says_which_input_it_was() -> None:
    value = {"a": [1, 2.5, "x"], "b": {"c": None}}
    one, other = (mutate.dump(mutate.change(value, Random("records 7"))) for _ in range(2))
    assert one == other


def test_boxes_are_found_however_deep() -> None:
    def box(kind: bytes, inside: bytes) -> bytes:
        return (8 + len(inside)).to_bytes(4, "big") + kind + inside

    data = box(b"ftyp", b"isom") + box(b"moov", box(b"trak", box(b"tkhd", b"12")))
    kinds = [data[start + 4 : start + 8] for start, _ in mutate.boxes(data)]
    assert kinds == [b"ftyp", b"moov", b"trak", b"tkhd"]


def test_keys_stand_twice_and_numbers_are_too_long() -> None:
    text = mutate.dump({"a": 1, "a" + mutate.TWIN: 2, "b": "@wide", "c": float("nan")}).decode()
    assert text.count('"a"') == 2
    assert "1" + "0" * 400 in text
    with pytest.raises(ValueError):
        json.loads(text, parse_constant=lambda _: (_ for _ in ()).throw(ValueError("NaN")))


def test_a_fault_is_saved_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import campaign

    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "broken.py").write_text(
        "class Target:\n"
        "    named = writes = passed = False\n"
        "    def __init__(self, folder): pass\n"
        "    def make(self, draw): return {'x': b'1'}\n"
        "    def run(self, folder): raise KeyError('x')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    monkeypatch.setattr(campaign, "OUT", tmp_path / "out")
    tally = fuzz("broken", 5, 1, 60.0)
    assert "undocumented KeyError" in tally.faults[5]
    assert (tmp_path / "out" / "broken-5" / "x").read_bytes() == b"1"
    assert "python tests/fuzz/campaign.py --target broken --number 5" in "\n".join(
        table({"broken": tally})
    )
