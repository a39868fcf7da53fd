"""A full disk, a remote that fails or hangs, other people's tokenizers, and those with extras."""

import errno
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from corpus_clips import build, opener, write_clips
from small_models import COORDTOK, DISCRETE

from reeltok.corpus import Corpus, LoadedTokenizer, Shaping
from reeltok.corpus.place import Place
from reeltok.corpus.read import read_failures
from reeltok.corpus.shard import FileWriter
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import Video, read

WINDOWS = Shaping(frames=5, size=(16, 16))


def test_a_full_disk_ends_the_run_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5, 5))
    build(clips, tmp_path / "whole", WINDOWS, clips_each=1)
    finish = FileWriter.finish
    made: list[int] = []

    def full(self: FileWriter, about: Any) -> None:
        made.append(1)
        if len(made) == 2:
            self.writer.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        finish(self, about)

    monkeypatch.setattr(FileWriter, "finish", full)
    with pytest.raises(OSError, match=r"cannot write .*shard-000001.parquet: the disk is full"):
        build(clips, tmp_path / "out", WINDOWS, clips_each=1)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        *("plan.json", "shard-000000.json", "shard-000000.parquet")
    ]
    build(clips, tmp_path / "out", WINDOWS, clips_each=1)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_weights_that_are_used_in_another_way_are_another_plan(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5, 5))
    torch.manual_seed(0)
    model = RefTok(RefTokConfig(body=replace(DISCRETE, edge="past-first", upsampling="nearest")))
    held = LoadedTokenizer(tokenizer=model.eval(), load="small")
    build(clips, tmp_path / "out", WINDOWS, held=held, clips_each=1)
    other = LoadedTokenizer(tokenizer=model.under(policy="none"), load="small")
    with pytest.raises(ValueError, match=r"begun differently.*policy previous, now.*policy none"):
        build(clips, tmp_path / "out", WINDOWS, held=other, clips_each=1)
    file = tmp_path / "out" / "plan.json"
    plan = json.loads(file.read_text())
    assert plan["tokenizer"].pop("used")["policy"] == "previous"
    old = Place(tmp_path / "old")
    old.write("plan.json", json.dumps(plan))
    assert build(clips, old, WINDOWS, held=held, clips_each=1)  # of a version that kept none
    assert "used" not in json.loads(old.read("plan.json"))["tokenizer"]


def test_equal_weights_of_another_configuration_are_another_tokenizer(tmp_path: Path) -> None:
    clips, held = write_clips(tmp_path / "clips", (5, 5)), opener(continuous=True)
    build(clips, tmp_path / "out", WINDOWS, held=held, clips_each=1)
    model = held.tokenizer
    other = VidTok(replace(model.config, upsampling="trilinear"), model.name).eval()
    other.load_state_dict(model.state_dict())
    assert other.hash() == model.hash()
    with pytest.raises(ValueError, match=r"differently.* upsampling as usual, now.* trilinear;"):
        build(clips, tmp_path / "out", WINDOWS, held=replace(held, tokenizer=other), clips_each=1)
    corpus = Corpus(tmp_path / "out")
    with pytest.raises(ValueError, match=r"upsampling as usual, this is .* with upsampling tri"):
        corpus.decode(0, other)
    assert corpus.decode(0, model)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    del plan["tokenizer"]["config"]
    old = Place(tmp_path / "old")
    old.write("plan.json", json.dumps(plan))
    build(clips, old, WINDOWS, held=held, clips_each=1)  # of a version that kept none
    assert Corpus(old).decode(0, other)


def test_a_remote_that_fails_or_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    place = Place("memory://trouble", patience=0.1)
    place.write("a.json", "1")
    assert place.read("a.json") == b"1"
    with pytest.raises(FileNotFoundError, match=r"there is no file memory://trouble/b.json"):
        place.read("b.json")

    def hang(*_: Any, **__: Any) -> bytes:
        time.sleep(5)
        return b""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("quota exceeded\nfor this bucket")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", hang)
    with pytest.raises(OSError, match=r"memory://trouble/a.json does not answer within 0 s"):
        place.read("a.json")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail)
    with pytest.raises(OSError, match=r"c.json cannot be reached: quota exceeded for this bucket"):
        place.write("c.json", "1")
    with pytest.raises(ValueError, match="nosuchkind://x cannot be used"):
        Place("nosuchkind://x").names()


