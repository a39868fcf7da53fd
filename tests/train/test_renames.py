"""Runs and models saved under earlier names: brought up to date, and refused until then."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import small_recipe

import reeltok
from reeltok import zoo
from reeltok.generate.clip_spec import ClipSpec
from reeltok.generate.conditions import Timing
from reeltok.recipes import find_recipe
from reeltok.tokenizer.folder import hash_weights
from reeltok.tokenizer.rows import unpack_rows
from reeltok.train import renames
from reeltok.train.checkpoint import Saver, find_checkpoints, load_tensors
from reeltok.train.launch import train
from reeltok.train.recipe import as_json, change
from reeltok.train.run import Run

CHANGES = {
    "losses.discriminator": '{"width": 8, "layers": 1, "first": 1, "lecam": 0.1}',
    "loop.schedule.steps": "6",
    "loop.save_every": "3",
    "loop.keep": "5",
}


def as_before(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe as it was written before: every old key by its own name, the fall in steps."""
    tree = json.loads(json.dumps(tree))
    loop, data, losses = tree["loop"], tree["data"], tree["losses"]
    for optimizer in (loop["optimizer"], loop["discriminator"]):
        optimizer["rate"], optimizer["decay"] = optimizer.pop("lr"), optimizer.pop("weight_decay")
    loop["critic"], schedule = loop.pop("discriminator"), loop["schedule"]
    schedule["floor"] = schedule.pop("min_lr_ratio")
    schedule["fall"] = round(schedule.pop("cooldown") * schedule["steps"])
    loop["clip"], loop["track"] = loop.pop("grad_clip"), loop.pop("tensorboard")
    loop["recompute"] = loop.pop("activation_checkpointing")
    data["judged"], data["ahead"] = data.pop("validation"), data.pop("prefetch")
    if losses["discriminator"] is not None:
        critic = losses["critic"] = losses.pop("discriminator")
        critic["game"] = critic.pop("generator_loss")
        critic["critic_game"] = critic.pop("discriminator_loss")
    return tree


def save_as_before(run: Run, out: Path) -> None:
    """Write the checkpoint of `run` again as it was before: `critic`, and `floor` in the plan."""
    old = {
        "critic" + name.removeprefix("discriminator") if name.startswith("disc") else name: value
        for name, value in run.tensors().items()
    }
    assert any(name.startswith("critic@") for name in old)
    numbers = run.numbers()
    plan = numbers["schedule"]["plan"]
    plan["floor"] = plan.pop("min_lr_ratio")
    saver = Saver(out, keep=5)
    saver.save(run.step, old, numbers)
    saver.finish()


