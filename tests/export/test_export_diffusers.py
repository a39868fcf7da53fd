"""A tokenizer as the `vae` of pipelines of diffusers, which run with tiny transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_foreign import TINY
from small_models import CAUSAL, COORDTOK, DISCRETE, NONCAUSAL
from torch import Tensor

import reeltok
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.foreign.diffusers import Diffusers, DiffusersConfig
from reeltok.models.foreign.function import Function, FunctionConfig
from reeltok.models.vidtok.network import VidTok
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.posterior import encode_posterior

diffusers = pytest.importorskip("diffusers", reason="needs diffusers (extra diffusers)")

from reeltok.export.diffusers import AutoencoderReeltok  # noqa: E402

CLIP = torch.rand(2, 3, 9, 32, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
STATISTICS = {"mean": [0.1, -0.2, 0.3, 0.0], "std": [0.5, 1.0, 2.0, 1.5]}


def continuous() -> VidTok:
    torch.manual_seed(3)
    model = VidTok(CAUSAL, "small").eval()
    model.statistics = STATISTICS
    return model


@pytest.fixture
def vae() -> AutoencoderReeltok:
    return reeltok.to_diffusers(continuous())


# ---------------------------------------------------------------- as a class of diffusers


def test_latents_and_frames_are_the_tokenizers(vae: AutoencoderReeltok) -> None:
    tokens = vae.tokenizer.encode(CLIP)
    dist = vae.encode(CLIP).latent_dist
    assert torch.equal(dist.mode(), tokens.latents)
    assert torch.equal(vae.encode(CLIP, return_dict=False)[0].mean, tokens.latents)
    drawn = dist.sample(torch.Generator().manual_seed(0))
    assert ((drawn - dist.mode()) / dist.std).std() == pytest.approx(1, abs=0.1)
    frames = vae.tokenizer.decode(tokens)
    assert torch.allclose(vae.decode(dist.mode()).sample, frames, atol=1e-6)
    assert torch.equal(vae.decode(dist.mode(), None, return_dict=False)[0], vae(CLIP).sample)


def test_the_spread_is_the_tokenizers_and_a_call_may_draw(vae: AutoencoderReeltok) -> None:
    dist, found = vae.encode(CLIP).latent_dist, encode_posterior(vae.tokenizer, CLIP)
    assert torch.allclose(dist.logvar, found.logvar)
    assert found.logvar.abs().min() > 0
    seeded = lambda: torch.Generator().manual_seed(0)
    made = vae(CLIP, sample_posterior=True, generator=seeded()).sample
    assert torch.allclose(made, vae.decode(dist.sample(seeded())).sample)
    assert not torch.allclose(made, vae(CLIP).sample, atol=1e-3)


def test_a_call_gives_the_shape_of_its_clip(vae: AutoencoderReeltok) -> None:
    x = CLIP[:, :, :8, :30, :44]
    assert vae(x).sample.shape == vae(x, return_dict=False)[0].shape == x.shape
    assert vae.decode(vae.encode(x).latent_dist.mode()).sample.shape == (2, 3, 9, 32, 48)


def test_a_discrete_tokenizer_gives_its_codes() -> None:
    model = VidTok(DISCRETE, "ids").eval()
    vae = reeltok.to_diffusers(model)
    dist = vae.encode(CLIP).latent_dist
    assert torch.equal(dist.sample(), model.encode(CLIP).latents)
    assert vae.config.latents_mean == [0.0] * len(DISCRETE.quantizer.levels)


def test_config_and_attributes_say_what_pipelines_ask(vae: AutoencoderReeltok) -> None:
    config = vae.config
    assert config.latents_mean == STATISTICS["mean"]
    assert vae.latents_std.tolist() == STATISTICS["std"]
    assert (config.z_dim, config.latent_channels, config.scaling_factor) == (4, 4, 1.0)
    assert (config.scale_factor_temporal, config.scale_factor_spatial) == (4, 8)
    assert (vae.temporal_compression_ratio, vae.spatial_compression_ratio) == (4, 8)
    assert vae.temperal_downsample == [False, True, True]  # 2 ** its length is 8, 2 ** its sum 4
    assert len(config.block_out_channels) == 4
    assert vae.dtype == torch.float32
    assert vae.to(torch.bfloat16).encode(CLIP.bfloat16()).latent_dist.mean.dtype == torch.bfloat16


def test_tiling_and_slicing_are_the_flags_of_diffusers(vae: AutoencoderReeltok) -> None:
    whole, z = vae.encode(CLIP).latent_dist.mean, torch.randn(2, 4, 3, 4, 8)
    frames = vae.decode(z).sample
    vae.enable_slicing()
    assert torch.allclose(vae.encode(CLIP).latent_dist.mean, whole, atol=1e-5)
    assert torch.allclose(vae.decode(z).sample, frames, atol=1e-5)
    vae.enable_tiling(tile=16)
    assert torch.allclose(vae.encode(CLIP).latent_dist.mean, whole, atol=1e-5)
    assert torch.allclose(vae.decode(z).sample, frames, atol=1e-5)
    vae.disable_tiling()
    assert torch.allclose(vae.decode(z).sample, frames, atol=1e-5)


def test_enabled_tiling_reaches_the_tokenizer(
    vae: AutoencoderReeltok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strips change no value, so that only what the tokenizer is told shows it."""
    told, encode, decode = [], VidTok.encode, VidTok.decode

    def telling(call: Any) -> Any:
        return lambda *given, **options: told.append(options["tile"]) or call(*given, **options)

    monkeypatch.setattr("reeltok.export.diffusers.encode_posterior", telling(encode_posterior))
    monkeypatch.setattr(VidTok, "encode", telling(encode))
    monkeypatch.setattr(VidTok, "decode", telling(decode))
    discrete = reeltok.to_diffusers(VidTok(DISCRETE, "ids").eval())
    for made in (vae, discrete):
        for change in (
            lambda each: each.enable_tiling(tile=16),
            lambda each: each.disable_tiling(),
        ):
            change(made)
            made(CLIP)
    assert told == [16, 16, None, None] * 2