def test_a_remote_that_stops_answering_while_a_corpus_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFile

    clips = write_clips(tmp_path / "clips", (5,))
    build(clips, "memory://silent", WINDOWS)
    corpus = Corpus(Place("memory://silent", patience=0.2))
    read_on = MemoryFile.read

    def hang(self: MemoryFile, size: int = -1) -> bytes:
        time.sleep(2)
        return read_on(self, size)

    monkeypatch.setattr(MemoryFile, "read", hang)
    with pytest.raises(OSError, match=r"shard-000000.parquet does not answer within 0 s"):
        corpus[0]


def test_a_kind_of_address_whose_package_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(kind: str) -> None:
        raise ImportError(f"no {kind}")

    monkeypatch.setattr("fsspec.core.get_filesystem_class", missing)
    for address, package in (("http://a/b", "aiohttp"), ("s3://a/b", "s3fs")):
        with pytest.raises(
            ValueError, match=rf"{package}, which is not here: pip install {package}$"
        ):
            Place(address).names()


def test_another_tokenizer_is_refused_and_both_are_named(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", (5,))
    build(clips, tmp_path / "out", WINDOWS)
    torch.manual_seed(2)
    other = LoadedTokenizer(tokenizer=VidTok(DISCRETE, "other").eval())
    with pytest.raises(ValueError, match=r"by the tokenizer small \(\w{12}\), now it is other"):
        build(clips, tmp_path / "out", WINDOWS, held=other)
    with pytest.raises(ValueError, match=r"holds tokens of small \(\w{12}\), this is other"):
        Corpus(tmp_path / "out").decode(0, other.tokenizer)
    same = LoadedTokenizer(tokenizer=opener().tokenizer, load="another/path/to/it")
    assert build(clips, tmp_path / "out", WINDOWS, held=same).made == 0


def test_a_corpus_that_names_code_runs_none(tmp_path: Path) -> None:
    clips, named = write_clips(tmp_path / "clips", (5,)), opener().tokenizer
    build(clips, tmp_path / "out", WINDOWS, held=LoadedTokenizer(tokenizer=named, load="os:getcwd"))
    with pytest.raises(ValueError, match=r"os:getcwd runs code"):
        Corpus(tmp_path / "out").load()


def family(name: str) -> Tokenizer:
    """A small tokenizer whose tokens are no plain grid, or come with more tensors."""
    torch.manual_seed(0)
    if name == "leaning":
        return RefTok(RefTokConfig(body=DISCRETE, width=4), name).eval()
    small = {"size": (4, 16, 16), "cells": (2, 4, 4), "cell_patch": (2, 2, 2)}
    network = {"decoder_patch": (1, 8, 8), "decoder_width": 16, "decoder_depth": 1}
    return CoordTok(replace(COORDTOK, **small, **network), name).eval()


@pytest.mark.parametrize(("name", "frames"), [("planes", 4), ("leaning", 5), ("leaning", 9)])
def test_tokens_of_every_family_are_kept_whole(tmp_path: Path, name: str, frames: int) -> None:
    """CoordTok's planes and RefTok's stored references, several in a batch."""
    clips, tokenizer = write_clips(tmp_path / "clips", (10, 5, 9)), family(name)
    shaping, held = Shaping(frames=frames, size=(16, 16)), LoadedTokenizer(tokenizer=tokenizer)
    build(clips, tmp_path / "out", shaping, held=held, coding={"dtype": "float32", "batch": 3})
    build(clips, tmp_path / "one", shaping, held=held, coding={"dtype": "float32", "batch": 1})
    many, single = Corpus(tmp_path / "out"), Corpus(tmp_path / "one")
    assert len(many) >= 3 - (frames == 9)
    for number in range(len(many)):
        row, alone = many[number], single[number]
        assert sorted(row.extras) == sorted(alone.extras)
        assert all(torch.equal(row.extras[key], alone.extras[key]) for key in row.extras)
        made, other = many.decode(number, tokenizer), single.decode(number, tokenizer)
        gap = (made.frames.int() - other.frames.int()).abs().max()
        assert (len(made), int(gap) <= 1) == (frames, True)


@pytest.mark.parametrize("kind", ["AutoencoderKLWan", "AutoencoderKLLTXVideo"])
def test_the_autoencoders_of_others_keep_raw_latents_and_their_own_scale(
    tmp_path: Path, kind: str
) -> None:
    """What trainers normalise by is the config's, and what is stored is not normalised."""
    from small_foreign import TINY

    from reeltok.models.foreign.diffusers import Diffusers, DiffusersConfig

    clips = write_clips(tmp_path / "clips", (9, 9))
    torch.manual_seed(0)
    tokenizer = Diffusers(DiffusersConfig(class_name=kind, arguments=TINY[kind]), "theirs").eval()
    held, shaping = LoadedTokenizer(tokenizer=tokenizer), Shaping(frames=9, size=(32, 32))
    build(clips, tmp_path / "out", shaping, held=held, coding={"dtype": "float32"})
    corpus = Corpus(tmp_path / "out")
    row, tokens = corpus[1], corpus.tokens(1, tokenizer)
    clip = read(clips / "1.mkv")
    x = Video(clip.frames[:, :, 4:36], 10.0)
    with torch.no_grad():
        raw = tokenizer.network.encode(x.tensor()).latent_dist.mode()
    assert row.latents is not None
    assert torch.allclose(row.latents, raw[0], atol=1e-5)
    wanted = tokenizer.encode(x).latents
    assert tokens.latents is not None
    assert wanted is not None
    assert torch.allclose(tokens.latents, wanted, atol=1e-5)
    assert corpus.statistics is not None
    mean, std = (torch.tensor(corpus.statistics[k])[:, None, None, None] for k in ("mean", "std"))
    if kind == "AutoencoderKLWan":  # of the other the scale is one and the same for all channels
        assert corpus.statistics["from"] == "tokenizer"
        assert torch.allclose((row.latents - mean) / std, wanted[0], atol=1e-4)
    build(clips, tmp_path / "both", shaping, held=held, coding={"keep": "moments"})
    assert Corpus(tmp_path / "both")[0].log_variance is not None


@pytest.mark.parametrize("where", ["folder", "remote"])
def test_no_thread_of_pyarrow_holds_a_file_of_pythons(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one still does at the end of the interpreter, that aborts."""
    place = Place(tmp_path / "out" if where == "folder" else "memory://threads")
    build(write_clips(tmp_path / "clips", (5, 3)), place, WINDOWS)
    readers, really_open = set(), Place.opened

    class Watched:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            readers.add(threading.get_ident())
            return getattr(self.file, name)

    @contextmanager
    def watched(self: Place, name: str) -> Iterator[Any]:
        with really_open(self, name) as file:
            yield file if isinstance(file, pa.NativeFile) else Watched(file)

    monkeypatch.setattr(Place, "opened", watched)
    assert len(Corpus(place)) == 1
    assert len(read_failures(place)) == 1
    assert readers <= {threading.get_ident()}


def test_a_corpus_is_read_by_another_use_of_its_tokenizer(tmp_path: Path) -> None:
    """how the weights are used stands in each row, and is no other configuration."""
    body = replace(DISCRETE, edge="past-first", upsampling="nearest")
    model = RefTok(RefTokConfig(body=body, width=4, skip=1.0), "x").eval()
    clips, held = (
        write_clips(tmp_path / "clips", (5, 5)),
        LoadedTokenizer(tokenizer=model, load="x"),
    )
    build(clips, tmp_path / "out", WINDOWS, held=held)
    corpus = Corpus(tmp_path / "out")
    for view in (model.under(skip=0.0), model.under(skip_after=2), model.under(policy="first")):
        assert torch.equal(corpus.decode(0, view).frames, corpus.decode(0, model).frames)


def test_a_corpus_is_read_by_another_decoder_of_its_ids(tmp_path: Path) -> None:
    """as default-sharp reads ids of default, though it is another network."""
    clips, held = write_clips(tmp_path / "clips", (5, 5)), opener()
    build(clips, tmp_path / "out", WINDOWS, held=held)
    other = VidTok(replace(held.tokenizer.config, groups=1), "sharp").eval()
    other.reads = (held.tokenizer.hash(),)
    assert Corpus(tmp_path / "out").decode(0, other)
