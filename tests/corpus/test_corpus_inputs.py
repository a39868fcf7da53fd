"""What a corpus is built from: lists, shards, pictures, LeRobot's episodes, and what is said."""

import json
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corpus_clips import build, opener, write_clips
from moving_clips import moving
from PIL import Image

from reeltok.corpus import Bucket, Corpus, Row, Shaping
from reeltok.corpus.sources import find_sources
from reeltok.data.find import find_clips
from reeltok.video.record import Video, write

WINDOWS = Shaping(frames=5)


def rows_of(data: Any, out: Path, shaping: Shaping = WINDOWS, **options: Any) -> list[Row]:
    build(data, out, shaping, **options)
    return list(Corpus(out))


def test_a_list_says_where_clips_lie_and_what_they_show(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (30, 12))
    address = (clips / "1.mkv").as_uri()
    lines = [
        {"video": "0.mkv", "start": 1.0, "end": 2.0, "caption": "waves", "class": "a", "fps": 9},
        {"video": address, "caption": None, "class": "b", "fps": None, "stars": 5},
    ]
    (clips / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = rows_of(clips / "list.jsonl", tmp_path / "out")
    about = [(row.id, row.start, row.group, row.caption) for row in rows]
    assert about == [
        ("0.mkv#0000", 1.0, "a", "waves"),
        ("0.mkv#0001", 1.5, "a", "waves"),
        (f"{address}#0000", 0.0, "b", None),
        (f"{address}#0001", 0.5, "b", None),
    ]
    assert [dict(row.further) for row in rows[::2]] == [
        {"given_fps": "9", "stars": None},
        {"given_fps": "", "stars": "5"},
    ]
    table = pa.Table.from_pylist([{"path": "1.mkv", "text": "a text", "n": 3}])
    pq.write_table(table, clips / "list.parquet")
    (row, _) = rows_of(clips / "list.parquet", tmp_path / "other")
    assert (row.caption, dict(row.further)) == ("a text", {"n": "3"})


def test_a_corpus_holds_no_clips_and_that_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(write_clips(tmp_path / "clips", (5,)), out, WINDOWS)
    said = "out is a corpus of tokens and holds neither .*: give clips, .* are trained on them"
    with pytest.raises(ValueError, match=said):
        find_clips(out)


def test_a_list_without_a_column_of_files_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("clip,words\n0.mkv,none\n")
    with pytest.raises(ValueError, match=r"list.csv has the columns clip, words: one of file, "):
        build(tmp_path / "list.csv", tmp_path / "out", WINDOWS)


def test_an_end_cuts_a_clip_at_its_time(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (30,))
    (clips / "list.csv").write_text("file,start,end\n0.mkv,0.5,1.2\n0.mkv,2.5,9\n")
    first, second = find_clips(clips / "list.csv")
    whole = find_clips(clips / "0.mkv")[0].read()
    assert torch.equal(first.read().frames, whole.frames[5:12])
    assert len(first.read(fps=5)) == 4
    assert len(first.read(start=0.3)) == 4
    assert len(second.read()) == 5
    (clips / "bad.csv").write_text("file,start,end\n0.mkv,2,1\n")
    with pytest.raises(ValueError, match="row 1: it ends at 1 s, before it starts at 2 s"):
        find_clips(clips / "bad.csv")


def test_a_shard_carries_what_is_said_of_its_samples(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (
            ("x/0.mkv", (clips / "0.mkv").read_bytes()),
            ("x/0.txt", b"a caption\n"),
            ("x/0.json", json.dumps({"robot": "arm", "n": 2}).encode()),
            ("x/1.mkv", (clips / "1.mkv").read_bytes()),
            ("x/1.cls", b"7"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, BytesIO(data))
    first, second = rows_of(tmp_path / "a.tar", tmp_path / "out")
    assert (first.id, first.caption) == ("a.tar/x/0.mkv#0000", "a caption")
    assert dict(first.further) == {"n": "2", "robot": "arm"}
    assert (second.caption, dict(second.further)) == (None, {"n": None, "robot": None})


def test_a_sample_is_taken_from_its_shard_whatever_it_says_of_its_origin(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5,))
    held = {
        "0": {"caption": "waves", "url": "https://example.org/a.mp4"},
        "1": {"start": 3.5, "end": 7, "name": "a", "path": "b", "file": "c"},
    }
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, said in held.items():
            tar.add(clips / "0.mkv", f"{key}.mkv")
            (clips / "said.json").write_text(json.dumps(said))
            tar.add(clips / "said.json", f"{key}.json")
    first, second = rows_of(tmp_path / "a.tar", tmp_path / "out")
    assert (first.id, first.caption, first.start) == ("a.tar/0.mkv#0000", "waves", 0.0)
    kept = lambda row: {name: value for name, value in row.further.items() if value is not None}
    assert kept(first) == {"url": "https://example.org/a.mp4"}
    assert (second.id, second.start) == ("a.tar/1.mkv#0000", 0.0)
    assert kept(second) == {"given_start": "3.5", "end": "7", "name": "a", "path": "b", "file": "c"}


def test_a_text_beside_a_video_is_its_caption(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5))
    (clips / "1.txt").write_text("beside it\n")
    assert [row.caption for row in rows_of(clips, tmp_path / "out")] == [None, "beside it"]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, BytesIO(data))
    return path


