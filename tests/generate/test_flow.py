"""The flow against the recorded public trajectories; seeds, guidance, statistics, folders."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import COORDTOK
from torch import Tensor

from reeltok.generate import flow, sampling, sit
from reeltok.generate.latents import Feed, FlowTask, Latents, flow_errors, measure_moments
from reeltok.generate.public import public_arguments
from reeltok.generate.sit import Flow, FlowConfig, Group, Statistics, plane_groups, volume_group
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.vidtok.network import VidTok, VidTokConfig
from reeltok.nn.quantizers import FSQConfig, GaussianConfig
from reeltok.nn.transformer import rotate

PLANES = {"xy": (4, 6), "yt": (2, 6), "xt": (2, 4)}
TINY = FlowConfig(
    groups=plane_groups(PLANES), channels=3, width=32, depth=2, heads=2, classes=("left", "right")
)
PLAIN = Statistics(mean=((0.5, -1.0, 2.0),) * 3, std=((2.0, 0.5, 1.0),) * 3)


@pytest.fixture(scope="module")
def tokenizer() -> CoordTok:
    torch.manual_seed(0)
    config = replace(
        COORDTOK,
        size=(4, 16, 24),
        cells=(2, 4, 6),
        decoder_patch=(1, 8, 8),
        decoder_width=16,
        decoder_depth=1,
    )
    return CoordTok(config, "tiny").eval()


def build(config: FlowConfig = TINY, *, awake: bool = True) -> Flow:
    torch.manual_seed(0)
    model = Flow(config).eval()
    if awake:  # a fresh one gives zero
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture(scope="module")
def fixture(shared: Path) -> tuple[dict[str, Tensor], Flow]:
    path = shared / "parity" / "coordtok" / "sit_tiny.safetensors"
    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata()["kwargs"])
    tensors = load_file(path)
    weights = {k[3:]: v for k, v in tensors.items() if k.startswith("sd.")}
    return tensors, flow.generator_from_public(weights, arguments)


def joined(tensors: dict[str, Tensor], name: str) -> Tensor:
    return torch.cat([tensors[f"{name}_{plane}"].flatten(2) for plane in ("xy", "yt", "xt")], dim=2)


@pytest.mark.weights
def test_velocity_parity(fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, model = fixture
    torch.testing.assert_close(model.fixed["xy"], tensors["mid.pos_embed_xy_sincos"][0])
    x, t, y = joined(tensors, "in.z"), tensors["in.t"], tensors["in.y"]
    with torch.no_grad():
        assert (model(x, t, y) - joined(tensors, "out.v")).abs().max() <= 2e-4
        double = build(model.config).double()
        double.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
        v = double(x.double(), t.double(), y)
        assert (v - joined(tensors, "out64.v")).abs().max() <= 1e-8
        # float32's exp and cos differ by their last bit between machines: take the recorded ones
        monkeypatch.setattr(sit, "sinusoid", lambda t, width: tensors["mid.t_freq"])
        v = double(x.double(), t.double(), y)
        assert (v - joined(tensors, "out64.v")).abs().max() <= 1e-9


@pytest.mark.weights
@pytest.mark.parametrize(
    ("sampler", "name", "limit"),
    [
        ("euler-maruyama", "sde", 2e-4),
        ("heun-sde", "sde_heun", 2e-4),
        ("euler", "ode_euler", 2e-4),
        ("dopri5", "ode_dopri5", 1e-3),
    ],
)
def test_trajectories(fixture, sampler: str, name: str, limit: float) -> None:
    tensors, model = fixture
    noises = iter([joined(tensors, f"sde.noise_{i}") for i in range(7)])
    calls = []

    def velocity(x: Tensor, t: float) -> Tensor:
        calls.append(t)
        return model(x, x.new_full((2,), t))

    def widest(x: Tensor) -> float:
        sizes = [group.cells for group in model.config.groups]
        return max(sampling.rms(part) for part in x.split(sizes, dim=2))

    with torch.no_grad():
        x = sampling.sample(
            velocity,
            joined(tensors, "in.z"),
            lambda: next(noises),
            sampler=sampler,
            steps=None if sampler == "dopri5" else 8,
            norm=widest,
        )
    assert (x - joined(tensors, f"{name}.final")).abs().max() <= limit
    if sampler == "euler-maruyama":
        assert len(calls) == 8
        assert calls[0] == 0
        assert calls[-1] == pytest.approx(0.96)


@pytest.mark.weights
def test_first_step_and_loss(fixture) -> None:
    tensors, model = fixture
    x, noise = joined(tensors, "in.z"), joined(tensors, "loss.x0")
    with torch.no_grad():
        errors = flow_errors(model, x, noise, tensors["loss.t"]).mean(1)
        torch.testing.assert_close(errors, tensors["loss.value_per_sample"], atol=1e-5, rtol=1e-5)
        dt = 0.96 / 7
        kick = joined(tensors, "sde.noise_0") * dt**0.5
        step = sampling.euler_maruyama_step(lambda x, t: model(x, x.new_zeros(2)), x, 0.0, dt, kick)
    assert (step - joined(tensors, "sde.step1")).abs().max() <= 1e-5


@pytest.mark.weights
def test_state_dict_is_the_public_one(shared: Path) -> None:
    wanted = json.loads((shared / "parity" / "coordtok" / "state_dict_SiT_L_2.json").read_text())
    grids = {"xy": (16, 16), "yt": (32, 16), "xt": (32, 16)}
    config = FlowConfig(groups=plane_groups(grids), channels=8, double_heads=True, **sit.SIZES["l"])
    with torch.device("meta"):
        model = Flow(config)
    assert {k: list(v.shape) for k, v in flow.generator_to_public(model).items()} == wanted


@pytest.mark.parametrize(
    ("size", "cells", "total"),
    [
        ("s", 16, 33.2e6),
        ("b", 16, 132.2e6),
        ("l", 16, 461_462_720),
        ("xl", 16, 679.5e6),
        ("l", 32, 461.79e6),
    ],
)
def test_parameter_counts(size: str, cells: int, total: float) -> None:
    grids = {"xy": (cells, cells), "yt": (32, cells), "xt": (32, cells)}
    config = FlowConfig(
        groups=plane_groups(grids), channels=8, double_heads=True, **sit.SIZES[size]
    )
    with torch.device("meta"):
        model = Flow(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(total, rel=2e-3)
    if (size, cells) == ("l", 16):
        assert sum(p.numel() for p in model.parameters()) == total
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 461_397_184
        assert config.tokens == 320
    assert config.tokens == (320 if cells == 16 else 768)


@pytest.mark.weights
def test_shapes_tell_the_public_arguments(shared: Path) -> None:
    path = shared / "parity" / "coordtok" / "sit_tiny.safetensors"
    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata()["kwargs"])
    weights = {f"module.{k[3:]}": v for k, v in load_file(path).items() if k.startswith("sd.")}
    found = public_arguments(weights)
    assert found.pop("num_heads") == 1  # no shape tells it
    assert found | {"input_size": list(found["input_size"])} == {k: arguments[k] for k in found}
    grids = {"xy": (16, 16), "yt": (32, 16), "xt": (32, 16)}
    with torch.device("meta"):
        large = Flow(FlowConfig(groups=plane_groups(grids), channels=8, **sit.SIZES["l"]))
    assert public_arguments(flow.generator_to_public(large))["num_heads"] == 16


def test_public_round_trip_and_its_errors() -> None:
    grids = {"xy": (4, 4), "yt": (8, 4), "xt": (8, 4)}
    config = FlowConfig(groups=plane_groups(grids), channels=3, width=32, depth=1, heads=2)
    model = build(config)
    arguments = {
        "input_size": [8, 4],
        "in_channels": 3,
        "hidden_size": 32,
        "depth": 1,
        "num_heads": 2,
        "learn_sigma": False,
    }
    public = flow.generator_to_public(model)
    again = flow.generator_from_public({f"module.{k}": v for k, v in public.items()}, arguments)
    assert again.config == config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match=r"final_layer_xy\.linear\.weight has shape"):
        flow.generator_from_public(public, arguments | {"learn_sigma": True})
    with pytest.raises(ValueError, match=r"no blocks\.1"):
        flow.generator_from_public(public, arguments | {"depth": 2})


@pytest.mark.parametrize(
    "groups",
    [
        plane_groups(PLANES, patch=1),
        plane_groups(PLANES, shared=False),
        plane_groups({**PLANES, "xy": (4, 4), "xy2": (4, 4), "xt": (2, 6)}),
        volume_group((3, 4, 6)),
        (Group(name="line", grid=(10,), patch=(2,), table="line"),),
    ],
    ids=["patch 1", "separate", "content planes", "volume", "line"],
)
def test_groups_are_placed_where_they_belong(groups: tuple[Group, ...]) -> None:
    """With layers that copy a patch, what comes out is what went in, cell for cell."""
    config = replace(TINY, groups=groups, width=36, heads=2, classes=())
    model = build(config, awake=False)
    x = torch.randn(2, 3, config.cells)
    assert torch.equal(model(x, torch.rand(2)), torch.zeros_like(x))
    for group, part in zip(groups, x.split([g.cells for g in groups], dim=2), strict=True):
        patch_embed, final_layer = model.patch_embed[group.name], model.final_layer[group.name]
        patch_embed.linear = final_layer.linear = final_layer.modulation = torch.nn.Identity()
        patches = patch_embed(part).unflatten(2, (3, -1)).transpose(2, 3).flatten(2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sit, "modulate", lambda x, shift, scale: x)
            back = final_layer(patches, torch.zeros(2, patches.shape[2]))
        assert torch.equal(back, part)


def test_same_seed_same_clips(tokenizer: CoordTok) -> None:
    model = build(replace(TINY, classes=(), statistics=PLAIN, clip=flow.config_for(tokenizer).clip))
    first, again = (flow.generate(model, tokenizer, count=2, seed=3, steps=5) for _ in range(2))
    other = flow.generate(model, tokenizer, count=2, seed=4, steps=5)
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)
    assert (first.frames, first.height, first.width, first.model) == (4, 16, 24, "tiny")
    assert tokenizer.decode(first).shape == (2, 3, 4, 16, 24)
    for sampler in sampling.SAMPLERS:
        steps = None if sampler == "dopri5" else 4
        made = flow.generate(model, tokenizer, sampler=sampler, steps=steps)
        assert made.latents.isfinite().all()


def test_noise_is_drawn_plane_by_plane() -> None:
    generator = torch.Generator().manual_seed(5)
    parts = [torch.randn(2, 3, *grid, generator=generator).flatten(2) for grid in PLANES.values()]
    assert torch.equal(flow.seeded_noise(build(), 2, 5)(), torch.cat(parts, dim=2))


def test_straight_flow_ends_at_the_data() -> None:
    target = torch.randn(2, 3, 4)

    def velocity(x: Tensor, t: float) -> Tensor:
        return (target - x) / max(1 - t, 1e-3)

    start = torch.randn(2, 3, 4)
    for sampler, steps in {"euler": 50, "dopri5": None}.items():
        x = sampling.sample(velocity, start, lambda: start, sampler=sampler, steps=steps)
        torch.testing.assert_close(x, target, atol=2e-2, rtol=0)
    x = sampling.sample(velocity, start, lambda: torch.randn_like(start), steps=250)
    assert (x - target).abs().mean() < 0.3


def test_guidance_and_classes() -> None:
    config = replace(TINY, label_dropout=0.1, statistics=PLAIN)
    model = build(config)
    x, t = torch.randn(1, 3, config.cells), 0.3
    known, unknown = (flow.guided_velocity(model, label, 1.0)(x, t) for label in (1, 2))
    guided = flow.guided_velocity(model, 1, 3.0)(x, t)
    torch.testing.assert_close(guided, unknown + 3 * (known - unknown), atol=1e-5, rtol=1e-4)
    assert flow.pick_label(config, "right", 3.0) == 1
    assert flow.pick_label(config, None, 1.0) == 2
    without = replace(config, label_dropout=0.0)
    for asked, message in (
        ((without, "left", 2.0), "trained without label dropout"),
        ((replace(without, classes=()), None, 2.0), "trained without label dropout"),
        ((config, None, 2.0), "needs a class"),
        ((without, None, 1.0), "needs a class"),
        ((config, "up", 1.0), "no class 'up': name one of left, right"),
        ((replace(without, classes=()), "up", 1.0), "unconditional"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.pick_label(*asked)


def test_statistics_and_folder(tmp_path: Path, tokenizer: CoordTok) -> None:
    config = replace(TINY, classes=(), clip=flow.config_for(tokenizer).clip)
    x = torch.randn(2, 3, config.cells)
    back = flow.restore(flow.normalise(x, PLAIN, config.groups), PLAIN, config.groups)
    torch.testing.assert_close(back, x)
    model = build(config)
    with pytest.raises(ValueError, match="no latent statistics"):
        flow.generate(model, tokenizer)
    model.config = replace(config, statistics=PLAIN)
    again = flow.load(flow.save(model, tmp_path / "model"))
    assert again.config == model.config
    made, same = (flow.generate(m, tokenizer, steps=3).latents for m in (model, again))
    torch.testing.assert_close(same, made)
    assert not again.fixed["xy"].requires_grad
    with pytest.raises(FileNotFoundError, match="give a generator's folder"):
        flow.load(tmp_path)
    record = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(record | {"family": "vidtok"}))
    with pytest.raises(ValueError, match="not a flow"):
        flow.load(tmp_path / "model")


def test_errors_name_what_to_do(tokenizer: CoordTok) -> None:
    model = build(replace(TINY, classes=(), statistics=PLAIN))
    with pytest.raises(ValueError, match="give its tokenizer too"):
        flow.generate(model)
    with pytest.raises(ValueError, match="no sampler is called 'rk4'"):
        flow.generate(model, tokenizer, sampler="rk4")
    with pytest.raises(ValueError, match="at least 2 points"):
        flow.generate(model, tokenizer, steps=1)
    with pytest.raises(ValueError, match=r"steps=50 was asked, but dopri5 chooses its own steps"):
        flow.generate(model, tokenizer, steps=50, sampler="dopri5")
    with pytest.raises(ValueError, match="count"):
        flow.generate(model, tokenizer, count=0)
    for guidance in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match=r"give a number from 0 to 1e\+06"):
            flow.generate(model, tokenizer, guidance=guidance)
    wrong = build(replace(model.config, groups=volume_group((2, 4, 6))))
    with pytest.raises(ValueError, match="load the tokenizer it was trained on"):
        flow.generate(wrong, tokenizer)
    clip = replace(flow.config_for(tokenizer).clip, weights="0" * 64)
    with pytest.raises(ValueError, match="load that tokenizer"):
        flow.generate(build(replace(model.config, clip=clip)), tokenizer)
    with pytest.raises(ValueError, match="is discrete"):
        flow.config_for(CoordTok(replace(tokenizer.config, quantizer=FSQConfig(levels=(4, 4, 4)))))
    with pytest.raises(ValueError, match="cannot share table"):
        replace(TINY, groups=(*TINY.groups, replace(TINY.groups[0], name="b", grid=(2, 2))))
    with pytest.raises(ValueError, match="does not divide into patches"):
        volume_group((3, 5, 5))
    with pytest.raises(ValueError, match="needs two classes"):
        FlowConfig(groups=TINY.groups, channels=3, label_dropout=0.1)
    with pytest.raises(ValueError, match="velocity is not finite"):
        sampling.dopri5(lambda x, t: x / 0, torch.ones(1, 1, 2))


@pytest.fixture(scope="module")
def kl() -> VidTok:
    torch.manual_seed(0)
    config = VidTokConfig(
        quantizer=GaussianConfig(channels=4),
        width=8,
        multipliers=(1, 1),
        blocks=(1, 1),
        space_down=(0,),
        space_up=(1,),
        time_down=(0,),
        time_up=(1,),
    )
    return VidTok(config, "kl").eval()


def test_frames_beyond_a_window_are_refused(tokenizer: CoordTok) -> None:
    window = tokenizer.spec.window
    with pytest.raises(ValueError, match=f"codes windows of {window} frames, not {2 * window}"):
        flow.config_for(tokenizer, frames=2 * window)
    assert flow.config_for(tokenizer, frames=window).cells == flow.config_for(tokenizer).cells


def test_any_continuous_tokenizer(kl: VidTok) -> None:
    with pytest.raises(ValueError, match="give frames= and size="):
        flow.config_for(kl)
    with pytest.raises(ValueError, match=r"^patch=2 does not divide latents of 4x7 cells: give"):
        flow.config_for(kl, frames=5, size=(8, 14))
    config = flow.config_for(kl, frames=5, size=(8, 12), fps=8.0, width=36, depth=1, heads=2)
    assert [group.grid for group in config.groups] == [(3, 4, 6)]
    model = build(replace(config, statistics=Statistics(mean=((0.0,) * 4,), std=((1.0,) * 4,))))
    tokens = flow.generate(model, kl, count=2, steps=3)
    assert tokens.latents.shape == (2, 4, 3, 4, 6)
    assert kl.decode(tokens).shape == (2, 3, 5, 8, 12)
    assert tokens.fps == 8.0


@pytest.fixture
def latents(tokenizer: CoordTok) -> Latents:
    """Of three windows, two of one class and one of another."""
    values = []
    for i in range(3):
        x = torch.rand(1, 3, 4, 16, 24, generator=torch.Generator().manual_seed(i)) * 2 - 1
        made = tokenizer.encode(x).latents
        assert made is not None
        values.append(made[0].flatten(1).detach())
    return Latents(torch.stack(values), torch.tensor([0, 0, 1]), ("left", "right"))


def test_training_on_latents(latents: Latents, tokenizer: CoordTok) -> None:
    config = flow.config_for(tokenizer, width=32, depth=1, heads=2)
    statistics = measure_moments(latents, config)
    config = replace(config, statistics=statistics, classes=latents.classes, label_dropout=0.5)
    normal = flow.normalise(latents.values, statistics, config.groups)
    first = normal[..., : config.groups[0].cells]
    torch.testing.assert_close(first.mean((0, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.std((0, 2), correction=0), torch.ones(3))

    model = build(config, awake=False).train()
    task = FlowTask(model, held_out=latents)
    feed = Feed(latents, batch=8, seed=1)
    assert torch.equal(feed(7).values, feed(7).values)
    halves = [replace(feed, rank=rank, world=2)(7).labels for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, dim=1).flatten(), feed(7).labels)
    optimizer = torch.optim.Adam(task.parameters().parameters(), 3e-3)
    before = task.validate(0)
    for batch in (1, 3):
        apart = FlowTask(model, held_out=latents, batch=batch).validate(0)
        assert apart == pytest.approx(before, rel=1e-4)
    model.train()
    for step in range(40):
        losses = task.loss(feed(step), step, torch.Generator().manual_seed(step))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(losses.terms) == {"xy", "yt", "xt"}
    assert task.validate(0)["held_out"] < 0.95 * before["held_out"]
    assert not model.fixed["xy"].grad


def test_noise_is_drawn_where_its_generator_is(
    latents: Latents, tokenizer: CoordTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out latents meet the same noise on every device."""
    config = flow.config_for(tokenizer, width=32, depth=1, heads=2)
    task = FlowTask(build(replace(config, statistics=measure_moments(latents, config))))
    real, seen = torch.randn, list[str]()

    def randn(*shape: Any, device: torch.device, **more: Any) -> Tensor:
        seen.append(device.type)
        return real(*shape, device=device, **more)

    monkeypatch.setattr(torch, "randn", randn)
    begun = task.draw(latents.to("meta"), torch.Generator())
    assert (seen, begun.noise.device.type) == (["cpu"], "meta")


