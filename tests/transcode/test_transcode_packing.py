"""Packed files from Python: the same tokens and frames as plain ones, in fewer bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from small_models import CAUSAL, DISCRETE, save_random
from small_packing import add_packing, small_packing

import reeltok
from reeltok import zoo
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.packing import packing_for
from reeltok.tokens import reel
from reeltok.tokens.packing.model import NAME
from reeltok.tokens.reel import Reel
from reeltok.transcode import Coding, Cut, Writing, decode_file, encode_file
from reeltok.transcode.encode import is_encoded
from reeltok.transcode.packing import packed_bits
from reeltok.video.record import Video, write

pytest.importorskip("constriction")
PACKED = Coding(pack=True, chunk=5)


def still(video: Video) -> Video:
    """The same, but from the seventh frame on nothing moves."""
    frames = torch.cat([video.frames[:6], video.frames[6:7].expand(len(video) - 6, -1, -1, -1)])
    return replace(video, frames=frames)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small discrete model with a packing model."""
    folder = save_random({"discrete": DISCRETE}, tmp_path_factory.mktemp("models"))["discrete"]
    add_packing(folder, still(moving(18)))
    return folder


@pytest.fixture
def tok(folder: Path) -> Tokenizer:
    return zoo.load(folder)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """18 frames of 32x40, of which the last twelve stand still."""
    reeltok.write(still(moving(18)), tmp_path / "clip.mkv", lossless=True)
    return tmp_path / "clip.mkv"


def test_packed_files_are_the_plain_ones_in_fewer_bits(
    tok: Tokenizer, clip: Path, tmp_path: Path
) -> None:
    plain = encode_file(tok, clip, tmp_path / "plain.reel", coding=Coding(chunk=5)).reel
    packed = encode_file(tok, clip, tmp_path / "packed.reel", coding=PACKED).reel
    assert plain is not None
    assert packed is not None
    assert (plain.packing, packed.packing) == (None, packing_for(tok).hash)
    assert packed.bits_per_pixel == plain.bits_per_pixel
    assert packed.stored_bits_per_pixel < 0.8 * plain.stored_bits_per_pixel
    tokens = reel.load_tokens(tmp_path / "plain.reel")
    found = reel.load_tokens(tmp_path / "packed.reel", packing=tok.packing)
    assert torch.equal(found.ids, tokens.ids)
    stored = packed.stored_bits_per_pixel * 18 * 32 * 40
    assert packed_bits(tok, tokens) == pytest.approx(stored)
    for name in ("plain", "packed"):
        source, target = tmp_path / f"{name}.reel", tmp_path / f"{name}.mkv"
        decode_file(tok, source, target, start=3, stop=15, writing=Writing(lossless=True))
    one, other = (reeltok.read(tmp_path / f"{n}.mkv").frames.int() for n in ("plain", "packed"))
    assert (one - other).abs().max() <= 1  # kernels may round otherwise where memory lies otherwise


def test_a_tokenizer_reads_what_its_packing_model_packed(
    tok: Tokenizer, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.reel"
    encode_file(tok, clip, path, coding=PACKED)
    whole = tok.decode(path)
    with Reel(path) as opened:
        part = tok.decode(opened, start=4, stop=11)
    assert (whole.frames[4:11].int() - part.frames.int()).abs().max() <= 1
    decode_file(tok, path, tmp_path / "a.mkv", writing=Writing(lossless=True))
    assert len(reeltok.read(tmp_path / "a.mkv")) == 18


def test_packed_and_plain_files_are_told_apart(tok: Tokenizer, clip: Path, tmp_path: Path) -> None:
    plain = Coding(chunk=5)
    encode_file(tok, clip, tmp_path / "packed.reel", coding=PACKED)
    assert is_encoded(tok, clip, tmp_path / "packed.reel", coding=PACKED)
    assert not is_encoded(tok, clip, tmp_path / "packed.reel", coding=plain)
    encode_file(tok, clip, tmp_path / "plain.reel", coding=plain)
    assert not is_encoded(tok, clip, tmp_path / "plain.reel", coding=PACKED)


def test_other_time_stamps_are_other_tokens(tok: Tokenizer, tmp_path: Path) -> None:
    """A rate that is the mean of the stamps had been taken for theirs."""
    times = torch.arange(18).double() / 10 + 0.02 * (torch.arange(18) % 3 == 1)
    video = replace(moving(18), times=times)
    write(video, tmp_path / "a.mkv", lossless=True)
    assert reeltok.read(tmp_path / "a.mkv").times is not None
    encode_file(tok, tmp_path / "a.mkv", tmp_path / "a.reel")
    assert is_encoded(tok, tmp_path / "a.mkv", tmp_path / "a.reel")
    with Reel(tmp_path / "a.reel") as opened:
        rate = Cut(fps=opened.fps)
    assert not is_encoded(tok, tmp_path / "a.mkv", tmp_path / "a.reel", cut=rate)
    encode_file(tok, tmp_path / "a.mkv", tmp_path / "a.reel", cut=rate)
    assert is_encoded(tok, tmp_path / "a.mkv", tmp_path / "a.reel", cut=rate)
    assert not is_encoded(tok, tmp_path / "a.mkv", tmp_path / "a.reel")


def test_what_cannot_be_packed_says_why(tmp_path: Path, clip: Path) -> None:
    models = save_random({"discrete": DISCRETE, "causal": CAUSAL}, tmp_path / "models")
    out = tmp_path / "a.reel"
    with pytest.raises(ValueError, match="causal has latents, and only ids are packed"):
        encode_file(zoo.load(models["causal"]), clip, out, coding=PACKED)
    tok = zoo.load(models["discrete"])
    with pytest.raises(ValueError, match="discrete has no packing model: train one"):
        encode_file(tok, clip, out, coding=PACKED)
    assert packed_bits(tok, tok.encode(reeltok.read(clip))) is None
    digits = DISCRETE.quantizer.levels
    other = small_packing(vocabulary=2**15, digits=digits, groups=(1,) * len(digits))
    other.save(models["discrete"] / NAME)
    tok = zoo.load(models["discrete"])
    with pytest.raises(ValueError, match=r"packing\.safetensors was trained on ids of other wei"):
        encode_file(tok, clip, out, coding=PACKED)
    assert packed_bits(tok, tok.encode(reeltok.read(clip))) is None
    assert not out.exists()