def test_captions_of_names_with_dots_are_their_own(tmp_path: Path) -> None:
    """The first dot ends webdataset's key, and many names hold times."""
    names = ["talk_3.2_4.5", "talk_3.6_9.0", "talk_3.9_13.5"]
    held = {f"{name}.mkv": b"" for name in names}
    held |= {f"{name}.txt": name.encode() for name in names[:2]}
    held |= {"pair_1.0.mkv": b"", "pair_1.0.txt": b"its own", "pair_1.5.mkv": b""}
    held |= {"key.left.mkv": b"", "key.txt": b"of the key", "only.mkv": b"", "only.a.txt": b"one"}
    found = find_sources(pack(tmp_path / "a.tar", held))
    said = {source.clip.member: source.caption for source in found}
    assert said == {
        "talk_3.2_4.5.mkv": "talk_3.2_4.5",
        "talk_3.6_9.0.mkv": "talk_3.6_9.0",
        "talk_3.9_13.5.mkv": None,
        "pair_1.0.mkv": "its own",
        "pair_1.5.mkv": None,
        "key.left.mkv": "of the key",
        "only.mkv": "one",
    }


@pytest.mark.parametrize("place", ["shard", "folder"])
def test_captions_that_are_not_utf8_are_refused(tmp_path: Path, place: str) -> None:
    """Else what cannot be read becomes a question mark, and goes into a training set."""
    films = {"a.mkv": b"", "a.txt": "\ufeffa dog".encode()}
    data = tmp_path / "a.tar" if place == "shard" else tmp_path / "films"

    def lay(files: dict[str, bytes]) -> None:
        if place == "shard":
            pack(data, files)
            return
        data.mkdir(exist_ok=True)
        for name, content in files.items():
            (data / name).write_bytes(content)

    lay(films)
    assert [source.caption for source in find_sources(data)] == ["a dog"]
    lay(films | {"a.txt": "un caf\xe9".encode("latin-1")})
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text .*save it as UTF-8"):
        find_sources(data)


def test_what_a_sample_says_may_hold_nan_and_must_be_json(tmp_path: Path) -> None:
    files = {"a.mkv": b"", "a.json": b'{"caption": "x", "score": NaN}', "b.mkv": b""}
    first, second = find_sources(pack(tmp_path / "a.tar", files))
    assert (first.caption, dict(first.further), second.caption) == ("x", {"score": ""}, None)
    with pytest.raises(ValueError, match=r"a\.tar/b\.json is not JSON .*mend it, or remove it"):
        find_sources(pack(tmp_path / "a.tar", files | {"b.json": b'{"caption": '}))


def lerobot(folder: Path, lengths: tuple[int, ...]) -> Path:
    """A data set of LeRobot's version 3: all episodes in one mp4 (here mkv, without loss)."""
    camera = "observation.images.top"
    inner = f"videos/{camera}/chunk-000/file-000.mkv"
    (folder / inner).parent.mkdir(parents=True)
    write(moving(sum(lengths)), folder / inner, lossless=True)
    info = {
        "codebase_version": "v3.0",
        "fps": 10,
        "features": {camera: {"dtype": "video"}, "action": {"dtype": "float32"}},
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mkv",
    }
    begin, rows = 0, []
    for number, length in enumerate(lengths):
        about = {"chunk_index": 0, "file_index": 0}
        about |= {"from_timestamp": begin / 10, "to_timestamp": (begin + length) / 10}
        videos = {f"videos/{camera}/{name}": value for name, value in about.items()}
        rows.append({"episode_index": number, "tasks": [f"task {number}"], **videos})
        begin += length
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "meta/episodes/chunk-000/file-000.parquet")
    return folder


