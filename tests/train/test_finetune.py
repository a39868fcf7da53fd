"""Fine-tuning on a few clips helps those clips; adapting the decoder alone changes no id."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import small_recipe

from reeltok import load, read, write, zoo
from reeltok.data.find import find_clips
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers.gaussian import GaussianConfig
from reeltok.parallel import Rank
from reeltok.recipes import find_recipe
from reeltok.train import change, train
from reeltok.train.build import build_model
from reeltok.train.launch import reconstruction
from reeltok.train.reconstruct import score_frames
from reeltok.train.run import Run


def test_adapted_decoder_leaves_every_id_unchanged(clips: Path, tmp_path: Path) -> None:
    build_model(small_recipe()).save_pretrained(tmp_path / "before")
    frozen = {
        "model": str(tmp_path / "before"),
        "start": "trained",
        "loop.freeze": '["encoder", "quantizer"]',
        "loop.schedule.steps": "3",
    }
    train(change(small_recipe(), frozen), data=clips, out=tmp_path / "run", device="cpu")
    before, after = load(tmp_path / "before"), load(tmp_path / "run" / "model")
    video = read(clips / "0.mkv")
    ids = before.encode(video).ids
    assert torch.equal(ids, after.encode(video).ids)
    tokens = before.encode(video)  # what was coded before the adaptation is decoded after it
    assert not torch.equal(before.decode(tokens).frames, after.decode(tokens).frames)


def test_a_model_with_another_encoder_reads_no_old_tokens(clips: Path, tmp_path: Path) -> None:
    build_model(small_recipe()).save_pretrained(tmp_path / "before")
    moved = {
        "model": str(tmp_path / "before"),
        "start": "trained",
        "loop.freeze": '["decoder"]',
        "loop.schedule.steps": "2",
    }
    train(change(small_recipe(), moved), data=clips, out=tmp_path / "run", device="cpu")
    tokens = load(tmp_path / "before").encode(read(clips / "0.mkv"))
    with pytest.raises(ValueError, match="with other weights"):
        load(tmp_path / "run" / "model").decode(tokens)


def test_an_encoder_that_rests_only_since_a_resume_reads_no_old_tokens(
    clips: Path, tmp_path: Path
) -> None:
    build_model(small_recipe()).save_pretrained(tmp_path / "before")
    begun = {"model": str(tmp_path / "before"), "start": "trained", "loop.schedule.steps": "2"}
    resting = begun | {"loop.schedule.steps": "3", "loop.freeze": '["encoder", "quantizer"]'}
    for changes in (begun, resting):
        recipe, resume = change(small_recipe(), changes), changes is resting
        train(recipe, data=clips, out=tmp_path / "run", device="cpu", resume=resume)
    assert load(tmp_path / "run" / "model").reads == ()


@pytest.mark.parametrize("name", ["finetune", "adapt_decoder"])
@pytest.mark.parametrize("kind", ["fsq", "kl", "reftok"])
def test_any_kind_of_model_is_tuned_without_noise(tmp_path: Path, name: str, kind: str) -> None:
    body = replace(COMPACT, width=8)
    if kind == "kl":
        model = VidTok(replace(body, quantizer=GaussianConfig(channels=4)), "mine")
    elif kind == "reftok":
        model = RefTok(RefTokConfig(body=body, width=4), "mine")
    else:
        model = VidTok(body, "mine")
    model.save_pretrained(tmp_path / "mine")
    recipe = change(find_recipe(name), {"model": str(tmp_path / "mine")})
    built = build_model(recipe)
    assert getattr(built.config.quantizer, "rounding_from", 0) == 0
    # A RefTok's encoder decodes, so that its ids change with the decoder.
    assert bool(built.reads) == (name == "adapt_decoder" and kind != "reftok")
    task = reconstruction()(built, recipe, None)
    assert Run(task, recipe.loop, Rank(device=torch.device("cpu"))).optimizers


@pytest.fixture(scope="module")
def ten_clips(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten clips of people and open films in negative, which the default has not seen."""
    if "default" not in zoo.bundled():
        pytest.skip("the default's trained weights are not bundled yet")
    folder = tmp_path_factory.mktemp("ten")
    chosen = [c for c in find_clips(shared / "data" / "train") if c.group in ("open", "people")]
    for clip in chosen[:: len(chosen) // 10][:10]:
        video = read(clip.path, frames=49, size=192)
        negative = replace(video, frames=255 - video.frames)
        write(negative, folder / f"{clip.path.stem}.mkv", lossless=True)
    return folder


def mean_psnr(model: str | Path, folder: Path) -> float:
    tokenizer = load(model)
    scores = []
    for clip in find_clips(folder):
        x = read(clip.path, frames=17, size=128).tensor()[..., :128, :128]
        scores.append(score_frames(x, tokenizer.decode(tokenizer.encode(x)).clamp(-1, 1))["psnr"])
    return sum(scores) / len(scores)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", ["finetune", "adapt_decoder"])
def test_ten_clips_improve_in_ten_minutes(ten_clips: Path, tmp_path: Path, name: str) -> None:
    began = time.process_time()
    recipe = change(find_recipe(name), {"data.holdout": "0"})
    train(recipe, data=ten_clips, out=tmp_path / "run", device="cpu")
    seconds = time.process_time() - began
    assert seconds < 600
    before, after = (
        mean_psnr("default", ten_clips),
        mean_psnr(tmp_path / "run" / "model", ten_clips),
    )
    print(f"{name}: {before:.2f} to {after:.2f} dB in {seconds / 60:.1f} CPU minutes")
    assert after > before + 0.5
    if name == "adapt_decoder":
        one, two = load("default"), load(tmp_path / "run" / "model")
        for clip in find_clips(ten_clips)[:3]:
            x = read(clip.path, frames=17, size=128)
            assert torch.equal(one.encode(x).ids, two.encode(x).ids)
