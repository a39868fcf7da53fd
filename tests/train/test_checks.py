"""What is refused or said before the first step."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import make_clips, small_recipe

from reeltok import zoo
from reeltok.data.clip import Clip, lot_of
from reeltok.generate.examples import holdout_share
from reeltok.generate.recipes import GENERATORS
from reeltok.metrics.lpips import random_lpips
from reeltok.parallel import Rank
from reeltok.recipes import KINDS, find_recipe, run_recipe
from reeltok.train import RECIPES, Recipe, change, train
from reeltok.train.build import build_model
from reeltok.train.checks import (
    MARKS,
    hold_out,
    never_reached,
    require_kept,
    require_new,
    require_sizes,
    require_strategy,
    require_windows,
)
from reeltok.train.clips import DataConfig, Window
from reeltok.train.launch import reconstruction
from reeltok.train.recipe import as_json
from reeltok.train.run import Run, part_of
from reeltok.train.unused import without_effect
from reeltok.train.validation import validation_metrics


@pytest.mark.parametrize("name", [*RECIPES, *GENERATORS])
def test_recipes_reach_all_that_they_count(name: str) -> None:
    recipe = (RECIPES | GENERATORS)[name]()
    require_windows(recipe)
    assert never_reached(recipe) == []
    network = zoo.described(recipe.model)[1] if isinstance(recipe, Recipe) else None
    assert without_effect(recipe, network) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loop.schedule.warmup": "200"}, "loop.schedule.warmup=200 is cut to 10"),
        ({"losses.pixel": "l2", "losses.l1_steps": "20"}, "l1_steps=20: l2 is never minimised"),
        ({"losses.perceptual": "1", "losses.perceptual_first": "30"}, "LPIPS never joins"),
        (
            {"losses.discriminator": '{"first": 20}'},
            r"losses.discriminator.first=20: the discriminator never joins",
        ),
        ({"settings.quantizer.rounding_from": "300"}, "rounding_from of the quantizer=300"),
        ({"settings.quantizer.regularization": "true"}, "entropy_steps of the quantizer=2000"),
        (
            {"data.windows": '[{"frames": 5, "size": 16}, {"frames": 5, "size": 16, "since": 20}]'},
            r"data.windows.1 \(since=20\) is never drawn",
        ),
    ],
)
def test_counts_past_the_end_are_said(changes: dict[str, str], said: str) -> None:
    recipe = change(small_recipe(), changes)
    (found,) = never_reached(recipe, build_model(recipe).config)
    assert re.search(said, found)
    assert not never_reached(change(recipe, {"loop.schedule.steps": "100000"}))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("small", {"loop.optimizer.kind": "adam", "loop.optimizer.weight_decay": "1"}, "adam has"),
        ("small", {"loop.discriminator.weight_decay": "1"}, "loop.discriminator.weight_decay=1"),
        ("small", {"losses.last_frame": "5"}, r"losses.last_frame \(of a RefTok alone\)"),
        ("reftok_cpu", {"start": "trained"}, r"warm=default \(start=trained takes"),
        ("coordtok_cpu", {"losses.perceptual": "1"}, "losses .patches has a loss of its own"),
        ("coordtok_cpu", {"patches.net": "alex"}, r"patches.net=alex .patches.perceptual=0"),
        ("small", {"losses.net": "alex"}, r"losses.net=alex .losses.perceptual=0"),
        ("vidtok_stage1", {"losses.log_mse_floor": "1"}, "log_mse_floor=1.0 .losses.pixel=l1"),
        ("small", {"losses.terms.motion": "3"}, "terms.motion=3 .the model has no such loss"),
        ("small", {"loop.discriminator.lr": "1"}, "loop.discriminator.lr=1.0 .without losses.disc"),
        (
            "vidtok_stage1",
            {"loop.schedule.min_lr_ratio": "0.1"},
            "cooldown=0: the rate does not fall",
        ),
        (
            "small",
            {"loop.schedule.shape": "cosine", "loop.schedule.cooldown": "0.3"},
            r"loop.schedule.cooldown=0.3 .shape=cosine",
        ),
        (
            "small",
            {"data.fps": "8", "data.strides": "[1, 2]"},
            r"data.strides=\[1, 2\] .data.fps=8",
        ),
        ("small", {"data.cache": "none", "data.cache_gb": "3"}, "cache_gb=3.0 .data.cache=none"),
        ("vidtok_stage1", {"data.other": "0.5"}, "data.other=0.5 .without data.weights"),
        (
            "small",
            {"losses.discriminator": '{"lecam_decay": 0.5}'},
            "lecam_decay=0.5 .losses.discriminator.lecam=0",
        ),
        ("vidtok_stage1", {"losses.l1_steps": "5"}, "l1_steps=5 .losses.pixel=l1 is L1 in every"),
        ("vidtok_stage1", {"loop.optimizer.momentum": "0.5"}, "momentum=0.5 .kind=adam has betas"),
        ("vidtok_stage1", {"loop.optimizer.plain": '["encoder"]'}, "moves all parts alike"),
        (
            "small",
            {"data.cache": "none", "data.cache_size": "64"},
            "cache_size=64 .data.cache=none",
        ),
        ("sit_cpu", {"loop.discriminator.lr": "1"}, "loop.discriminator.lr=1.0 .without losses"),
    ],
)
def test_settings_without_effect_are_said(name: str, changes: dict[str, str], said: str) -> None:
    recipe = find_recipe(name)
    network = zoo.described(recipe.model)[1] if isinstance(recipe, Recipe) else None
    assert without_effect(recipe, network) == []
    (found,) = without_effect(change(recipe, changes), network)
    assert re.search(said, found)


def test_a_loss_that_no_quantizer_has_is_named() -> None:
    with pytest.raises(ValueError, match=r"terms names 'evenn', which is no loss: .* 'even'"):
        change(small_recipe(), {"losses.terms.evenn": "100"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.windows", "[]"),
        ("data.strides", "[]"),
        ("data.strides", "[0]"),
        ("data.scale", "[0.5, 2]"),
        ("data.cache_size", "0"),
        ("data.cache_gb", "-1"),
        ("data.weights.a", "-1"),
        ("losses.terms.kl", "-3"),
        ("loop.optimizer.betas", "[0.9, 1]"),
    ],
)
def test_values_out_of_bounds_are_refused(path: str, value: str) -> None:
    with pytest.raises(ValueError, match=path.rpartition(".")[0]) as caught:
        change(small_recipe(), {path: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses.discriminator": '{"layers": 3}'}, "of 16 pixels is too small for the discrimina"),
        ({"losses.perceptual": "1"}, r"16 pixels is too small for LPIPS\(squeeze\): choose 17"),
    ],
)
def test_frames_too_small_for_a_loss_are_refused(changes: dict[str, str], said: str) -> None:
    require_sizes(small_recipe())
    with pytest.raises(ValueError, match=said):
        require_sizes(change(small_recipe(), changes))


def test_validation_without_lpips_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(net: str) -> None:
        raise FileNotFoundError("no weights")

    monkeypatch.setattr("reeltok.train.validation.LPIPS", missing)
    with pytest.warns(UserWarning, match="without LPIPS, and without a best model by -lpips_alex"):
        score = validation_metrics("-lpips_alex", 128)
    assert "lpips_alex" not in score(torch.zeros(1, 3, 1, 16, 16), torch.zeros(1, 3, 1, 16, 16))
    monkeypatch.setattr("reeltok.train.validation.LPIPS", random_lpips)
    with pytest.warns(UserWarning, match=r"without LPIPS: it needs frames of 31 pixels, .*=16 are"):
        validation_metrics(size=16)


def test_a_reftok_is_not_spread_by_fsdp2() -> None:
    recipe = change(find_recipe("reftok_cpu"), {"loop.strategy": "fsdp2"})
    tokenizer = zoo.load("reftok-default", weights="random", code=False)
    with pytest.raises(ValueError, match=r"train with loop.strategy=ddp"):
        require_strategy(recipe, tokenizer)


def test_a_short_run_says_what_it_misses(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"loop.schedule.steps": "1", "loop.schedule.warmup": "9"}
    train(change(small_recipe(), changes), data=clips, out=tmp_path / "run", device="cpu")
    said = capsys.readouterr().err
    assert "note: of 1 steps, loop.schedule.warmup=9 is cut to 0; rounding_from of the" in said


@pytest.mark.parametrize(
    ("windows", "step"),
    [('[{"since": 1}]', 0), ('[{"until": 7}]', 7), ('[{"until": 7}, {"since": 9}]', 7)],
)
def test_steps_without_a_window_are_refused_at_once(windows: str, step: int) -> None:
    recipe = change(small_recipe(), {"data.windows": windows})
    with pytest.raises(ValueError, match=f"no entry of data.windows covers step {step} of 20"):
        require_windows(recipe)
    if step == 7:
        require_windows(change(recipe, {"loop.schedule.steps": "7"}))
    else:
        require_windows(recipe, first=1)


def test_frames_are_kept_as_large_as_windows(clips: Path, tmp_path: Path) -> None:
    small = change(small_recipe(), {"data.cache_size": "12"})
    with pytest.raises(ValueError, match=r"window of 16 pixels .* set data.cache_size=16 or more"):
        train(small, data=clips, out=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())
    require_kept(change(small, {"data.cache": "none"}).data)
    require_kept(change(small, {"data.cache_size": "16"}).data)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match=r"since=5 is not before until=5"):
        change(small_recipe(), {"data.windows": '[{"since": 5, "until": 5}]'})


# Names that match nothing.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loop.freeze": '["encodr"]'}, r"loop.freeze names 'encodr'.*'encoder'"),
        ({"loop.freeze": '[""]'}, r"loop.freeze names ''"),
        ({"loop.compile": '["decodr"]'}, r"loop.compile names 'decodr'.*'decoder'"),
        (
            {"loop.activation_checkpointing": '["Residual", "Resdual"]'},
            r"activation_checkpointing names 'Resdual'.*'Residual'",
        ),
        (
            {"loop.optimizer.plain": '["decoder.conv_uot"]'},
            r"plain names 'decoder.conv_uot'.*conv_out",
        ),
        ({"data.weights": '{"a": 1, "zz": 1}'}, r"data.weights names zz.*there are a, b"),
    ],
)
def test_names_that_match_nothing_are_refused(
    clips: Path, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        train(change(small_recipe(), changes), data=clips, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [n for n in RECIPES if not n.startswith(("vidtok", "coordtok_s"))])
def test_the_names_in_the_recipes_match(name: str) -> None:
    recipe = replace(find_recipe(name), start="fresh", warm=None)
    task = reconstruction(lpips=random_lpips)(build_model(recipe), recipe, None)
    for part in recipe.loop.compile:
        assert part_of(task.parameters(), part, "loop.compile")
    Run(task, replace(recipe.loop, compile=()), Rank(device=torch.device("cpu")))


def test_a_recipe_keeps_its_own_weights_for_other_groups(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundled recipes name groups of the clips that the default was trained on."""
    recipe = replace(small_recipe(), name="small")
    own = replace(recipe.data, weights=find_recipe("small").data.weights)
    one = change(replace(recipe, data=own), {"loop.schedule.steps": "1"})
    train(one, data=clips, out=tmp_path / "run", device="cpu")
    assert "note: data.weights names animation, open, people, robot" in capsys.readouterr().err