def test_training_that_cannot_be(latents: Latents) -> None:
    with pytest.raises(ValueError, match="does not divide among 3"):
        Feed(latents, batch=8, world=3)
    with pytest.raises(ValueError, match="no latent statistics"):
        FlowTask(build())


def test_rotary_embedding_sees_distances_alone() -> None:
    config = replace(TINY, rope=True)
    angles = sit.rotary_angles(config)
    assert angles.shape == (config.tokens, 8)
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 1, 32).expand(2, 1, config.tokens, 32)
    turned = rotate(q, angles, 2) @ rotate(k, angles, 2).mT
    places = [
        tuple(dict(zip(group.axes, place, strict=True)).get(axis, 0) for axis in "tyx")
        for group in config.groups
        for place in itertools.product(*map(range, group.counts))
    ]
    apart = [[tuple(a - b for a, b in zip(p, q, strict=True)) for q in places] for p in places]
    known: dict[tuple[int, ...], float] = {}
    for row, values in zip(apart, turned[0], strict=True):
        for distance, value in zip(row, values.tolist(), strict=True):
            assert value == pytest.approx(known.setdefault(distance, value), abs=1e-4)
    assert len({round(value, 3) for value in known.values()}) > len(known) // 2
    torch.testing.assert_close(rotate(q, angles, 2).norm(dim=-1), q.norm(dim=-1))


