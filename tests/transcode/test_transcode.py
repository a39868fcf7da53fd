"""Files to tokens and back from Python: the same as the API in memory, with progress."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from small_models import NONCAUSAL

import reeltok
from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.metrics import paired as metrics
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokens import reel
from reeltok.transcode import (
    Coding,
    Cut,
    ReelModels,
    Writing,
    decode_file,
    decode_frames,
    demonstrate,
    encode_file,
    reconstruct_file,
)
from reeltok.transcode.decode import is_decoded
from reeltok.transcode.encode import is_encoded
from reeltok.video.record import Video

EXACT = Writing(lossless=True)


@pytest.fixture(scope="module")
def tok() -> VidTok:
    torch.manual_seed(1)
    return VidTok(replace(COMPACT, width=8, multipliers=(1, 1), blocks=(1, 1)), "small").eval()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """18 frames of 32x40 at 10 per second, without loss."""
    path = tmp_path / "clip.mkv"
    reeltok.write(moving(18), path, lossless=True)
    return path


def test_a_video_to_tokens_and_back(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path, coding = tmp_path / "a.reel", Coding(chunk=5)
    made = encode_file(tok, clip, path, coding=coding, on_progress=lambda *at: seen.append(at))
    wanted = tok.encode(reeltok.read(clip))
    assert torch.equal(reel.load_tokens(path).ids, wanted.ids)
    assert (made.source, made.target) == (str(clip), str(path))
    assert (made.frames, made.damaged, made.rate > 0) == (18, 0, True)
    assert made.reel is not None
    assert (made.reel.size, made.reel.tokens) == ((32, 40), wanted.grid)
    assert made.reel.bytes == path.stat().st_size
    assert made.reel.bits_per_pixel == pytest.approx(wanted.bits_per_pixel)
    assert seen[-1] == (18, 18)
    assert seen == sorted(set(seen))

    seen.clear()
    again = tmp_path / "again.mkv"
    back = decode_file(
        tok, path, again, coding=coding, writing=EXACT, on_progress=lambda *at: seen.append(at)
    )
    difference = reeltok.read(again).frames.int() - tok.decode(wanted).frames.int()
    assert difference.abs().max() <= 1  # a rounding may fall to the other side
    assert (back.frames, back.size, back.fps, back.codec) == (18, (32, 40), 10, "ffv1")
    assert seen[-1] == (18, 18)
    assert len(seen) > 2


def test_a_range_of_frames(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.reel"
    encode_file(tok, clip, path, cut=Cut(frames=12))
    made = decode_file(tok, path, tmp_path / "part.mkv", start=5, stop=9, writing=EXACT)
    assert made.frames == 4
    with reel.Reel(path) as opened:
        parts = list(decode_frames(tok, opened, 5, 9))
        assert sum(map(len, parts)) == 4
        assert parts[0].start == pytest.approx(0.5)
        whole = tok.decode(opened.tokens())
        kept = torch.cat([part.frames for part in parts]).int()
        assert (kept - whole.frames[5:9].int()).abs().max() <= 1
        assert decode_file(tok, opened, tmp_path / "open.mkv", stop=1, writing=EXACT).frames == 1
    with pytest.raises(ValueError, match="12"):
        decode_file(tok, path, tmp_path / "far.mkv", start=20)
    assert not (tmp_path / "far.mkv").exists()


@pytest.mark.parametrize("given", ["video", "tensor"])
def test_a_clip_completed_in_front(tok: VidTok, tmp_path: Path, given: str) -> None:
    """It is decoded at once, whatever the range."""
    path, video = tmp_path / "a.reel", replace(moving(7), start=2.0)
    tokens = tok.encode(video if given == "video" else video.tensor(), pad="front")
    reel.save_tokens(tokens, path)
    whole = Video.of(tok.decode(tokens)) if given == "tensor" else tok.decode(tokens)
    for start, stop in ((0, 7), (0, 4), (2, 5)):
        with reel.Reel(path) as opened:
            [made] = decode_frames(tok, opened, start, stop)
        assert made.frames.equal(whole.frames[start:stop])
        assert made.start == pytest.approx(2 + start / 10 if given == "video" else 0)
    out = tmp_path / "a.mkv"
    decode_file(tok, path, out, start=1, writing=replace(EXACT, fps=10.0))
    assert reeltok.read(out).frames.equal(whole.frames[1:])
    with pytest.raises(ValueError, match=r"a\.reel: pad='front' codes whole .* leave out chunk=4"):
        decode_file(tok, path, tmp_path / "b.mkv", coding=Coding(chunk=4))


def test_a_part_needs_what_comes_before(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    part, out = tmp_path / "part.reel", tmp_path / "part.mkv"
    reel.save_tokens(tok.encode(reeltok.read(clip))[2:], part)
    for stop in (None, 1):
        with pytest.raises(ValueError, match=r"part\.reel: .* a part of a clip, from step 2 on"):
            decode_file(tok, part, out, stop=stop)
    assert not out.exists()
    torch.manual_seed(0)
    windows = VidTok(NONCAUSAL, "windows").eval()  # each of which is a clip of its own
    tokens = windows.encode(moving(16), chunk=8)
    reel.save_tokens(tokens[2:], part, dtype=torch.float32)
    with reel.Reel(part) as opened:
        [made] = decode_frames(windows, opened, 0, 8)
    difference = made.frames.int() - windows.decode(tokens).frames[8:].int()
    assert difference.abs().max() <= 1


def test_a_clip_that_was_found(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    [found] = find_clips(str(clip))
    made = encode_file(tok, found, tmp_path / "a.reel")
    assert (made.source, made.frames) == (str(clip), 18)


def test_there_and_back_in_one_pass(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out, both = tmp_path / "r.mkv", tmp_path / "both.png"
    made = reconstruct_file(
        tok,
        clip,
        out,
        side_by_side=both,
        writing=EXACT,
        on_progress=lambda *at: seen.append(at),
    )
    video = reeltok.read(clip)
    decoded = tok.decode(tok.encode(video))
    psnr = metrics.psnr(video.tensor(), decoded.tensor()).mean().item()
    assert made.psnr == pytest.approx(psnr, abs=1e-3)
    assert (made.frames, made.model, made.side_by_side) == (18, "small", str(both))
    assert set(made.seconds) == {"read", "encode", "decode", "compare", "write"}
    assert seen[-1] == (18, 18)
    assert both.is_file()
    assert len(reeltok.read(out)) == 18


@pytest.mark.parametrize("name", ["a.reel", "r.mp4"])
def test_what_a_callback_raises_leaves_nothing(
    tok: VidTok, clip: Path, tmp_path: Path, name: str
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    work = encode_file if name.endswith(".reel") else reconstruct_file
    with pytest.raises(KeyboardInterrupt):
        work(tok, clip, tmp_path / name, on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mkv"]


def test_whether_a_part_of_a_varying_rate_is_made_already(tok: VidTok, tmp_path: Path) -> None:
    times = torch.arange(18).double() / 10
    times[1::2] += 0.03
    reeltok.write(replace(moving(18), times=times), tmp_path / "clip.mkv", lossless=True)
    part, path = Clip(path=tmp_path / "clip.mkv", start=0.4, end=0.9), tmp_path / "a.reel"
    encode_file(tok, part, path)
    assert is_encoded(tok, part, path)
    assert not is_encoded(tok, replace(part, end=1.1), path)


def test_whether_it_is_made_already(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.reel", tmp_path / "a.mkv"
    encode_file(tok, clip, path)
    assert is_encoded(tok, clip, path)
    assert not is_encoded(tok, clip, path, cut=Cut(frames=6))
    assert not is_encoded(tok, clip, path, coding=Coding(tile=64))
    assert not is_encoded(tok, clip, clip)
    other = tmp_path / "other.mkv"
    video = moving(18)
    reeltok.write(replace(video, frames=video.frames.flip(1)), other, lossless=True)
    assert not is_encoded(tok, other, path)
    with reel.Reel(path) as opened:
        tokens = opened.tokens()
    settings = {name: value for name, value in tokens.settings.items() if name != "fingerprint"}
    reel.save_tokens(tokens.with_(settings=settings), path)  # as earlier versions wrote it
    assert is_encoded(tok, other, path)
    encode_file(tok, clip, path)
    decode_file(tok, path, out, writing=EXACT)
    with reel.Reel(path) as opened:
        decoded = partial(is_decoded, tok, opened)
        assert decoded(out, writing=EXACT)
        assert not decoded(out)
        assert not decoded(out, writing=EXACT, coding=Coding(tile=16))
        assert not decoded(path)
        for name in ("a.mp4", "a.webm", "a.avi", "a.mov", "a.gif"):
            decode_file(tok, opened, tmp_path / name, start=2, stop=6)
            assert decoded(tmp_path / name, start=2, stop=6) == (name != "a.gif")
            assert not decoded(tmp_path / name, start=3, stop=7)
            assert not decoded(tmp_path / name, start=2, stop=6, writing=Writing(fps=20.0))
        decode_file(tok, opened, out, writing=replace(EXACT, audio_from=tmp_path / "a.mp4"))
        (tmp_path / "a.mp4").replace(tmp_path / "a.mov")
        reeltok.write(moving(3), tmp_path / "a.mp4")
        assert not decoded(out, writing=replace(EXACT, audio_from=tmp_path / "a.mp4"))
        other = VidTok(tok.config, "small").eval()
        assert not is_decoded(other, opened, tmp_path / "a.mov", start=2, stop=6)
        other = VidTok(replace(tok.config, groups=2), "small").eval()
        other.load_state_dict(tok.state_dict())
        assert other.hash() == tok.hash()
        assert not is_decoded(other, opened, tmp_path / "a.mov", start=2, stop=6)


def test_another_shape_of_pixels_is_encoded_anew(tok: VidTok, tmp_path: Path) -> None:
    """Frames of one size may be stretched or not, by what was asked."""
    flat = replace(moving(2, 32, 40), aspect=Fraction(16, 11))
    reeltok.write(flat, tmp_path / "a.mkv", lossless=True)
    sizes = []
    for aspect in (Fraction(16, 11), Fraction(1)):
        reeltok.write(replace(flat, aspect=aspect), tmp_path / "a.mkv", lossless=True)
        encode_file(tok, tmp_path / "a.mkv", tmp_path / "a.reel")
        sizes.append(is_encoded(tok, tmp_path / "a.mkv", tmp_path / "a.reel"))
        with reel.Reel(tmp_path / "a.reel") as opened:
            tokens = opened.tokens()
        other = {**tokens.settings, "pixel_aspect": "4:3"}
        reel.save_tokens(tokens.with_(settings=other), tmp_path / "b.reel")
        assert not is_encoded(tok, tmp_path / "a.mkv", tmp_path / "b.reel")
    assert sizes == [True, True]


@pytest.mark.parametrize("name", ["reftok-default", "own"])
def test_other_uses_of_the_same_weights_are_told_apart(
    clip: Path, tmp_path: Path, name: str
) -> None:
    body = replace(COMPACT, width=8, multipliers=(1, 1), blocks=(1, 1))
    model = RefTok(RefTokConfig(body=body, width=4, skip=1.0), name).eval()
    path, cut = tmp_path / "a.reel", Cut(frames=2)
    encode_file(model, clip, path, cut=cut)
    assert is_encoded(model, clip, path, cut=cut)
    with reel.Reel(path) as opened:
        assert ("cuts" in opened.settings) == (name == "own")
    changes = {
        "skip_margin": 0.5,
        "skip_after": 3,
        "policy": "none",
        "refresh": 1,
        "cuts": "ignore",
        "quality": 90,
    }
    for key, value in changes.items():
        other = model.under(**{key: value})
        assert not is_encoded(other, clip, path, cut=cut), key
    encode_file(other, clip, path, cut=cut)
    assert is_encoded(other, clip, path, cut=cut)
    assert not is_encoded(model, clip, path, cut=cut)
    with reel.Reel(path) as opened:
        tokens = opened.tokens()
    early = {name: v for name, v in tokens.settings.items() if name not in ("cuts", "quality")}
    reel.save_tokens(tokens.with_(settings=early), path)  # as earlier versions wrote it
    assert is_encoded(other, clip, path, cut=cut) == (name == "own")


@pytest.mark.filterwarnings("ignore:.*does not say where it ends")
def test_raw_pictures_of_another_layout_are_not_made_already(tok: VidTok, tmp_path: Path) -> None:
    path, raw = tmp_path / "a.reel", tmp_path / "a.yuv"
    raw.write_bytes(bytes(range(240)) * 32)
    for layout in ("yuv420p", "nv12"):
        cut = Cut(raw=f"40x32:10:{layout}")
        assert not path.exists() or not is_encoded(tok, raw, path, cut=cut)
        encode_file(tok, raw, path, cut=cut)
        assert is_encoded(tok, raw, path, cut=cut)


@pytest.mark.parametrize("wrong", ["none.mp4", "text.mp4"])
def test_what_is_no_video(tok: VidTok, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    error = FileNotFoundError if wrong == "none.mp4" else ValueError
    with pytest.raises(error, match=wrong):
        encode_file(tok, tmp_path / wrong, tmp_path / "a.reel")
    assert not (tmp_path / "a.reel").exists()


@pytest.mark.parametrize("name", ["chunk", "tile"])
def test_nothing_at_a_time_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` 0 is too small"):
        Coding(**{name: 0})


def test_a_demonstration_from_python(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    made = demonstrate(tok, clip, tmp_path, cut=Cut(frames=9))
    assert (made.encoded.frames, made.raw_bytes) == (9, 9 * 32 * 40 * 3)
    assert made.psnr is not None
    assert made.seconds.keys() == {"encode", "decode"}
    assert len(reeltok.read(made.reconstruction)) == 9
    assert Path(made.side_by_side).is_file()


def test_the_tokenizers_of_reels_are_loaded_once(tok: VidTok, clip: Path, tmp_path: Path) -> None:
    folder = tok.save_pretrained(tmp_path / "model")
    encode_file(tok, clip, tmp_path / "a.reel")
    with reel.Reel(tmp_path / "a.reel") as opened:
        models = ReelModels(folder)
        assert models.of(opened) is models.of(opened)
        assert models.of(opened).hash() == tok.hash()
        with pytest.raises(ValueError, match=r"was made by 'small'.*name its folder with `model`"):
            ReelModels().of(opened)
