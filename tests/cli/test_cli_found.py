"""What every command finds, and what its outputs are called: the same everywhere."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from ran import Ran

import reeltok
from reeltok.models.presets import PRESETS
from reeltok.tokens import reel

Run = Callable[..., Ran]
Models = dict[str, Path]


def made_in(folder: Path) -> list[str]:
    """The files below a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips as folders of ten pictures, with what a Mac leaves beside them."""
    place = tmp_path_factory.mktemp("frames")
    for name in "ab":
        (place / name).mkdir()
        for number in range(10):
            Image.new("RGB", (16, 16), (25 * number, 0, 0)).save(place / name / f"{number}.png")
        (place / name / "._0.png").write_bytes(b"Mac")
    (place / "__MACOSX").mkdir()
    (place / "__MACOSX" / "c.mp4").write_bytes(b"Mac")
    return place


def test_folders_of_pictures_are_clips_for_all(
    run: Run, models: Models, frames: Path, tmp_path: Path
) -> None:
    words = ["encode", frames, tmp_path / "out", "--model", models["discrete"], "--json"]
    assert run(*words).json["written"] == 2
    assert made_in(tmp_path / "out") == ["a.reel", "b.reel"]
    assert reel.load_tokens(tmp_path / "out" / "a.reel").frames == 10
    checked = run("data", "check", frames, "--out", tmp_path / "lists", "--json").json
    assert (checked["clips"], checked["frames"], checked["broken"]) == (2, 20, [])
    words = ["statistics", models["causal"], frames, "--out", tmp_path / "with", "--json"]
    assert run(*words).json["clips"] == 2


def test_the_clean_list_is_encoded(run: Run, models: Models, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "still").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "still" / "0.png")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(folder / "one.mp4", "inner/one.mp4")
    found = run("data", "check", folder, "--out", tmp_path / "a" / "lists")
    assert "4 clips are whole" in found.out
    assert "broken: broken.mp4: it is not a video" in found.out
    clean = tmp_path / "a" / "lists" / "clean.csv"
    words = ["encode", clean, tmp_path / "out", "--model", models["discrete"], "--json"]
    assert run(*words).json["written"] == 4
    wanted = ["deep/two.reel", "one.reel", "shard/inner/one.reel", "still.reel"]
    assert made_in(tmp_path / "out") == wanted
    assert run(*words).json["kept"] == 4


def test_lists_and_patterns_are_encoded(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    (folder / "l.jsonl").write_text('{"filename": "one.mp4", "start": 0.2}\n')
    words = ["encode", folder / "l.jsonl", tmp_path / "out", "--model", models["discrete"]]
    assert run(*words, "--json").json["written"] == 1
    assert reel.load_tokens(tmp_path / "out" / "one.reel").settings["start"] == pytest.approx(0.2)
    (folder / "gone.txt").write_text("one.mp4\nabsent.mp4\n")
    found = run("encode", folder / "gone.txt", tmp_path / "b", "--model", models["discrete"])
    assert found.code == 2
    assert found.err.splitlines() == [
        f"reeltok: note: {folder}/absent.mp4 left out: there is no such file",
        "reeltok: 1 of 2 files could not be encoded",
    ]


def test_names_that_meet_keep_their_suffix_or_folder(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    (folder / "one.mkv").write_bytes((folder / "one.mp4").read_bytes())
    (folder / "clip").write_bytes((folder / "one.mp4").read_bytes())
    words = ["--model", models["discrete"]]
    assert run("encode", folder, tmp_path / "a", *words).code == 0
    assert made_in(tmp_path / "a") == ["deep/two.reel", "one.mkv.reel", "one.mp4.reel"]
    for name in "xy":
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.mp4").write_bytes((folder / "one.mp4").read_bytes())
    given = [tmp_path / "x" / "one.mp4", tmp_path / "y" / "one.mp4", folder / "clip"]
    assert run("encode", *given, tmp_path / "b", *words).code == 0
    assert made_in(tmp_path / "b") == ["clip.reel", "x/one.reel", "y/one.reel"]
    twice = run("encode", folder / "clip", folder / "clip", tmp_path / "c", *words)
    assert (twice.code, made_in(tmp_path / "c")) == (0, ["clip.reel"])
    assert "1 of 2 inputs were given twice" in twice.err


def test_segments_of_one_file_from_several_lists_are_all_made(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    for name, row in (("x", "one.mp4,0,0.4"), ("y", "one.mp4,0.4,0.8"), ("z", "one.mp4,0,0.4")):
        (folder / f"{name}.csv").write_text(f"file,start,end\n{row}\n")
    lists = [folder / f"{name}.csv" for name in "xyz"]
    found = run("encode", *lists, tmp_path / "out", "--model", models["discrete"])
    assert found.code == 0
    assert "1 of 3 inputs were given twice" in found.err
    assert made_in(tmp_path / "out") == ["one.mp4 (2).reel", "one.mp4.reel"]
    first, second = (tmp_path / "out" / name for name in ("one.mp4.reel", "one.mp4 (2).reel"))
    assert reel.load_tokens(first).settings.get("start", 0.0) == 0
    assert reel.load_tokens(second).settings["start"] == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["../up.mp4", "/abs/up.mp4"])
def test_no_name_leads_out_of_the_folder(
    run: Run, models: Models, folder: Path, tmp_path: Path, name: str
) -> None:
    place = folder.parent / "up.mp4" if name.startswith(".") else tmp_path / "abs" / "up.mp4"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes((folder / "one.mp4").read_bytes())
    (folder / "l.csv").write_text(f"file\n{name if name.startswith('.') else place}\n")
    words = ["encode", folder / "l.csv", tmp_path / "out", "--model", models["discrete"]]
    assert run(*words).code == 0
    assert made_in(tmp_path / "out") == ["up.reel"]


def test_every_rank_has_its_own_files(
    run: Run, models: Models, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, words = tmp_path / "out", ["--model", models["discrete"], "--json"]
    (folder / "three.mp4").write_bytes((folder / "one.mp4").read_bytes())
    made = []
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        found = run("encode", folder, out, *words).json
        assert found["kept"] == found["failed"] == 0
        made.append([Path(entry["output"]).name for entry in found["files"]])
    assert made == [["two.reel"], ["one.reel"], ["three.reel"], []]
    monkeypatch.setenv("RANK", "1")
    one = run("encode", folder / "one.mp4", tmp_path / "one.reel", *words)
    assert (one.code, one.json["written"]) == (0, 0)
    assert not (tmp_path / "one.reel").exists()
    assert run("decode", out, tmp_path / "back", *words).json["written"] == 1
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert run("encode", folder, out, *words).json["kept"] == 3


@pytest.mark.parametrize(
    ("name", "first", "again", "kept"),
    [
        ("noncausal", ["--chunk", 8], ["--chunk", 8], 2),
        ("noncausal", ["--chunk", 8], ["--chunk", 7], 2),  # whole groups of 4 frames
        ("noncausal", ["--chunk", 8], ["--chunk", 4], 0),
        ("noncausal", [], ["--chunk", 16], 2),
        ("causal", ["--chunk", 8], ["--chunk", 4], 2),
        ("causal", [], ["--latents", "fp32"], 0),
        ("discrete", ["--tile", 64], [], 0),
    ],
)
def test_what_decides_the_bytes_decides_what_is_kept(
    run: Run,
    models: Models,
    folder: Path,
    tmp_path: Path,
    name: str,
    first: list[object],
    again: list[object],
    kept: int,
) -> None:
    words = ["encode", folder, tmp_path / "out", "--model", models[name], "--json"]
    assert run(*words, *first).json["written"] == 2
    found = run(*words, *again).json
    assert (found["kept"], found["failed"]) == (kept, 2 - kept)


def test_folders_above_an_output_are_made(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    own = ["--model", models["discrete"]]
    new = tmp_path / "new"
    assert run("encode", clip, new / "a" / "x.reel", *own).code == 0
    assert run("decode", new / "a" / "x.reel", new / "b" / "c" / "x.mkv", *own).code == 0
    assert run("decode", new / "a" / "x.reel", new / "d" / "e" / "frames", *own).code == 0
    assert run("reconstruct", clip, new / "f" / "x.mp4", *own).code == 0
    words = ["--side-by-side", new / "h" / "both.png"]
    assert run("reconstruct", clip, new / "g" / "x.mp4", *words, *own).code == 0
    assert run("convert", models["causal"], new / "i" / "m.ckpt", "--to", "public").code == 0
    assert run("data", "check", clip, "--out", new / "j" / "k").code == 0
    lines = [{"step": step, "time": step, "loss": 1 / step} for step in (1, 2)]
    (new / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if plots():
        assert run("runs", new, "--out", new / "l" / "c.png").code == 0


def plots() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def test_judging_finds_the_same_and_makes_folders(
    run: Run, models: Models, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "none"))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(folder, "inner")
    words = ["--protocol", "shared-eval-whole", "--work", tmp_path / "w"]
    results = []
    for number, data in enumerate((folder, tmp_path / "s.tar", f"{folder}/**/*.mp4")):
        results.append(tmp_path / "new" / str(number) / "r.json")
        found = run("evaluate", models["discrete"], data, *words, "--out", results[-1])
        assert found.code == 0, found.err
    clips = [json.loads(path.read_text())["clips"] for path in results]
    hashes = [sorted(clip["sha256"] for clip in found) for found in clips]
    assert hashes[0] == hashes[1] == hashes[2]
    assert [clip["name"] for clip in clips[0]] == ["deep/two.mp4", "one.mp4"]
    assert run("compare", *results[::2], "--out", tmp_path / "new" / "a" / "report").code == 0


def test_a_folder_that_was_made_for_nothing_goes_again(
    run: Run, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    words = ["--model", models["discrete"]]
    assert run("encode", tmp_path / "a.mp4", tmp_path / "new" / "x.reel", *words).code == 2
    assert made_in(tmp_path) == ["a.mp4"]
    assert not (tmp_path / "new").exists()


def test_models_and_info_say_the_same(run: Run) -> None:
    rows = {row["name"]: row for row in run("models", "--json").json["models"]}
    assert set(rows) == set(PRESETS)
    for name in ("default", "vidtok_kl_noncausal_488_4chn", "reftok-default", "coordtok-default"):
        said = run("info", name, "--json").json
        assert rows[name]["causal"] == ("yes" if said["causal"] else "no")
        assert rows[name]["pixels a token"] == "x".join(map(str, said["pixels_a_token"]))
        assert rows[name]["vocabulary"] == said["vocabulary"]


def test_info_counts_the_weights_that_are_here(run: Run) -> None:
    """Bundled networks may have more than their presets, from which training starts."""
    for name in ("reftok-default", "reftok-push", "default"):
        said = run("info", name, "--json").json
        assert said["parameters"] == reeltok.load(name).parameter_count()
