"""Nothing of a batch is dropped, and parts of a clip are never taken for clips."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import reeltok
from reeltok import Tokens, Video
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.steps import split_steps
from reeltok.tokens.reel import Reel, ReelWriter, load_tokens, save_tokens
from reeltok.zoo import build_from_state
from tests.moving_clips import moving
from tests.small_models import DISCRETE, NONCAUSAL


def model() -> VidTok:
    torch.manual_seed(0)
    return VidTok(DISCRETE, "small").eval()


def video(seed: int) -> Video:
    generator = torch.Generator().manual_seed(seed)
    return Video(torch.randint(0, 256, (9, 16, 24, 3), generator=generator).byte(), 24.0)


def whole(tok: VidTok, tokens: Tokens) -> torch.Tensor:
    return tok.decode(tokens)


def in_stream(tok: VidTok, tokens: Tokens) -> torch.Tensor:
    return torch.cat(list(tok.stream_decode([tokens])), dim=2)


def in_chunks(tok: VidTok, tokens: Tokens) -> torch.Tensor:
    state = tok.new_decode_state()
    made = [tok.decode_chunk(part, state) for part in split_steps(tokens, tok.spec, 1)]
    return torch.cat([each for each in made if each is not None], dim=2)


@pytest.mark.parametrize("decode", [whole, in_stream, in_chunks])
def test_a_batch_of_videos_is_decoded_whole(decode: Callable[[VidTok, Tokens], Any]) -> None:
    tok, videos = model(), [video(1), video(2)]
    (tokens,) = DataLoader([tok.encode(each) for each in videos], batch_size=2)
    made = decode(tok, tokens)
    assert (made.dtype, tuple(made.shape)) == (torch.uint8, (2, 3, 9, 16, 24))
    for clip, each in zip(made, videos, strict=True):
        alone = tok.decode(tok.encode(each)).frames.permute(3, 0, 1, 2)
        assert (clip.int() - alone.int()).abs().max() <= 1


def test_ids_of_a_batch_with_a_rate_are_decoded_whole() -> None:
    tok = model()
    ids = torch.cat([tok.encode(video(seed)).flat() for seed in (1, 2)])
    tokens = Tokens.from_ids(ids, frames=9, size=(16, 24), fps=24.0, tokenizer=tok)
    assert tok.decode(tokens).shape == (2, 3, 9, 16, 24)


@pytest.mark.parametrize("decode", [whole, in_stream, in_chunks])
@pytest.mark.parametrize("kind", ["vidtok", "reftok"])
def test_a_part_is_not_decoded_as_a_clip(decode: Callable[[Any, Tokens], Any], kind: str) -> None:
    torch.manual_seed(0)
    tok = model() if kind == "vidtok" else RefTok(RefTokConfig(body=DISCRETE, width=4)).eval()
    tokens = tok.encode(video(1))
    with pytest.raises(ValueError, match="a part of a clip, from step 1 on"):
        decode(tok, tokens[1:])


def test_a_stream_may_begin_with_bare_ids() -> None:
    tok = model()
    tokens, state = tok.encode(video(1).tensor()), tok.new_decode_state()
    parts = (tokens.ids[:, :1], tokens.part(1, 3, frames=(1, 9)))
    made = [tok.decode_chunk(part, state) for part in parts]
    torch.testing.assert_close(torch.cat(made, dim=2), tok.decode(tokens))


def test_a_stream_takes_parts_in_their_order() -> None:
    tok = model()
    one, two = tok.encode(video(1)), tok.encode(video(2))
    with pytest.raises(ValueError, match="from step 0 on comes where step 3 is next"):
        list(tok.stream_decode([one, two]))
    state = tok.new_decode_state()
    tok.decode_chunk(one[:1], state)
    with pytest.raises(ValueError, match="from step 2 on comes where step 1 is next"):
        tok.decode_chunk(one[2:], state)


@pytest.mark.parametrize("misuse", [lambda k: k[0], list])
def test_steps_are_not_counted_out(misuse: Callable[[Tokens], Any]) -> None:
    with pytest.raises(ValueError, match=r"tokens are sliced, as in tokens\[0:2\]"):
        misuse(model().encode(video(1)))


def test_an_overflow_of_half_precision_is_said() -> None:
    tok = model().half()
    with torch.no_grad():
        tok.encoder.conv_in.weight.fill_(6e4)
    with pytest.raises(ValueError, match="leaves the range of float16"):
        tok.encode(video(1))


@pytest.mark.parametrize("clip", [torch.zeros(2, 3, 5, 16, 16), "clip.mp4"])
def test_one_clip_is_not_a_stream(clip: Any) -> None:
    with pytest.raises(ValueError, match="a stream is made of parts of a clip, found one"):
        list(model().stream_encode(clip))


@pytest.mark.parametrize(
    "frames", [torch.rand(5, 16, 16, 3), torch.zeros(3, 5, 16, 16).byte(), [[0]]]
)
def test_a_video_holds_bytes(frames: Any) -> None:
    with pytest.raises(ValueError, match=r"a Video holds a uint8 tensor of frames t h w 3"):
        Video.__post_init__(SimpleNamespace(frames=frames, fps=None, times=None))


def test_weights_of_another_configuration_are_refused(tmp_path: Any) -> None:
    tok = reeltok.load("reftok-push")
    file = tok.save_pretrained(tmp_path / "push") / "model.safetensors"
    again = reeltok.load("reftok-push", weights=file)
    assert again.hash() == tok.hash()
    assert again.config == tok.config
    still = replace(tok.config, motion=None, skip=0.0)
    with pytest.raises(ValueError, match="for which this configuration has no place"):
        build_from_state("reftok", still, "still", tok.state_dict())


def test_a_part_in_a_file_stays_a_part(tmp_path: Path) -> None:
    """From the middle of a clip it is no clip; it is joined to what comes before."""
    model = VidTok(DISCRETE).eval()
    tokens = model.encode(torch.rand(1, 3, 17, 16, 16) * 2 - 1)
    first, rest = tokens[:2], tokens[2:]
    path = tmp_path / "rest.reel"
    save_tokens(rest, path)
    found = load_tokens(path)
    assert found.step == 2
    assert Tokens.join([first, found]).ids.equal(tokens.ids)
    with Reel(path) as reel:
        for given in (found, path, reel):
            with pytest.raises(ValueError, match="a part of a clip, from step 2 on"):
                model.decode(given)
    frames = torch.cat([*model.stream_decode([first, found])], dim=2)
    torch.testing.assert_close(frames, model.decode(tokens))


def test_parts_are_written_in_their_order(tmp_path: Path) -> None:
    tokens = VidTok(DISCRETE).eval().encode(torch.rand(1, 3, 17, 16, 16) * 2 - 1)
    with ReelWriter(tmp_path / "rest.reel") as writer:
        writer.write(tokens[2:])
        with pytest.raises(ValueError, match="parts of one clip follow one another"):
            writer.write(tokens[:2])
    assert load_tokens(tmp_path / "rest.reel").ids.equal(tokens.ids[:, 2:])


@pytest.fixture(scope="module")
def windows() -> tuple[VidTok, Tokens, Video]:
    """A tokenizer that codes windows of 8 frames, and its tokens of 18 frames."""
    torch.manual_seed(1)
    model, clip = VidTok(NONCAUSAL, "windows").eval(), moving(18)
    tokens = model.encode(clip, chunk=8)
    assert (tokens.grid[0], tokens.settings["window"]) == (5, 8)
    return model, tokens, model.decode(tokens)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_parts_of_windows_are_joined(windows: Any, steps: int, tmp_path: Path) -> None:
    model, tokens, wanted = windows
    save_tokens(tokens, tmp_path / "a.reel", dtype="fp32")
    with Reel(tmp_path / "a.reel") as reel:
        made = list(model.stream_decode(reel.parts(steps)))
    frames = torch.cat([each.frames for each in made])
    assert (frames.int() - wanted.frames.int()).abs().max() <= 1


def test_parts_that_begin_or_end_within_a_window_are_refused(windows: Any) -> None:
    model, tokens, wanted = windows
    for decode in (model.decode, lambda part: list(model.stream_decode([part]))):
        with pytest.raises(ValueError, match="begin at step 1, within a window of 2 steps"):
            decode(tokens[1:])
    state = model.new_decode_state()
    with pytest.raises(ValueError, match="end within a window of 2 steps"):
        model.decode_chunk(tokens[:3], state)
    state = model.new_decode_state()
    first, rest = model.decode_chunk(tokens[:2], state), tokens[2:]
    last = model.decode_chunk(rest, state, last=True)
    frames = torch.cat([first.frames, last.frames])
    assert (frames.int() - wanted.frames.int()).abs().max() <= 1
    [alone] = model.stream_decode([tokens[2:4]])  # a window needs nothing before
    assert (alone.frames.int() - wanted.frames[8:16].int()).abs().max() <= 1


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("config", [NONCAUSAL, DISCRETE], ids=["windows", "groups"])
def test_what_is_decoded_says_where_it_starts(config: Any, varying: bool) -> None:
    clip = moving(16)
    times = torch.arange(16).double() ** 1.5 / 10 if varying else None
    clip = replace(clip, times=times, last=1.0 if varying else None, start=2.5)
    model = VidTok(config, "small").eval()
    tokens = model.encode(clip, chunk=8)
    made, wanted = model.decode(tokens, start=7, stop=12), clip[7:12]
    assert made.start == pytest.approx(wanted.start)
    assert (made.times is None) == (not varying)
    if varying:
        torch.testing.assert_close(made.times, wanted.times)
    if config is NONCAUSAL:
        assert model.decode(tokens[2:4]).start == pytest.approx(clip[8:16].start)
        assert model.decode(tokens[2:4], start=3).start == pytest.approx(clip[11:16].start)
