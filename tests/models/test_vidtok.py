"""VidTok: equal to the public code on every fixture, and every configuration as published."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from thorough import examples, slow_but
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reeltok.models import convert
from reeltok.models.presets import COMPACT, PUBLISHED, VIDTOK
from reeltok.models.vidtok.network import VidTok
from reeltok.models.vidtok.stages import VidTokConfig, haar

FIXTURES = [
    "fsq_causal_488_262144",
    "fsq_causal_488_32768",
    "fsq_causal_888_32768_v1_1",
    "kl_causal_41616_4chn",
    "kl_causal_488_4chn",
    "kl_causal_488_4chn_T5_rect_b2",
    "kl_causal_488_4chn_v1_1",
    "kl_causal_488_4chn_v1_1_long49",
    "kl_noncausal_488_4chn",
]


def read_fixture(path: Path) -> tuple[VidTok, dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata()["kwargs"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    return convert.from_public("vidtok", weights, arguments), tensors


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference, as a share of the public output's range."""
    return ((ours - theirs).abs().max() / (theirs.max() - theirs.min())).item()


def test_every_fixture_is_covered(shared: Path) -> None:
    assert sorted(FIXTURES) == sorted(p.stem for p in shared.glob("parity/vidtok/*.safetensors"))


@pytest.mark.parametrize("name", FIXTURES)
def test_equals_the_public_code(shared: Path, name: str) -> None:
    model, public = read_fixture(shared / f"parity/vidtok/{name}.safetensors")
    tokens = model.encode(public["input"])
    assert tokens.latents is not None
    assert error(tokens.latents, public.get("z", public.get("z_full"))) < 2e-5
    if "indices" in public:
        assert torch.equal(tokens.ids, public["indices"].long())
        assert error(model.lookup(tokens.ids), public["z"]) < 2e-5
    frames = public["input"].shape[2]
    expected = public.get("decode_z", public.get("decode_full"))[:, :, -frames:]
    assert error(model.decode(tokens), expected) < 2e-5


@pytest.mark.parametrize("chunk", [1, 16])
def test_streams_what_the_public_tiled_code_only_approaches(shared: Path, chunk: int) -> None:
    path = shared / "parity/vidtok/kl_causal_488_4chn_v1_1_long49.safetensors"
    model, public = read_fixture(path)
    tokens = model.encode(public["input"], chunk=chunk)
    exact = public["decode_full"][:, :, -49:]
    assert error(tokens.latents, public["z_full"]) < 1e-5
    assert error(model.decode(tokens, chunk=chunk), exact) < 1e-5
    assert error(public["decode_tiled_overlap"][:, :, -49:], exact) > 5e-3


