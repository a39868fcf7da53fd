"""Corpora of packed ids: smaller, the same ids, one sentence where they cannot be made or read."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from corpus_clips import build, opener, write_clips
from small_models import DISCRETE, save_random
from small_packing import add_packing, small_packing

from reeltok.corpus import Corpus, Engine, NamedTokenizer, Shaping
from reeltok.corpus.formats.export import export_corpus
from reeltok.corpus.opening import LoadedTokenizer
from reeltok.tokens.header import SEGMENT
from reeltok.tokens.packing.model import NAME
from reeltok.video.record import read

pytest.importorskip("constriction")
WINDOWS = Shaping(frames=5, size=(32, 32))
PACK = {"coding": {"pack": True}}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("data") / "clips", (9, 5, 11))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """A small discrete model with a packing model that expects what it makes of the clips."""
    folder = save_random({"discrete": DISCRETE}, tmp_path_factory.mktemp("models"))["discrete"]
    add_packing(folder, read(clips / "0.mkv"))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, clips: Path, model: Path) -> Path:
    """The same windows in "plain" and "packed"."""
    place = tmp_path_factory.mktemp("corpora")
    build(clips, place / "plain", WINDOWS, held=NamedTokenizer(load=str(model)), clips_each=2)
    build(
        clips, place / "packed", WINDOWS, held=NamedTokenizer(load=str(model)), clips_each=2, **PACK
    )
    return place


def test_packed_ids_are_the_same_in_fewer_bits(made: Path) -> None:
    plain, packed = Corpus(made / "plain"), Corpus(made / "packed")
    assert len(packed) == len(plain) == 4
    for one, other, number in zip(plain, packed, range(4), strict=True):
        assert one.ids is not None
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.ids, packed[number].ids)
    told = packed.manifest
    assert told["bits"] == plain.manifest["bits"]
    rows = [
        row for f in (made / "packed").glob("*-0*.parquet") for row in pq.read_table(f).to_pylist()
    ]
    assert (
        told["stored_bits"] == 8 * sum(len(row["ids_bytes"]) for row in rows) < 0.8 * told["bits"]
    )
    assert all(row["ids_ends"] == [len(row["ids_bytes"])] for row in rows)


def test_nothing_else_of_a_corpus_changes(made: Path) -> None:
    """Corpora without packing have the bytes that they always had."""
    plan = json.loads((made / "plain" / "plan.json").read_text())
    sidecar = json.loads((made / "plain" / "shard-000000.json").read_text())
    assert not {"pack", "packing"} & {*plan["build"]}
    assert "stored_bits" not in sidecar
    assert plan["version"] == sidecar["version"] == 1
    assert json.loads((made / "packed" / "plan.json").read_text())["version"] == 2
    names = {file.name for file in (made / "packed").iterdir()}
    assert names - {file.name for file in (made / "plain").iterdir()} == {NAME}


def test_several_segments_of_a_long_window(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = write_clips(tmp_path / "clips", (4 * SEGMENT + 9,))
    whole, held = Shaping(size=(16, 16)), NamedTokenizer(load=str(model))
    build(clips, tmp_path / "plain", whole, held=held)
    build(clips, tmp_path / "packed", whole, held=held, **PACK)
    (row,) = pq.read_table(tmp_path / "packed" / "shard-000000.parquet").to_pylist()
    assert len(row["ids_ends"]) == 2
    assert torch.equal(Corpus(tmp_path / "packed")[0].ids, Corpus(tmp_path / "plain")[0].ids)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_another_run_gives_the_same_bytes(
    tmp_path: Path, clips: Path, model: Path, made: Path, jobs: int
) -> None:
    held, engine = NamedTokenizer(load=str(model)), Engine(jobs=jobs)
    build(clips, tmp_path / "out", WINDOWS, held=held, clips_each=2, **PACK, engine=engine)
    for file in (made / "packed").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_exports_and_the_check_of_a_sample_read_packed_ids(
    made: Path, tmp_path: Path, clips: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    from reeltok.cli.main import main

    for kind in ("plain", "packed"):
        export_corpus(made / kind, tmp_path / kind, to="torchtitan")
    one, other = ((tmp_path / kind / "tokens.bin").read_bytes() for kind in ("plain", "packed"))
    assert one == other
    assert main(["corpus", "info", str(made / "packed")]) == 0
    assert " stored, " in capsys.readouterr().out
    words = ["corpus", "verify", str(made / "packed"), "--data", str(clips)]
    assert main([*words, "--weights", str(model)]) == 0
    assert "100.00% of tokens made again" in capsys.readouterr().out


def test_going_on_with_or_without_packing_is_refused(made: Path, clips: Path, model: Path) -> None:
    held, hashed = NamedTokenizer(load=str(model)), Corpus(made / "packed").packing
    assert hashed is not None
    known = f"by the model {hashed.hash[:12]}"
    with pytest.raises(ValueError, match=f"with `pack` {known}, now it is none"):
        build(clips, made / "packed", WINDOWS, held=held, clips_each=2)
    with pytest.raises(ValueError, match=f"with `pack` none, now it is {known}"):
        build(clips, made / "plain", WINDOWS, held=held, clips_each=2, **PACK)


def test_what_cannot_be_packed_is_refused_before_anything_is_written(
    tmp_path: Path, clips: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="only ids are packed, and `keep` is latents"):
        build(clips, out, WINDOWS, held=opener(continuous=True), **PACK)
    with pytest.raises(ValueError, match="small has no packing model"):
        build(clips, out, WINDOWS, **PACK)
    small_packing().save(tmp_path / NAME)
    tokenizer = opener().tokenizer
    tokenizer.packing = tmp_path / NAME
    with pytest.raises(ValueError, match=r"trained on ids of other weights \(abababababab"):
        build(clips, out, WINDOWS, held=LoadedTokenizer(tokenizer=tokenizer, load="small"), **PACK)

    def missing(what: str) -> None:
        raise ValueError(f"{what}: pip install 'reeltok[codec]'")

    monkeypatch.setattr("reeltok.corpus.packing.require_coder", missing)
    with pytest.raises(ValueError, match=r"packing ids needs constriction: pip install"):
        build(clips, out, WINDOWS, held=NamedTokenizer(load=str(model)), **PACK)
    assert not out.exists()


def test_a_corpus_whose_packing_model_or_ids_were_changed_says_so(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(made / "packed", out)
    corpus = Corpus(out)
    values = corpus._record(0, 0)
    for ends in ([], [1], [len(values["ids_bytes"])] * 2):
        monkeypatch.setattr(corpus, "_record", lambda *_, ends=ends: {**values, "ids_ends": ends})
        with pytest.raises(ValueError, match=r"row 0.mkv#0000 was altered \(.*\): build its shard"):
            corpus[0]
    broken = {**values, "ids_bytes": b"\7" + values["ids_bytes"][1:]}
    monkeypatch.setattr(corpus, "_record", lambda *_: broken)
    with pytest.raises(ValueError, match=r"row 0.mkv#0000 was altered"):
        corpus[0]
    (out / NAME).unlink()
    with pytest.raises(ValueError, match=rf"has no {NAME}: copy that of its tokenizer there"):
        Corpus(out)
    small_packing().save(out / NAME)
    with pytest.raises(ValueError, match="is another packing model"):
        Corpus(out)

    def missing(what: str) -> None:
        raise ValueError(f"{what}: pip install 'reeltok[codec]'")

    monkeypatch.setattr("reeltok.corpus.packing.require_coder", missing)
    with pytest.raises(ValueError, match=r"out is packed: pip install 'reeltok\[codec\]'"):
        Corpus(out)