def test_a_run_of_before_goes_on_to_the_bit(clips: Path, tmp_path: Path) -> None:
    """Stopped after 3 of 6 steps, written as it was before, renamed, resumed: the same model."""
    recipe = change(small_recipe(), CHANGES)
    whole = train(recipe, data=clips, out=tmp_path / "whole", device="cpu")
    half, old = whole, tmp_path / "old"
    shutil.copytree(tmp_path / "whole", old)
    for checkpoint in find_checkpoints(old):
        if checkpoint.step == 3:
            half.load(checkpoint)
        shutil.rmtree(checkpoint.folder)
    save_as_before(half, old)
    before = as_before(json.loads(as_json(recipe)))
    (old / "recipe.json").write_text(json.dumps(before))
    line = {"step": 3, "rate": 0.5, "deceit": 0.25, "critic_loss": 1.0}
    (old / "log.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"'loop.critic' is called 'loop.discriminator' today"):
        find_recipe(old)

    assert renames.main([str(old), str(tmp_path / "new")]) == 0
    assert json.loads((old / "recipe.json").read_text()) == before, "the old one stays"
    renamed = find_recipe(tmp_path / "new")
    assert renamed == recipe
    train(renamed, data=clips, out=tmp_path / "new", resume=True, device="cpu")
    weights = [load_file(tmp_path / run / "model/model.safetensors") for run in ("whole", "new")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    log = [json.loads(text) for text in (tmp_path / "new/log.jsonl").read_text().splitlines()]
    assert log[0] == {"step": 3, "lr": 0.5, "adversarial": 0.25, "discriminator_loss": 1.0}


@pytest.mark.parametrize(("old", "new"), renames.KEYS.items())
def test_an_old_key_is_answered_with_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ValueError, match=rf"no '{old}': '{old}' is called '{new}' today"):
        change(small_recipe(), {old: "1"})


def test_keys_inside_of_a_renamed_table_follow() -> None:
    assert renames.new_key("loop.critic.rate") == "loop.discriminator.lr"
    assert renames.new_key("data.judged.frames") == "data.validation.frames"
    assert renames.new_key("loop.discriminator.lr") is None
    assert renames.new_key("loop.clipping") is None


def test_a_recipe_without_an_adversary_and_a_generators() -> None:
    for recipe in (small_recipe(), find_recipe("prior_cpu"), find_recipe("small")):
        tree = json.loads(as_json(recipe))
        assert renames.rename_recipe(tree) == tree, "what is new stays"
    old = as_before(json.loads(as_json(small_recipe())))
    assert renames.rename_recipe(old)["loop"]["schedule"]["cooldown"] == 0.5


def with_old_names(folder: Path, out: Path) -> None:
    """Write the model in `folder` with its layers called as they were before."""
    record = json.loads((folder / "config.json").read_text())
    table = {new: old for old, new in renames.LAYERS[record["family"]].items()}
    shutil.copytree(folder, out)
    weights = load_file(folder / "model.safetensors")
    old = {rename_by(table, name): value for name, value in weights.items()}
    assert set(old) != set(weights)
    save_file(old, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(record | {"reads": None}))


def hash_of(folder: Path) -> str:
    """The hash of the weights in a folder, whatever their layers are called."""
    return hash_weights(unpack_rows(load_file(folder / "model.safetensors")))


def rename_by(table: dict[str, str], name: str) -> str:
    return ".".join(table.get(word, word) for word in name.split("."))


@pytest.mark.parametrize("name", ["default", "reftok-default"])
def test_bundled_models_of_before_are_brought_up_to_date(name: str, tmp_path: Path) -> None:
    """The bundled weights under the names of before: tokens of that hash are read still."""
    with_old_names(zoo.BUNDLED / name, tmp_path / "old")
    renames.rename_folder(tmp_path / "old", tmp_path / "new")
    model, found = reeltok.load(name), reeltok.load(tmp_path / "new")
    assert found.hash() == model.hash()
    assert found.reads == (hash_of(tmp_path / "old"),)
    assert set(model.reads) <= set(found.reads), "those published under the names of before"


def test_a_model_whose_layers_have_the_names_of_today_stays(tmp_path: Path) -> None:
    for family in ("coordtok-default", "default"):
        reeltok.load(family, weights="random").save_pretrained(tmp_path / family)
        renames.rename_folder(tmp_path / family, tmp_path / "new" / family)
        for file in ("config.json", "model.safetensors"):
            before = (tmp_path / family / file).read_bytes()
            assert before == (tmp_path / "new" / family / file).read_bytes()


def test_the_tokenizer_of_a_generators_run_is_renamed_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps({"generator": "prior"}))
    with_old_names(zoo.BUNDLED / "default", run / "tokenizer")
    renames.rename_folder(run, tmp_path / "new")
    found, old = reeltok.load(tmp_path / "new" / "tokenizer"), hash_of(run / "tokenizer")
    spec = {"tokenizer": "default", "frames": 1, "height": 8, "width": 8, "grid": (1, 1, 1)}
    ClipSpec(**spec, weights=old).require(found)
    with pytest.raises(ValueError, match="this generator makes tokens of 'default'"):
        ClipSpec(**spec, weights="0" * 64).require(found)


