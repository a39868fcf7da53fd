"""Exports, read back by what their layouts say: bytes, offsets and paths, not our own code."""

import json
import pickle
import resource
import shutil
import struct
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_clips import build, opener, write_clips
from moving_clips import moving

from reeltok.cli.main import main
from reeltok.corpus import Corpus, Shaping
from reeltok.corpus.formats.energon import SHARDS, metadata_of
from reeltok.corpus.formats.export import FORMATS, export_corpus
from reeltok.corpus.formats.fastvideo import SCHEMA
from reeltok.corpus.formats.source import ExportSource, check_window, safe_path
from reeltok.corpus.row import Row
from reeltok.video.record import write

pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra corpus)")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora of latents, of latents with text, and of ids, in windows of five frames."""
    place = tmp_path_factory.mktemp("corpora")
    write_clips(place / "clips", (9, 14))
    text = place / "text"
    text.mkdir()
    np.save(text / "0.npy", np.arange(24, dtype=np.float32).reshape(3, 8))
    shaping, continuous = Shaping(frames=5, stride=5), opener(continuous=True)
    build(place / "clips", place / "latents", shaping, held=continuous)
    build(place / "clips", place / "texts", shaping, held=continuous, texts=text)
    build(place / "clips", place / "ids", shaping)
    return place


def raw(corpus: Corpus) -> list[torch.Tensor]:
    return [row.latents.float() for row in corpus]


