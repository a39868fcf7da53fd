"""CoordTok against the recorded public outputs, and the laws of windows, slices and regions."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import COORDTOK
from torch import Tensor

from reeltok import zoo
from reeltok.models import convert
from reeltok.models.convert_coordtok import (
    coordtok_config,
    coordtok_from_public,
    coordtok_to_public,
)
from reeltok.models.coordtok.network import CoordTok, decode_box
from reeltok.models.coordtok.sizes import PRESETS
from reeltok.models.coordtok.triplane import CoordTokConfig, bilinear, locate, prepare
from reeltok.nn.quantizers import FSQConfig
from reeltok.tokens import reel
from reeltok.tokens.record import Tokens
from reeltok.video.record import Video


def build(config: CoordTokConfig = COORDTOK) -> CoordTok:
    torch.manual_seed(0)
    return CoordTok(config, "tiny").eval()


def clip(frames: int, batch: int = 1, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, 16, 24, generator=generator) * 2 - 1


@pytest.fixture(scope="module", params=["full", "short"])
def fixture(request: pytest.FixtureRequest, shared: Path) -> tuple[dict[str, Tensor], CoordTok]:
    path = shared / "parity" / "coordtok" / f"coordtok_tiny_{request.param}.safetensors"
    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata()["kwargs"])
    tensors = load_file(path)
    weights = {f"module.{k[3:]}": v for k, v in tensors.items() if k.startswith("sd.")}
    weights["module.decoder.lpips_loss.lin0.weight"] = torch.zeros(1)
    return tensors, coordtok_from_public(weights, coordtok_config(arguments))


@pytest.mark.weights
@pytest.mark.parametrize(
    ("dtype", "outputs", "limit"), [(torch.float32, "out", 2e-4), (torch.float64, "out64", 1e-9)]
)
def test_parity(fixture, dtype: torch.dtype, outputs: str, limit: float) -> None:
    tensors, model = fixture
    model = model.to(dtype)

    def close(x: Tensor, name: str, end: str = outputs) -> None:
        assert (x - tensors[f"{end}.{name}"]).abs().max() <= limit, name

    x, frames = tensors["in.video"].permute(0, 4, 1, 2, 3).to(dtype), tensors["in.n_frames"][:, 0]
    with torch.no_grad():
        planes = model.encode_planes(x, frames)
        for name in ("xy", "yt", "xt"):
            close(planes[name], f"z_{name}")
        whole, _, bias = prepare(x, frames, model.config)
        close(bias[:, 0, 0], "key_padding_additive_mask", "mid")
        seen = model.encoder.run_vit(whole)
        close(seen, "vit_features", outputs if dtype == torch.float64 else "mid")
        close(model.decode_patches(planes, tensors["in.coords_grid_index"]), "patches_grid")
        free = tensors["in.coords_free"].clone()
        index = (free * (torch.tensor(model.config.places) - 1)).long()
        close(model.decoder(planes, index, coordinates=free), "patches_free")
        assert torch.equal(free, tensors["in.coords_free"])
        box = ((0, 16), (0, 32), (0, 32))
        first = {name: plane[:1] for name, plane in planes.items()}
        video = decode_box(model.decoder, first, box, frames=16, slices=4)
        close(video[0].permute(1, 2, 3, 0), "video_slices4")
        if dtype == torch.float32:
            video = decode_box(model.decoder, first, box, frames=16)
            close(video[0].permute(1, 2, 3, 0), "video_slices1")
            close(model.decoder.look_up(planes, free), "interp_free", "mid")
        if "out.video_last_short_slices1" in tensors and dtype == torch.float32:
            video = decode_box(model.decoder, planes, ((0, 9), *box[1:]), frames=9)
            close(video[1].permute(1, 2, 3, 0), "video_last_short_slices1")


@pytest.mark.parametrize(
    ("size", "total", "encoder", "decoder"),
    [
        ("l", 853_410_496, 517_322_240, 336_088_256),
        ("b", 290_664_128, 180_275_456, 110_388_672),
        ("s", 107_748_032, 65_639_424, 42_108_608),
    ],
)
def test_parameter_counts(size: str, total: int, encoder: int, decoder: int) -> None:
    with torch.device("meta"):
        model = CoordTok(PRESETS[f"coordtok_{size}_1280"])
    parts = [sum(p.numel() for p in m.parameters()) for m in (model.encoder, model.decoder)]
    assert [model.parameter_count(), *parts] == [total, encoder, decoder]


def test_presets_have_the_published_token_counts_and_build() -> None:
    millions = {512: 850.26, 768: 851.31, 1280: 853.41, 3072: 860.77, 8192: 881.79}
    for name, config in PRESETS.items():
        with torch.device("meta"):
            model = CoordTok(config, name)
        _, size, count, *_ = name.split("_")
        assert config.tokens == int(count)
        if size == "l":
            assert model.parameter_count() / 1e6 == pytest.approx(millions[int(count)], abs=0.005)


@pytest.mark.weights
def test_state_dict_is_the_public_one(shared: Path) -> None:
    wanted = json.loads((shared / "parity" / "coordtok" / "state_dict_L.json").read_text())
    with torch.device("meta"):
        model = CoordTok(replace(PRESETS["coordtok_l_1280"], padding="public"))
    public = coordtok_to_public(model)
    assert {name: list(tensor.shape) for name, tensor in public.items()} == wanted
    back = coordtok_from_public(public, model.config)
    assert back.parameter_count() == model.parameter_count()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"enc_nmu_heads": 2}, "'enc_nmu_heads' is unknown: did you mean 'enc_num_heads'?"),
        ({"video_shape": 8}, "video_shape=8: Input should be a valid tuple"),
        ({"enc_patch_type": "conv"}, "enc_patch_type='conv': Input should be 'transformer'"),
    ],
)
def test_arguments_of_another_class_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        coordtok_config(arguments)


SQUARE = replace(COORDTOK, size=(8, 16, 16), cells=(8, 4, 4), cell_patch=(2, 2, 2))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"patch": (4, 8, 16)}, "patch=(4, 8, 16)"),
        ({"cells": (8, 2, 4)}, "cells=(8, 2, 4)"),
        ({"cell_patch": (2, 4, 2)}, "cell_patch=(2, 4, 2)"),
        ({"decoder_patch": (2, 2, 4)}, "decoder_patch=(2, 2, 4)"),
    ],
)
def test_what_is_not_square_has_no_public_layout(change: dict[str, Any], found: str) -> None:
    said = f"tiny has no public layout: that has one number for rows and columns, found {found}"
    with pytest.raises(ValueError, match=re.escape(said)):
        coordtok_to_public(build(replace(SQUARE, padding="public", **change)))
    wide = replace(SQUARE, padding="public", size=(8, 16, 32))  # the constructor has three sizes
    assert coordtok_to_public(build(wide))


def test_public_round_trip_and_its_errors() -> None:
    config = replace(SQUARE, padding="public")
    model = build(config)
    public = coordtok_to_public(model)
    again = coordtok_from_public(public, config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    with pytest.raises(ValueError, match=r"weight_tokens_yt has shape \(1, 4, 8, 3\)"):
        coordtok_from_public(
            public | {"weight_tokens_yt": public["weight_tokens_yt"].transpose(1, 2)}, config
        )
    beside = {"decoder.lpips_loss.lin0": torch.zeros(1)}  # of checkpoints of the second stage
    coordtok_from_public(public | beside, config)
    for shallower in ({"vit_depth": 0}, {"depth": 0}, {"decoder_depth": 1}):
        with pytest.raises(ValueError, match="for which this configuration has no place"):
            coordtok_from_public(public | beside, replace(config, **shallower))
    assert config == convert.from_weights("coordtok", public, SQUARE, "x", source="x").config
    with pytest.warns(UserWarning, match="shorter than 8 frames otherwise than the public code"):
        coordtok_to_public(build(SQUARE))
    del public["encoder.cross_pos_emb"]
    with pytest.raises(ValueError, match=r"no encoder\.cross_pos_emb"):
        coordtok_from_public(public, config)
    for ours in ({"content_planes": 2}, {"pool_skip": True}, {"coordinates": "centre"}):
        with pytest.raises(ValueError, match="no public layout"):
            coordtok_to_public(build(replace(SQUARE, **ours)))


def test_steps_that_make_no_frame_are_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match="stand for no frame: give as many steps"):
        model.decode(model.encode(clip(8))[:1])


@settings(deadline=None, max_examples=12, derandomize=True)
@given(frames=st.integers(1, 27), batch=st.integers(1, 2), slices=st.integers(1, 4))
def test_any_length_comes_back(frames: int, batch: int, slices: int) -> None:
    model, x = build(), clip(frames, batch)
    tokens = model.encode(x, slices=slices)
    assert (
        tokens.grid
        == (math.ceil(frames / 8) * COORDTOK.tokens,)
        == model.grid_for(frames, (16, 24))
    )
    assert (tokens.settings["slices"], tokens.frames) == (slices, frames)
    y = model.decode(tokens)
    assert y.shape == x.shape
    first = frames // 3
    assert torch.equal(model.decode(tokens, start=first, stop=frames), y[:, :, first:])
    alone = model.decode(model.encode(x[-1:], slices=slices))
    torch.testing.assert_close(alone, y[-1:], atol=1e-5, rtol=0)
    parts = [x[:, :, :first], x[:, :, first:]] if first else [x]
    streamed = list(model.stream_decode(model.stream_encode(parts)))
    if slices == 1:
        torch.testing.assert_close(torch.cat(streamed, dim=2), y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool_skip", [False, True])
def test_short_clips_are_hidden_not_only_filled(pool_skip: bool) -> None:
    model = build(replace(COORDTOK, pool_skip=pool_skip))
    x, frames = clip(8, 3), torch.tensor([8, 3, 5])
    planes = model.encode_planes(x, frames)
    y = x.clone()
    y[1, :, 3:], y[2, :, 5:] = 0.7, -3.0
    for name, plane in model.encode_planes(y, frames).items():
        assert torch.equal(plane, planes[name])
        for i, n in enumerate(frames.tolist()):
            alone = model.encode_planes(x[i : i + 1, :, :n])[name]
            torch.testing.assert_close(alone[0], plane[i], atol=1e-5, rtol=0)


def test_pooled_voxels_reach_the_cells_in_front_of_them() -> None:
    pooled = build(replace(COORDTOK, pool_skip=True)).encoder.pooled
    assert pooled is not None
    x = torch.zeros(1, 3, 8, 16, 24)
    still, y = pooled(x), x.clone()
    y[:, :, 4:6, 8:12, 20:24] = 1  # the voxel (2, 2, 5) of 4x4x6
    reached = {name: (plane != still[name]).any(-1)[0] for name, plane in pooled(y).items()}
    assert reached["xy"].nonzero().tolist() == [[2, 5]]
    # Its mean over time changes too, so the other voxels behind the same pixels differ from it.
    assert reached["yt"].nonzero().tolist() == [[t, 5] for t in range(4)]
    assert reached["xt"].nonzero().tolist() == [[t, 2] for t in range(4)]


def test_planes_get_the_mean_and_the_largest_of_voxel_features() -> None:
    pooled = build(replace(COORDTOK, pool_skip=True)).encoder.pooled
    assert pooled is not None
    x = clip(8)
    both = torch.cat([x, x - x.mean(2, keepdim=True)], 1)[0]
    voxels = [  # behind the cell (1, 2) of xy, which has 4 x 4 pixels
        both[:, t : t + 2, 4:8, 8:12].flatten() for t in range(0, 8, 2)
    ]
    features = torch.nn.functional.gelu(pooled.voxels(torch.stack(voxels)))
    pixels = x[0, :, :, 4:8, 8:12].mean(1).flatten()
    known = torch.cat([pixels, features.mean(0), features.amax(0)])
    torch.testing.assert_close(pooled(x)["xy"][0, 1, 2], pooled.heads["xy"](known))


@pytest.mark.parametrize("frames", [9, 16, 21])
def test_a_stream_of_windows_is_the_whole(frames: int, tmp_path: Path) -> None:
    model, x = build(), clip(frames)
    tokens = model.encode(x)
    wanted = model.decode(tokens)
    reel.save_tokens(tokens, tmp_path / "a.reel", dtype="fp32")
    with reel.Reel(tmp_path / "a.reel") as file:
        for windows in (1, 2):
            made = list(model.stream_decode(file.parts(windows * model.config.tokens)))
            torch.testing.assert_close(torch.cat(made, dim=2), wanted)
    last = tokens[tokens.grid[0] - model.config.tokens :]
    torch.testing.assert_close(model.decode(last), wanted[:, :, -last.frames :])


def test_slices_are_separate_calls_on_whole_frames() -> None:
    model, x = build(), clip(8, 2)
    planes = model.encode_planes(x)
    tokens = model.encode(x)
    three = model.decode(tokens, slices=3)
    parts = []
    for first, last in ((0, 1), (1, 2), (2, 4)):
        index = torch.cartesian_prod(torch.arange(first, last), torch.arange(4), torch.arange(6))
        patches = model.decode_patches(planes, index[None]).detach()
        grid = patches.view(2, last - first, 4, 6, 2, 4, 4, 3)
        parts.append(grid.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(2, 3, -1, 16, 24))
    torch.testing.assert_close(three, torch.cat(parts, dim=2), atol=1e-5, rtol=0)
    assert (model.decode(tokens) - three).abs().max() > 1e-3
    saved = model.encode(x, slices=3)
    assert torch.equal(model.decode(saved), three)
    short = model.encode(x[:, :, :3])
    assert torch.equal(model.decode(short, slices=4), model.decode(short, slices=2))


@settings(deadline=None, max_examples=12, derandomize=True)
@given(data=st.data())
def test_regions(data: st.DataObject) -> None:
    model, x = build(), clip(13)
    box = {}
    for name, end in (("t", 13), ("y", 16), ("x", 24)):
        first = data.draw(st.integers(0, end - 1))
        box[name] = (first, data.draw(st.integers(first + 1, end)))
    slices = data.draw(st.integers(1, 4))
    tokens = model.encode(x, slices=slices)
    region = model.decode_region(tokens, **box)
    assert region.shape[2:] == tuple(b - a for a, b in box.values())
    whole = model.decode(tokens)
    (t, t2), (y, y2), (w, w2) = box.values()
    exact = model.decode_region(tokens, **box, context="slice")
    torch.testing.assert_close(exact, whole[:, :, t:t2, y:y2, w:w2], atol=1e-5, rtol=0)
    assert torch.equal(model.decode_region(tokens), whole)


def test_slices_of_the_configuration_hold_unless_told_otherwise() -> None:
    whole, cut = build(), build(replace(COORDTOK, slices=2))
    x = clip(8)
    tokens, told = cut.encode(x), whole.encode(x, slices=2)
    assert tokens.settings["slices"] == 2
    torch.testing.assert_close(cut.decode(tokens), whole.decode(told), rtol=0, atol=0)
    torch.testing.assert_close(cut.decode(tokens.latents), whole.decode(told), rtol=0, atol=1e-6)
    torch.testing.assert_close(cut.decode_part(tokens.latents), whole.decode(told))
    assert not torch.equal(cut.decode(tokens), cut.decode(tokens, slices=1))
    with pytest.raises(ValueError, match="slices=5, but a window has 4 steps"):
        replace(COORDTOK, slices=5)


def test_region_sees_itself_alone() -> None:
    model = build()
    tokens = model.encode(clip(8))
    index = torch.cartesian_prod(torch.arange(1, 3), torch.arange(2), torch.arange(3, 4))
    patches = model.decode_patches(model.split_planes(tokens.latents.mT), index[None]).detach()
    region = model.decode_region(tokens, t=(3, 5), y=(1, 8), x=(13, 15))
    grid = patches.view(2, 2, 1, 2, 4, 4, 3).permute(6, 0, 3, 1, 4, 2, 5).reshape(3, 4, 8, 4)
    torch.testing.assert_close(region[0], grid[:, 1:3, 1:, 1:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [1, 3000, 40_000, 2**26])
def test_memory_budget_changes_nothing(budget: int) -> None:
    model = build()
    planes = model.encode_planes(clip(8, 2))
    index = torch.randint(0, 4, (2, 50, 3))
    plain = model.decode_patches(planes, index)
    with torch.no_grad():
        fast = model.decoder(planes, index, budget=budget)
    torch.testing.assert_close(fast, plain.detach(), atol=1e-5, rtol=0)
    plain.sum().backward()
    with_gradient = model.decoder(planes, index, budget=budget)
    assert with_gradient.requires_grad


def test_planes_are_read_at_their_cells() -> None:
    for n in range(2, 65):
        plane = torch.arange(n * 1.0)[None, :, None, None].expand(1, n, 2, 1)
        config = replace(COORDTOK, size=(n, 16, 24), decoder_patch=(1, 4, 4), patch=(1, 8, 8))
        at = locate(torch.arange(n)[None, :, None].expand(1, n, 3), config, torch.float32)
        at = at[..., 0]
        torch.testing.assert_close(bilinear(plane, at, at)[0, :, 0], torch.arange(n * 1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"content_planes": 3},
        {"position": "axes"},
        {"position": "sinusoids"},
        {"position": "none"},
        {"coordinates": "centre"},
        {"padding": "public"},
        {"pool_skip": True},
        {"decoder_patch": (1, 4, 6)},
        {"cells": (1, 4, 6), "cell_patch": (1, 4, 2)},
        {"quantizer": FSQConfig(levels=(8, 5, 5))},
    ],
    ids=str,
)
def test_variants_train_and_decode(changes: dict) -> None:
    model = build(replace(COORDTOK, **changes)).train()
    x = clip(5)
    y = model(x)
    assert y.x.shape == x.shape
    (y.x.square().mean() + y.quantized.loss).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    tokens = model.encode(x)
    assert model.decode(tokens).shape == x.shape


def test_quantized_cells_give_ids_and_bits() -> None:
    model = build(replace(COORDTOK, quantizer=FSQConfig(levels=(8, 5, 5))))
    tokens = model.encode(clip(13))
    assert (*tokens.ids.shape, tokens.vocabulary) == (1, 2 * COORDTOK.tokens, 200)
    assert torch.equal(model.lookup(tokens.ids), tokens.latents)
    bare = Tokens.from_ids(tokens.ids, frames=13, size=(16, 24), tokenizer=model)
    assert torch.equal(model.decode(bare), model.decode(tokens))
    large = PRESETS["coordtok_l_1280_fsq"]
    assert large.tokens * math.log2(large.quantizer.vocabulary) / 128**3 == pytest.approx(
        0.0098, abs=5e-5
    )
    assert PRESETS["coordtok_l_1280"].tokens * 8 * 16 / 128**3 == pytest.approx(0.078, abs=2e-4)


def test_errors_name_what_to_do() -> None:
    model = build()
    tokens = model.encode(clip(8))
    with pytest.raises(
        ValueError, match=r"size \(8, 16, 24\) does not divide by cells \(3, 4, 6\)"
    ):
        replace(COORDTOK, cells=(3, 4, 6), cell_patch=(1, 2, 3), pool_skip=True)
    with pytest.raises(ValueError, match="slices=5, but a window of tiny has 1 to 4"):
        model.decode(tokens, slices=5)
    with pytest.raises(ValueError, match="region y = 3 to 17"):
        model.decode_region(tokens, y=(3, 17))
    with pytest.raises(ValueError, match="read the video with size"):
        model.encode(torch.zeros(1, 3, 4, 32, 24))
    with pytest.raises(ValueError, match="leave reference=None"):
        model.encode(clip(8), reference=torch.zeros(1, 3, 1, 16, 24))
    with pytest.raises(ValueError, match="load the preset that made them"):
        model.decode(tokens.with_(latents=tokens.latents[:, :, :50], grid=(50,), weights=None))
    with pytest.raises(ValueError, match="a window of 9 frames"):
        model(clip(9))
    with pytest.raises(ValueError, match="has no ids"):
        model.lookup(torch.zeros(1, 4, dtype=torch.int64))
    for wrong, message in (
        ({"patch": (3, 8, 8)}, "does not divide by patch"),
        ({"heads": 3}, "does not divide by 3 heads"),
        ({"content_planes": 0}, "at least 1"),
        ({"quantizer": FSQConfig(levels=(8, 8))}, "the quantizer makes 2"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(COORDTOK, **wrong)


def test_videos_and_files(tmp_path: Path) -> None:
    model = build(replace(COORDTOK, quantizer=FSQConfig(levels=(8, 5, 5))))
    frames = torch.randint(0, 256, (13, 16, 24, 3), dtype=torch.uint8)
    video = Video(frames=frames, fps=25.0)
    tokens = model.encode(video, slices=2)
    again = model.decode(tokens)
    assert (again.frames.shape, again.frames.dtype, again.fps) == (frames.shape, torch.uint8, 25.0)
    reel.save_tokens(tokens, tmp_path / "clip.reel")
    with reel.Reel(tmp_path / "clip.reel") as file:
        assert torch.equal(model.decode(file).frames, again.frames)
        late = model.decode(file, start=9, stop=12)
        assert torch.equal(late.frames, again.frames[9:12])
        other = model.decode(file, slices=1)
    assert not torch.equal(other.frames, again.frames)


def test_half_precision_and_folders(tmp_path: Path) -> None:
    model, x = build(), clip(13)
    y = model.decode(model.encode(x))
    half = build().to(torch.bfloat16)
    rough = half.decode(half.encode(x))
    assert rough.dtype == torch.float32
    assert (rough - y).abs().mean() < 0.1 * y.std()
    same = zoo.load_folder(model.save_pretrained(tmp_path)) if "coordtok" in zoo.FAMILIES else model
    assert torch.equal(same.decode(same.encode(x)), y)