# What is held out.


def clip(number: int, frames: int = 20, size: int = 128) -> Clip:
    path, source = Path(f"{number}.mp4"), str(number)
    return Clip(path=path, source=source, frames=frames, height=size, width=size)


def test_a_clip_is_held_out_where_some_can_be_spared() -> None:
    config = DataConfig(holdout=0.01)
    clips = [clip(n) for n in range(10)]
    assert not any(c.held_out(0.01) for c in clips)
    share = hold_out(clips, config).holdout
    held = [c for c in clips if c.held_out(share)]
    assert held == [min(clips, key=lambda c: c.lot)]
    assert hold_out(clips[:3], config) == config  # too few
    assert hold_out(clips, DataConfig(holdout=0.0)).holdout == 0.0  # as asked
    assert hold_out(clips, DataConfig(holdout=0.5)).holdout == 0.5
    short = replace(config, windows=(Window(frames=5, size=64),))
    first = [clip(n, frames=20 if c is held[0] else 5) for n, c in enumerate(clips)]
    assert hold_out(first, config) == config  # the only one to train on
    config = short
    assert hold_out(first, config).holdout == share  # the one that is long enough
    first = [clip(n, size=128 if c is held[0] else 64) for n, c in enumerate(clips)]
    assert hold_out(first, config).holdout == share  # or large enough


