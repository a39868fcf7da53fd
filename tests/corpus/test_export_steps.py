"""Exports of tokenizers whose first step of tokens is not one frame."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_clips import build, write_clips
from small_models import CAUSAL, DISCRETE, NONCAUSAL

from reeltok.corpus import Corpus, LoadedTokenizer, Shaping
from reeltok.corpus.formats.export import export_corpus
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer

pytest.importorskip("pyarrow", reason="needs pyarrow (extra corpus)")
CONTINUOUS = replace(DISCRETE, quantizer=CAUSAL.quantizer)


def corpus_of(tokenizer: Tokenizer, place: Path, *, frames: int, **coding: Any) -> Corpus:
    """A corpus of two windows of so many frames."""
    held = LoadedTokenizer(tokenizer=tokenizer.eval(), load=tokenizer.name)
    clips = write_clips(place / "clips", (frames, frames + 1))
    build(clips, place / "corpus", Shaping(frames=frames), held=held, coding=coding)
    return Corpus(place / "corpus")


def leaning(start: str, body: Any = DISCRETE) -> RefTok:
    """A RefTok that keeps the first frame as `start` says."""
    torch.manual_seed(0)
    return RefTok(RefTokConfig(body=body, width=4, start=start), f"small-{start}")


@pytest.mark.parametrize("to", ["megatron", "torchtitan"])
@pytest.mark.parametrize(("start", "steps"), [("webp", 2), ("lossless", 2), ("plain", 3)])
def test_ids_behind_a_stored_first_frame_are_exported(
    start: str, steps: int, to: str, tmp_path: Path
) -> None:
    corpus = corpus_of(leaning(start), tmp_path, frames=9)
    assert {row.ids.shape[0] for row in corpus} == {steps}
    done = export_corpus(corpus, tmp_path / "out", to=to)
    said = f"{to} has no place for reference: decode from the corpus itself"
    assert (said in done.notes) == (start != "plain")
    kind = "<u2" if to == "megatron" else "<u4"
    found = np.fromfile(tmp_path / "out" / "tokens.bin", kind)
    assert found.tolist() == torch.cat([row.ids.flatten() for row in corpus]).tolist()


def test_a_slice_behind_a_stored_first_frame_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(leaning("webp"), tmp_path, frames=9)
    rows = [replace(row, frames=13) for row in corpus]
    monkeypatch.setattr(Corpus, "__iter__", lambda self: iter(rows))
    with pytest.raises(ValueError, match="has 2 steps for 13 frames, and a clip of these has 3"):
        export_corpus(corpus, tmp_path / "out", to="megatron")


def test_a_picture_that_is_stored_whole_has_no_ids(tmp_path: Path) -> None:
    corpus = corpus_of(leaning("webp"), tmp_path, frames=1)
    with pytest.raises(ValueError, match="is a single frame that is kept as a picture"):
        export_corpus(corpus, tmp_path / "out", to="torchtitan")


@pytest.mark.parametrize("to", ["fastvideo", "energon", "ltx"])
def test_latents_behind_a_stored_first_frame_are_refused(to: str, tmp_path: Path) -> None:
    """A trainer would take the next four frames for the first one."""
    corpus = corpus_of(leaning("webp", CONTINUOUS), tmp_path, frames=9, keep="latents")
    with pytest.raises(ValueError, match=f"and {to} takes the first latent for that frame"):
        export_corpus(corpus, tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["fastvideo", "energon"])
@pytest.mark.parametrize("config", [NONCAUSAL, CAUSAL], ids=["windows", "causal"])
def test_a_first_latent_of_several_frames_is_said(config: Any, to: str, tmp_path: Path) -> None:
    corpus = corpus_of(VidTok(config, "small"), tmp_path, frames=8)
    done = export_corpus(corpus, tmp_path / "out", to=to)
    said = f"small is not causal: its first latent is of 4 frames, and {to} takes it for one"
    assert (said in done.notes) == (config is NONCAUSAL)


@pytest.mark.parametrize("frames", [8, 9])
def test_ltx_refuses_a_first_latent_of_several_frames(frames: int, tmp_path: Path) -> None:
    """Also where the number of frames is one that it takes."""
    corpus = corpus_of(VidTok(NONCAUSAL, "small"), tmp_path, frames=frames)
    with pytest.raises(ValueError, match=r"that of small is of 4: .* with a causal tokenizer$"):
        export_corpus(corpus, tmp_path / "out", to="ltx")
    assert not (tmp_path / "out").exists()
