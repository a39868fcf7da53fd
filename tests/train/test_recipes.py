"""Recipes are values: found by name, changed by path, stored whole; bad input is one sentence."""

from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch
from small_run import small_recipe

from reeltok.configuration import merge
from reeltok.generate.pixels.recipe import PIXELS
from reeltok.generate.recipes import GENERATORS
from reeltok.recipes import find_recipe
from reeltok.train import dry_run
from reeltok.train.build import build_model
from reeltok.train.launch import train
from reeltok.train.packing_recipes import PACKINGS
from reeltok.train.recipes import RECIPES, as_json, change


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_its_name_and_survives_json(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name or (name, recipe.name[:8]) == ("default", "default_")
    (tmp_path / "recipe.json").write_text(as_json(recipe))
    assert find_recipe(tmp_path) == recipe == find_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("vidtok_stage3", "vidtok_stage2"),
        ("vidtok", "vidtok_stage1"),
        ("adapt", "adapt_decoder"),
        ("defualt", "default"),
        ("fine-tune", "finetune"),
    ],
)
def test_unknown_recipe_names_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no recipe '{asked}': did you mean '{near}'"):
        find_recipe(asked)


def test_what_is_like_no_recipe_gets_the_list_alone() -> None:
    with pytest.raises(ValueError, match="no recipe 'xyz': There are default, "):
        find_recipe("xyz")


@pytest.mark.parametrize(
    ("key", "near"), [("settings.widht", "width"), ("settings.quantizer.leves", "levels")]
)
def test_unknown_settings_name_the_nearest(key: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"settings of default.*did you mean '{near}'") as error:
        build_model(change(small_recipe(), {key: "[4]"}))
    assert "\n" not in str(error.value)