def test_planes_with_rope_know_one_anothers_places(tmp_path: Path) -> None:
    """Where all tables of places are zero, a plain SiT gives all patches of a kind one velocity."""
    x = torch.ones(1, 3, TINY.cells)
    for rope in (False, True):
        model = build(replace(TINY, rope=rope))
        with torch.no_grad():
            for table in (*model.fixed.values(), *model.learned.values()):
                table.zero_()
            change = torch.zeros_like(x)
            change[..., :4] = 1.0  # a corner of the plane xy
            patches = model(x + change, torch.full((1,), 0.5))[0, :, TINY.groups[0].cells :]
        yt = patches[:, : TINY.groups[1].cells].reshape(3, 2, 6)[:, :, ::2]
        assert torch.allclose(yt, yt[:, :, :1], atol=1e-6) == (not rope)
        again = flow.load(flow.save(model, tmp_path / str(rope)))
        assert again.config == model.config
    with pytest.raises(ValueError, match="public SiT has no rotary position embedding"):
        flow.generator_to_public(model)


def test_axes_of_planes_are_those_of_the_tokenizer(tokenizer: CoordTok) -> None:
    for group in flow.config_for(tokenizer).groups:
        assert group.axes == tuple("tyx"[axis] for axis in tokenizer.config.planes[group.name])
    assert volume_group((2, 4, 4))[0].axes == ("t", "y", "x")


def test_what_rope_needs() -> None:
    nameless = tuple(replace(group, axes=()) for group in TINY.groups)
    with pytest.raises(ValueError, match="rope needs the axes of every group"):
        replace(TINY, groups=nameless, rope=True)
    with pytest.raises(ValueError, match="heads of even width, not 1"):
        replace(TINY, heads=32, rope=True)
    with pytest.raises(ValueError, match="are not those of"):
        replace(TINY.groups[0], axes=("t",))