def test_a_priors_groups_of_frames_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    before = {"first": 1, "first_steps": 1, "group": 4, "group_steps": 1}
    record = {"family": "masked", "config": {"timing": before, "heads": 2}}
    (tmp_path / "old" / "config.json").write_text(json.dumps(record))
    renames.rename_folder(tmp_path / "old", tmp_path / "new")
    found = json.loads((tmp_path / "new" / "config.json").read_text())["config"]
    assert Timing(**found["timing"]) == Timing(
        first_frames=1, first_steps=1, frames_per_group=4, steps_per_group=1
    )
    assert found["heads"] == 2


def test_the_family_of_a_run_that_saved_no_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"model": "reftok-default"}))
    assert renames.family_of_run(tmp_path) == "reftok"
    recipe = {"loop": {"freeze": ["decoder_lean"], "optimizer": {"plain": ["_lean.differ"]}}}
    loop = renames.rename_recipe(recipe, "reftok")["loop"]
    assert loop["freeze"] == ["decoder_injection"]
    assert loop["optimizer"]["plain"] == ["_injection.difference_out"]


def test_what_cannot_be_renamed_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{")
    for old, new, said in [
        ("nothing", "new", "has neither the recipe.json of a run nor the config.json of a model"),
        ("run", "there", "exists already"),
        ("run", "new", "recipe.json is damaged"),
    ]:
        assert renames.main([str(tmp_path / old), str(tmp_path / new)]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    assert renames.main([]) == 2


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    saver = Saver(run)
    saver.save(1, {"critic.weight": torch.ones(3)}, {})
    saver.finish()
    (run / "recipe.json").write_text("{}")
    renames.rename_folder(run, tmp_path / "new")
    into = {"discriminator.weight": torch.zeros(3)}
    load_tensors(find_checkpoints(tmp_path / "new")[0], into)
    assert into["discriminator.weight"].eq(1).all()
    file = next((run / "checkpoints").glob("*/*.distcp"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        renames.rename_folder(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("family", "before", "today"),
    [
        ("flow", "blocks.3.steer.weight", "blocks.3.modulation.weight"),
        ("flow", "leave.xy.steer.bias", "final_layer.xy.modulation.bias"),
        ("flow", "enter.xy.linear.weight", "patch_embed.xy.linear.weight"),
        ("flow", "time.0.weight", "time_embed.0.weight"),
        ("flow", "time_embed.0.weight", "time_embed.0.weight"),
        ("masked", "codes.0", "token_embed.0"),
        ("masked", "guess.0.weight", "head.0.weight"),
        ("vidtok", "decoder.leave.weight", "decoder.conv_out.weight"),
        (
            "reftok",
            "encoder_lean.tower.enter.bias",
            "encoder_injection.reference_encoder.conv_in.bias",
        ),
        ("reftok", "decoder_lean.attend.place", "decoder_injection.cross_attention.position_bias"),
        ("coordtok", "encoder.look.0.mlp.0.bias", "encoder.vit.0.mlp.0.bias"),
        ("coordtok", "encoder.memory_position", "encoder.memory_pos_embed"),
        ("coordtok", "decoder.position.tables.0", "decoder.pos_embed.tables.0"),
    ],
)
def test_layers_are_renamed_in_models_and_runs(
    family: str, before: str, today: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    record = {"family": family, "config": {}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(record))
    save_file({before: torch.ones(2)}, tmp_path / "model" / "model.safetensors")
    renames.rename_folder(tmp_path / "model", tmp_path / "new")
    assert set(load_file(tmp_path / "new" / "model.safetensors")) == {today}
    found = json.loads((tmp_path / "new" / "config.json").read_text())
    noted = len(found.pop("reads", ()))
    assert (found, noted) == (record, family not in (renames.FLOW, renames.MASKED))
    assert renames.rename_tensor(f"model@{before}@exp_avg", family) == f"model@{today}@exp_avg"
    assert renames.rename_tensor(f"ema.{before}", family) == f"ema.{today}"