def test_it_is_saved_and_loaded(vae: AutoencoderReeltok, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path)
    again = AutoencoderReeltok.from_pretrained(tmp_path)
    assert dict(again.config)["latents_std"] == STATISTICS["std"]
    assert torch.equal(again.encode(CLIP).latent_dist.mean, vae.encode(CLIP).latent_dist.mean)
    ours = reeltok.load(tmp_path)
    assert (ours.hash(), ours.statistics) == (vae.tokenizer.hash(), STATISTICS)
    assert ours.name == "small"


VIDTOKS = [name for name in reeltok.zoo.bundled() if reeltok.zoo.PRESETS[name][0] == "vidtok"]


@pytest.mark.parametrize("name", VIDTOKS)
def test_what_a_model_says_beside_is_saved_with_it(name: str, tmp_path: Path) -> None:
    model = reeltok.load(name)
    said = (model.statistics, model.reads, model.earlier)
    reeltok.to_diffusers(model).save_pretrained(tmp_path)
    for again in (
        reeltok.load(tmp_path),
        AutoencoderReeltok.from_pretrained(tmp_path).tokenizer,
    ):
        assert again.hash() == model.hash()
        assert (again.statistics, again.reads, again.earlier) == said


@pytest.mark.parametrize("extras", [3, {"reads": 3}, {"statistics": {"first": {"mean": [0.0]}}}])
def test_damage_to_what_is_said_beside_is_one_sentence(
    vae: AutoencoderReeltok, extras: Any, tmp_path: Path
) -> None:
    vae.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extras": extras}))
    if isinstance(extras, dict):
        with pytest.raises(ValueError, match=str(next(iter(extras)))):
            reeltok.load(tmp_path)
    else:
        assert reeltok.load(tmp_path).statistics == STATISTICS


@pytest.mark.parametrize("key", ["latents_mean", "latents_std"])
def test_statistics_of_other_channels_are_refused(
    vae: AutoencoderReeltok, key: str, tmp_path: Path
) -> None:
    vae.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: [0.5, 2.0]}))
    for load in (reeltok.load, AutoencoderReeltok.from_pretrained):
        with pytest.raises(ValueError, match=r"of 2 and 4 channels, but latents .* have 4: copy"):
            load(tmp_path)


def test_statistics_of_first_steps_are_of_as_many_channels(tmp_path: Path) -> None:
    model = continuous()
    found = {"mean": [0.0] * 4, "std": [1.0] * 4}
    for part in ("first", "later"):
        model.statistics = {**found, part: {"mean": [0.0] * 3, "std": [1.0] * 4}}
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"of 3 and 4 channels, but latents .* have 4: copy"):
            reeltok.load(tmp_path)


def test_what_diffusers_saved_last_is_read(vae: AutoencoderReeltok, tmp_path: Path) -> None:
    """It leaves our model.safetensors beside its own file, and we leave its file beside ours."""
    torch.manual_seed(4)
    earlier = VidTok(CAUSAL, "earlier").eval()
    earlier.save_pretrained(tmp_path)
    vae.save_pretrained(tmp_path)
    assert reeltok.load(tmp_path).hash() == vae.tokenizer.hash()
    earlier.save_pretrained(tmp_path)
    assert reeltok.load(tmp_path).hash() == earlier.hash()


def test_without_statistics_a_pipeline_is_said_to_take_latents_as_they_are() -> None:
    model = continuous()
    model.statistics = None
    with pytest.warns(UserWarning, match="`reeltok statistics MODEL CLIPS` measures them"):
        vae = reeltok.to_diffusers(model)
    assert vae.latents_std.tolist() == [1.0] * 4


def test_a_tokenizer_that_is_not_causal_is_said_to_give_other_frames() -> None:
    model = VidTok(NONCAUSAL, "windows").eval()
    model.statistics = STATISTICS
    with pytest.warns(UserWarning, match="windows is not causal: its first latent is of 4 frames"):
        vae = reeltok.to_diffusers(model)
    frames = drawn(wan(diffusers.WanPipeline, vae), num_frames=17)
    assert frames.shape == (1, 20, 3, 32, 64)


