"""CoordTok's recipes: what the paper's stages ask for, and a run of the compact one in small."""

import json
import math
from pathlib import Path

import pytest

from reeltok import zoo
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import PRESETS
from reeltok.recipes import find_recipe
from reeltok.train.build import build_model
from reeltok.train.launch import reconstruction, train
from reeltok.train.patches import Patches
from reeltok.train.recipe import Recipe, change

SMALL = {
    "settings": '{"size": [8, 16, 16], "patch": [4, 8, 8], "cells": [4, 4, 4], "cell_patch": '
    '[2, 2, 2], "channels": 4, "width": 32, "heads": 2, "vit_depth": 1, "depth": 1, '
    '"decoder_patch": [1, 4, 4], "decoder_width": 32, "decoder_heads": 2, "decoder_depth": 1, '
    '"coordinates": "centre", "position": "sinusoids"}',
    "data.windows": '[{"frames": 8, "size": 16, "batch": 4}]',
    "data.validation": '{"frames": 8, "size": 16, "batch": 2}',
    "data.holdout": "0.3",
    "patches.slices": "2",
    "loop.schedule": '{"steps": 4, "warmup": 1}',
    "loop.validate_every": "4",
    "loop.log_every": "1",
}


def small(**more: str) -> Recipe:
    return change(find_recipe("coordtok_cpu"), SMALL | more)


def test_the_papers_stages() -> None:
    first, second = find_recipe("coordtok_stage1"), find_recipe("coordtok_stage2")
    places = math.prod(PRESETS[first.model][1].places)
    assert first.patches is not None
    assert second.patches is not None
    assert (first.patches.sampling, first.patches.share * places) == ("patches", 1024)
    assert (second.patches.sampling, second.patches.share * 128) == ("frames", 16)
    assert (first.patches.perceptual, second.patches.perceptual) == (0, 16)
    assert (first.start, second.start) == ("fresh", "trained")
    assert first.data.windows[0].batch == second.data.windows[0].batch == 256


def test_the_compact_one_fits_in_eight_mebibytes() -> None:
    model = zoo.load("coordtok-default", weights="random")
    assert 2 * model.spec.parameters < 2**23 - 2**15
    assert (model.config.size, model.spec.steps(128)) == ((128, 64, 64), 1280)


@pytest.mark.parametrize("sampling", ["patches", "frames"])
def test_a_run_trains_on_patches(clips: Path, tmp_path: Path, sampling: str) -> None:
    recipe = small(**{"patches.sampling": sampling, "patches.share": "0.25"})
    made: list[Patches] = []

    def watched(*given) -> Patches:
        made.append(reconstruction()(*given))
        return made[0]

    out = tmp_path / "run"
    run = train(recipe, data=clips, out=out, device="cpu", make_task=watched)
    assert isinstance(made[0], Patches)
    assert run.step == 4
    assert run.best is not None
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert any("l2" in line for line in lines)
    loaded = zoo.load(out / "model")
    assert isinstance(loaded, CoordTok)
    assert (loaded.config.coordinates, loaded.config.position) == ("centre", "sinusoids")


def test_whole_clips_are_a_value_too(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = train(small(patches="null"), data=clips, out=out, device="cpu")
    assert run.step == 4


def test_patches_of_another_family_are_refused() -> None:
    recipe = change(find_recipe("small"), {"settings.width": "8", "patches": "{}"})
    with pytest.raises(ValueError, match="patches= trains a coordtok, default is a vidtok"):
        reconstruction()(build_model(recipe), recipe, None)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.windows.0.size", "32", "is not what coordtok-default reads: choose 16"),
        ("data.windows.0.frames", "6", "choose 8 in data.windows"),
        ("patches.perceptual", "1", "needs whole frames: choose sampling='frames'"),
        ("patches.smapling", "frames", "did you mean 'sampling'"),
    ],
)
def test_what_a_run_refuses(clips: Path, tmp_path: Path, key: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(small(**{key: value}), data=clips, out=tmp_path / "run", device="cpu")
