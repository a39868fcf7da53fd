"""What is checked of a corpus, and what is said of one."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from corpus_clips import build, opener, write_clips

from reeltok.cli.main import main
from reeltok.corpus import Corpus, Shaping, WindowCoding, plan_corpus
from reeltok.corpus.estimate import estimate_build
from reeltok.corpus.finish import finish_corpus
from reeltok.corpus.place import Place
from reeltok.corpus.verify import contact_sheet, draw_rows, look, verify_files
from reeltok.video.record import Video, write

COUNTS = ("frames", "stride", "shortest", "batch", "shard-clips", "threads", "tile", "jobs")
SHAPING = Shaping(frames=5, size=(32, 32))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = write_clips(tmp_path / "clips", (5, 11, 5))
    build(folder, tmp_path / "out", SHAPING, clips_each=1)
    return folder


def test_a_whole_corpus_has_no_faults_and_its_rows_are_made_again(clips: Path) -> None:
    out = clips.parent / "out"
    found = verify_files(Place(out))
    assert (found.files, found.rows, found.faults) == (3, 4, ())
    corpus, held = Corpus(out), opener()
    plan = plan_corpus(clips, held, shaping=SHAPING, coding=WindowCoding(clips=1))
    samples = look(corpus, held("cpu"), draw_rows(corpus, 4), plan)
    assert [sample.row.id for sample in samples] == [row.id for row in corpus]
    assert all(sample.same == 1.0 and 0 < (sample.psnr or 0) < 60 for sample in samples)
    sheet = contact_sheet(samples, clips.parent / "sheet.png")
    assert sheet.stat().st_size > 1000
    (bare,) = look(corpus, held("cpu"), [0])
    assert (bare.psnr, len(bare.again)) == (None, 5)


def test_a_shard_that_was_altered_or_deleted_is_named(clips: Path) -> None:
    out = clips.parent / "out"
    shard = out / "shard-000001.parquet"
    held = bytearray(shard.read_bytes())
    held[len(held) // 2] ^= 1
    shard.write_bytes(held)
    (out / "shard-000000.parquet").unlink()
    (out / "shard-000002.json").unlink()
    faults = verify_files(Place(out)).faults
    assert [fault.split(": ")[0] for fault in faults] == [
        "shard 0 is missing",
        "shard 2 is missing",
        f"{shard} was altered after it was written",
    ]
    assert main(["corpus", "verify", str(out)]) == 2
    (out / "shard-000001.json").unlink()
    build(clips, out, SHAPING, clips_each=1)
    assert verify_files(Place(out)).faults == ()


def test_an_estimate_is_of_clips_from_all_over_the_data(tmp_path: Path) -> None:
    write_clips(tmp_path, (5,) * 6)
    held = opener()
    plan = plan_corpus(tmp_path, held, shaping=SHAPING, coding=WindowCoding(clips=2))
    found = estimate_build(plan, held, workers=2)
    assert (found.clips, found.all_clips, found.shards, found.all_rows) == (2, 6, 3, 6)
    assert found.bytes == 3 * found.size
    assert found.hours == pytest.approx(2 * found.seconds / 3600)
    assert "2 such workers" in found.assumption


def test_commands_build_describe_and_verify(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips", (17, 20)), tmp_path / "out"
    options = ["--frames", "17", "--size", "32x32"]
    assert main(["corpus", "build", str(clips), str(out), *options]) == 0
    assert "2 shards" not in capsys.readouterr().out
    assert main(["corpus", "info", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["lengths"], told["sizes"]) == (2, {"17": 2}, {"32x32": 2})
    assert main(["corpus", "verify", str(out), "--data", str(clips), "--samples", "1"]) == 0
    assert "100.00% of tokens made again" in capsys.readouterr().out
    assert main(["corpus", "plan", str(clips), *options, "--workers", "3"]) == 0
    assert "3 such workers" in capsys.readouterr().out
    assert main(["corpus", "plan", str(clips), *options, "--latents", "fp32"]) == 2
    assert "--latents is for latents, and ids are kept" in capsys.readouterr().err
    assert main(["corpus", "build", str(clips), str(out), "--frames", "9"]) == 2
    assert "begun differently: with --frames 17, now it is 9" in capsys.readouterr().err


def test_a_comparison_without_clips_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips", (17, 20)), tmp_path / "out"
    assert main(["corpus", "build", str(clips), str(out), "--frames", "17", "--size", "32x32"]) == 0
    (clips / "0.mkv").rename(clips / "other.mkv")
    words = ["corpus", "verify", str(out), "--data", str(clips)]
    assert main(words) == 2
    found = capsys.readouterr()
    assert "2 rows decoded, PSNR" in found.out
    assert "1 without their clip" in found.out
    said = f"{clips} is not what {out} was built from: it has no window of 1 sampled row, such as "
    assert f"{said}0.mkv#0000; name the clips that it was, or build it again" in found.err
    (clips / "1.mkv").unlink()
    assert main(words) == 2
    found = capsys.readouterr()
    assert "2 rows decoded, 2 without their clip" in found.out
    assert "it has no window of 2 sampled rows, such as 0.mkv#0000; name" in found.err
    assert main([*words, "--samples", "0"]) == 2
    assert "--data is for sampled rows, and --samples is 0: leave it out" in capsys.readouterr().err
    assert main(["corpus", "verify", str(out)]) == 0
    assert "without their clip" not in capsys.readouterr().out


def test_other_videos_of_the_same_names_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 5)), tmp_path / "out"
    assert main(["corpus", "build", str(clips), str(out), "--frames", "5", "--size", "32x32"]) == 0
    frames = torch.randint(0, 255, (5, 32, 40, 3), generator=torch.Generator().manual_seed(0))
    write(Video(frames.to(torch.uint8), 10.0), clips / "1.mkv", lossless=True)
    assert main(["corpus", "verify", str(out), "--data", str(clips)]) == 2
    said = "less than 50% of the tokens of 1 sampled row, such as 1.mkv#0000, are made again"
    assert f"{clips} is not what {out} was built from: {said}; name" in capsys.readouterr().err


def test_clips_without_a_row_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips, out = write_clips(tmp_path / "clips", (17, 5)), tmp_path / "out"
    (clips / "cut\x1b[31m.mp4").write_bytes(b"no video")
    options = ["--frames", "17", "--size", "32x32"]
    assert main(["corpus", "build", str(clips), str(out), *options]) == 2
    assert f"1 of 3 clips could not be read: `reeltok corpus info {out}`" in capsys.readouterr().err
    assert main(["corpus", "info", str(out)]) == 0
    *_, head, first, second = capsys.readouterr().out.splitlines()
    assert head == "left out"
    assert {"1.mkv: it has 5 frames, too short" in line for line in (first, second)} == {
        True,
        False,
    }
    assert "\x1b" not in first + second
    assert "cut" in first + second
    (out / "failed.parquet").unlink()
    assert main(["corpus", "info", str(out)]) == 2
    assert "failed.parquet is missing or damaged: `reeltok corpus finish" in capsys.readouterr().err


def test_a_corpus_of_no_row_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 7)), tmp_path / "out"
    words = ["corpus", "build", str(clips), str(out), "--frames", "101"]
    said = f"{out} has no rows: no clip gives a window, such as 0.mkv (it has 5 frames, too short: "
    for asked in (words, words, ["corpus", "finish", str(out)]):
        assert main(asked) == 2
        assert f"{said}windows have 101 frames); build it elsewhere" in capsys.readouterr().err


def test_bad_options_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(tmp_path, (5,))
    for options, said in (
        (["--buckets", "32x32"], "'32x32' is not a bucket: give width x height x frames"),
        (["--buckets", "32x32x6"], "6 frames are not whole groups of default: give 5 or 9"),
        (["--buckets", "32x33x5"], "multiples of 8 and 8"),
        (["--size", "64x63"], "64x63 (height x width) is not whole cells of default"),
        (["--shard", "3/3"], "--shard 3/3 is not a share: give I/N, from 0/N up to N-1/N"),
        (["--keep", "all"], "--keep all is not known: give ids, latents or moments"),
        (["--keep", "moments"], "is discrete and has no variance"),
        (["--stride", "5"], "--stride 5 goes with windows"),
        (["--latents", "fp32"], "--latents is for latents, and ids are kept: leave it out"),
        (["--fps", "0"], "--fps 0 is not a rate: give frames per second above 0"),
        (["--decoders", "-1"], "invalid value for '--decoders'"),
        *(([f"--{name}", "0"], f"invalid value for '--{name}'") for name in COUNTS),
    ):
        assert main(["corpus", "build", str(tmp_path), str(tmp_path / "out"), *options]) == 2
        err = capsys.readouterr().err
        assert said in err, err
        assert err.count("\n") == 1
    assert main(["corpus", "info", str(tmp_path)]) == 2
    assert "holds no corpus" in capsys.readouterr().err


def test_a_corpus_does_not_lie_among_its_clips_or_at_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is said before a tokenizer is opened."""
    monkeypatch.setattr("reeltok.corpus.run.plan_corpus", None)
    (tmp_path / "a.mp4").touch()
    for out, said in (
        (tmp_path / "a.mp4", "a.mp4 is a file, and a corpus is a folder: name another OUT"),
        (tmp_path / "a.mp4" / "out", "a.mp4 is not a folder, so "),
        (tmp_path / ".", f"{tmp_path} is what is read ({tmp_path}): name another output"),
    ):
        assert main(["corpus", "build", str(tmp_path), str(out), "--frames", "5"]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_corpus_that_is_made_again_in_part_is_not_read_as_it_was(tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 11, 5)), tmp_path / "out"
    build(clips, out, SHAPING, clips_each=1)
    write_clips(clips, (11,))
    (out / "shard-000000.json").unlink()
    (out / "shard-000001.json").unlink()
    made = build(clips, out, SHAPING, clips_each=1, share=(0, 2))
    assert (made.missing, made.manifest) == (1, None)
    with pytest.raises((ValueError, FileNotFoundError), match="finish"):
        Corpus(out)
    build(clips, out, SHAPING, clips_each=1)
    assert (len(Corpus(out)), verify_files(Place(out)).faults) == (5, ())


