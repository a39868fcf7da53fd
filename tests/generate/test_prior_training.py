"""Priors in training: masks, tables of ids, what is given, and that a prior learns."""

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_priors import SIZE, SMALL, clip

from reeltok.generate import masked
from reeltok.generate.conditions import (
    give,
    give_frames,
)
from reeltok.generate.ids import Example, PriorTask, draw_known, draw_masked, tokenize_examples
from reeltok.generate.latents import Feed
from reeltok.generate.prior import (
    Prior,
)
from reeltok.generate.recipes import prior_cpu
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.parallel import Rank
from reeltok.train.clips import DataConfig, Window
from reeltok.video.record import Video, write


def test_clips_that_changed_since_they_were_coded_are_named(
    plain: VidTok, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra corpus)")
    from reeltok.generate.examples import open_examples

    path = tmp_path / "clips" / "a.mkv"
    ask, at = asked(plain, path.parent), Rank(device=torch.device("cpu"))
    for said in (False, True):
        open_examples(*ask, tmp_path / "run", at)
        assert (
            "1 clip, such as a.mkv, changed after being coded" in capsys.readouterr().err
        ) == said
        later = time.time() + 60
        os.utime(path, (later, later))


def test_a_corpus_goes_on_as_on_the_device_where_it_was_begun(
    plain: VidTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow (extra corpus)")
    from reeltok.generate import examples

    ask, at = asked(plain, tmp_path / "clips"), Rank(device=torch.device("cpu"))
    made = examples.open_examples(*ask, tmp_path / "run", at)
    monkeypatch.setattr(examples, "batch_for", lambda recipe, at: 128)
    again = examples.open_examples(*ask, tmp_path / "run", at, resume=True)
    assert again.manifest == made.manifest


def asked(tokenizer: VidTok, folder: Path) -> tuple[Any, ...]:
    """What the examples of one clip of five frames, `folder`/a.mkv, are made of."""
    from reeltok.generate.training import generator_config

    folder.mkdir()
    frames = torch.zeros(5, 16, 16, 3, dtype=torch.uint8)
    write(Video.of(frames, fps=8), folder / "a.mkv", lossless=True)
    data = DataConfig(windows=(Window(frames=5, size=16, batch=1),))
    recipe = replace(prior_cpu(), settings=SMALL, data=data)
    return recipe, tokenizer, generator_config(recipe, tokenizer), folder


def test_masks_are_drawn_by_a_cosine() -> None:
    ids = torch.zeros(400, 64, dtype=torch.long)
    drawn = draw_masked(ids, torch.Generator().manual_seed(0))
    counts = drawn.sum(1)
    assert counts.min() >= 1
    assert counts.max() <= 64
    assert (counts / 64).mean().item() == pytest.approx(2 / math.pi, abs=0.04)
    again = draw_masked(ids, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_examples_hold_what_a_prior_is_told(plain: VidTok, leaning: RefTok) -> None:
    clips = [Example(x=clip(9, seed=i), actions=torch.rand(1, 9, 2)) for i in range(3)]
    config = masked.config_for(leaning, frames=8, size=SIZE, actions=2, **SMALL)
    found = tokenize_examples(leaning, config, clips)
    x = clips[1].x
    assert torch.equal(found.ids[1], leaning.encode(x[:, :, 1:], reference=x[:, :, :1]).flat()[0])
    assert found.references.shape == (3, *SIZE, 3)
    assert found.actions.shape == (3, 2, 8)
    given = give_frames(9, SIZE, first=1)
    config = masked.config_for(plain, frames=9, size=SIZE, **SMALL)
    commit = tokenize_examples(plain, config, clips, given=[given])
    assert torch.equal(commit.shown[:, 0, :6], commit.ids[:, :6])
    assert commit.padding.view(3, 2, 3).flatten(1).all(1).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="cut it so"):
        tokenize_examples(plain, config, [Example(x=clip(8))])
    with pytest.raises(ValueError, match="give at least one"):
        tokenize_examples(plain, config, [])


def test_each_example_draws_one_of_the_masks(plain: VidTok) -> None:
    config = masked.config_for(plain, frames=9, size=SIZE, **SMALL)
    masks = [give(kind, 9, SIZE, first=1) for kind in ("predict", "interpolate", "inpaint")]
    clips = [Example(x=clip(9, seed=i)) for i in range(3)]
    examples = tokenize_examples(plain, config, clips, given=masks)
    assert examples.shown.shape == (3, 3, config.cells)
    alone = tokenize_examples(plain, config, clips, given=masks[1:2])
    assert torch.equal(examples.shown[:, 1], alone.shown[:, 0])
    assert torch.equal(examples.padding[1], alone.padding[0])
    many = examples[torch.zeros(90, dtype=torch.long)]
    known = draw_known(many, torch.Generator().manual_seed(0))
    kinds = [
        ((known.ids == examples.shown[0, i]) & (known.padding == examples.padding[i])).all(1)
        for i in range(3)
    ]
    assert all(20 < kind.sum() < 40 for kind in kinds)
    assert torch.stack(kinds).sum(0).eq(1).all()
    task = PriorTask(Prior(config))
    losses = task.loss(many, 0, torch.Generator().manual_seed(0))
    assert losses.total.isfinite()


def test_what_an_example_gives() -> None:
    assert (
        give("predict", 5, (8, 8), first=2).flatten(1).all(1).tolist() == [True] * 2 + [False] * 3
    )
    ends = give("interpolate", 5, (8, 8), first=1).flatten(1).any(1)
    assert ends.tolist() == [True, False, False, False, True]
    hole = give("inpaint", 5, (8, 8), first=0)
    assert (~hole[0]).nonzero().aminmax(dim=0).max.tolist() == [5, 5]
    assert (~hole).sum().item() == 5 * 16
    assert torch.equal(give("outpaint", 5, (8, 8), first=0), ~hole)


@pytest.mark.parametrize("kind", ["plain", "leaning"])
def test_given_pixels_are_kept(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    leans = kind == "leaning"
    frames = 8 + (not leans)
    prior = Prior(masked.config_for(tokenizer, frames=frames, size=SIZE, **SMALL))
    x, given = clip(9), give("inpaint", frames, SIZE, first=0)
    made = masked.inpaint(prior, tokenizer, x, given, count=2, seed=0)
    assert made.shape == (2, *x.shape[1:])
    kept = torch.cat([torch.ones(int(leans), *SIZE, dtype=torch.bool), given])
    assert torch.equal(made[1][:, kept], x[0][:, kept])
    assert not torch.equal(made[0][:, ~kept], made[1][:, ~kept])
    with pytest.raises(ValueError, match="the video has"):
        masked.inpaint(prior, tokenizer, x[:, :, :5], given)


@pytest.mark.parametrize("kind", ["plain", "leaning"])
def test_a_prior_learns(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    leans = kind == "leaning"
    config = masked.config_for(tokenizer, frames=8 + (not leans), size=SIZE, dropout=0.1, **SMALL)
    clips = [Example(x=clip(9, seed=i)) for i in range(4)]
    given = () if leans else [give_frames(9, SIZE, first=1)]
    examples = tokenize_examples(tokenizer, config, clips, given=given)
    torch.manual_seed(0)
    task = PriorTask(Prior(config), held_out=examples)
    feed = Feed(examples, batch=4, seed=1)
    optimizer = torch.optim.AdamW(task.parameters().parameters(), lr=1e-2)
    before = task.validate(0)
    task.prior.train()
    for step in range(30):
        optimizer.zero_grad()
        losses = task.loss(feed(step), step, torch.Generator().manual_seed(step))
        losses.total.backward()
        optimizer.step()
    after = task.validate(30)
    assert before["held_out"] > math.log(config.vocabulary) - 0.5
    assert after["held_out"] < before["held_out"] - 1
    assert after["score"] == -after["held_out"]
    assert task.validate(31) == after


@pytest.mark.parametrize("kind", ["plain", "leaning"])
def test_validation_does_not_depend_on_the_batch(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    leans = kind == "leaning"
    config = masked.config_for(tokenizer, frames=8 + (not leans), size=SIZE, dropout=0.5, **SMALL)
    given = () if leans else [give_frames(9, SIZE, first=n) for n in (1, 5)]
    clips = [Example(x=clip(9, seed=i)) for i in range(7)]
    examples = tokenize_examples(tokenizer, config, clips, given=given)
    torch.manual_seed(0)
    prior = Prior(config)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    one, some, whole = (
        PriorTask(prior, held_out=examples, batch=batch).validate(0) for batch in (1, 3, 7)
    )
    assert {"held_out", "masked", "accuracy", "rare", "score"} == whole.keys()
    assert one == pytest.approx(whole, rel=1e-4)
    assert some == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("factors", [(48,), (4, 12)])
def test_embeddings_of_ids_are_those_of_their_levels_and_their_own(
    plain: VidTok, factors: tuple[int, ...]
) -> None:
    config = replace(masked.config_for(plain, frames=9, size=SIZE, **SMALL), factors=factors)
    prior = Prior(config)
    assert config.levels == (4, 4, 3)
    table, (a, b, c) = prior.tables()[-1], prior.level_embed
    for index, own in enumerate(prior.token_embed[-1]):
        levels = [a[index % 4], b[index // 4 % 4], c[index // 16]]
        if len(factors) == 2:
            levels = [b[index % 4], c[index // 4]]
        assert torch.allclose(table[index], own + sum(levels), atol=1e-6)


def test_a_prior_begins_with_how_often_ids_occur(plain: VidTok) -> None:
    prior = Prior(masked.config_for(plain, frames=9, size=SIZE, **SMALL))
    ids = torch.tensor([[7] * 30 + [9] * 10 + [0] * 10])
    prior.fit_biases(ids)
    shares = prior.biases[0].softmax(0)
    assert shares[7].item() == pytest.approx(31 / 98)
    assert shares[9].item() == pytest.approx(11 / 98)
    assert shares[1].item() == pytest.approx(1 / 98)