def test_values_are_replaced_by_path() -> None:
    recipe = change(
        small_recipe(),
        {
            "loop.schedule.steps": "7",
            "data.windows.0.batch": "2",
            "data.weights.people": "0.5",
            "losses.pixel": "l2",
            "settings.quantizer.levels": "[8, 8]",
            "loop.ema": "null",
            "losses.terms.kl": "1e-3",
        },
    )
    assert recipe.loop.schedule.steps == 7
    assert recipe.data.windows[0].batch == 2
    assert recipe.data.weights == {"people": 0.5}
    assert recipe.losses.pixel == "l2"
    assert recipe.losses.terms["kl"] == 1e-3
    assert recipe.settings["quantizer"]["levels"] == [8, 8]
    assert recipe.settings["quantizer"]["rounding_from"] == 5
    assert recipe.loop.ema is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("loop.shedule.steps", "7", "'shedule' is unknown.: did you mean loop.schedule.steps"),
        ("losses.pixle", "l1", "did you mean 'pixel'"),
        ("data.windows.3.batch", "1", "'3' is unknown"),
        ("loop.schedule.steps", "many", "loop.schedule.steps='many'"),
        ("losses.pixel", "l3", "losses.pixel='l3'"),
        ("data.holdout", "1.5", "data.holdout=1.5"),
        ("loop.minutes", "Infinity", "loop.minutes=inf: Input should be a finite number"),
        ("data.weights", '{"a": Infinity}', "data.weights.a=inf: Input should be a finite number"),
        ("data.windows.0.share", "Infinity", "share=inf: Input should be a finite number"),
        ("settings.quantizer.even", "NaN", "settings: a number in it is not finite"),
        ("loop.seed", "-1", "loop.seed=-1: Input should be greater than or equal to 0"),
        ("losses.discriminator", '{"width": 0}', "discriminator.width=0: Input should be greater"),
        ("losses.discriminator", '{"layers": 99}', "discriminator.layers=99: Input should be less"),
    ],
)
def test_wrong_changes_are_one_sentence(path: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        change(small_recipe(), {path: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*RECIPES, *GENERATORS, *PACKINGS, *PIXELS])
def test_every_part_of_a_recipe_is_of_finite_numbers(name: str) -> None:
    parts: list[object] = [find_recipe(name)]
    for part in parts:
        assert part.__pydantic_config__["allow_inf_nan"] is False, type(part)
        values = vars(part).values()
        inner = [each for value in values for each in (value if type(value) is tuple else [value])]
        parts += [each for each in inner if is_dataclass(each)]
    assert len(parts) > 4


def test_settings_are_merged_deeply() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_models_are_built_from_the_seed() -> None:
    one, two = (build_model(small_recipe()).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = build_model(change(small_recipe(), {"loop.seed": "1"})).state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_trained_weights_are_taken_up_and_must_fit(tmp_path: Path) -> None:
    build_model(small_recipe()).save_pretrained(tmp_path / "model")
    changes = {"model": str(tmp_path / "model"), "start": "trained", "loop.seed": "9"}
    taken = build_model(change(small_recipe(), changes)).state_dict()
    own = build_model(small_recipe()).state_dict()
    assert all(torch.equal(own[key], taken[key]) for key in own)
    with pytest.raises(ValueError, match=r"in the model .*: leave out of settings="):
        build_model(change(small_recipe(), {**changes, "settings.width": "16"}))


def test_dry_run_counts_and_measures() -> None:
    found = dry_run(small_recipe(), device="cpu")
    assert found.parameters == sum(p.numel() for p in build_model(small_recipe()).parameters())
    assert found.steps_per_second > 0
    assert 0.1 < found.memory_gb < 50


def test_a_run_is_not_overwritten(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(small_recipe(), data=clips, out=tmp_path, device="cpu")
    (tmp_path / "log.jsonl").write_text("")  # of a run that did not make one step
    one = change(small_recipe(), {"loop.schedule.steps": "1"})
    assert train(one, data=clips, out=tmp_path, device="cpu").step == 1


def test_nothing_to_resume_is_said(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume"):
        train(small_recipe(), data=clips, out=tmp_path, resume=True, device="cpu")


def test_what_a_resume_changes_is_said(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = change(small_recipe(), {"loop.schedule.steps": "1"})
    train(short, data=clips, out=tmp_path / "run", device="cpu")
    assert "changes the recipe" not in capsys.readouterr().err
    train(find_recipe(tmp_path / "run"), data=clips, out=tmp_path / "run", resume=True)
    assert "changes the recipe" not in capsys.readouterr().err
    longer = change(short, {"loop.schedule.steps": "2", "data.windows.0.batch": "1"})
    train(longer, data=clips, out=tmp_path / "run", resume=True, device="cpu")
    said = capsys.readouterr().err
    batch = short.data.windows[0].batch
    assert (
        f"changes the recipe of the run: data.windows.0.batch=1 (it was {batch}); "
        "loop.schedule.steps=2 (it was 1). `reeltok train " in said
    )


def test_checkpoint_of_another_model_is_refused(clips: Path, tmp_path: Path) -> None:
    short = change(small_recipe(), {"loop.schedule.steps": "1"})
    train(short, data=clips, out=tmp_path / "run", device="cpu")
    wider = change(small_recipe(), {"settings.width": "16"})
    with pytest.raises(ValueError, match="is a checkpoint of another model"):
        train(wider, data=clips, out=tmp_path / "run", resume=True, device="cpu")
    assert find_recipe(tmp_path / "run") == short


def test_missing_perceptual_weights_stop_before_the_first_step(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path))
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path))
    recipe = change(small_recipe(), {"losses.perceptual": "1", "losses.net": "vgg"})
    with pytest.raises(FileNotFoundError, match="LPIPS with VGG-16"):
        train(recipe, data=clips, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("sit_cpu", "sit_b", "sit_l", "prior_cpu", "prior_b", "prior_l"),
        *("prior_push", "prior_push_none", "sit_push_gpu"),
    ],
)
@pytest.mark.usefixtures("types_unchecked")
def test_recipes_of_generators_are_found_too(name: str, tmp_path: Path) -> None:
    recipe = find_recipe(name)
    (tmp_path / "recipe.json").write_text(as_json(recipe))
    assert recipe.name == name
    assert find_recipe(tmp_path) == recipe == find_recipe(tmp_path / "recipe.json")
    with pytest.raises(ValueError, match=rf"no recipe '{name}x': did you mean '{name}'"):
        find_recipe(f"{name}x")
    with pytest.raises(ValueError, match=f"'{name}' is not the recipe of a tokenizer"):
        train(recipe, data=tmp_path, out=tmp_path / "run")
