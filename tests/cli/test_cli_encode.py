"""`encode` and `decode`: the same as the API, streamed, ranges, many files, pipes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok import zoo
from reeltok.tokens import reel
from reeltok.transcode import Coding, decode
from reeltok.video.record import Video

Run = Callable[..., Ran]
Models = dict[str, Path]


def made_in(folder: Path) -> list[str]:
    """The files below a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def encoded(run: Run, clip: Path, out: Path, model: Path, *more: object) -> Path:
    found = run("encode", clip, out, "--model", model, *more)
    assert found.code == 0, found.err
    return out


@pytest.mark.parametrize("name", ["discrete", "causal", "noncausal"])
def test_encode_and_decode_do_what_the_api_does(
    run: Run, models: Models, clip: Path, tmp_path: Path, name: str
) -> None:
    fp32 = [] if name == "discrete" else ["--latents", "fp32"]
    path = encoded(run, clip, tmp_path / "a.reel", models[name], "--chunk", 8, *fp32)
    tokenizer = zoo.load(models[name])
    video = reeltok.read(clip)
    wanted = tokenizer.encode(video, chunk=None if tokenizer.spec.causal else 8)
    tokens = reel.load_tokens(path)
    assert (tokens.frames, tokens.fps, tokens.model) == (18, 10, name)
    if tokens.ids is None:
        torch.testing.assert_close(tokens.latents, wanted.latents, atol=1e-5, rtol=0)
    else:
        assert torch.equal(tokens.ids, wanted.ids)
    again = tmp_path / "a.mkv"
    found = run("decode", path, again, "--model", models[name], "--lossless", "--chunk", 4)
    assert found.code == 0, found.err
    whole = tokenizer.decode(tokens)
    assert isinstance(whole, Video)
    difference = reeltok.read(again).frames.int() - whole.frames.int()
    assert difference.abs().max() <= 1  # a rounding of 6e-6 may fall to the other side


@pytest.mark.parametrize(
    ("name", "start", "stop"),
    [("discrete", 0, 1), ("discrete", 5, 13), ("discrete", 17, 18), ("noncausal", 5, None)],
)
def test_a_range_is_exact(
    run: Run, models: Models, clip: Path, tmp_path: Path, name: str, start: int, stop: int | None
) -> None:
    path = encoded(run, clip, tmp_path / "a.reel", models[name], "--chunk", 4)
    span = ["--start", start] + ([] if stop is None else ["--stop", stop])
    form = ["--model", models[name], "--lossless"]
    assert run("decode", path, tmp_path / "whole.mkv", *form).code == 0
    assert run("decode", path, tmp_path / "part.mkv", *form, *span).code == 0
    whole, part = (reeltok.read(tmp_path / f"{v}.mkv").frames.int() for v in ("whole", "part"))
    assert (whole[start:stop] - part).abs().max() <= 1