def test_never_is_every_clip_held_out() -> None:
    """Whether a single clip can be trained on does not hang on its name."""
    one = next(clip(n) for n in range(100) if clip(n).lot < 0.1)
    config = DataConfig(holdout=0.1)
    assert hold_out([one], config).holdout == 0.0
    small = [clip(n, size=8) for n in range(100, 120)]
    assert hold_out([one, *small], config).holdout == 0.0, "others are too small to train on"
    assert holdout_share(["a"], lot_of("a") + 0.01) == 0.0
    assert holdout_share(["a", "b"], 0.0) == 0.0


@pytest.mark.parametrize("count", [1, 5])
def test_finetuning_logs_and_keeps_the_best(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of five clips one is held out; of one, the scores are of itself, and that is said."""
    clips = make_clips(tmp_path / "clips", clips=count)
    recipe = find_recipe("finetune")
    small = small_recipe()
    window, loop = small.data.windows[0], replace(small.loop, validate_every=2)
    data = replace(recipe.data, windows=(window,), validation=replace(window, batch=2))
    mine = replace(small, data=data, loop=replace(loop, schedule=recipe.loop.schedule))
    mine = change(mine, {"loop.schedule.steps": "2"})
    run = train(mine, data=clips, out=tmp_path / "run", device="cpu")
    assert run.best is not None
    assert (tmp_path / "run" / "best" / "config.json").is_file()
    said = "the scores are of clips that are trained on" in capsys.readouterr().err
    assert said == (count == 1)


def test_finetuning_holds_out() -> None:
    for name in ("finetune", "adapt_decoder"):
        recipe = find_recipe(name)
        assert isinstance(recipe, Recipe)
        assert recipe.data.holdout > 0
        assert recipe.data.validation.frames <= min(w.frames for w in recipe.data.windows)


def test_a_variant_of_reftok_may_name_its_own_parts() -> None:
    changes = {"settings.inject": "attend", "loop.optimizer.plain": '["cross_attention.out"]'}
    recipe = change(replace(find_recipe("reftok_robot"), warm=None), changes)
    task = reconstruction()(build_model(recipe), recipe, None)
    assert Run(task, recipe.loop, Rank(device=torch.device("cpu"))).optimizers


OF_EACH_KIND = ("small", "sit_cpu", "prior_cpu", "packing_cpu", "pixel_push")


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_run_of_another_kind_is_not_resumed(name: str, tmp_path: Path) -> None:
    own = find_recipe(name)
    (tmp_path / "recipe.json").write_text(as_json(own))
    require_new(own, tmp_path, resume=True)
    for other in {*OF_EACH_KIND} - {name}:
        with pytest.raises(ValueError, match=f"of {name}, a .* kind than {other}: resume it"):
            require_new(find_recipe(other), tmp_path, resume=True)
    assert {*MARKS} == {*KINDS}


def test_nothing_is_coded_for_a_run_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(as_json(small_recipe()))
    for name in ("sit_cpu", "packing_cpu", "pixel_push"):
        with pytest.raises(ValueError, match="a recipe of another kind"):
            run_recipe(find_recipe(name), data=tmp_path / "none", out=tmp_path, resume=True)