def test_samples_the_gaussian_with_the_given_generator(shared: Path) -> None:
    model, public = read_fixture(shared / "parity/vidtok/kl_causal_488_4chn.safetensors")
    draw = [
        model.encode(public["input"], sample=torch.Generator().manual_seed(seed)).latents
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert error(draw[0], public["z"]) > 0.1


def test_counts_parameters_and_macs_as_published(shared: Path) -> None:
    facts = json.loads((shared / "parity/vidtok/params_flops.json").read_text())
    assert sorted(facts) == sorted(PUBLISHED)
    for name, fact in facts.items():
        with torch.device("meta"):
            model = VidTok(VIDTOK[name], name)
        assert model.spec.parameters == fact["total"], name


SHOWN = [*list(VIDTOK)[::4], "vidtok_variant_1"]  # each was built to count its parameters

MACS = {
    "vidtok_kl_causal_488_4chn": (157_451_663, 10.345e12),
    "vidtok_variant_1": (245.98e6, 16.981e12),
    "vidtok_variant_2": (141.72e6, 7.156e12),
    "vidtok_variant_3": (126.01e6, 10.184e12),
}


@pytest.mark.parametrize("name", MACS)
def test_ablations_have_the_paper_s_columns(name: str) -> None:
    parameters, macs = MACS[name]
    with torch.device("meta"):
        model = VidTok(VIDTOK[name], name).eval()
        x = torch.empty(1, 3, 17, 256, 256)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
    assert model.spec.parameters == pytest.approx(parameters, rel=5e-3)
    assert counter.get_total_flops() / 2 == pytest.approx(macs, rel=5e-3)


@pytest.mark.parametrize("name", slow_but(SHOWN, VIDTOK))
def test_every_configuration_has_the_shapes_of_its_name(name: str) -> None:
    with torch.device("meta"):
        model = VidTok(VIDTOK[name], name).eval()
    spec = model.spec
    frames = 17 if spec.causal else 16
    with torch.no_grad():
        out = model(torch.empty(1, 3, frames, 64, 64, device="meta"))
    assert out.x.shape == (1, 3, frames, 64, 64)
    grid = model.grid_for(frames, (64, 64))
    assert out.quantized.z.shape == (1, spec.channels, *grid)
    digits = next((part for part in name.split("_") if part.isdigit() and 3 <= len(part) < 6), None)
    if digits is not None:
        assert "".join(map(str, spec.factors)) == digits


@pytest.mark.parametrize(
    "name",
    slow_but(
        ("vidtok_fsq_causal_488_32768", "vidtok_kl_noncausal_41616_4chn"),
        [name for name in PUBLISHED if name.endswith(("4chn", "32768", "8chn"))],
    ),
)
def test_public_layout_there_and_back(name: str) -> None:
    model = VidTok(replace(VIDTOK[name], width=8), name)
    public = convert.vidtok_to_public(model)
    again = convert.vidtok_from_public(public, model.config)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("path", ["kl_causal_488_4chn", "fsq_causal_888_32768_v1_1"])
def test_public_keys_and_shapes(shared: Path, path: str) -> None:
    lines = (shared / f"parity/vidtok/keys_{path}.txt").read_text().splitlines()
    expected = dict(line.split("\t", 1) for line in lines)
    with torch.device("meta"):
        model = VidTok(VIDTOK[f"vidtok_{path}"])
        found = {k: str(tuple(v.shape)) for k, v in convert.vidtok_to_public(model).items()}
    assert found == expected


def test_haar_is_orthonormal_and_sorted_from_coarse_to_fine() -> None:
    for size in (1, 2, 4, 8):
        basis = haar(size)
        assert torch.allclose(basis @ basis.T, torch.eye(size), atol=1e-6)
        assert torch.allclose(basis[0], torch.full((size,), size**-0.5))


@pytest.mark.parametrize("transform", ["haar", "shuffle"])
@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 4, 4), (2, 4, 4), (4, 8, 8)])
def test_patches_fold_and_unfold(patch: tuple[int, int, int], transform: str) -> None:
    model = VidTok(replace(COMPACT, patch=patch, transform=transform, width=8))
    x = torch.rand(2, 1 + 2 * patch[0], 3 * patch[1], 2 * patch[2], 3)
    folded = model.encoder.patch(x)
    assert folded.shape == (2, 3, 3, 2, 3 * patch[0] * patch[1] * patch[2])
    assert torch.allclose(model.decoder.patch.inverse(folded), x, atol=1e-5)


def test_group_norm_runs_in_every_edge() -> None:
    for edge in ("both", "past-zeros", "past-first"):
        config = replace(VIDTOK["vidtok_kl_causal_488_4chn"], width=32, groups=32, edge=edge)
        model = VidTok(config).eval()
        frames = 8 if edge == "both" else 9
        x = torch.rand(1, 3, frames, 16, 16) * 2 - 1
        whole = model.decode(model.encode(x))
        assert whole.shape == x.shape
        if edge != "both":
            assert error(model.decode(model.encode(x, chunk=4), chunk=4), whole) < 1e-5