def test_a_manifest_of_other_files_is_a_fault(clips: Path) -> None:
    out = clips.parent / "out"
    kept = (out / "manifest.json").read_text()
    write_clips(clips, (11,))
    (out / "shard-000000.json").unlink()
    build(clips, out, SHAPING, clips_each=1)
    (out / "manifest.json").write_text(kept)
    assert "manifest.json is of other files: `corpus finish`" in verify_files(Place(out)).faults[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows", 1),
        ("buckets", {"32x32x9": 4}),
        ("statistics", {"from": "measured", "mean": [7.0], "std": [1e-3]}),
        ("note", "added"),
    ],
)
def test_every_field_of_the_manifest_is_compared(clips: Path, key: str, value: object) -> None:
    out = clips.parent / "out"
    held = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**held, key: value}))
    (fault,) = verify_files(Place(out)).faults
    assert fault == f"{out}/manifest.json is of other {key}: `corpus finish` makes it again"
    finish_corpus(Place(out))
    assert verify_files(Place(out)).faults == ()


def test_the_tables_of_a_corpus_are_those_of_its_shards(clips: Path) -> None:
    out = clips.parent / "out"
    table = pq.read_table(out / "index.parquet")
    for changed in (table.slice(1), table.take([1, 0, 2, 3])):
        pq.write_table(changed, out / "index.parquet")
        (fault,) = verify_files(Place(out)).faults
        assert fault.startswith(f"{out}/index.parquet is missing or not as its shards say: ")
    (out / "index.parquet").write_bytes(b"garbage")
    (out / "failed.parquet").unlink()
    assert len(verify_files(Place(out)).faults) == 2
    (out / "manifest.json").write_text("{}")
    assert "manifest.json was altered" in verify_files(Place(out)).faults[0]
    finish_corpus(Place(out))
    assert verify_files(Place(out)).faults == ()


