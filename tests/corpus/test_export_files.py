"""Exports of several files, of rows whose paths are equal, and of pictures."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from corpus_clips import build, opener, write_clips
from PIL import Image

from reeltok.corpus import Corpus, Shaping
from reeltok.corpus.formats import energon, fastvideo
from reeltok.corpus.formats.export import export_corpus
from reeltok.corpus.formats.source import ExportSource

pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra corpus)")


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of five windows of five frames."""
    place = tmp_path_factory.mktemp("files")
    write_clips(place / "clips", (5, 5, 15))
    shaping = Shaping(frames=5, stride=5)
    build(place / "clips", place / "latents", shaping, held=opener(continuous=True))
    return place / "latents"


def test_fastvideo_gets_a_new_file_where_one_is_full(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastvideo, "FILE_ROWS", 2)
    export_corpus(latents, tmp_path / "out", to="fastvideo")
    paths = sorted((tmp_path / "out").rglob("*.parquet"))
    assert [path.name for path in paths] == [f"data_chunk_{number}.parquet" for number in range(3)]
    found = [pq.read_table(path)["id"].to_pylist() for path in paths]
    assert list(map(len, found)) == [2, 2, 1]
    assert [name for names in found for name in names] == [row.id for row in Corpus(latents)]


def test_energon_gets_a_new_shard_where_one_is_full(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energon, "SHARD_ROWS", 2)
    export_corpus(latents, tmp_path / "out", to="energon")
    found = {}
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            found[path.name] = [name for name in tar.getnames() if name.endswith(".pth")]
    keys = [f"00000000{number}.pth" for number in range(5)]
    names = [f"shard-00000{number}.tar" for number in range(3)]
    assert found == dict(zip(names, (keys[:2], keys[2:4], keys[4:]), strict=True))


def test_rows_of_equal_paths_each_get_a_file(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(Corpus(latents))
    ids = ("/a.mkv#0000", "a.mkv#0000", "../a.mkv#0000", "b.mkv#0000", "b.mkv#0001")
    same = [replace(row, id=name) for row, name in zip(rows, ids, strict=True)]
    monkeypatch.setattr(Corpus, "__iter__", lambda self: iter(same))
    export_corpus(latents, tmp_path / "out", to="ltx", dtype=torch.float32)
    root = tmp_path / "out" / ".precomputed" / "latents"
    want = ["a.mkv_0000", "a.mkv_0000_2", "a.mkv_0000_3", "b.mkv_0000", "b.mkv_0001"]
    assert sorted(path.stem for path in root.rglob("*.pt")) == want
    scale = ExportSource(corpus=Corpus(latents), format="ltx").scale
    for name, row in zip(want, rows, strict=True):
        held = torch.load(root / f"{name}.pt", weights_only=True)["latents"]
        assert torch.allclose(held, scale.apply(row.latents.float()[None])[0], atol=1e-6)


@pytest.mark.parametrize("to", ["energon", "ltx"])
@pytest.mark.parametrize(
    ("measured", "whose"), [("tokenizer", "the tokenizer's own"), ("corpus", "this corpus's")]
)
def test_whose_statistics_were_used_is_said(
    measured: str, whose: str, to: str, latents: Path, tmp_path: Path
) -> None:
    held = opener(continuous=True)
    if measured == "tokenizer":
        held.tokenizer.statistics = {"mean": [0.5] * 4, "std": [2.0] * 4}
    build(latents.parent / "clips", tmp_path / "corpus", Shaping(frames=5), held=held)
    done = export_corpus(tmp_path / "corpus", tmp_path / "out", to=to)
    said = f"latents are normalised by {whose} mean and deviation of each channel"
    assert [note for note in done.notes if "normalised" in note] == [said]


@pytest.mark.parametrize(("name", "kind"), [("0.mkv", "video"), ("0.png", "image")])
def test_fastvideo_tells_pictures_from_clips_of_one_frame(
    name: str, kind: str, tmp_path: Path
) -> None:
    clips = write_clips(tmp_path / "clips", (1,) if kind == "video" else ())
    if kind == "image":
        Image.new("RGB", (40, 32), (90, 60, 30)).save(clips / name)
    build(clips, tmp_path / "corpus", Shaping(), held=opener(continuous=True))
    export_corpus(tmp_path / "corpus", tmp_path / "out", to="fastvideo")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    (row,) = pq.read_table(path).to_pylist()
    assert (row["media_type"], row["num_frames"]) == (kind, 1)
    assert bool(row["duration_sec"]) == (kind == "video")