FOLDS = {
    "the default's body": replace(COMPACT, sampler="fold", width=8),
    "time at one of three levels": replace(
        COMPACT,
        sampler="fold",
        width=8,
        patch=(1, 2, 2),
        multipliers=(1, 2, 3),
        blocks=(1, 1, 1),
        space_down=(0, 1, 2),
        space_up=(0, 1, 2),
        time_down=(1,),
        time_up=(2,),
    ),
    "the first layout, 8x8x8": replace(
        VIDTOK["vidtok_kl_causal_488_4chn"],
        sampler="fold",
        edge="past-first",
        width=8,
        time_down=(0, 1, 2),
        time_up=(1, 2, 3),
    ),
}


def awake(config: VidTokConfig) -> VidTok:
    """A model of which every parameter matters, none being 0 or 1."""
    torch.manual_seed(3)
    model = VidTok(config, "awake").eval()
    for parameter in model.parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, scale)
    return model


@pytest.mark.parametrize("kind", FOLDS)
def test_a_fold_streams_exactly_for_every_chunk(kind: str) -> None:
    model = awake(FOLDS[kind])
    x = torch.rand(1, 3, 19, 8, 8) * 2 - 1
    tokens = model.encode(x)
    whole = model.decode(tokens)
    for chunk in (1, 2, 3, 4, 5, 8, 9, 13, 18)[:: examples(3, 1)]:
        assert error(model.encode(x, chunk=chunk).latents, tokens.latents) < 1e-5, chunk
        assert error(model.decode(tokens, chunk=chunk), whole) < 1e-5, chunk
    part = model.decode(tokens, start=9, stop=14)
    assert (part - whole[:, :, 9:14]).abs().max() <= 1e-5 * (whole.max() - whole.min())


@pytest.mark.parametrize("kind", FOLDS)
def test_a_fold_is_causal(kind: str) -> None:
    """A later frame changes no earlier token, a later token no earlier frame."""
    model = awake(FOLDS[kind])
    group = model.spec.frames_per_group
    x = torch.rand(1, 3, 1 + 3 * group, 16, 16) * 2 - 1
    other = x.clone()
    other[:, :, 1 + 2 * group :] = -x[:, :, 1 + 2 * group :]
    a, b = (model.encoder(v.movedim(1, -1)) for v in (x, other))
    assert torch.allclose(a[:, :3], b[:, :3], atol=1e-6)
    assert not torch.allclose(a[:, 3], b[:, 3], atol=1e-3)
    z = torch.rand(1, model.spec.channels, 4, 4, 4)
    later = z.clone()
    later[:, :, 2] += 1
    a, b = (model.decode_part(v) for v in (z, later))
    assert torch.allclose(a[:, :, : 1 + group], b[:, :, : 1 + group], atol=1e-6)
    assert not torch.allclose(a[:, :, 1 + group], b[:, :, 1 + group], atol=1e-3)


@pytest.mark.parametrize("kind", FOLDS)
@pytest.mark.parametrize("size", [(1, 16, 16), (2, 17, 23), (8, 30, 16), (9, 16, 41)])
def test_a_fold_gives_back_any_frame_count_and_size(kind: str, size: tuple[int, ...]) -> None:
    model = awake(FOLDS[kind])
    x = torch.rand(2, 3, *size) * 2 - 1
    tokens = model.encode(x)
    assert tokens.grid == model.grid_for(size[0], size[1:])
    assert model.decode(tokens).shape == x.shape


def test_a_fold_needs_a_first_frame_that_stands_alone() -> None:
    for edge in ("past-zeros", "both"):
        with pytest.raises(ValueError, match="sampler='fold' needs edge='past-first'"):
            replace(COMPACT, sampler="fold", edge=edge)
    with pytest.raises(ValueError, match="sampler='fold' does not interpolate"):
        replace(COMPACT, sampler="fold", upsampling="trilinear")


def test_rejects_configurations_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="time is halved"):
        replace(COMPACT, time_down=(1,), space_down=(0,))
    with pytest.raises(ValueError, match="blocks"):
        replace(COMPACT, blocks=(1,))
    with pytest.raises(ValueError, match="double as often"):
        replace(COMPACT, time_up=())
    with pytest.raises(ValueError, match="outside"):
        replace(COMPACT, space_down=(5,))
