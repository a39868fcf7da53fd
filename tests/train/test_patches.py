"""CoordTok's task: which patches are asked for, what they cost, and that it learns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_models import COORDTOK

from reeltok.models.convert_coordtok import coordtok_config, coordtok_from_public
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.coordtok.triplane import CoordTokConfig
from reeltok.nn.quantizers import FSQConfig
from reeltok.train.clips import ClipBatch
from reeltok.train.patches import (
    STAGE_1,
    STAGE_2,
    PatchConfig,
    Patches,
    draw_frames,
    draw_lengths,
    draw_patches,
    join_patches,
    patches_at,
)

TINY = replace(
    COORDTOK,
    size=(8, 16, 16),
    cells=(4, 4, 4),
    cell_patch=(2, 2, 2),
    channels=4,
    width=32,
    decoder_patch=(1, 4, 4),
    decoder_depth=1,
)


def build(config: CoordTokConfig = TINY) -> CoordTok:
    torch.manual_seed(0)
    return CoordTok(config, "tiny")


def batch(count: int = 4, frames: int = 8) -> ClipBatch:
    """Squares that move over a plain ground."""
    x = torch.full((count, 3, frames, 16, 16), -0.5)
    for i in range(count):
        for t in range(frames):
            x[i, i % 3, t, 4 : 8 + i % 4, (t + 2 * i) % 12 : (t + 2 * i) % 12 + 4] = 0.8
    return ClipBatch(x=x, names=("a",) * count, groups=("moving",) * count)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.weights
def test_published_loss(shared: Path) -> None:
    """The public loss is each clip's mean, summed over the batch."""
    for name in ("full", "short"):
        path = shared / "parity" / "coordtok" / f"coordtok_tiny_{name}.safetensors"
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            config = coordtok_config(json.loads(file.metadata()["kwargs"]))
        weights = {k[3:]: v for k, v in tensors.items() if k.startswith("sd.")}
        model = coordtok_from_public(weights, config)
        x, index = tensors["in.video"].permute(0, 4, 1, 2, 3), tensors["in.coords_grid_index"]
        wanted = patches_at(x, index, config)
        assert torch.equal(wanted, tensors["in.targets_grid"])
        planes = model.encode_planes(x, tensors["in.n_frames"][:, 0])
        loss = (model.decode_patches(planes, index) - wanted).square().mean((1, 2)).sum()
        torch.testing.assert_close(loss, tensors["out.loss_l2"][0], atol=1e-5, rtol=1e-5)


def test_stages_are_the_published_ones() -> None:
    window = CoordTokConfig()
    lengths = torch.tensor([128, 128])
    first = draw_patches(lengths, STAGE_1.share, window, seeded())
    assert first.shape == (2, 1024, 3)
    assert not torch.equal(first[0], first[1])
    assert first.amin((0, 1)).tolist() == [0, 0, 0]
    assert first.amax((0, 1)).tolist() == [127, 15, 15]
    frames = draw_frames(lengths, round(STAGE_2.share * 128), window, seeded())
    assert frames.shape == (2, 4096, 3)
    assert [len(set(clip[:, 0].tolist())) for clip in frames] == [16, 16]


def test_short_clips_ask_for_their_own_frames() -> None:
    x = batch(64).x
    lengths = draw_lengths(x, 0.5, seeded())
    assert lengths.min() >= 1
    assert 20 < (lengths < 8).sum() < 40
    for index in (
        draw_patches(lengths, 1.0, TINY, seeded()),
        draw_frames(lengths, 3, TINY, seeded()),
    ):
        assert (index[..., 0] < lengths[:, None]).all()
    assert (draw_lengths(x, 0.0, seeded()) == 8).all()


def test_frames_are_put_together_again() -> None:
    x = batch().x + torch.arange(8.0)[:, None, None]
    index = draw_frames(torch.full((4,), 8), 3, TINY, seeded())
    frames = join_patches(patches_at(x, index, TINY), TINY).unflatten(0, (4, 3))
    for i in range(4):
        for k, at in enumerate(index[i, ::16, 0].tolist()):
            assert torch.equal(frames[i, k], x[i, :, at])


@pytest.mark.parametrize(
    "config",
    [
        PatchConfig(share=0.25),
        PatchConfig(share=0.25, short=0.5),
        PatchConfig(sampling="frames", share=0.25),
    ],
    ids=["patches", "short", "frames"],
)
def test_it_learns(config: PatchConfig) -> None:
    data = batch()
    task = Patches(build(), config, held_out=lambda: [data])
    optimizer = torch.optim.Adam(task.parameters().parameters(), 3e-3)
    before = task.validate(0)["psnr"]
    task.parameters().train()
    for step in range(30):
        losses = task.loss(data, step, torch.Generator().manual_seed(step))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = task.validate(30)
    assert after["psnr"] > before + 1.0
    assert after["psnr/moving"] == pytest.approx(after["psnr"])


def test_scores_are_taken_in_full_precision() -> None:
    seen = lambda x, y: {"autocast": float(torch.is_autocast_enabled("cpu"))}
    task = Patches(build(), PatchConfig(share=0.5), held_out=lambda: [batch()], score=seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task.validate(0)["autocast"] == 0


def test_quantizer_loss_and_every_weight_count() -> None:
    quantizer = FSQConfig(levels=(4,) * 4)
    task = Patches(build(replace(TINY, quantizer=quantizer)).train(), PatchConfig(share=0.5))
    losses = task.loss(batch(), 0, seeded())
    losses.total.backward()
    assert {"l2", "entropy", "commitment"} <= set(losses.terms)
    assert all(p.grad is not None for p in task.parameters().parameters())


@pytest.mark.weights
def test_stage_2_judges_whole_frames(shared: Path) -> None:
    config = PatchConfig(
        sampling="frames",
        share=0.25,
        perceptual=2.0,
        net="squeeze",
        weights=str(shared / "weights" / "squeezenet1_1_features_torchvision.pth"),
    )
    larger = replace(
        TINY, size=(8, 32, 32), cells=(4, 8, 8), decoder_patch=(1, 8, 8), position="axes"
    )
    task = Patches(build(larger).train(), config)
    x = torch.nn.functional.interpolate(batch(2).x.flatten(0, 1), scale_factor=2).unflatten(
        0, (2, 3)
    )
    losses = task.loss(ClipBatch(x=x, names=("a", "b"), groups=("", "")), 0, seeded())
    total = losses.terms["l2"] + 2 * losses.terms["lpips"]
    torch.testing.assert_close(losses.total, total)
    losses.total.backward()


def test_errors_name_what_to_do() -> None:
    with pytest.raises(ValueError, match="choose sampling='frames'"):
        PatchConfig(perceptual=1.0)
    with pytest.raises(ValueError, match="slices=9"):
        Patches(build(), PatchConfig(slices=9))
