"""Training a packing model: a run by its recipe, and what its ids are made of."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import CAUSAL, DISCRETE, SMALL, save_random

from reeltok import zoo
from reeltok.data.find import find_clips
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.recipes import find_recipe, run_recipe, try_recipe
from reeltok.tokens.ids import narrow_ids
from reeltok.tokens.packing.expected import bits_of_step
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.packing.network import PackingConfig, PackingNetwork
from reeltok.train.clips import Window
from reeltok.train.data import ClipSource
from reeltok.train.frames import open_clips
from reeltok.train.loop import train_step
from reeltok.train.packing import (
    PackingTask,
    choose_digits,
    choose_groups,
    find_ids,
    packing_config,
)
from reeltok.train.packing_recipes import PackingRecipe
from reeltok.train.run import Run


@pytest.fixture
def recipe(tmp_path: Path) -> PackingRecipe:
    model = save_random({"discrete": DISCRETE}, tmp_path)["discrete"]
    usual = find_recipe("packing_cpu")
    assert isinstance(usual, PackingRecipe)
    window = Window(frames=9, size=32, batch=3)
    data = replace(usual.data, windows=(window,), weights={}, other=1.0, holdout=0.3)
    data = replace(data, validation=Window(frames=9, size=32, batch=2))
    schedule = replace(usual.loop.schedule, steps=6, warmup=0)
    loop = replace(usual.loop, schedule=schedule, validate_every=3)
    return replace(usual, tokenizer=str(model), clips=5, features=4, width=8, data=data, loop=loop)


def test_a_run_makes_a_packing_model(recipe: PackingRecipe, clips: Path, tmp_path: Path) -> None:
    run = run_recipe(recipe, data=clips, out=tmp_path / "run")
    assert run.step == 6
    assert run.best is not None
    made = PackingModel.load(tmp_path / "run" / "model" / NAME)
    assert made.config.tokenizer == zoo.load(recipe.tokenizer).hash()
    assert (made.config.vocabulary, made.config.skip) == (2**15, None)
    assert (tmp_path / "run" / "best" / NAME).is_file()
    assert find_recipe(tmp_path / "run") == recipe


def test_a_run_that_goes_on_finds_its_ids(
    recipe: PackingRecipe, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_recipe(recipe, data=clips, out=tmp_path / "whole")
    schedule = replace(recipe.loop.schedule, steps=3)
    half = replace(recipe, loop=replace(recipe.loop, schedule=schedule))
    run_recipe(half, data=clips, out=tmp_path / "run")
    monkeypatch.setattr("reeltok.train.packing.encoded", lambda *given: 1 / 0)
    again = run_recipe(recipe, data=clips, out=tmp_path / "run", resume=True)
    assert again.step == whole.step == 6


def test_ids_of_other_clips_are_made_anew(
    recipe: PackingRecipe, clips: Path, tmp_path: Path
) -> None:
    out, tokenizer = tmp_path / "run", zoo.load(recipe.tokenizer)
    out.mkdir()
    sources = []
    for name in ("all", "few"):
        chosen = clips
        if name == "few":
            chosen = tmp_path / "few"
            shutil.copytree(clips, chosen)
            for file in sorted(chosen.glob("*.mkv"))[:3]:
                file.unlink()
            (chosen / "manifest.csv").unlink(missing_ok=True)
        held, _ = open_clips(find_clips(chosen), recipe.data, cache=tmp_path / "cache")
        sources.append(ClipSource(held, recipe.data, seed=0))
    first, other, again = (
        find_ids(recipe, tokenizer, sources[number], out).train for number in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(list(out.glob("ids-*"))) == 2
    tokenizer.config = replace(tokenizer.config, groups=1)  # of equal weights
    find_ids(recipe, tokenizer, sources[1], out)
    assert len(list(out.glob("ids-*"))) == 3


def test_ids_of_another_use_of_the_weights_are_made_anew(
    recipe: PackingRecipe, clips: Path, tmp_path: Path
) -> None:
    model = RefTok(RefTokConfig(body=COMPACT, width=4, skip=1.0)).eval()
    held, _ = open_clips(find_clips(clips), recipe.data, cache=tmp_path / "cache")
    source = ClipSource(held, recipe.data, seed=0)
    for number, view in enumerate((model, model.under(skip_after=2), model.under(policy="none"))):
        find_ids(recipe, view, source, tmp_path)
        assert len(list(tmp_path.glob("ids-*"))) == number + 1


def test_ids_beyond_32_bits_are_kept() -> None:
    few, many = torch.tensor([2**31 - 1]), torch.tensor([29604862181])
    assert narrow_ids(few).dtype == torch.int32
    assert narrow_ids(many).tolist() == [29604862181]
    assert narrow_ids(torch.zeros(0, dtype=torch.long)).dtype == torch.int32


def test_a_dry_run_needs_no_clips(recipe: PackingRecipe) -> None:
    tried = try_recipe(recipe)
    assert tried.parameters == sum(p.numel() for p in network_of(recipe).parameters())


def network_of(recipe: PackingRecipe) -> PackingNetwork:
    levels = DISCRETE.quantizer.levels
    return PackingNetwork(
        PackingConfig(
            tokenizer="ab" * 32,
            vocabulary=2**15,
            digits=levels,
            groups=choose_groups(levels),
            features=recipe.features,
            width=recipe.width,
        )
    )


def test_a_group_of_processes_trains_on_the_first_steps_of_clips(
    recipe: PackingRecipe, tmp_path: Path
) -> None:
    """Which give what looks at earlier steps no gradient."""
    ids = torch.randint(2**15, (2, 3, 4, 4), generator=torch.Generator().manual_seed(1))

    def trained() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        run = Run(PackingTask(network_of(recipe)), recipe.loop)
        for known in (3, 1, 2):
            train_step(run, ids[:, :known])
        return run.tensors()

    alone, group = trained(), f"file://{tmp_path / 'group'}"
    torch.distributed.init_process_group("gloo", init_method=group, rank=0, world_size=1)
    try:
        found = trained()
    finally:
        torch.distributed.destroy_process_group()
    assert found.keys() == alone.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, alone[name])


def test_training_lowers_the_bits(recipe: PackingRecipe) -> None:
    torch.manual_seed(0)
    network = network_of(recipe)
    ids = torch.randint(4, (2, 3, 4, 5))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    found = []
    for _ in range(40):
        bits = torch.cat(bits_of_step(network, ids)).mean()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
        found.append(bits.item())
    assert min(found[-5:]) < 0.5 * found[0]


def test_tokenizers_without_such_ids_are_refused(
    recipe: PackingRecipe, clips: Path, tmp_path: Path
) -> None:
    model = save_random({"causal": CAUSAL}, tmp_path)["causal"]
    with pytest.raises(ValueError, match="has no ids of steps, rows and columns"):
        run_recipe(replace(recipe, tokenizer=str(model)), data=clips, out=tmp_path / "run")


def test_a_packing_model_is_not_spread(recipe: PackingRecipe) -> None:
    with pytest.raises(ValueError, match="fsdp2 cannot spread a packing model"):
        replace(recipe, loop=replace(recipe.loop, strategy="fsdp2"))


def test_what_a_reftok_skips_is_coded_first() -> None:
    """The id of its centre code, where it skips cells."""
    config = RefTokConfig(body=replace(COMPACT, **SMALL), skip=1.25)
    tokenizer = RefTok(config, "reftok").eval()
    recipe = find_recipe("packing_cpu")
    found = packing_config(recipe, tokenizer)
    assert found.alphabets == (2, 16, 64, 32)
    assert found.skip is not None
    assert not tokenizer.lookup(torch.full((1, 1, 2, 2), found.skip)).any()
    plain = RefTok(replace(config, skip=0.0), "reftok").eval()
    assert packing_config(recipe, plain).skip is None


def test_digits_are_levels_or_as_few_as_hold_the_vocabulary() -> None:
    assert choose_digits(1000, (8, 5, 5, 5)) == (8, 5, 5, 5)
    assert choose_digits(1000, ()) == (32, 32)
    assert choose_digits(2**18, ()) == (64, 64, 64)
    assert choose_digits(1000 * 8, (1000, 8)) == (20, 20, 20)
    assert choose_groups((16, 4, 4, 4, 2, 2, 2, 2, 2)) == (1, 3, 5)
    assert choose_groups((8, 8, 8, 8, 8)) in ((1, 2, 2), (2, 1, 2), (2, 2, 1))
    assert choose_groups((64,)) == (1,)
