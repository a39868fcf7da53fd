"""The task of every tokenizer: its total is what a recipe says, its scores are by group."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import COORDTOK
from small_run import small_recipe
from torch import nn

from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig, Quantized
from reeltok.tokenizer.contract import Reconstruction, Tokenizer
from reeltok.train.build import build_model
from reeltok.train.clips import ClipBatch
from reeltok.train.discriminators import DiscriminatorConfig
from reeltok.train.launch import train
from reeltok.train.logbook import read_lines
from reeltok.train.loop import train_step
from reeltok.train.losses import discriminator_loss, generator_loss
from reeltok.train.recipes import VIDTOK_LOSSES, change
from reeltok.train.reconstruct import LossConfig, Reconstruct, mean_of_groups, score_frames
from reeltok.train.run import LoopConfig, Run


def batch(frames: int = 5, size: int = 32) -> ClipBatch:
    x = torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return ClipBatch(x=x, names=("a", "b"), groups=("g", "h"))


def tiny() -> VidTok:
    tokenizer = build_model(change(small_recipe(), {"settings.quantizer.regularization": "true"}))
    assert isinstance(tokenizer, VidTok)
    return tokenizer


def without_lpips(losses: LossConfig) -> LossConfig:
    return replace(losses, perceptual=0.0)


def test_flicker_is_weighed_beside_the_pixels() -> None:
    plain, weighed = (Reconstruct(tiny(), LossConfig(flicker=w)) for w in (0.0, 5.0))
    before, after = (task.loss(batch(), 10, None) for task in (plain, weighed))
    assert "flicker" not in before.terms
    expected = before.total + 5.0 * after.terms["flicker"]
    assert after.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_vidtok_sums_over_a_frame_and_learns_its_variance() -> None:
    """Their code: (|x - y| / exp(s) + s) summed over all values, divided by frames; + auxiliary."""
    task = Reconstruct(tiny(), replace(without_lpips(VIDTOK_LOSSES), discriminator=None))
    with torch.no_grad():
        task.trained.log_variance.fill_(0.3)
    x = batch().x
    found = task.loss(batch(), 10, None)
    made: Reconstruction = task.trained.tokenizer(x, step=10)
    values = (x - made.x).abs() / torch.tensor(0.3).exp() + 0.3
    expected = values.sum() / (2 * 5) + made.quantized.loss
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    found.total.backward()
    assert task.trained.log_variance.grad.abs() > 0


def test_vidtok_adds_the_critics_part() -> None:
    losses = replace(
        without_lpips(VIDTOK_LOSSES), discriminator=replace(VIDTOK_LOSSES.discriminator, first=7)
    )
    task = Reconstruct(tiny(), losses)
    before, after = task.loss(batch(), 6, None), task.loss(batch(), 7, None)
    assert "adversarial" not in before.terms
    weight, adversarial = after.terms["adaptive"], after.terms["adversarial"]
    assert (after.total - before.total).item() == pytest.approx(
        (0.2 * weight * adversarial).item(), rel=1e-2
    )
    real, fake = task.discriminator(after.made.real), task.discriminator(after.made.fake)
    assert adversarial.item() == pytest.approx(
        generator_loss(fake, "cross-entropy").item(), rel=1e-4
    )
    played = task.discriminator_loss(after.made, 7)
    hinge = discriminator_loss(real, fake, "hinge")
    assert played.total.item() == pytest.approx(
        (hinge + 0.005 * played.terms["lecam"]).item(), rel=1e-3
    )
    assert not after.made.fake.requires_grad


def test_magvit_plays_with_r1_and_without_adaptation() -> None:
    discriminator = DiscriminatorConfig(
        kind="clips",
        norm="none",
        generator_loss="non-saturating",
        discriminator_loss="non-saturating",
        weight=0.1,
        first=0,
        adaptive=False,
        r1=10.0,
    )
    task = Reconstruct(tiny(), LossConfig(pixel="l2", discriminator=discriminator))
    made = task.loss(batch(), 0, None)
    assert made.terms["adaptive"].item() == 1.0
    played = task.discriminator_loss(made.made, 0)
    expected = played.terms["discriminator"] + 5.0 * played.terms["r1"]
    assert played.total.item() == pytest.approx(expected.item(), rel=1e-5)
    played.total.backward()
    assert all(p.grad is not None for p in task.discriminator.parameters())


def test_coordtok_is_a_plain_square() -> None:
    task = Reconstruct(tiny(), LossConfig(pixel="l2"))
    y = task.trained.tokenizer(batch().x, step=10)
    expected = (batch().x - y.x).square().mean() + y.quantized.loss
    assert task.loss(batch(), 10, None).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_generator_step_leaves_the_discriminator_alone_and_back() -> None:
    discriminator = DiscriminatorConfig(width=8, layers=2, first=0, lecam=0.1)
    task = Reconstruct(tiny(), LossConfig(discriminator=discriminator))
    run = Run(task, LoopConfig(precision="fp32", ema=0.9))
    before = [p.clone() for p in task.discriminator.parameters()]
    numbers = train_step(run, batch())
    assert numbers.keys() >= {
        "loss",
        "l1",
        "adversarial",
        "discriminator_loss",
        "lecam",
        "discriminator_norm",
        "norm",
    }
    assert any(
        not torch.equal(a, b) for a, b in zip(before, task.discriminator.parameters(), strict=True)
    )
    assert all(p.grad is None for p in [*run.model.parameters(), *task.discriminator.parameters()])
    assert task.lecam.real.abs() > 0


def test_l1_comes_first_then_log_mse() -> None:
    task = Reconstruct(tiny(), LossConfig(pixel="log-mse", l1_steps=3))
    assert "l1" in task.loss(batch(), 2, None).terms
    assert "log-mse" in task.loss(batch(), 3, None).terms


@pytest.mark.weights
def test_lpips_joins_when_its_time_comes(shared: Path) -> None:
    task = Reconstruct(tiny(), LossConfig(perceptual=2.0, perceptual_first=7, net="squeeze"))
    early, late = task.loss(batch(), 6, None), task.loss(batch(), 7, None)
    assert "lpips" not in early.terms
    gain = late.total - early.total
    assert gain.item() == pytest.approx(2 * late.terms["lpips"].item(), rel=1e-3)


def test_scores_are_meaned_over_groups() -> None:
    groups = {"a": [{"psnr": 10.0}, {"psnr": 20.0}], "b": [{"psnr": 35.0}]}
    assert mean_of_groups(groups) == {"psnr": 25.0, "psnr/a": 15.0, "psnr/b": 35.0}
    assert mean_of_groups({}) == {}
    x = torch.zeros(1, 3, 2, 4, 4)
    assert score_frames(x, x)["psnr"] == pytest.approx(80.0)
    assert score_frames(x, x + 0.2)["psnr"] == pytest.approx(20.0, abs=1e-4)


def test_validation_scores_and_shows_held_out_clips() -> None:
    x = batch().x
    held = [ClipBatch(x=x[i : i + 1], names=(n,), groups=(n,)) for i, n in enumerate("ab")]
    task = Reconstruct(tiny(), LossConfig(), held_out=lambda: held)
    found = task.validate(0)
    assert found["psnr"] == pytest.approx((found["psnr/a"] + found["psnr/b"]) / 2)
    assert {name: tuple(p.shape) for name, p in task.pictures().items()} == {
        "a": (32, 64, 3),
        "b": (32, 64, 3),
    }
    assert task.trained.tokenizer.training


def test_scores_are_taken_in_full_precision() -> None:
    x = batch().x
    held = [ClipBatch(x=x[:1], names=("a",), groups=("a",))]
    seen = lambda x, y: {"autocast": float(torch.is_autocast_enabled("cpu"))}
    task = Reconstruct(tiny(), LossConfig(), held_out=lambda: held, score=seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task.validate(0)["autocast"] == 0


def test_recomputed_activations_change_nothing() -> None:
    steps = {}
    for kinds in ((), ("Residual",)):
        task = Reconstruct(tiny(), LossConfig())
        run = Run(task, LoopConfig(precision="fp32", activation_checkpointing=kinds))
        steps[kinds] = [train_step(run, batch())["loss"] for _ in range(3)]
    assert steps[()] == pytest.approx(steps[("Residual",)], rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler warns of its own doings
def test_compiled_parts_change_nothing() -> None:
    steps = {}
    for names in ((), ("encoder", "decoder")):
        task = Reconstruct(tiny(), LossConfig())
        run = Run(task, LoopConfig(precision="fp32", compile=names))
        steps[names] = [train_step(run, batch())["loss"] for _ in range(2)]
    assert steps[()] == pytest.approx(steps[("encoder", "decoder")], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision: str) -> None:
    task = Reconstruct(tiny(), LossConfig())
    run = Run(task, LoopConfig(precision=precision))
    x = ClipBatch(x=batch().x[:, :, :1, :16, :16], names=("a", "b"), groups=("", ""))
    losses = [train_step(run, x)["loss"] for _ in range(6)]
    assert run.skipped < 6  # fp16 looks for a scale at first
    assert losses[-1] < losses[0] * 1.05
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


@pytest.mark.slow
def test_tensorboard_gets_curves_and_pictures(clips: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    changes = {"loop.schedule.steps": "4", "loop.validate_every": "2", "loop.tensorboard": "true"}
    train(change(small_recipe(), changes), data=clips, out=tmp_path, device="cpu")
    assert sum("validation" in line for line in read_lines(tmp_path / "log.jsonl")) == 2
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert file.stat().st_size > 2000


def test_a_modules_buffers_are_part_of_a_run() -> None:
    """BatchNorm statistics and LeCAM's means are among the tensors of a checkpoint."""
    task = Reconstruct(tiny(), LossConfig(discriminator=DiscriminatorConfig(width=4, layers=1)))
    names = Run(task, LoopConfig(ema=0.9)).tensors().keys()
    assert {"lecam.real", "lecam.fake", "discriminator.3.running_mean"} <= names
    assert any(name.startswith("ema.tokenizer.decoder") for name in names)
    assert isinstance(task.discriminator, nn.Module)


