"""Arguments that are something else than what is asked for: a sentence each, no error of torch."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import COORDTOK
from torch import Tensor

import reeltok
from reeltok.models.coordtok.network import CoordTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.tiling import Tiling
from reeltok.tokens.reel import Reel, load_tokens, save_tokens
from reeltok.transcode.options import Coding
from reeltok.video.record import stream

Wrong = Callable[[], Any]
pytestmark = pytest.mark.usefixtures("types_unchecked")
DRAW = torch.Generator().manual_seed(0)


def clip(*shape: int) -> Tensor:
    return torch.rand(*shape) * 1.8 - 0.9


X, Y = clip(1, 3, 5, 16, 16), clip(1, 3, 4, 24, 16)
VIDEO = reeltok.Video(torch.zeros(2, 16, 16, 3, dtype=torch.uint8), 10.0)


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return reeltok.load("default")


@pytest.fixture(scope="module")
def kl() -> Tokenizer:
    return reeltok.load("default-kl")


@pytest.fixture(scope="module")
def ref() -> Tokenizer:
    return reeltok.load("reftok-default")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(cases: dict[str, Wrong]) -> None:
    """Each case is a ValueError of one line in which its words stand."""
    for words, wrong in cases.items():
        with pytest.raises(ValueError) as found:  # noqa: PT012 - a stream is to be gone through
            made = wrong()
            if isinstance(made, Iterator):
                list(made)
        assert words.partition("|")[0] in str(found.value), words
        assert "\n" not in str(found.value)


# ---------------------------------------------------------------- load


def test_load_takes_names_of_types_and_refuses_others() -> None:
    for name in ("float16", "fp16", torch.float16):
        assert reeltok.load("default", dtype=name).dtype == torch.float16
    refused(
        {
            f"dtype={word} is not known: give float32": lambda wrong=wrong: reeltok.load(
                "default", dtype=wrong
            )
            for word, wrong in {
                "half": "half",
                "torch.int64": torch.int64,
                "torch.float8_e4m3fn": torch.float8_e4m3fn,
                "<class 'float'>": float,
            }.items()
        }
    )


def test_load_gives_float32_whatever_is_stored(tmp_path: Path, tok: Tokenizer) -> None:
    folder = tok.save_pretrained(tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.bfloat16() for k, v in weights.items()}, folder / "model.safetensors")
    assert reeltok.load(folder).dtype == torch.float32
    shutil.rmtree(folder)


def test_a_preset_is_no_folder_of_its_name(tok: Tokenizer, kl: Tokenizer, tmp_path: Path) -> None:
    kl.save_pretrained(tmp_path / "default")
    assert reeltok.load("default").hash() == tok.hash()
    assert reeltok.load("./default").hash() == kl.hash()
    assert reeltok.load(Path("default")).hash() == kl.hash()


def test_load_refuses_what_has_no_name(tok: Tokenizer) -> None:
    load = reeltok.load
    refused(
        {
            "a tokenizer has a name, a str or a Path, found NoneType": lambda: load(None),
            "a tokenizer has a name, a str or a Path, found ''": lambda: load(""),
            "found VidTok: reeltok.presets()": lambda: load(tok),
            "weights has a name, a str or a Path, found OrderedDict": lambda: load(
                "default", weights=tok.state_dict()
            ),
            "'default' is no repository of the hub": lambda: load("default", revision="main"),
            "'default' is no repository of the hub, and only these": lambda: load(
                "default", weights="random", revision="main"
            ),
            "there is no device 'gpu'": lambda: load("default", device="gpu"),
        }
    )


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("wrong", ["4", 4.0, True, [4], float("nan"), X], ids=type)
def test_numbers_of_frames_and_pixels_are_whole(wrong: Any, tok: Tokenizer) -> None:
    tokens = tok.encode(X)
    refused(
        {
            "chunk=": lambda: tok.encode(X, chunk=wrong),
            "chunk=|": lambda: tok.decode(tokens, chunk=wrong),
            "tile=": lambda: tok.encode(X, tile=wrong),
            "tile=|": lambda: tok.decode(tokens, tile=wrong),
            "window=": lambda: tok.stream_encode([X], window=wrong),
            "pixels=": lambda: Tiling(pixels=wrong),
            "to 5 were asked": lambda: tok.decode(tokens, start=wrong),
            "frames 0 to": lambda: tok.decode(tokens, stop=wrong),
            "chunk must be 1 or more": lambda: stream("clip.mp4", chunk=wrong),
            "frames must be 1 or more": lambda: reeltok.read("clip.mp4", frames=wrong),
            "`chunk` ": lambda: Coding(chunk=wrong),
        }
    )


def test_other_numbers_are_numbers() -> None:
    assert Tiling(pixels=16, room=1e8).room == 1e8
    read, write = reeltok.read, reeltok.write
    refused(
        {
            "room='4'": lambda: Tiling(pixels=16, room="4"),
            "room=-1": lambda: Tiling(pixels=16, room=-1),
            "room=nan": lambda: Tiling(pixels=16, room=float("nan")),
            "window=0": lambda: reeltok.load("default").stream_encode([X], window=0),
            "start is in seconds from the first frame, not '1'": lambda: read("a", start="1"),
            "start is in seconds from the first frame, not None": lambda: read("a", start=None),
            "fps must be positive, not '10'": lambda: read("a", fps="10"),
            "fps must be positive, not '10'|": lambda: write(VIDEO, "a.mp4", fps="10"),
            "fps must be positive, not True": lambda: write(VIDEO, "a.mp4", fps=True),
            "crf='18' is outside": lambda: write(VIDEO, "a.mp4", crf="18"),
            "a codec has a name, found int": lambda: write(VIDEO, "a.mp4", codec=3),
            "`memory=": lambda: Coding(memory="2"),
        }
    )


# ---------------------------------------------------------------- frames in


def test_only_a_generator_draws_and_only_latents(
    tok: Tokenizer, kl: Tokenizer, ref: Tokenizer
) -> None:
    for model in (tok, kl, ref):
        for wrong in (True, 0, "x"):
            refused(
                {
                    f"sample={wrong!r} is no torch.Generator": lambda m=model, w=wrong: m.encode(
                        X, sample=w
                    )
                }
            )
    cases: dict[str, Wrong] = {
        "default has ids, which are not drawn": lambda: tok.encode(X, sample=DRAW),
        "default has ids, which are not drawn|": lambda: tok.stream_encode([X], sample=DRAW),
        "default has ids, which are not drawn||": lambda: tok.encode_chunk(
            X, tok.new_encode_state(), sample=DRAW
        ),
        "default has ids, which are not drawn|||": lambda: tok.encode(X, pad="front", sample=DRAW),
        "reftok-default has ids": lambda: ref.encode(X, sample=DRAW),
        "planes gives latents that are not drawn": lambda: CoordTok(COORDTOK, "planes").encode(
            clip(1, 3, 8, 16, 24), sample=DRAW
        ),
    }
    refused(cases)
    assert not torch.equal(kl.encode(X, sample=DRAW).latents, kl.encode(X).latents)


def test_nothing_is_no_clip(tok: Tokenizer, tmp_path: Path) -> None:
    empty = VIDEO[20:]
    refused(
        {
            "the clip holds no frames": lambda: tok.encode(empty),
            "the stream holds no frames": lambda: tok.encode(empty, chunk=4),
            "the clip holds no frames|": lambda: tok.stream_encode([empty]),
            "the chunk holds no frames": lambda: tok.encode_chunk(empty, tok.new_encode_state()),
            "there are no frames to write": lambda: reeltok.write(empty, "a.mp4"),
            "a video has a name, a str or a Path, found ''": lambda: reeltok.read(""),
            "found one NoneType": lambda: tok.stream_encode(None),
        }
    )
    assert not (tmp_path / "a.mp4").exists()
    assert sum(part.frames for part in tok.stream_encode([VIDEO, empty])) == 2


def after(model: Tokenizer, first: Any, second: Any) -> None:
    state = model.new_encode_state()
    model.encode_chunk(first, state)
    model.encode_chunk(second, state)


def test_a_stream_keeps_its_size_and_batch(tok: Tokenizer, ref: Tokenizer) -> None:
    for model in (tok, ref):
        refused(
            {
                "continues with (24, 16)": lambda m=model: after(m, X, Y),
                "continues with (10, 16)": lambda m=model: after(m, X, clip(1, 3, 4, 10, 16)),
                "with 1 clips side by side and continues with 2": lambda m=model: after(
                    m, X, clip(2, 3, 4, 16, 16)
                ),
                "with 1 clips side by side|": lambda m=model: m.stream_encode(
                    [X, clip(2, 3, 4, 16, 16)]
                ),
            }
        )


def test_a_state_is_of_its_kind(tok: Tokenizer, ref: Tokenizer) -> None:
    for model in (tok, ref):
        tokens, there, back = model.encode(X), model.new_encode_state(), model.new_decode_state()
        refused(
            {
                "found NoneType: give what new_encode": lambda m=model: m.encode_chunk(X, None),
                "found DecodeState": lambda m=model, s=back: m.encode_chunk(X, s),
                "found EncodeState": lambda m=model, t=tokens, s=there: m.decode_chunk(t, s),
                "found NoneType: give what new_decode": lambda m=model, t=tokens: m.decode_chunk(
                    t, None
                ),
            }
        )


def test_a_call_takes_whole_groups(tok: Tokenizer) -> None:
    refused(
        {
            "found Video: use encode": lambda: tok(VIDEO),
            "found (3, 5, 16, 16): use encode": lambda: tok(X[0]),
            "1 frames and then groups of 4, found 4": lambda: tok(X[:, :, :4]),
            "sides that divide by 8 and 8, found 16x12": lambda: tok(X[..., :12]),
        }
    )


# ---------------------------------------------------------------- tokens


def test_a_stream_of_tokens_is_of_tokens_of_one_size(tok: Tokenizer, ref: Tokenizer) -> None:
    for model in (tok, ref):
        tokens, state = model.encode(X), model.new_encode_state()
        model.encode_chunk(clip(1, 3, 5, 24, 16), state)
        other = model.encode_chunk(Y, state)
        state = model.new_decode_state()
        model.decode_chunk(tokens, state)
        refused(
            {
                "steps of 1x2x2 tokens (clips first) and continues with 1x3x2": (
                    lambda m=model, t=other, s=state: m.decode_chunk(t, s)
                ),
                "steps of 1x2x2 tokens|": lambda m=model, a=tokens, b=other: m.stream_decode(
                    [a, b]
                ),
                "found one NoneType": lambda m=model: m.stream_decode(None),
                "found one Tokens": lambda m=model, t=tokens: m.stream_decode(t),
                "found one str": lambda m=model: m.stream_decode("a.reel"),
                "found Tensor: give Tokens": lambda m=model, t=tokens: m.stream_decode([t.ids]),
                "found Tensor: give Tokens|": lambda m=model, t=tokens: m.stream_decode([t, t.ids]),
                "found str: give Tokens": lambda m=model: m.decode_chunk(
                    "a.reel", m.new_decode_state()
                ),
            }
        )


def test_bare_tokens_of_a_stream_are_checked(tok: Tokenizer, ref: Tokenizer) -> None:
    z = tok.encode(X).latents
    assert z is not None
    decode = lambda tokens: tok.decode_chunk(tokens, tok.new_decode_state())
    refused(
        {
            "latents have 9 channels, these have 2": lambda: decode(z[:, :2]),
            "latents hold NaN": lambda: decode(z * float("nan")),
            "'batch channels steps rows columns', found shape 9x2x2x2": lambda: decode(z[0]),
            "bare ids and latents have no reference": lambda: tok.decode_chunk(
                z, tok.new_decode_state(reference=X[:, :, :1])
            ),
        }
    )
    ids = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    for model in (tok, ref):
        refused(
            {
                "'batch steps rows columns', found shape 2x2x2": lambda m=model: m.lookup(ids[0]),
                "found shape 8": lambda m=model: m.lookup(ids.flatten()),
                "found list; give torch.as_tensor": lambda m=model: m.lookup(ids.tolist()),
            }
        )


def test_tokens_are_of_a_clip(tok: Tokenizer) -> None:
    ids, made = torch.zeros(1, 8, dtype=torch.long), reeltok.Tokens.from_ids
    plain: dict[str, Any] = {"frames": 5, "size": (16, 16)}
    cases = {
        "at least one frame, not frames='5'": {"frames": "5"},
        "at least one frame, not frames=5.0": {"frames": 5.0},
        "size is (height, width) in pixels, not 16": {"size": 16},
        "size is (height, width) in pixels, not '16x16'": {"size": "16x16"},
        "size is (height, width) in pixels, not (3, 16, 16)": {"size": (3, 16, 16)},
        "size is (height, width) in pixels, not None": {"size": None},
        "fps must be positive, not '10'": {"fps": "10"},
        "fps must be positive, not 0": {"fps": 0},
        "fps must be positive, not -1": {"fps": -1},
        "fps must be positive, not nan": {"fps": float("nan")},
        "tokenizer= is what reeltok.load gives, not 'default'": {"tokenizer": "default"},
        "a grid is a tuple of sizes, the steps first, found '2x2x2'": {"grid": "2x2x2"},
        "a grid is a tuple of sizes, the steps first, found 8": {"grid": 8},
        "a vocabulary is a number of ids, not '9'": {"vocabulary": "9"},
        "settings are JSON values by name, found list": {"settings": [1]},
    }
    for words, change in cases.items():
        refused({words: lambda change=change: made(ids, **(plain | change))})
    tokens = tok.encode(X)
    refused(
        {
            "tokens are sliced, as in tokens[0:2], not by slice('a'": lambda: tokens["a":],
            "tokens are sliced, as in tokens[0:2], not by slice(0.5": lambda: tokens[0.5:],
            "steps 0 to 1.0 were asked for": lambda: tokens.part(0, 1.0),
            "steps 5 to 9 were asked for, but there are 0 to 2": lambda: tokens[5:9],
            "steps 0 to -2 were asked for, but there are 0 to 2": lambda: tokens[:-2],
            "steps 1 to 0 were asked for, but there are 0 to 2": lambda: tokens[1:0],
            "parts of a clip are Tokens, found Tensor": lambda: reeltok.Tokens.join([ids]),
            "5 frames of 16.5x16": lambda: tokens.with_(height=16.5),
        }
    )


# ---------------------------------------------------------------- files


def test_files_of_tokens(tok: Tokenizer, kl: Tokenizer, tmp_path: Path) -> None:
    tokens, latents = tok.encode(X), kl.encode(X)
    save_tokens(latents, "k.reel", dtype="float32")
    with Reel("k.reel") as closed:
        assert closed.dtype == torch.float32
    refused(
        {
            "dtype=half is not known": lambda: save_tokens(latents, "a.reel", dtype="half"),
            "dtype=None is not known": lambda: save_tokens(latents, "a.reel", dtype=None),
            "found Tensor: give Tokens": lambda: save_tokens(tokens.ids, "a.reel"),
            "found Reel: give Tokens": lambda: save_tokens(closed, "a.reel"),
            "found Video: give Tokens": lambda: save_tokens(VIDEO, "a.reel"),
            "a .reel file has a name, a str or a Path, found Tokens": lambda: save_tokens(
                "a.reel", tokens
            ),
            "a .reel file has a name, a str or a Path, found NoneType": lambda: load_tokens(None),
            "a .reel file has a name, a str or a Path, found bytes": lambda: load_tokens(b"a"),
            "packing= is a model that packs ids, found str": lambda: save_tokens(
                tokens, "a.reel", packing="p.safetensors"
            ),
            "steps=0 is not a number": lambda: closed.parts(0),
            "steps=-1 is not a number": lambda: closed.parts(-1),
            "steps='2' is not a number": lambda: closed.parts("2"),
            "found one Reel: give a list": lambda: kl.stream_decode(closed),
            "k.reel was closed: open it again": lambda: closed.part(0, 1),
            "a folder has a name, a str or a Path, found NoneType": lambda: tok.save_pretrained(
                None
            ),
        }
    )
    assert not (tmp_path / "a.reel").exists()


# ---------------------------------------------------------------- videos


def test_videos() -> None:
    of, frames = reeltok.Video.of, VIDEO.frames
    assert VIDEO.tensor("float16").dtype == torch.float16
    refused(
        {
            "not of type NoneType: reeltok.read opens files": lambda: of(None),
            "not of type str": lambda: of("clip.mp4"),
            "not of type list": lambda: of([frames]),
            "fps must be positive, not '10'": lambda: of(frames, fps="10"),
            "fps must be positive, not 0": lambda: of(frames, fps=0),
            "fps must be positive, not nan": lambda: reeltok.Video(frames, float("nan")),
            "`like` is a Video that lends its rate, not a Tensor": lambda: of(frames, like=X),
            "one for each of 2 frames, found list": lambda: reeltok.Video(frames, 10.0, [0.0, 0.1]),
            "one for each of 2 frames, found (3,)": lambda: reeltok.Video(
                frames, 10.0, torch.zeros(3, dtype=torch.float64)
            ),
            "dtype=cuda is not known": lambda: VIDEO.tensor("cuda"),
            "dtype=torch.uint8 is not known": lambda: VIDEO.tensor(torch.uint8),
            "a Video is sliced, as in video[0:8], not by 0": lambda: VIDEO[0],
            "a Video is sliced, as in video[0:8], not by slice('a'": lambda: VIDEO["a":],
            "what is written has a name, a str or a Path, found NoneType": lambda: reeltok.write(
                VIDEO, None
            ),
        }
    )


def test_a_function_for_the_size_gives_a_size(tmp_path: Path) -> None:
    reeltok.write(VIDEO, tmp_path / "a.mkv", lossless=True)
    read = lambda size: reeltok.read(tmp_path / "a.mkv", size=size)
    refused(
        {
            "size gave 3 for a picture": lambda: read(lambda h, w: 3),
            "not (0, 0)": lambda: read(lambda h, w: (0, 0)),
        }
    )
