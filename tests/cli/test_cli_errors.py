"""Bad input of encode and decode: one line, exit code 2, nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
from moving_clips import moving
from ran import Ran

import reeltok

Run = Callable[..., Ran]


@pytest.fixture
def place(tmp_path: Path, models: dict[str, Path], clip: Path, run: Run) -> Path:
    """A folder with good and bad files."""
    model = models["discrete"]
    assert run("encode", clip, tmp_path / "good.reel", "--model", model).code == 0
    good = (tmp_path / "good.reel").read_bytes()
    (tmp_path / "cut.reel").write_bytes(good[:-20])
    (tmp_path / "altered.reel").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    newer = good.replace(b'"version": "1"', b'"version": "9"')
    (tmp_path / "newer.reel").write_bytes(newer)
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mkv").write_bytes(clip.read_bytes()[:-3000])
    (tmp_path / "nothing").mkdir()
    reeltok.write(moving(2), tmp_path / "two.mkv", lossless=True)
    return tmp_path


CASES = [
    ("encode missing.mp4 x.reel", "there is no file"),
    ("encode no*.mp4 x/", "no file matches"),
    ("encode nothing x/", "holds neither videos nor images"),
    ("encode text.mp4 x.reel", "is not a video"),
    ("encode empty.mp4 x.reel", "is not a video"),
    ("encode cut.mkv x.reel", "cut off"),
    ("encode two.mkv two.mkv/x.reel", "is not a folder"),
    ("encode two.mkv text.mp4 x.reel", "2 files do not go into"),
    ("encode two.mkv x.mp4", "is not a name for tokens"),
    ("encode two.mkv x.reel --start 9", "lies past its end"),
    ("encode two.mkv x.reel --frames 0", "frames must be 1 or more"),
    ("encode two.mkv x.reel --size 0", "is not a size"),
    ("encode two.mkv x.reel --dtype int8", "--dtype int8 is not known"),
    ("encode two.mkv x.reel --device gpu", "there is no device"),
    ("encode two.mkv x.reel --device tpu", "there is no device 'tpu': give auto, cpu, cuda"),
    ("encode two.mkv x.reel --device meta", "there is no device 'meta'"),
    ("encode two.mkv x.reel --device cuda:77", "device cuda:77: torch sees"),
    ("decode good.reel x.mkv --device tpu", "there is no device 'tpu'"),
    ("reconstruct two.mkv x.mkv --device tpu", "there is no device 'tpu'"),
    ("train small --data nothing --out run --device tpu", "there is no device 'tpu'"),
    ("train small --dry-run --device cuda:77", "device cuda:77: torch sees"),
    ("encode two.mkv x.reel --chunk 0", "--chunk 0"),
    ("encode two.mkv x.reel --model vidtok_kl_causal_488_4ch", "vidtok_kl_causal_488_4chn"),
    ("encode two.mkv x.reel --model vidtok_kl_causal_488_4chn", "reeltok download"),
    ("encode two.mkv x.reel --weights absent.ckpt", "there is no checkpoint"),
    ("encode - x/", "standard input has no name"),
    ("decode missing.reel x.mp4", "there is no file"),
    ("decode text.mp4 x.mp4", "is not a .reel file"),
    ("decode cut.reel x.mp4", "is cut off"),
    ("decode altered.reel x.mp4", "was altered"),
    ("decode newer.reel x.mp4", "version 9"),
    ("decode good.reel x.mp4 --model OTHER", "has latents, these tokens come from"),
    ("decode good.reel x.mp4 --start 18", "frames 18 to 18"),
    ("decode good.reel x.mp4 --lossless", "does not go into .mp4"),
    ("decode good.reel x.xyz", "unknown suffix"),
    ("decode good.reel x.mp4 --codec h266", "did you mean"),
    ("decode good.reel two.mkv/deep/x.mp4", "is not a folder"),
    ("decode good.reel x.mp4 --fps 0", "fps must be positive"),
    ("decode good.reel x.mp4 --crf 99", "outside what h264 takes"),
    ("encode two.mkv x.reel --latents fp8", "--latents fp8"),
    ("encode two.mkv x.reel --latents fp32", "--latents is for a continuous tokenizer"),
    ("decode good.reel x.mp4 --suffix .webm", "--suffix is for videos in a folder"),
    ("decode good.reel - --suffix .webm", "--suffix is for videos in a folder"),
    ("reconstruct two.mkv x.mp4 --side-by-side x.mp4", "cannot hold both"),
    ("reconstruct two.mkv text.mp4/x.mp4", "is not a folder"),
    ("reconstruct two.mkv x.mp4 --side-by-side text.mp4/y.mp4", "is not a folder"),
    ("encode cut.mkv absent/deep/x.reel", "cut off"),
    ("info absent", "there is no model or folder"),
    ("info absent.mp4", "there is no file absent.mp4"),
    ("info cut.reel", "is cut off"),
]


@pytest.mark.parametrize(("line", "said"), CASES)
def test_bad_input_is_one_line(
    run: Run,
    models: dict[str, Path],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    said: str,
) -> None:
    monkeypatch.chdir(place)
    words = line.replace("OTHER", str(models["causal"])).split()
    if words[0] in ("encode", "decode", "reconstruct") and "--model" not in words:
        words += ["--model", str(models["discrete"])]
    before = set(place.rglob("*"))
    found = run(*words)
    assert found.code == 2
    assert found.out == ""
    assert found.err.startswith("reeltok: ")
    assert found.err.count("\n") == 1, found.err
    assert said in found.err
    assert set(place.rglob("*")) == before


def test_tokens_of_a_model_that_is_not_here(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    found = run("decode", "good.reel", "x.mp4")
    assert found.code == 2
    assert "was made by 'discrete'" in found.err
    assert "--model" in found.err


def test_other_weights_are_refused(
    run: Run, models: dict[str, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = ["decode", "good.reel", "x.mp4", "--model", models["discrete"], "--weights", "random"]
    found = run(*words)
    assert found.code == 2
    lines = found.err.splitlines()
    assert lines[0].startswith("reeltok: note: ")
    assert "random weights" in lines[0]
    assert "other weights" in lines[1]
    assert not Path("x.mp4").exists()


def test_a_full_disk_stops_everything(
    run: Run,
    models: dict[str, Path],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reeltok.tokens.reel import ReelWriter

    def full(self: object, part: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReelWriter, "write", full)
    found = run("encode", folder, tmp_path / "out", "--model", models["discrete"])
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert "the disk is full" in found.err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
