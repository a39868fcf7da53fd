"""Clips to a corpus: what is in it, what a second run does, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from corpus_clips import build, opener, write_clips

from reeltok.corpus import Corpus, Shaping, WindowCoding, build_corpus, plan_corpus
from reeltok.corpus.place import Place
from reeltok.corpus.texts import Texts
from reeltok.corpus.verify import verify_files
from reeltok.video.record import Video, read


def test_rows_are_the_tokens_of_their_windows(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (9, 5, 11))
    build(clips, tmp_path / "out", Shaping(frames=5, size=(32, 32)))
    corpus, tokenizer = Corpus(tmp_path / "out"), opener()("cpu")
    assert [row.id for row in corpus] == ["0.mkv#0000", "1.mkv#0000", "2.mkv#0000", "2.mkv#0001"]
    assert [corpus[i].start for i in range(4)] == [0.0, 0.0, 0.0, 0.5]
    again = corpus.decode(3, tokenizer)
    assert (len(again), again.height, again.width, again.fps) == (5, 32, 32, 10)
    clip = read(clips / "2.mkv")[5:10]
    ids = tokenizer.encode(Video(clip.frames[:, :, 4:36], clip.fps)).ids
    assert ids is not None
    assert torch.equal(corpus[3].ids, ids[0])


def test_a_broken_clip_is_a_failure_and_no_row(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5))
    (clips / "9.mp4").write_bytes(b"nothing")
    write_clips(clips, (3,), first=7)
    made = build(clips, tmp_path / "out", Shaping(frames=5))
    assert made.manifest is not None
    assert (made.manifest["rows"], made.manifest["failed"], made.manifest["short"]) == (2, 1, 1)
    failed = pq.read_table(tmp_path / "out" / "failed.parquet").to_pylist()
    assert [row["source"] for row in failed] == ["7.mkv", "9.mp4"]
    assert failed[0]["reason"] == "it has 3 frames, too short: windows have 5 frames"
    assert failed[1]["reason"].startswith("it is not a video")


def test_a_second_run_makes_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 5, 5, 5)), tmp_path / "out"
    build(clips, out, Shaping(frames=5), clips_each=1)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for name in ("shard-000002.json", "manifest.json"):
        (out / name).unlink()
    stamps = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    made = build(clips, out, Shaping(frames=5), clips_each=1)
    assert made.made == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    kept = [n for n in stamps if n.startswith(("shard-000000", "shard-000001", "shard-000003"))]
    assert all((out / name).stat().st_mtime_ns == stamps[name] for name in kept)


def test_a_shard_that_was_removed_is_missed_and_made_again(tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 5)), tmp_path / "out"
    build(clips, out, Shaping(frames=5), clips_each=1)
    whole = (out / "shard-000001.parquet").read_bytes()
    (out / "shard-000001.parquet").unlink()
    corpus = Corpus(out)
    assert corpus[0].id == "0.mkv#0000"
    for work in (lambda: corpus[1], lambda: list(corpus)):
        with pytest.raises(FileNotFoundError, match=r"shard-000001.parquet is missing: .* build"):
            work()
    assert build(clips, out, Shaping(frames=5), clips_each=1).made == 1
    assert (out / "shard-000001.parquet").read_bytes() == whole


def test_rows_are_asked_for_by_whole_numbers(tmp_path: Path) -> None:
    build(write_clips(tmp_path / "clips", (5, 5)), tmp_path / "out", Shaping(frames=5))
    corpus = Corpus(tmp_path / "out")
    for number in (-1, np.int64(1), torch.tensor(1)):
        assert corpus[number].id == "1.mkv#0000"
        assert corpus.bucket(number) == corpus.bucket(0)
    for wrong in ("1.mkv#0000", slice(0, 2), 1.0, None, [0]):
        for ask in (corpus.__getitem__, corpus.bucket):
            with pytest.raises(ValueError, match=r"rows have whole numbers, .* not "):
                ask(wrong)
    with pytest.raises(IndexError, match="row 2 of 2"):
        corpus[2]


def test_another_shaping_is_refused_and_both_are_named(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (9,))
    build(clips, tmp_path / "out", Shaping(frames=5))
    with pytest.raises(ValueError, match="begun differently: with `frames` 5, now it is 9"):
        build(clips, tmp_path / "out", Shaping(frames=9))
    write_clips(clips, (9,), first=5)
    with pytest.raises(ValueError, match="from 1 clips, now there are 2"):
        build(clips, tmp_path / "out", Shaping(frames=5))


def test_an_address_holds_a_corpus_too(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5))
    build(clips, tmp_path / "out", Shaping(frames=5), clips_each=1)
    build(clips, "memory://corpus/here", Shaping(frames=5), clips_each=1)
    place = Place("memory://corpus/here")
    assert place.names() == {file.name for file in (tmp_path / "out").iterdir()}
    for file in (tmp_path / "out").iterdir():
        assert place.read(file.name) == file.read_bytes()
    assert [row.id for row in Corpus(place)] == ["0.mkv#0000", "1.mkv#0000"]


def test_nothing_in_a_corpus_says_when_or_where_it_was_made(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5,))
    build(clips, tmp_path / "out", Shaping(frames=5))
    for name in ("manifest.json", "shard-000000.json", "shard-000000.parquet"):
        assert str(tmp_path).encode() not in (tmp_path / "out" / name).read_bytes()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"] == 1


def write_texts(folder: Path, names: str, width: int, value: float = 1.0) -> Path:
    folder.mkdir()
    for name in names:
        np.save(folder / f"{name}.npy", np.full((2, width), value, np.float32))
    return folder


def test_embeddings_of_another_encoder_are_refused(tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 5)), tmp_path / "out"
    first, other = (write_texts(tmp_path / str(width), "01", width) for width in (3, 4))
    one: dict[str, Any] = {"texts": first, "clips_each": 1, "share": (0, 2)}
    build(clips, out, Shaping(frames=5), **one)
    said = (
        r"begun differently: with `text` of 2 clips, 3 wide \(\w+\), now it is of 2 clips, 4 wide"
    )
    with pytest.raises(ValueError, match=said):
        build(clips, out, Shaping(frames=5), **{**one, "texts": other})
    alike = write_texts(tmp_path / "alike", "01", 3, 2.0)
    with pytest.raises(ValueError, match=r"3 wide \(\w+\), now it is of 2 clips, 3 wide"):
        build(clips, out, Shaping(frames=5), **{**one, "texts": alike})
    with pytest.raises(ValueError, match=r"with `text` of 2 clips, .* now it is none"):
        build(clips, out, Shaping(frames=5), clips_each=1)
    build(clips, out, Shaping(frames=5), **{**one, "share": (1, 2)})
    assert [row.text.shape for row in Corpus(out) if row.text is not None] == [(2, 3)] * 2


def test_an_earlier_plan_of_embeddings_is_gone_on_with(tmp_path: Path) -> None:
    """Versions before said no more than that there are some."""
    clips, texts = write_clips(tmp_path / "clips", (5, 5)), write_texts(tmp_path / "t", "01", 3)
    held = opener()
    options: Any = {"shaping": Shaping(frames=5), "coding": WindowCoding(clips=1)}
    plan = plan_corpus(clips, held, texts=texts, **options)
    old = replace(plan, texts=Texts(folder=str(texts)))
    assert old.record["build"]["text"] is True
    build_corpus(old, tmp_path / "out", held, share=(0, 2))
    assert build_corpus(plan, tmp_path / "out", held).manifest is not None
    assert verify_files(Place(tmp_path / "out")).faults == ()


def test_clips_without_an_embedding_are_told(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5))
    options: Any = {"shaping": Shaping(frames=5), "coding": WindowCoding()}
    some = plan_corpus(clips, opener(), texts=write_texts(tmp_path / "t", "1", 3), **options)
    assert some.notes == (f"1 of 2 clips have an embedding in {tmp_path / 't'}",)
    with pytest.raises(FileNotFoundError, match=r"no embedding of any clip: .* 0.npy or"):
        plan_corpus(clips, opener(), texts=write_texts(tmp_path / "u", "", 3), **options)