class Other(Tokenizer):
    """A tokenizer of no family of ours: its decoder is neither called so nor ends in `leave`."""

    family = "other"

    def __init__(self) -> None:
        super().__init__(None, "other")
        self.down, self.up = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 3, 1)
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor, **_: object) -> Reconstruction:
        z = self.down(x)
        y = self.up(z) + self.shift.view(1, 3, 1, 1, 1)
        return Reconstruction(x=y, quantized=Quantized(z=z, ids=None, loss=z.new_zeros(())))


FAMILIES = {
    "vidtok": (tiny, (5, 32, 32), "decoder.conv_out.weight"),
    "coordtok": (lambda: CoordTok(COORDTOK), (8, 16, 24), "decoder.pixels.weight"),
    "reftok": (
        lambda: RefTok(RefTokConfig(body=SMALL, width=4)),
        (5, 32, 32),
        "decoder.conv_out.weight",
    ),
    "other": (Other, (5, 32, 32), "up.weight"),
}
SMALL = replace(COMPACT, width=8, quantizer=FSQConfig(levels=(4, 4), regularization=False))
PLAYS = DiscriminatorConfig(width=8, layers=1, first=0, adaptive=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adaptive_critic_plays_against_every_family(family: str) -> None:
    make, (t, h, w), last = FAMILIES[family]
    torch.manual_seed(0)
    tokenizer = make()
    assert tokenizer.last_weight() is tokenizer.get_parameter(last)
    task = Reconstruct(tokenizer, LossConfig(pixel="l2", discriminator=PLAYS))
    x = torch.rand(2, 3, t, h, w, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = task.loss(ClipBatch(x=x, names=("a", "b"), groups=("g", "h")), 0, None)
    assert found.terms["adaptive"] > 0
    found.total.backward()
    assert tokenizer.last_weight().grad.abs().sum() > 0


def test_an_adaptive_critic_and_a_frozen_end_are_one_sentence() -> None:
    tokenizer = tiny()
    tokenizer.decoder.requires_grad_(False)
    task = Reconstruct(tokenizer, LossConfig(discriminator=PLAYS))
    with pytest.raises(
        ValueError, match=r"which loop.freeze holds: set losses.discriminator.adaptive"
    ):
        task.loss(batch(), 0, None)


NOISY = {"kind": "gaussian", "channels": 4}
MEANS = {"kind": "vq", "codes": 64, "width": 4, "entropy": 0, "ema": 0.9}


def quantized_run(quantizer: dict[str, object], **changes: object) -> Run:
    """One of a small network with another quantizer."""
    torch.manual_seed(0)
    tokenizer = build_model(change(small_recipe(), {"settings.quantizer": json.dumps(quantizer)}))
    task = Reconstruct(tokenizer, LossConfig(terms={"kl": 0.1}))
    return Run(task, LoopConfig(precision="fp32", **changes))


@pytest.mark.parametrize("kind", ["Gaussian", "VidTok"])
def test_noise_is_drawn_again_as_it_was(kind: str) -> None:
    found, states = [], []
    for kinds in ((), (kind,)):
        run = quantized_run(NOISY, activation_checkpointing=kinds)
        generator = run.seeded(0)
        run.loss(batch(size=16), 0, generator).total.backward()
        found.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
        states.append(generator.get_state())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    assert torch.equal(*states)


def test_running_means_are_not_moved_twice() -> None:
    for kind in ("VQ", "VidTok"):
        with pytest.raises(ValueError, match=f"names '{kind}', in which a VQ keeps running means"):
            quantized_run(MEANS, activation_checkpointing=(kind,))
    quantized_run(MEANS, activation_checkpointing=("Residual",))
    quantized_run({**MEANS, "ema": None}, activation_checkpointing=("VQ",))