def test_a_causal_tokenizer_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    reeltok.to_diffusers(continuous())
    assert not recwarn.list


def test_a_class_of_diffusers_comes_back_as_itself() -> None:
    config = DiffusersConfig(class_name="AutoencoderKLWan", arguments=TINY["AutoencoderKLWan"])
    model = Diffusers(config, "wan")
    assert reeltok.to_diffusers(model) is model.network


def test_a_config_that_is_not_the_networks_is_refused(
    vae: AutoencoderReeltok, tmp_path: Path
) -> None:
    vae.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scale_factor_spatial": 16}))
    with pytest.raises(ValueError, match="says scale_factor_spatial=16, but its network has 8"):
        AutoencoderReeltok.from_pretrained(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"family": "other"}))
    with pytest.raises(ValueError, match="family 'other'"):
        AutoencoderReeltok.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="family 'other'"):
        reeltok.load(tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: reeltok.load("reftok-default"), "decodes as it encodes"),
        (lambda: CoordTok(COORDTOK, "planes"), "no latents b d t h w"),
        (lambda: Function(FunctionConfig(name="abc:ABC"), "f"), "no latents b d t h w"),
    ],
    ids=["reftok", "coordtok", "function"],
)
def test_what_has_no_latent_volume_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reeltok.to_diffusers(make())


# ---------------------------------------------------------------- in pipelines


def embeddings() -> dict[str, Any]:
    text = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(2))
    return {"prompt_embeds": text, "negative_prompt_embeds": torch.zeros_like(text)}


def scheduler(**more: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def wan(kind: Any, vae: AutoencoderReeltok) -> Any:
    torch.manual_seed(5)
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )
    parts = {"vae": vae, "transformer": transformer, "scheduler": scheduler(shift=3.0)}
    return quiet(kind(tokenizer=None, text_encoder=None, **parts))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any, **more: Any) -> Tensor:
    options = {"height": 32, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    seed = torch.Generator().manual_seed(0)
    return pipeline(**embeddings(), **(options | more), generator=seed).frames


def test_wan_draws_with_it_and_again_from_its_folder(
    vae: AutoencoderReeltok, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="diffusers reloads Wan with accelerate (extra dev)")
    pipeline = wan(diffusers.WanPipeline, vae)
    frames = drawn(pipeline, num_frames=9)
    assert frames.shape == (1, 9, 3, 32, 64)
    pipeline.save_pretrained(tmp_path)
    absent = {"tokenizer": None, "text_encoder": None, "transformer_2": None}
    again = quiet(diffusers.WanPipeline.from_pretrained(tmp_path, **absent))
    assert isinstance(again.vae, AutoencoderReeltok)
    assert torch.allclose(drawn(again, num_frames=9), frames, atol=1e-5)
    assert reeltok.load(tmp_path).hash() == vae.tokenizer.hash()


def test_wan_changes_a_video_with_it(vae: AutoencoderReeltok) -> None:
    """What it shows of the clip is decoded from the clip's own latents."""
    pipeline = wan(diffusers.WanVideoToVideoPipeline, vae)
    video = list(CLIP[0].permute(1, 2, 3, 0).numpy() / 2 + 0.5)
    frames = drawn(pipeline, video=video, strength=0.5)
    assert frames.shape == (1, 9, 3, 32, 64)
    other = drawn(pipeline, video=video[::-1], strength=0.5)
    assert not torch.allclose(other, frames, atol=1e-3)


def test_wan_normalises_by_the_statistics(vae: AutoencoderReeltok) -> None:
    """A pipeline hands the decoder its own latents times the deviation, plus the mean."""
    pipeline = wan(diffusers.WanPipeline, vae)
    z = drawn(pipeline, num_frames=9, output_type="latent")
    mean, std = vae.latents_mean.view(1, -1, 1, 1, 1), vae.latents_std.view(1, -1, 1, 1, 1)
    want = (vae.decode(z * std + mean).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(drawn(pipeline, num_frames=9), want.transpose(1, 2), atol=1e-5)


def test_ltx_draws_with_it(vae: AutoencoderReeltok) -> None:
    torch.manual_seed(5)
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        num_layers=1,
    )
    parts = {"vae": vae, "transformer": transformer, "scheduler": scheduler()}
    pipeline = quiet(diffusers.LTXPipeline(tokenizer=None, text_encoder=None, **parts))
    mask = torch.ones(1, 5, dtype=torch.bool)
    masks = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    frames = drawn(pipeline, num_frames=9, **masks)
    assert frames.shape == (1, 9, 3, 32, 64)
    vae.register_to_config(latents_mean=[2.0] * 4)
    assert not torch.allclose(drawn(pipeline, num_frames=9, **masks), frames, atol=1e-3)


def test_a_tokenizer_of_your_own_needs_a_place_among_the_families(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model: Tokenizer = continuous()
    monkeypatch.setattr(type(model), "family", "mine")
    with pytest.raises(ValueError, match="family 'mine'"):
        reeltok.to_diffusers(model)