def test_what_is_cut_is_known_to_the_tokens(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    cut = ["--start", 0.5, "--frames", 6, "--fps", 5, "--size", "24x32"]
    path = encoded(run, clip, tmp_path / "a.reel", models["discrete"], *cut)
    with reel.Reel(path) as opened:
        assert (opened.frames, opened.fps) == (6, 5)
        assert (opened.height, opened.width) == (24, 32)
        assert opened.settings["start"] == 0.5


def test_varying_rate_survives_a_range(run: Run, models: Models, tmp_path: Path) -> None:
    video = moving(12)
    times = torch.tensor([0, 1, 2, 4, 5, 6, 9, 10, 11, 12, 15, 16]).double() / 10
    reeltok.write(Video(video.frames, 7.0, times), tmp_path / "v.mkv", lossless=True)
    path = encoded(run, tmp_path / "v.mkv", tmp_path / "v.reel", models["discrete"])
    form = ["--model", models["discrete"], "--lossless", "--start", 5]
    assert run("decode", path, tmp_path / "w.mkv", *form).code == 0
    again = reeltok.read(tmp_path / "w.mkv")
    torch.testing.assert_close(again.times, times[5:] - times[5], atol=1e-3, rtol=0)


def test_json(run: Run, models: Models, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.reel"
    found = run("encode", clip, path, "--model", models["discrete"], "--json")
    assert (found.code, found.err) == (0, "")
    assert found.json["tokens"] == [6, 4, 5]
    assert found.json["bits_per_pixel"] == reel.load_tokens(path).bits_per_pixel
    assert found.json["bytes"] == path.stat().st_size
    assert found.json["file_bits_per_pixel"] == 8 * path.stat().st_size / (18 * 32 * 40)


def test_an_output_is_replaced_only_by_force(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.reel"
    path.write_text("mine")
    found = run("encode", clip, path, "--model", models["discrete"])
    assert found.code == 2
    assert found.err == f"reeltok: {path} exists already: give --force to replace it\n"
    assert path.read_text() == "mine"
    encoded(run, clip, path, models["discrete"], "--force")
    assert reel.load_tokens(path).frames == 18


def test_a_folder_of_videos(run: Run, models: Models, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["encode", folder, out, "--model", models["discrete"], "--json"]
    first = run(*words).json
    assert (first["written"], first["kept"], first["failed"]) == (2, 0, 0)
    files = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert set(files) == {out / "one.reel", out / "deep" / "two.reel"}
    again = run(*words)
    assert (again.json["written"], again.json["kept"]) == (0, 2)
    back = run("decode", out, tmp_path / "back", "--model", models["discrete"], "--json").json
    assert back["written"] == 2
    assert reeltok.read(tmp_path / "back" / "deep" / "two.mp4").frames.shape == (6, 32, 40, 3)
    more = run("decode", out, tmp_path / "back", "--model", models["discrete"])
    assert more.out == "2 of 2 were there already and fit: kept\n"
    both = run("encode", folder, tmp_path / "two", "--model", models["discrete"], "--jobs", 2)
    assert both.code == 0
    assert (tmp_path / "two" / "one.reel").read_bytes() == files[out / "one.reel"]


def test_what_does_not_fit_is_not_kept(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    words = ["encode", folder, tmp_path / "out", "--model", models["discrete"]]
    assert run(*words).code == 0
    later = run(*words, "--start", 0.1)
    assert later.code == 2
    assert "2 of 2 files could not be encoded" in later.err
    assert "was made differently: give --force" in later.err
    os.utime(folder / "one.mp4", (2e9, 2e9))  # changed since
    changed = run(*words, "--json")
    assert (changed.code, changed.json["kept"], changed.json["failed"]) == (2, 1, 1)
    forced = run(*words, "--start", 0.1, "--force", "--json").json
    assert forced["written"] == 2


def test_one_broken_video_does_not_stop_the_others(
    run: Run, models: Models, folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.mp4").write_bytes((folder / "one.mp4").read_bytes()[:400])
    found = run("encode", folder, tmp_path / "out", "--model", models["discrete"])
    assert found.code == 2
    notes = found.err.splitlines()
    assert len(notes) == 2
    assert "broken.mp4 left out: " in notes[0]
    assert notes[1] == "reeltok: 1 of 3 files could not be encoded"
    assert len(list((tmp_path / "out").rglob("*.reel"))) == 2


def test_patterns_and_several_names(run: Run, models: Models, folder: Path, tmp_path: Path) -> None:
    pattern = f"{folder}/**/*.mp4"
    found = run("encode", pattern, tmp_path / "a", "--model", models["discrete"], "--json")
    assert found.json["written"] == 2
    assert made_in(tmp_path / "a") == ["deep/two.reel", "one.reel"]
    for out in ("b/", "c"):
        one = run("encode", folder / "one.mp4", f"{tmp_path}/{out}", "--model", models["discrete"])
        assert one.code == 0
        assert (tmp_path / out / "one.reel").is_file()
    back = ["decode", tmp_path / "c" / "one.reel", tmp_path / "d", "--model", models["discrete"]]
    assert run(*back, "--suffix", ".webm").code == 0
    assert (tmp_path / "d" / "one.webm").is_file()


def test_images(run: Run, models: Models, tmp_path: Path) -> None:
    images, reel_file = tmp_path / "images", tmp_path / "i.reel"
    reeltok.write(moving(3), images)
    encoded(run, images, reel_file, models["discrete"])
    back = run("decode", reel_file, tmp_path / "back", "--model", models["discrete"])
    assert back.code == 0
    assert len(list((tmp_path / "back").glob("*.png"))) == 3
    video = run("decode", reel_file, tmp_path / "b.mp4", "--model", models["discrete"])
    assert video.code == 2
    assert "no frame rate" in video.err
    words = ["decode", reel_file, tmp_path / "b.mp4", "--model", models["discrete"], "--fps", 5]
    assert run(*words).code == 0


def test_pipes(
    models: Models,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    from reeltok.cli.main import main

    def piped(data: bytes, *words: object) -> bytes:
        (tmp_path / "stdin").write_bytes(data)
        with (tmp_path / "stdin").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert main([str(word) for word in words]) == 0
        return capsysbinary.readouterr().out

    options = ["--model", models["discrete"]]
    tokens = piped(clip.read_bytes(), "encode", "-", "-", *options)
    (tmp_path / "a.reel").write_bytes(tokens)
    assert reel.load_tokens(tmp_path / "a.reel").frames == 18
    video = piped(tokens, "decode", "-", "-", *options)
    assert b"moof" in video  # fragmented: it can be played while it arrives
    (tmp_path / "a.mp4").write_bytes(video)
    assert len(reeltok.read(tmp_path / "a.mp4")) == 18


def test_sound_is_copied_from_where_the_clip_began(
    run: Run, models: Models, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    write = decode.write

    def watch(parts: object, *rest: object, **more: object) -> object:
        parts = list(parts)
        seen.append(parts[0].start)
        return write(iter(parts), *rest, **more)

    monkeypatch.setattr(decode, "write", watch)
    path = encoded(run, clip, tmp_path / "a.reel", models["discrete"], "--start", 0.5)
    out = tmp_path / "a.mkv"
    words = ["--model", models["discrete"], "--start", 3, "--audio-from", clip]
    assert run("decode", path, out, *words).code == 0
    assert seen == [pytest.approx(0.8)]


def test_the_part_read_at_once_is_bounded() -> None:
    assert Coding().chunk_for(256, 256) == 16
    assert Coding().chunk_for(16, 16) == 64
    assert Coding().chunk_for(2160, 3840) == 1
    assert Coding(chunk=5).chunk_for(2160, 3840) == 5


def test_ctrl_c_leaves_nothing(
    run: Run, models: Models, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reeltok.cli import progress

    def interrupted(self: object, frames: int, *, of: int) -> None:
        if frames:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "advance", interrupted)
    found = run("encode", folder / "one.mp4", tmp_path / "a.reel", "--model", models["discrete"])
    assert found.code == 130
    assert found.err.count("\n") == 1
    assert not list(tmp_path.glob("*a.reel*"))
