"""What people hand to a tokenizer: axes left out, arrays, paths, bare ids and latents."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import COORDTOK
from torch import Tensor

from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.inputs import as_tokens
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import load_tokens, save_tokens
from reeltok.video.record import Video, read, write

MODELS: dict[str, Tokenizer] = {
    "default": VidTok(replace(COMPACT, width=8), "default").eval(),
    "continuous": VidTok(replace(VIDTOK["vidtok_kl_causal_488_4chn"], width=8), "kl").eval(),
    "windows": VidTok(replace(VIDTOK["vidtok_fsq_noncausal_488_262144"], width=8), "nc").eval(),
    "coordtok": CoordTok(COORDTOK, "planes").eval(),
    "reftok": RefTok(RefTokConfig(body=replace(COMPACT, width=8)), "leaning").eval(),
}
FRAMES = {"default": 9, "continuous": 9, "windows": 8, "coordtok": 16, "reftok": 9}
TOK = MODELS["default"]


def clip(frames: int = 9, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(1, 3, frames, height, width) * 2 - 1


# ---------------------------------------------------------------- clips


@pytest.mark.parametrize("name", MODELS)
def test_axes_that_are_left_out_are_left_out_again(name: str) -> None:
    model, x = MODELS[name], clip(FRAMES[name])
    whole = model.encode(x)
    bare = model.encode(x[0])
    assert torch.equal(bare.first_tensor, whole.first_tensor)
    assert torch.equal(model.decode(bare), model.decode(whole)[0])
    assert model.decode(bare, start=2, stop=4).shape == (3, 2, 16, 24)
    for picture in (x[:, :, 0], x[0, :, 0]):
        assert model.decode(model.encode(picture)).shape == picture.shape


def test_axes_are_kept_in_a_file(tmp_path: Path) -> None:
    save_tokens(TOK.encode(clip()[0]), tmp_path / "a.reel")
    assert TOK.decode(load_tokens(tmp_path / "a.reel")).shape == (3, 9, 16, 24)


def test_arrays_and_paths_are_encoded(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (9, 16, 24, 3), dtype=torch.uint8)
    video = Video(frames=frames, fps=25.0)
    write(video, tmp_path / "a.mkv", lossless=True)
    expected = TOK.encode(read(tmp_path / "a.mkv"))
    for path in (tmp_path / "a.mkv", str(tmp_path / "a.mkv")):
        assert torch.equal(TOK.encode(path).ids, expected.ids)
        assert TOK.encode(path).fps == 25.0
    whole = TOK.encode(video)
    for given in (frames, frames.numpy()):
        tokens = TOK.encode(given)
        assert torch.equal(tokens.ids, whole.ids)
        assert isinstance(TOK.decode(tokens), Video)
    x = clip()
    assert torch.equal(TOK.encode(x.numpy()).ids, TOK.encode(x).ids)
    assert torch.equal(TOK.encode(x[0].numpy()).ids, TOK.encode(x).ids)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        TOK.encode(tmp_path / "none.mp4")


def test_bytes_come_back_as_bytes() -> None:
    x = torch.randint(0, 256, (2, 3, 9, 16, 24), dtype=torch.uint8)
    tokens = TOK.encode(x, chunk=4)
    assert torch.equal(tokens.ids, TOK.encode(x.float() / 127.5 - 1).ids)
    again = TOK.decode(tokens)
    floats = TOK.decode(TOK.encode(x.float() / 127.5 - 1))
    assert again.dtype == torch.uint8
    assert torch.equal(again, ((floats.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))


def test_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="pad='middle' is unknown: give 'end' or 'front'"):
        TOK.encode(clip(), pad="middle")


# ---------------------------------------------------------------- bare tokens


@pytest.mark.parametrize("name", MODELS)
def test_bare_tokens_of_whole_groups_decode(name: str) -> None:
    model, x = MODELS[name], clip(FRAMES[name])
    tokens = model.encode(x)
    expected = model.decode(tokens)
    assert tokens.latents is not None
    bare = [tokens.latents, tokens.latents[0], tokens.latents.numpy()]
    if tokens.ids is not None:
        bare += [
            tokens.ids,
            tokens.ids[0],
            tokens.ids.int(),
            tokens.ids.numpy(),
            tokens.ids.tolist(),
        ]
    for each in bare:
        torch.testing.assert_close(model.decode(each), expected, atol=1e-4, rtol=1e-4)
    part = model.decode(bare[-1], start=1, stop=3)
    torch.testing.assert_close(part, expected[:, :, 1:3], atol=1e-4, rtol=1e-4)


def test_latents_come_back_in_their_type_and_files_by_their_path(tmp_path: Path) -> None:
    model = MODELS["continuous"]
    tokens = model.encode(clip())
    assert model.decode(tokens.latents.half()).dtype == torch.float16
    save_tokens(tokens, tmp_path / "a.reel", dtype=torch.float32)
    assert torch.equal(model.decode(tmp_path / "a.reel"), model.decode(tokens))


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("default", torch.zeros(1, 30, dtype=torch.long), "'batch steps rows columns'"),
        ("default", torch.full((1, 3, 2, 3), 10**9), "id 1000000000 is out of range"),
        ("default", torch.full((1, 3, 2, 3), -1), "id -1 is out of range"),
        ("default", torch.zeros(1, 2, 3, 2, 3), "channels, these have 2"),
        ("default", torch.full((1, 9, 3, 2, 3), float("nan")), "hold NaN"),
        ("default", torch.zeros(1, 3, 2, 3, dtype=torch.bool), "integers, found torch.bool"),
        ("default", torch.zeros(1, 3, 2, 3, dtype=torch.complex64), "found torch.complex64"),
        ("default", {"ids": 3}, "came as dict"),
        ("default", "none.reel", "none"),
        ("continuous", torch.zeros(1, 3, 2, 3, dtype=torch.long), "latents, no ids"),
        ("coordtok", torch.zeros(1, 3, 7), "64 steps and then groups"),
        ("reftok", torch.zeros(1, 0, 2, 3, dtype=torch.long), "found shape 1x0x2x3"),
    ],
)
def test_what_is_no_clip_of_tokens_is_refused(name: str, wrong: object, said: str) -> None:
    model = MODELS[name]
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        model.decode(wrong)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.spec.vocabulary])
def test_other_ids_give_other_frames(name: str) -> None:
    """They gave the old ones: the latents beside them were decoded."""
    model, x = MODELS[name], clip(FRAMES[name])
    tokens = model.encode(x)
    ids = (tokens.ids + 1) % model.spec.vocabulary
    changed = model.decode(tokens.with_(ids=ids))
    torch.testing.assert_close(changed, model.decode(ids), atol=1e-4, rtol=1e-4)
    assert not torch.equal(changed, model.decode(tokens))
    codes = model.lookup(ids)
    other = model.decode(tokens.with_(latents=codes))
    torch.testing.assert_close(other, changed, atol=1e-4, rtol=1e-4)
    for mixed in (replace(tokens, ids=ids), replace(tokens, latents=codes)):
        with pytest.raises(ValueError, match="ids and the latents of other ids"):
            model.decode(mixed)


def test_ids_changed_in_place_are_checked_when_decoded() -> None:
    tokens = TOK.encode(clip()).with_(latents=None)
    tokens.ids[0, 0, 0, 0] = 10**9
    with pytest.raises(ValueError, match="id 1000000000 is out of range"):
        TOK.decode(tokens)


def test_ids_without_a_vocabulary_decode_where_their_maker_is_not_said() -> None:
    tokens = TOK.encode(clip())
    loose = Tokens.from_ids(tokens.ids, frames=9, size=(16, 24))
    torch.testing.assert_close(TOK.decode(loose), TOK.decode(tokens.ids))
    with pytest.raises(ValueError, match="from 'else' with ids of an unknown vocabulary"):
        TOK.decode(loose.with_(model="else"))


def test_windows_without_their_length_are_one() -> None:
    model = MODELS["windows"]
    tokens = model.encode(clip(16))
    loose = Tokens.from_ids(tokens.ids, frames=16, size=(16, 24), tokenizer=model)
    expected = model.decode(tokens)
    torch.testing.assert_close(model.decode(loose), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.decode(loose, start=9, stop=12), expected[:, :, 9:12], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("frames", [9, 16, 20, 29, 36, 37, 48])
def test_slices_in_whole_windows_stand_for_all_of_their_frames(frames: int) -> None:
    """Also where the last window is short, whose steps are fewer."""
    model = MODELS["windows"]
    tokens = Tokens.join(model.stream_encode([clip(frames, 16, 16)], window=16))
    whole, steps = model.decode(tokens), tokens.grid[0]
    for first in range(0, steps, 4):
        part = tokens[first : min(first + 4, steps)]
        shown = whole[:, :, 4 * first : 4 * first + 16]
        assert part.frames == shown.shape[2]
        assert torch.allclose(model.decode(part), shown, atol=1e-5)


def test_arrays_of_bare_ids_keep_their_axes() -> None:
    ids = TOK.encode(clip()).ids
    assert as_tokens(np.asarray(ids), TOK).grid == (3, 2, 3)
