"""Other people's autoencoders: built, read and exported with their own normalisation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_clips import write_clips
from small_foreign import TINY

import reeltok
from reeltok.corpus import Corpus, NamedTokenizer, Shaping, WindowCoding, build_corpus, plan_corpus
from reeltok.corpus.formats.export import export_corpus

diffusers = pytest.importorskip("diffusers", reason="needs diffusers (extra diffusers)")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra corpus)")
pytestmark = pytest.mark.filterwarnings("ignore:.*random weights")

SCALES = {
    "AutoencoderKLWan": "tokenizer",  # a mean and a deviation for each channel
    "AutoencoderKLHunyuanVideo": "tokenizer",  # a factor
    "AutoencoderKLLTXVideo": "measured",  # none until weights bring it
    "AutoencoderKLCogVideoX": "tokenizer",
    "AutoencoderKLCosmos": "tokenizer",  # numbers for each channel and step
}
"""Whose statistics a corpus has."""
FRAMES = 9


def pipeline_scale(vae: Any, z: torch.Tensor) -> torch.Tensor:
    """What pipelines of diffusers make of raw latents, written out from their sources."""
    config, steps, buffers = vae.config, z.shape[2], dict(vae.named_buffers())
    named = lambda key: config.get(key) if config.get(key) is not None else buffers.get(key)
    mean, std = named("latents_mean"), named("latents_std")
    factor = config.get("scaling_factor") or 1.0
    if mean is None or std is None:
        return z * factor
    table = lambda v: torch.as_tensor(v).float().view(1, z.shape[1], -1, 1, 1)[:, :, :steps]
    return (z - table(mean)) * factor / table(std)


def timed(name: str) -> Any:
    """A class as a parameter; the slowest are among the slow tests."""
    slow = ("AutoencoderKLWan", "AutoencoderKLCogVideoX")
    return pytest.param(name, marks=pytest.mark.slow) if name in slow else name


@pytest.mark.parametrize("name", [timed(name) for name in SCALES])
def test_a_corpus_keeps_raw_latents_and_how_their_pipelines_scale_them(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vae = getattr(diffusers, name).from_config(dict(TINY[name])).eval()
    vae.save_pretrained(tmp_path / "vae")
    clips = write_clips(tmp_path / "clips", (FRAMES,))
    opener = NamedTokenizer(load=f"diffusers:{tmp_path / 'vae'}")
    shaping = Shaping(frames=FRAMES, stride=FRAMES, size=(32, 32))
    plan = plan_corpus(clips, opener, shaping=shaping, coding=WindowCoding(dtype="float32"))
    build_corpus(plan, tmp_path / "corpus", opener)
    corpus = Corpus(tmp_path / "corpus")
    (row,) = corpus

    tokenizer = corpus.load()
    x = reeltok.read(clips / "0.mkv").tensor()[..., 4:36]  # the middle of 32x40
    with torch.no_grad():
        raw = vae.encode(x).latent_dist.mode()
    assert torch.allclose(row.latents[None], raw, atol=1e-4)
    found = corpus.statistics
    plain = torch.allclose(pipeline_scale(vae, raw), raw)
    assert (found["from"], plain) == (SCALES[name], SCALES[name] == "measured")

    tokens = corpus.tokens(0, tokenizer)
    assert torch.allclose(tokens.latents, pipeline_scale(vae, raw), atol=1e-4)
    again = corpus.decode(0, tokenizer).tensor()
    with torch.no_grad():
        want = vae.decode(raw).sample.clamp(-1, 1)
    assert (again - want).abs().max() < 1.5 * 2 / 255  # rounded to bytes

    export_corpus(corpus, tmp_path / "fastvideo", to="fastvideo")
    (path,) = (tmp_path / "fastvideo").rglob("*.parquet")
    held = pq.read_table(path).to_pylist()[0]
    flat = np.frombuffer(held["vae_latent_bytes"], np.float32).reshape(held["vae_latent_shape"])
    assert np.allclose(flat, raw[0].numpy(), atol=1e-4)

    export_corpus(corpus, tmp_path / "ltx", to="ltx", dtype=torch.float32)
    (path,) = (tmp_path / "ltx").rglob("*.pt")
    held = torch.load(path, weights_only=True)["latents"]
    if plain:  # by the deviation that was measured: of this one window
        assert abs(float(held.std()) - 1) < 0.2
    else:
        assert torch.allclose(held[None], pipeline_scale(vae, raw), atol=1e-4)