def test_episodes_of_lerobot_are_cut_out_of_their_file(tmp_path: Path) -> None:
    folder = lerobot(tmp_path / "robot", (10, 7, 13))
    clips = find_clips(folder)
    whole = moving(30).frames
    for clip, (begin, end) in zip(clips, ((0, 10), (10, 17), (17, 30)), strict=True):
        assert torch.equal(clip.read().frames, whole[begin:end])
    rows = rows_of(folder, tmp_path / "out")
    assert [row.start for row in rows] == [0.0, 0.5, 1.0, 1.7, 2.2]
    assert rows[2].caption == "task 1"
    assert rows[2].further == {"episode_index": "1", "video_key": "observation.images.top"}
    (folder / "meta/info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(ValueError, match=r"LeRobot data set of version v2.1: convert it to v3.0"):
        find_clips(folder)


def test_pictures_are_clips_of_one_frame_in_their_own_bucket(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (9,))
    write(Video(moving(1, 48, 64).frames), clips / "still.png")
    (clips / "list.csv").write_text("file\n0.mkv\nstill.png\n")
    buckets = tuple(map(Bucket.of, ("32x32x5", "40x32x9", "32x24x1", "24x32x1")))
    still, video = rows_of(clips / "list.csv", tmp_path / "out", Shaping(buckets=buckets))
    assert (video.bucket, video.fps) == ("40x32x9", 10.0)
    assert (still.bucket, still.fps, still.start) == ("32x24x1", None, 0.0)
    assert (still.source_height, still.source_width) == (48, 64)
    plain = rows_of(clips / "list.csv", tmp_path / "plain", Shaping(frames=9, size=(32, 32)))
    assert [row.bucket for row in plain] == ["32x32x1", "32x32x9"]


def test_an_animated_picture_is_a_clip(tmp_path: Path) -> None:
    first, *more = (Image.fromarray(frame.numpy()) for frame in moving(9, 48, 64).frames)
    (tmp_path / "clips").mkdir()
    path = tmp_path / "clips" / "a.webp"
    first.save(path, save_all=True, append_images=more, duration=100, lossless=True)
    (row,) = rows_of(path.parent, tmp_path / "out", Shaping(frames=9, size=(32, 32)))
    assert (row.source, row.bucket, row.fps) == ("a.webp", "32x32x9", 10.0)


def test_a_picture_of_several_frames_is_a_clip_whatever_its_name(tmp_path: Path) -> None:
    first, *more = (Image.fromarray(frame.numpy()) for frame in moving(9, 48, 64).frames)
    (tmp_path / "clips").mkdir()
    for name in ("a.png", "b.tiff"):
        first.save(tmp_path / "clips" / name, save_all=True, append_images=more, duration=100)
    write(moving(9), tmp_path / "video.mp4")
    (tmp_path / "video.mp4").rename(tmp_path / "clips" / "c.png")
    first.save(tmp_path / "clips" / "d.png")
    (tmp_path / "clips" / "list.csv").write_text("file\na.png\nb.tiff\nc.png\nd.png\n")
    rows = rows_of(
        tmp_path / "clips" / "list.csv", tmp_path / "out", Shaping(frames=5, fps=10, size=(32, 32))
    )
    found = [(row.source, row.frames, row.fps) for row in rows]
    moved = [(name, 5, 10.0) for name in ("a.png", "b.tiff", "c.png")]
    assert sorted(found) == [*moved, ("d.png", 1, None)]


def test_windows_are_cut_as_asked(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (23,))
    starts = lambda **how: [
        round(row.start * 10) for row in rows_of(clips, tmp_path / str(how), Shaping(**how))
    ]
    assert starts(frames=5) == [0, 5, 10, 15]
    assert starts(frames=5, stride=9) == [0, 9, 18]
    assert starts(frames=9, stride=3) == [0, 3, 6, 9, 12]
    assert starts(frames=5, fps=5.0) == [0, 10]
    (whole,) = rows_of(clips, tmp_path / "whole", Shaping())
    assert (whole.frames, whole.bucket) == (21, "40x32x21")
    (small,) = rows_of(clips, tmp_path / "small", Shaping(size=16))
    assert small.bucket == "16x16x21"
    assert rows_of(clips, tmp_path / "long", Shaping(frames=5, shortest=24)) == []


@pytest.mark.slow
def test_no_window_goes_across_a_cut(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect", reason="needs scenedetect (extra scenes)")
    dark, bright = torch.full((20, 32, 40, 3), 10), torch.full((24, 32, 40, 3), 240)
    bright[..., 0] = 20
    frames = torch.cat([dark, bright]).to(torch.uint8)
    (tmp_path / "clips").mkdir()
    write(Video(frames, 10.0), tmp_path / "clips" / "a.mkv", lossless=True)
    cut = lambda name, **how: [
        (round(r.start * 10), r.frames)
        for r in rows_of(tmp_path / "clips", tmp_path / name, Shaping(scenes=True, **how))
    ]
    assert cut("windows", frames=9) == [(0, 9), (9, 9), (20, 9), (29, 9)]
    assert cut("whole") == [(0, 17), (20, 21)]
    assert cut("long", frames=9, shortest=22) == [(20, 9), (29, 9)]


def test_latents_and_moments_are_raw_and_measured(tmp_path: Path) -> None:
    clips, held = write_clips(tmp_path / "clips", (5, 9)), opener(continuous=True)
    options: dict[str, Any] = {"held": held, "coding": {"dtype": "float32", "batch": 2}}
    build(clips, tmp_path / "latents", WINDOWS, **options)
    corpus, tokenizer = Corpus(tmp_path / "latents"), held("cpu")
    latents = [row.latents.double() for row in corpus if row.latents is not None]
    values = torch.cat([each.flatten(1) for each in latents], dim=1)
    assert corpus.statistics is not None
    assert corpus.statistics["from"] == "measured"
    assert torch.allclose(values.mean(1), torch.tensor(corpus.statistics["mean"]).double())
    assert len(corpus.decode(0, tokenizer)) == 5
    options["coding"]["keep"] = "moments"
    (mean, _) = rows_of(clips, tmp_path / "moments", **options)
    assert mean.latents is not None
    assert mean.log_variance is not None
    assert torch.allclose(mean.latents.double(), latents[0], atol=1e-5)
    assert mean.log_variance.shape == mean.latents.shape
    with pytest.raises(ValueError, match="continuous and has no ids: give `keep` latents"):
        build(clips, tmp_path / "ids", WINDOWS, held=held, coding={"keep": "ids"})


def test_an_embedding_for_each_clip_is_carried_along(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5, 5))
    (tmp_path / "texts").mkdir()
    np.save(tmp_path / "texts" / "0.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    np.save(tmp_path / "texts" / "2.npy", np.arange(6))
    first, second = rows_of(clips, tmp_path / "out", texts=tmp_path / "texts")
    assert first.text is not None
    assert first.text.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.text is None
    (failed,) = pq.read_table(tmp_path / "out" / "failed.parquet").to_pylist()
    assert "an embedding is l d" in failed["reason"]


def test_segments_of_one_address_have_names_of_their_own(tmp_path: Path) -> None:
    """By which rows, labels and a look at a corpus know them."""
    listed, address = tmp_path / "list.csv", "https://example.org/a.mp4"
    rows = [f"{address},0,1,red", f"{address},2,3,blue"]
    listed.write_text("\n".join(["url,start,end,label", *rows]) + "\n")
    found = find_sources(listed)
    assert [source.name for source in found] == [address, f"{address} (2)"]
    assert [source.clip.start for source in found] == [0, 2]
    assert [source.group for source in found] == ["red", "blue"]


def test_the_class_of_a_sample_is_its_own(tmp_path: Path) -> None:
    """The name of the shard had stood in its place."""
    clips = write_clips(tmp_path / "clips", (5,))
    (clips / "said.json").write_text('{"label": "dive"}')
    (clips / "0.cls").write_text("7")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, said in {"0": "0.cls", "1": "said.json", "2": ""}.items():
            tar.add(clips / "0.mkv", f"{key}.mkv")
            if said:
                tar.add(clips / said, f"{key}{Path(said).suffix}")
    assert [row.group for row in rows_of(tmp_path / "a.tar", tmp_path / "out")] == [
        "7",
        "dive",
        "a",
    ]


def test_what_lies_beside_a_clip_is_known_under_a_list_too(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5,))
    (clips / "0.txt").write_text("a red ball\n")
    with tarfile.open(tmp_path / "w.tar", "w") as shard:
        shard.add(clips / "0.mkv", "0.mkv")
        shard.add(clips / "0.txt", "0.txt")
        for name, data in (("0.cls", b"cats"), ("0.json", b'{"Stars": 5, "file": "else"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, BytesIO(data))
    (tmp_path / "w.csv").write_text("file,group\nw.tar,w\nclips/0.mkv,w\n")
    shard, file = find_sources(tmp_path / "w.csv")
    assert (shard.caption, shard.group, dict(shard.further)["Stars"]) == ("a red ball", "cats", "5")
    assert (file.caption, file.group) == ("a red ball", "w")
    (tmp_path / "own.csv").write_text(
        "file,caption,class,stars\nw.tar,blue,dogs,\nclips/0.mkv,,,\n"
    )
    shard, file = find_sources(tmp_path / "own.csv")
    assert (shard.caption, shard.group, shard.further["Stars"]) == ("blue", "dogs", "5")
    assert (file.caption, file.group) == ("a red ball", "")


def test_a_column_of_classes_is_found_whatever_its_capitals(tmp_path: Path) -> None:
    write_clips(tmp_path, (5, 5))
    (tmp_path / "l.csv").write_text("file,Topic,label\n0.mkv,sea,one\n1.mkv,,two\n")
    for column in ("Topic", "topic"):
        sources = find_sources(tmp_path / "l.csv", column=column)
        found = [(source.group, dict(source.further)) for source in sources]
        assert found == [("sea", {"label": "one"}), ("", {"label": "two"})]


def test_a_column_that_no_clip_has_is_refused(tmp_path: Path) -> None:
    """Folders and shards had been taken without it."""
    clips = write_clips(tmp_path / "clips", (5,))
    for column in ("topic", "group"):
        said = rf"no clip of .*clips has the column '{column}': there are"
        with pytest.raises(ValueError, match=said):
            find_sources(clips, column=column)
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(clips / "0.mkv", "0.mkv")
        (clips / "0.json").write_text('{"Topic": "sea"}')
        shard.add(clips / "0.json", "0.json")
    with pytest.raises(ValueError, match="has the column 'topics': did you mean 'Topic'"):
        find_sources(tmp_path / "a.tar", column="topics")
    assert find_sources(tmp_path / "a.tar", column="topic")[0].group == "sea"


def test_no_column_is_lost_to_another_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("file,Group,group,Class\n0.mkv,A,b,C\n")
    (source,) = find_sources(tmp_path / "l.csv")
    assert (source.group, source.further) == ("b", {"Group": "A", "Class": "C"})
    (tmp_path / "l.csv").write_text("file,id,given_id\n0.mkv,7,8\n")
    with pytest.raises(ValueError, match="id and given_id would both be given_id: rename one"):
        find_sources(tmp_path / "l.csv")


def test_windows_of_a_varying_rate_have_their_own(tmp_path: Path) -> None:
    times = torch.cat([torch.arange(10) / 10, 1 + torch.arange(10) / 2]).double()
    video = moving(20)
    write(replace(video, times=times), tmp_path / "v.mkv", lossless=True)
    rows = rows_of(tmp_path / "v.mkv", tmp_path / "out")
    assert [row.fps for row in rows] == pytest.approx([10, 10, 2, 2], rel=0.01)


def test_pictures_are_shorter_than_the_shortest(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "clips" / "a.png")
    built = build(tmp_path / "clips", tmp_path / "out", Shaping(shortest=9))
    assert built.manifest is not None
    assert (built.manifest["rows"], built.manifest["short"]) == (0, 1)


def test_addresses_of_plain_lists_are_fetched_too(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5,))
    address = (clips / "0.mkv").as_uri()
    for name, text in (("a.txt", f"{address} 3\n"), ("b.csv", f"file,group\n {address},3\n")):
        (tmp_path / name).write_text(text)
        (source,) = find_sources(tmp_path / name)
        assert (source.clip.address, source.group, len(source.clip.read())) == (address, "3", 5)


def test_pictures_at_the_top_of_a_shard_are_a_clip(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    with tarfile.open(tmp_path / "frames.tar", "w") as shard:
        for number in range(5):
            shard.add(tmp_path / "0.png", f"{number:04d}.png")
    (row,) = rows_of(tmp_path / "frames.tar", tmp_path / "out")
    assert (row.id, row.frames) == ("frames.tar#0000", 5)