def normal(corpus: Corpus) -> list[torch.Tensor]:
    """As the statistics of the manifest say."""
    found = corpus.manifest["statistics"]
    mean, std = (torch.tensor(found[name]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    return [(z - mean) / std for z in raw(corpus)]


def tensor(row: dict[str, Any], name: str) -> torch.Tensor:
    """As FastVideo reads one: float32, whatever the column of types says."""
    flat = np.frombuffer(row[f"{name}_bytes"], np.float32)
    return torch.from_numpy(flat.reshape(row[f"{name}_shape"]).copy())


# ---------------------------------------------------------------- latents


def test_fastvideo_finds_raw_latents_and_text(made: Path, tmp_path: Path) -> None:
    done = export_corpus(made / "texts", tmp_path / "out", to="fastvideo")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    assert path.relative_to(tmp_path / "out").as_posix() == "worker_0/data_chunk_0.parquet"
    file = pq.ParquetFile(path)
    assert file.schema_arrow.names == SCHEMA.names
    assert all(file.metadata.row_group(i).num_rows <= 8 for i in range(file.num_row_groups))
    corpus, rows = Corpus(made / "texts"), file.read().to_pylist()
    assert [row["id"] for row in rows] == [row.id for row in corpus]
    for row, z, source in zip(rows, raw(corpus), corpus, strict=True):
        assert torch.equal(tensor(row, "vae_latent"), z)
        assert row["num_frames"] == z.shape[1] == 2
        assert (row["width"], row["height"], row["fps"], row["duration_sec"]) == (40, 32, 10, 0.5)
        assert (row["media_type"], row["caption"]) == ("video", "")
        text = tensor(row, "text_embedding")
        assert text.shape == ((3, 8) if source.source == "0.mkv" else (1, 8))
        assert bool(text.any()) == (source.text is not None)
    assert any("2 rows of 3 without text: zeros [1, 8] stand there" in note for note in done.notes)


def test_fastvideo_gets_zeros_of_wans_width_without_any_text(made: Path, tmp_path: Path) -> None:
    done = export_corpus(made / "latents", tmp_path / "out", to="fastvideo")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    assert pq.read_table(path).to_pylist()[0]["text_embedding_shape"] == [1, 4096]
    assert "3 rows of 3 without text: zeros [1, 4096] stand there" in done.notes
    assert done.files == 2
    assert json.loads((tmp_path / "out" / "reeltok.json").read_text())["latents"] == "raw"


def test_an_export_again_leaves_no_cache_of_the_old(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_corpus(made / "latents", out, to="fastvideo")
    cache = out / "map_style_cache" / "file_info.pkl"
    cache.parent.mkdir()
    cache.write_bytes(b"paths and row counts")
    export_corpus(made / "latents", out, to="fastvideo")
    assert not cache.exists()


@pytest.mark.parametrize("inner", ["corpus", "."])
def test_only_an_export_is_replaced(made: Path, tmp_path: Path, inner: str) -> None:
    """A folder that the corpus lies in had been removed with it, and one of other files whole."""
    out = tmp_path / "runs"
    shutil.copytree(made / "latents", out / inner)
    before = sorted(out.rglob("*"))
    with pytest.raises(ValueError, match=r"which is read, lies in .*runs: name another folder"):
        export_corpus(out / inner, out, to="fastvideo")
    with pytest.raises(ValueError, match=r"runs holds other files: name a new or an empty one"):
        export_corpus(made / "latents", out, to="fastvideo")
    assert sorted(out.rglob("*")) == before


def test_fastvideo_gets_a_folder_for_each_bucket(made: Path, tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5,))
    lower = replace(moving(1), frames=moving(1).frames[:, :24])
    write(lower, clips / "lower.mkv", lossless=True)
    build(clips, tmp_path / "two", Shaping(), held=opener(continuous=True))
    corpus = Corpus(tmp_path / "two")
    assert len(corpus.bucket_names) > 1
    done = export_corpus(corpus, tmp_path / "out", to="fastvideo")
    for name in corpus.bucket_names:
        (path,) = (tmp_path / "out" / name).rglob("*.parquet")
        shapes = pq.read_table(path)["vae_latent_shape"].to_pylist()
        assert {shape[1] for shape in shapes} == {1 if name.endswith("x1") else 2}
        assert pq.read_table(path)["height"].to_pylist() == [24 if name.endswith("x1") else 32]
    assert any("2 buckets are 2 folders" in note for note in done.notes)


def test_energon_finds_samples_of_adjacent_members(made: Path, tmp_path: Path) -> None:
    done = export_corpus(made / "texts", tmp_path / "out", to="energon", dtype=torch.float32)
    corpus = Corpus(made / "texts")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
        assert {(member.uid, member.mtime, member.uname) for member in tar} == {(0, 0, "")}
    names = [name for name, _ in members]
    assert names[:4] == ["000000000.pth", "000000000.pickle", "000000000.json", "000000001.pth"]
    samples = [members[i : i + 3] for i in range(0, len(members), 3)]
    for sample, z, row in zip(samples, normal(corpus), corpus, strict=True):
        latents = torch.load(BytesIO(sample[0][1]), weights_only=True)
        assert torch.allclose(latents, z, atol=1e-6)
        text = pickle.loads(sample[1][1])
        assert text.shape == ((1, 8) if row.text is None else row.text.shape)
        said = json.loads(sample[2][1])
        assert (said["id"], said["frames"], said["has_text"]) == (row.id, 5, row.text is not None)
    assert done.next.startswith(f"energon prepare {tmp_path / 'out'} --non-interactive")


def test_energon_says_what_its_trainer_would_leave_out(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = lambda source, row: source.latents(row) * 1e6
    monkeypatch.setattr(ExportSource, "normalised", scaled)
    done = export_corpus(made / "latents", tmp_path / "out", to="energon")
    assert "3 rows beyond 1,000: NeMo DFM leaves such out" in done.notes
    assert SHARDS < 10_000


def test_ltx_finds_a_file_for_each_window(made: Path, tmp_path: Path) -> None:
    export_corpus(made / "texts", tmp_path / "out", to="ltx")
    corpus, root = Corpus(made / "texts"), tmp_path / "out" / ".precomputed"
    paths = [path.relative_to(root / "latents") for path in root.rglob("latents/**/*.pt")]
    assert sorted(map(str, paths)) == ["0.mkv_0000.pt", "1.mkv_0000.pt", "1.mkv_0001.pt"]
    for row, z in zip(corpus, normal(corpus), strict=True):
        path = row.id.replace("#", "_") + ".pt"
        held = torch.load(root / "latents" / path, weights_only=True)
        assert held["latents"].dtype == torch.bfloat16
        assert torch.equal(held["latents"], z.bfloat16())
        assert (held["num_frames"], held["height"], held["width"]) == (2, 4, 5)
        assert held["fps"] == 10.0
        words = torch.load(root / "conditions" / path, weights_only=True)
        assert words["video_prompt_embeds"].shape[0] == words["prompt_attention_mask"].sum()


def test_ltx_is_told_to_do_without_text(made: Path, tmp_path: Path) -> None:
    done = export_corpus(made / "latents", tmp_path / "out", to="ltx")
    assert not (tmp_path / "out" / ".precomputed" / "conditions").exists()
    assert any('data_sources: ["latents"]' in note for note in done.notes)


# ---------------------------------------------------------------- ids


def test_megatron_finds_each_clip_by_its_offset(made: Path, tmp_path: Path) -> None:
    export_corpus(made / "ids", tmp_path / "out", to="megatron")
    index = (tmp_path / "out" / "tokens.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack("<QBQQ", index[9:34])
    corpus = Corpus(made / "ids")
    assert (version, code, sequences, documents) == (1, 8, len(corpus), len(corpus) + 1)
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    offsets = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    ends = np.frombuffer(index, "<i8", documents, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * documents
    assert ends.tolist() == list(range(len(corpus) + 1))
    data = (tmp_path / "out" / "tokens.bin").read_bytes()
    for row, length, offset in zip(corpus, lengths, offsets, strict=True):
        ids = np.frombuffer(data, "<u2", length, offset)
        assert ids.tolist() == row.ids.flatten().tolist()


def test_megatron_holds_larger_vocabularies_in_four_bytes(made: Path, tmp_path: Path) -> None:
    corpus = Corpus(made / "ids")
    corpus.tokenizer = {**corpus.tokenizer, "vocabulary": 65_500}
    export_corpus(corpus, tmp_path / "out", to="megatron")
    assert struct.unpack("<B", (tmp_path / "out" / "tokens.idx").read_bytes()[17:18]) == (4,)
    total = sum(row.ids.numel() for row in Corpus(made / "ids"))
    assert (tmp_path / "out" / "tokens.bin").stat().st_size == 4 * total


def test_torchtitan_finds_a_flat_file_and_offsets(made: Path, tmp_path: Path) -> None:
    export_corpus(made / "ids", tmp_path / "out", to="torchtitan")
    ids = np.fromfile(tmp_path / "out" / "tokens.bin", "<u4")
    offsets = np.load(tmp_path / "out" / "document_offsets.npy")
    rows = list(Corpus(made / "ids"))
    assert (offsets.dtype, len(offsets)) == (np.int64, len(rows) + 1)
    for row, start, end in zip(rows, offsets[:-1], offsets[1:], strict=True):
        assert ids[start:end].tolist() == row.ids.flatten().tolist()


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize("to", FORMATS)
def test_each_is_refused_what_it_does_not_take(to: str, made: Path, tmp_path: Path) -> None:
    wrong, right = ("ids", "latents") if FORMATS[to].latents else ("latents", "ids")
    with pytest.raises(
        ValueError, match=f"holds {wrong} and {to} takes {right}: build another with"
    ):
        export_corpus(made / wrong, tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("to", "held", "dtype", "said"),
    [
        ("fastvideo", "latents", torch.bfloat16, "takes all bytes for float32.*bfloat16"),
        ("fastvideo", "latents", torch.float16, "cannot hold float16"),
        ("megatron", "ids", torch.float32, "holds ids, which have no `dtype`"),
        ("torchtitan", "ids", torch.float32, "holds ids, which have no `dtype`"),
    ],
)
def test_a_type_that_a_reader_would_misread_is_refused(
    to: str, held: str, dtype: torch.dtype, said: str, made: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        export_corpus(made / held, tmp_path / "out", to=to, dtype=dtype)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("to", "most"), [("megatron", 2**31), ("torchtitan", 2**32)])
def test_a_vocabulary_that_does_not_fit_is_refused(
    to: str, most: int, made: Path, tmp_path: Path
) -> None:
    corpus = Corpus(made / "ids")
    corpus.tokenizer = {**corpus.tokenizer, "vocabulary": most + 1}
    with pytest.raises(ValueError, match=f"a vocabulary of {most + 1:,}"):
        export_corpus(corpus, tmp_path / "out", to=to)


def a_row(made: Path, **changes: Any) -> tuple[Row, Any]:
    corpus = Corpus(made / "latents")
    return replace(corpus[0], **changes), corpus.tokenizer


def test_slices_of_a_longer_code_are_refused(made: Path) -> None:
    row, tokenizer = a_row(made)
    check_window(row, tokenizer, "ltx")
    cut, _ = a_row(made, frames=8)  # two groups of four, behind a first frame that is elsewhere
    with pytest.raises(ValueError, match="has 2 steps for 8 frames, and a clip of these has 3"):
        check_window(cut, tokenizer, "ltx")
    joined, _ = a_row(made, settings={"window": 4})
    with pytest.raises(ValueError, match=r"joins windows of 4 frames.*--frames 4`"):
        check_window(joined, tokenizer, "ltx")


def test_ltx_refuses_frames_that_it_could_not_count(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = a_row(made, frames=4)
    monkeypatch.setattr(ExportSource, "rows", lambda source: iter([row]))
    with pytest.raises(ValueError, match=r"has 4: build another with .* --frames 5`"):
        export_corpus(made / "latents", tmp_path / "out", to="ltx")
    assert not (tmp_path / "out").exists()


def test_latents_that_are_not_finite_are_refused(made: Path) -> None:
    row, _ = a_row(made)
    source = ExportSource(corpus=Corpus(made / "latents"), format="energon")
    broken = replace(row, latents=row.latents * float("nan"))
    with pytest.raises(ValueError, match=r"0.mkv#0000 holds NaN or infinity"):
        source.latents(broken)


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_is_one_sentence_and_nothing_is_left(
    to: str, made: Path, tmp_path: Path
) -> None:
    kept = "latents" if FORMATS[to].latents else "ids"
    out = tmp_path / "out"
    out.mkdir()
    (out / "reeltok.json").write_text("what was exported before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # as a full disk would answer
    try:
        with pytest.raises(OSError, match=f"cannot write {out}: files may not become so large"):
            export_corpus(made / kept, out, to=to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "reeltok.json"]


@pytest.mark.parametrize("to", ["energon", "ltx"])
def test_latents_beyond_a_type_are_refused(
    to: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportSource, "normalised", lambda source, row: source.latents(row) * 1e6)
    with pytest.raises(ValueError, match=r"0.mkv#0000 is beyond what float16 holds: give `dtype`"):
        export_corpus(made / "latents", tmp_path / "out", to=to, dtype=torch.float16)
    assert not (tmp_path / "out").exists()


def test_what_a_layout_has_no_place_for_is_said(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(made / "ids")
    rows = [replace(row, extras={"reference.0": torch.zeros(1)}) for row in corpus]
    monkeypatch.setattr(Corpus, "__iter__", lambda self: iter(rows))
    done = export_corpus(corpus, tmp_path / "out", to="megatron")
    said = ["megatron has no place for reference: decode from the corpus itself"]
    assert done.notes == said


def test_means_are_exported_where_moments_are_kept(made: Path, tmp_path: Path) -> None:
    shaping, held = Shaping(frames=5, stride=5), opener(continuous=True)
    build(made / "clips", tmp_path / "m", shaping, held=held, coding={"keep": "moments"})
    export_corpus(tmp_path / "m", tmp_path / "out", to="fastvideo")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    found = [tensor(row, "vae_latent") for row in pq.read_table(path).to_pylist()]
    assert all(map(torch.equal, found, raw(Corpus(made / "latents"))))


def test_paths_stay_below_their_folder() -> None:
    assert safe_path("a/b.mp4#0003") == "a/b.mp4_0003"
    assert safe_path("/etc/../../x.mp4#0000") == "etc/x.mp4_0000"
    assert safe_path("https://host/a b.mp4#0001") == "https/host/a b.mp4_0001"
    assert safe_path("latent_1.mp4#0001") == "_latent_1.mp4_0001"
    assert safe_path("..#0000") == "clip_0000"


def test_what_a_clip_is_called_further_is_carried_along(made: Path) -> None:
    row, _ = a_row(made, further={"licence": "CC0", "none": None}, caption="a ball")
    said = metadata_of(row)
    assert (said["licence"], said["caption"]) == ("CC0", "a ball")
    assert "none" not in said


# ---------------------------------------------------------------- the command


def test_the_command_exports_and_says_what_is_next(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["corpus", "export", str(made / "ids"), str(tmp_path / "out"), "--to", "megatron"]
    assert main(words) == 0
    assert f"next: give Megatron --data-path {tmp_path / 'out'}/tokens" in capsys.readouterr().out
    assert main(words) == 2
    assert "exists already: give --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert main([*words[:-1], "megatorn", "--force"]) == 2
    assert "no format 'megatorn': did you mean megatron?" in capsys.readouterr().err
    assert main(["corpus", "export", str(made), str(tmp_path / "x"), "--to", "ltx"]) == 2
    assert "holds no corpus" in capsys.readouterr().err