def test_no_file_of_an_earlier_making_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reeltok.corpus.shard.FILE_ROWS", 1)
    clips, out = write_clips(tmp_path / "clips", (17,)), tmp_path / "out"
    build(clips, out, SHAPING)
    assert len(list(out.glob("shard-*.parquet"))) == 3
    kept = (out / "shard-000000-2.parquet").read_bytes()
    write_clips(clips, (5,))
    (out / "shard-000000.json").unlink()
    build(clips, out, SHAPING)
    assert [path.name for path in out.glob("shard-*.parquet")] == ["shard-000000.parquet"]
    (out / "shard-000000-2.parquet").write_bytes(kept)
    (fault,) = verify_files(Place(out)).faults
    assert "shard-000000-2.parquet is of no shard, but patterns read it: remove it" in fault


def test_ids_are_made_again_in_the_type_of_the_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips", (5, 5)), tmp_path / "out"
    words = ["corpus", "build", str(clips), str(out), "--size", "32x32", "--frames", "5"]
    assert main([*words, "--dtype", "bf16"]) == 0
    assert main(["--json", "corpus", "verify", str(out), "--data", str(clips)]) == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [sample["same"] for sample in record["samples"]] == [1.0, 1.0]


def test_options_of_verify_without_effect_are_refused(
    clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(clips.parent / "out")
    for options, said in (
        (["--samples", "0", "--sheet", "s.png"], "--sheet is for sampled rows"),
        (["--samples", "0", "--weights", "w"], "--weights is for sampled rows"),
        (["--root", "x"], "--root is for the clips of --data"),
        (["--samples", "-1"], "--samples"),
    ):
        assert main(["corpus", "verify", out, *options]) == 2
        assert said in capsys.readouterr().err
