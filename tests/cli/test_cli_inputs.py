"""What commands take as IN beside files, and the notes on what they leave out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import pytest
from moving_clips import moving
from ran import Ran

import reeltok

Run = Callable[..., Ran]


@pytest.fixture
def options(models: dict[str, Path]) -> tuple[str, str]:
    return "--model", str(models["discrete"])


def test_raw_pictures_are_encoded_when_they_are_described(
    run: Run, options: tuple[str, str], tmp_path: Path
) -> None:
    raw = tmp_path / "a_40x32_25.yuv"
    data = b""
    for picture in moving(6).frames.numpy():
        data += (
            av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p").to_ndarray().tobytes()
        )
    raw.write_bytes(data)
    out = tmp_path / "a.reel"
    said = run("encode", raw, out, *options)
    assert said.code == 2
    assert "give --raw 40x32:25:yuv420p" in said.err
    done = run("encode", raw, out, "--raw", "40x32:25:yuv420p", "--json", *options)
    assert (done.code, json.loads(done.out)["frames"]) == (0, 6)
    done = run("reconstruct", raw, tmp_path / "b.mp4", "--raw", "40x32:25:yuv420p", *options)
    assert done.code == 0
    done = run("info", raw, "--raw", "40x32:25:yuv420p", "--json")
    assert json.loads(done.out)["frames"] == 6


def test_pipes_of_the_shell_are_encoded(
    models: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.reel"
    command = f"{sys.executable} -m reeltok encode <(cat {clip}) {out} --model"
    subprocess.run(
        ["bash", "-c", f"{command} {models['discrete']}"], check=True, timeout=100, env=os.environ
    )
    with reeltok.tokens.reel.Reel(out) as reel:
        assert reel.frames == 18


def test_addresses_are_encoded_and_described(
    run: Run, options: tuple[str, str], clip: Path, tmp_path: Path
) -> None:
    fsspec.filesystem("memory").pipe("/held/clip.mkv", clip.read_bytes())
    assert run("encode", "memory://held/clip.mkv", tmp_path / "a.reel", *options).code == 0
    assert run("encode", "memory://held/clip.mkv", tmp_path / "tokens", *options).code == 0
    assert (tmp_path / "tokens" / "clip.reel").is_file()
    assert "18" in run("info", "memory://held/clip.mkv").out
    said = run("encode", "memory://held/none.mkv", tmp_path / "b.reel", *options)
    assert (said.code, "no file memory://held/none.mkv" in said.err) == (2, True)


def with_sound(path: Path, aspect: Fraction) -> Path:
    """Ten frames whose pixels have this ratio, and half a second of silence."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 32, 40, "yuv420p"
        video.codec_context.sample_aspect_ratio = aspect
        sound = out.add_stream("aac", rate=48000, layout="mono")
        for picture in moving(10).frames.numpy():
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(video.encode(None))
        silence = av.AudioFrame(format="s16", layout="mono", samples=19200)
        silence.sample_rate = 48000
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux(sound.encode(silence))
        out.mux(sound.encode(None))
    return path


def test_sound_and_pixels_are_kept_or_said(
    run: Run, options: tuple[str, str], tmp_path: Path
) -> None:
    path, reel = with_sound(tmp_path / "a.mp4", Fraction(2)), tmp_path / "a.reel"
    said = run("encode", path, reel, *options).err
    assert "sound is not part of tokens" in said
    assert "with pixels of 2:1" in said
    run("decode", reel, tmp_path / "b.mp4", *options)
    assert reeltok.read(tmp_path / "b.mp4").aspect == 2
    assert "pixel aspect  2:1" in run("info", path).out
    run("reconstruct", path, tmp_path / "c.webm", "--side-by-side", "none", *options)
    with av.open(str(tmp_path / "c.webm")) as made:
        assert made.streams.audio[0].codec_context.name == "opus"


def test_a_size_that_distorts_is_said(
    run: Run, options: tuple[str, str], clip: Path, tmp_path: Path
) -> None:
    said = run("encode", clip, tmp_path / "a.reel", "--size", "32x32", *options).err
    assert "32x32 distorts its shape" in said
    assert "distorts" not in run("encode", clip, tmp_path / "b.reel", "--size", "16", *options).err


def test_tokens_come_through_pipes_of_the_shell(
    run: Run, models: dict[str, Path], clip: Path, tmp_path: Path
) -> None:
    reel, model = tmp_path / "a.reel", models["discrete"]
    run("encode", clip, reel, "--model", model)
    command = f"{sys.executable} -m reeltok decode <(cat {reel}) {tmp_path / 'b.mkv'}"
    subprocess.run(["bash", "-c", f"{command} --model {model}"], check=True, timeout=100)
    assert len(reeltok.read(tmp_path / "b.mkv")) == 18
