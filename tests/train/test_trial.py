"""A dry run: what a run needs, from few clips where a batch is large, and without any weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import small_recipe

from reeltok.generate.recipes import GENERATORS
from reeltok.generate.training import try_generator
from reeltok.recipes import find_recipe
from reeltok.train import Recipe, change, dry_run
from reeltok.train.build import build_model
from reeltok.train.clips import ClipBatch
from reeltok.train.losses import Losses
from reeltok.train.reconstruct import AdversarialPair, Reconstruct
from reeltok.train.trial import TimedBatch, extrapolate


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights of any kind are found."""
    for name in ("SHARED", "WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"REELTOK_{name}", str(tmp_path / name))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clips of each batch that a task is given."""
    found: list[int] = []
    split = ClipBatch.to

    def count(self: ClipBatch, device: torch.device | str) -> ClipBatch:
        found.append(len(self))
        return split(self, device)

    monkeypatch.setattr(ClipBatch, "to", count)
    return found


def test_a_small_batch_is_tried_whole(seen: list[int]) -> None:
    found = dry_run(small_recipe(), device="cpu")
    assert (found.clips, found.measured, found.estimated) == (4, (4,), False)
    assert seen == [4, 4]
    assert found.parameters == sum(p.numel() for p in build_model(small_recipe()).parameters())


def test_losses_that_join_late_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = Reconstruct.discriminator_loss

    def count(self: Reconstruct, made: AdversarialPair, step: int) -> Losses:
        tried.append(step)
        return real(self, made, step)

    monkeypatch.setattr(Reconstruct, "discriminator_loss", count)
    plays = {
        "losses.discriminator": '{"first": 90, "width": 4, "layers": 1}',
        "loop.schedule.steps": "100",
    }
    dry_run(change(small_recipe(), plays), device="cpu")
    assert tried == [98, 99]
    dry_run(change(small_recipe(), plays | {"loop.schedule.steps": "90"}), device="cpu")
    assert tried == [98, 99]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_large_batch_is_estimated_from_few_clips(seen: list[int], accumulate: int) -> None:
    changes = {"data.windows.0.batch": "4096", "loop.accumulate": str(accumulate)}
    found = dry_run(change(small_recipe(), changes), device="cpu")
    assert (found.clips, found.estimated) == (4096, True)
    assert seen == [accumulate, 2 * accumulate]
    assert found.frames_per_second == pytest.approx(4096 * 5 * found.steps_per_second)


def test_an_estimate_is_a_line_through_two_steps() -> None:
    small = TimedBatch(clips=1, seconds=3.0, memory_gb=2.0)
    large = TimedBatch(clips=2, seconds=5.0, memory_gb=2.5)
    found = extrapolate(small, large, clips=10)
    assert (found.clips, found.seconds, found.memory_gb) == (10, 21.0, 6.5)
    busy = extrapolate(replace(small, seconds=9.0, memory_gb=3.0), large, clips=10)
    assert (busy.seconds, busy.memory_gb) == (15.0, 2.5)


@pytest.mark.parametrize("name", ["coordtok_stage1", "coordtok_stage2"])
def test_published_stages_are_tried_on_few_clips(name: str, seen: list[int]) -> None:
    """Of 256 clips; the second is of trained weights that are not here, and of LPIPS(vgg)."""
    recipe = change(find_recipe(name), {"model": "coordtok-default", "settings": "{}"})
    windows = (replace(recipe.data.windows[0], frames=128, size=64),)
    recipe = replace(recipe, data=replace(recipe.data, windows=windows), start="fresh")
    if name == "coordtok_stage2":  # one frame of LPIPS(vgg) takes long enough
        recipe = change(recipe, {"patches.share": "0.0078", "patches.net": "squeeze"})
    found = dry_run(recipe, device="cpu")
    assert (found.measured, found.clips) == ((1, 2), 256)
    assert seen == [1, 2]
    assert found.steps_per_second > 0


@pytest.mark.parametrize("kind", ["losses", "patches"])
def test_lpips_of_random_weights(kind: str) -> None:
    changes = {"losses.perceptual": "1", "losses.net": "squeeze", "data.windows.0.size": "32"}
    recipe = change(small_recipe(), changes)
    if kind == "patches":
        recipe = change(find_recipe("coordtok_stage2"), {"model": "coordtok-default"})
        recipe = replace(recipe, settings={}, start="fresh")
        recipe = change(recipe, {"patches.net": "squeeze", "patches.share": "0.0078"})
        windows = (replace(recipe.data.windows[0], size=64, batch=1),)
        recipe = replace(recipe, data=replace(recipe.data, windows=windows))
    assert isinstance(recipe, Recipe)
    assert dry_run(recipe, device="cpu").steps_per_second > 0


def test_weights_that_are_not_here_are_fresh() -> None:
    recipe = change(small_recipe(), {"start": "trained", "model": "vidtok_kl_causal_488_4chn"})
    settings = {"width": 8, "multipliers": [1, 1, 1, 1], "blocks": [1, 1, 1, 1], "groups": 4}
    recipe = replace(recipe, settings=settings)
    assert dry_run(recipe, device="cpu").parameters > 0


@pytest.mark.parametrize("name", ["sit_b", "prior_b"])
def test_generators_are_tried_on_few_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = change(
        GENERATORS[name](),
        {
            "settings": '{"width": 16, "depth": 1, "heads": 2}',
            "tokenizer": "coordtok-default" if name == "sit_b" else "default",
            "data.windows.0.size": "64",
            "data.windows.0.batch": "512",
        },
    )
    found = try_generator(recipe, device="cpu")
    assert (found.measured, found.clips) == ((1, 2), 512)
