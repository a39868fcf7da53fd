"""--damage, and how long slides are shown, from a video through .reel and back to a video."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from moving_clips import moving
from PIL import Image
from ran import Ran

import reeltok
from reeltok import zoo
from reeltok.tokenizer.streaming import split_frames
from reeltok.tokens import reel
from reeltok.video.record import Video
from reeltok.video.timing import moments_of

Run = Callable[..., Ran]
Models = dict[str, Path]
DELAYS = [100, 50, 200, 120, 50, 200]  # ms


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A transport stream of 24 frames, of which the 15th is missing."""
    path = tmp_path / "in" / "a.ts"
    path.parent.mkdir()
    with av.open(str(path), "w") as out:
        track = out.add_stream("libx264", rate=25, options={"bf": "0", "g": "6"})
        track.height, track.width, track.pix_fmt = 32, 40, "yuv420p"
        for picture in moving(24).frames.numpy():
            out.mux(track.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))))
        out.mux(track.encode(None))
    data = path.read_bytes()
    begins = [n for n in range(len(data) // 188) if data[188 * n + 1] & 0x5F == 0x41]
    lost = [n for n in begins if data[188 * n + 2] == 0][15]
    path.write_bytes(data[: 188 * lost] + data[188 * lost + 188 :])
    return path


def test_the_count_of_what_was_left_out_goes_through(
    run: Run, models: Models, recording: Path, tmp_path: Path
) -> None:
    model, out = ("--model", models["discrete"]), tmp_path / "a.reel"
    found = run("encode", recording, out, *model)
    assert found.code == 1 or found.code == 2
    sentence = f"{recording}: frame 15 (0.60 s) cannot be decoded: set --damage to stop or skip"
    assert found.err.count(sentence) == 1
    assert not out.exists()
    found = run("encode", recording, out, *model, "--damage", "skip", "--json")
    assert (found.json["frames"], found.json["damaged"]) == (23, 1)
    assert "1 frame that cannot be decoded left out" in found.err
    with reel.Reel(out) as opened:
        assert (opened.damaged, opened.info.damaged) == (1, 1)
        assert opened.times is not None
        assert (opened.times * 25).round().int().tolist() == [n for n in range(24) if n != 15]
    assert run("info", out, "--json").json["damaged"] == 1
    assert zoo.load(models["discrete"]).decode(reel.load_tokens(out)).damaged == 1
    back = run("decode", out, tmp_path / "a.mp4", *model, "--json").json
    assert (back["frames"], back["damaged"]) == (23, 1)
    assert reeltok.read(tmp_path / "a.mp4").seconds == pytest.approx(0.96)
    found = run("encode", recording, out, *model, "--damage", "stop", "--force", "--json")
    assert (found.json["frames"], found.json["damaged"]) == (15, 1)


def test_the_other_commands_take_damage_too(
    run: Run, models: Models, recording: Path, tmp_path: Path
) -> None:
    words = ("--damage", "skip", "--json")
    found = run("reconstruct", recording, tmp_path / "b.mp4", "--model", models["discrete"], *words)
    assert (found.json["frames"], found.json["damaged"]) == (23, 1)
    found = run("info", recording, *words).json
    assert (found["frames"], found["damaged"], found["seconds"]) == (23, 1, pytest.approx(0.96))
    checked = run("data", "check", recording.parent, "--out", tmp_path / "lists", *words).json
    assert (checked["frames"], checked["damaged"]) == (23, {"a.ts": 1})
    found = run("data", "check", recording.parent, "--out", tmp_path / "lists")
    assert "frame 15 (0.60 s) cannot be decoded" in found.err
    found = run("encode", recording, tmp_path / "a.reel", "--damage", "ignore")
    assert "damage is refuse, stop, skip, not 'ignore'" in found.err


def test_commands_without_the_choice_do_not_offer_it(
    run: Run, models: Models, recording: Path
) -> None:
    found = run("evaluate", models["discrete"], recording)
    assert "cannot be decoded" in found.err
    assert "--damage" not in found.err


def test_undamaged_files_keep_their_bytes(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    for damage in ("refuse", "stop", "skip"):
        out = tmp_path / f"{damage}.reel"
        run("encode", clip, out, "--model", models["discrete"], "--damage", damage)
    kept = {(tmp_path / f"{damage}.reel").read_bytes() for damage in ("refuse", "stop", "skip")}
    assert len(kept) == 1
    assert b"damaged" not in next(iter(kept))
    assert b'"last"' not in next(iter(kept))


@pytest.mark.parametrize("name", ["discrete", "causal", "noncausal"])
def test_the_last_slide_is_shown_for_its_own_time(
    run: Run, models: Models, tmp_path: Path, name: str
) -> None:
    pictures = [Image.fromarray(picture.numpy()) for picture in moving(6).frames]
    source, tokens = tmp_path / "a.gif", tmp_path / "a.reel"
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=DELAYS)
    model = ("--model", models[name])
    assert run("encode", source, tokens, *model, "--chunk", 4).code == 0
    assert reel.load_tokens(tokens).last == pytest.approx(0.2)
    for suffix in (".mp4", ".mkv", ".gif"):
        again = tmp_path / f"b{suffix}"
        assert run("decode", tokens, again, *model, "--chunk", 4).code == 0
        assert reeltok.read(again).seconds == pytest.approx(0.72)
    assert run("decode", tokens, tmp_path / "c.mkv", *model, "--start", 1, "--stop", 3).code == 0
    assert reeltok.read(tmp_path / "c.mkv").seconds == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["discrete", "causal", "noncausal"])
def test_durations_hold_in_parts_and_ranges(models: Models, name: str) -> None:
    tokenizer = zoo.load(models[name])
    times = torch.tensor([0.0, 0.1, 0.15, 0.35, 0.47, 0.52, 0.9, 1.0, 1.3]).double()
    video = Video(moving(9).frames, fps=6.0, times=times, last=0.7, damaged=3)
    assert video.seconds == pytest.approx(2.0)
    tokens = tokenizer.encode(video, chunk=4)
    assert (tokens.last, tokens.damaged) == (0.7, 3)
    back = tokenizer.decode(tokens)
    assert isinstance(back, Video)
    assert (back.seconds, back.damaged) == (pytest.approx(2.0), 3)
    for start, stop in ((0, 4), (2, 7), (5, 9)):
        part = tokenizer.decode(tokens, start=start, stop=stop)
        assert isinstance(part, Video)
        assert part.seconds == pytest.approx(video[start:stop].seconds)
    parts = list(split_frames(video, 4))
    assert sum(part.seconds or 0 for part in parts if isinstance(part, Video)) == pytest.approx(2)
    assert moments_of(times, 0.7, 3, 3)[1] is None


def test_files_from_before_still_say_nothing_of_it(
    run: Run, models: Models, clip: Path, tmp_path: Path
) -> None:
    run("encode", clip, tmp_path / "a.reel", "--model", models["discrete"])
    with reel.Reel(tmp_path / "a.reel") as opened:
        assert (opened.last, opened.damaged, opened.times) == (None, 0, None)
    assert Fraction(opened.fps or 0) == 10
