"""Examples in a row: references are decoded frames, ids those of the true frames against them."""

from dataclasses import replace

import pytest
import torch
from small_priors import SIZE, SMALL, clip

from reeltok.generate import masked
from reeltok.generate.chains import disturb, tabulate_chains
from reeltok.generate.ids import Example, Examples, PriorTask, tokenize_examples
from reeltok.generate.prior import Prior
from reeltok.generate.recipes import prior_push, prior_push_none
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.video.record import to_unit


def chain_of(leaning: RefTok, **options: object) -> tuple:
    clips = [Example(x=clip(9, seed=i), actions=torch.rand(1, 9, 2), label=i) for i in range(3)]
    config = masked.config_for(leaning, frames=4, size=SIZE, actions=2, **SMALL)
    return clips, config, tabulate_chains(leaning, config, clips, links=2, **options)


def frames_of(examples: Examples) -> torch.Tensor:
    return to_unit(examples.references)[0].transpose(0, 1)[:, :, None]


def test_the_first_window_is_an_example_alone(leaning: RefTok) -> None:
    clips, config, found = chain_of(leaning)
    heads = [
        Example(x=one.x[:, :, :5], actions=one.actions[:, :4], label=i)
        for i, one in enumerate(clips)
    ]
    alone = tokenize_examples(leaning, config, heads)
    assert len(found) == 6
    assert torch.equal(found.references[:3], alone.references)
    assert torch.equal(found.actions[:3], alone.actions)
    assert found.labels.tolist() == [0, 1, 2] * 2
    assert (found.ids[:3] == alone.ids).float().mean() > 0.95  # of a batch, not one by one


def test_the_next_follows_what_was_decoded(leaning: RefTok) -> None:
    """And not the true frame: decoding the first ids again gives the second's reference."""
    clips, _, found = chain_of(leaning)
    x = torch.cat([one.x for one in clips])
    start = x[:, :, :1]
    tokens = leaning.under(start="given").encode(x[:, :, 1:5], reference=start)
    made = leaning.under(start="given").decode(tokens, reference=start)[:, :, -1].clamp(-1, 1)
    reference = to_unit(found.references[3:])[0].transpose(0, 1)
    assert (reference - made).abs().max() < 2 / 255
    assert (reference - x[:, :, 4]).abs().mean() > 0.01
    again = leaning.under(start="given").encode(x[:, :, 5:], reference=reference[:, :, None])
    assert (again.flat() == found.ids[3:]).float().mean() > 0.95
    assert torch.equal(
        found.actions[3:, 0], torch.cat([o.actions for o in clips])[:, 4:8].flatten(1)
    )


def test_all_windows_of_a_chain_are_shown_its_first_frame(leaning: RefTok) -> None:
    config = masked.config_for(leaning, frames=4, size=SIZE, start=True, **SMALL)
    clips = [Example(x=clip(9, seed=i)) for i in range(3)]
    found = tabulate_chains(leaning, config, clips, links=2)
    assert torch.equal(found.starts, found.references[:3].repeat(2, 1, 1, 1))
    assert not torch.equal(found.starts, found.references)
    told = PriorTask(Prior(config)).conditions(found, None)
    assert torch.equal(told.start[3:], told.reference[:3])
    alone = tokenize_examples(leaning, config, [Example(x=clip(5))])
    assert torch.equal(alone.starts, alone.references)


def test_the_twin_of_a_prior_learns_from_the_same_frames(leaning: RefTok) -> None:
    """A tokenizer without references follows a frame too, as causal networks do."""
    clips, _, found = chain_of(twin := leaning.under(policy="none"))
    x = torch.cat([one.x for one in clips])
    coder, behind = twin.under(start="given"), frames_of(found)[3:]
    again = coder.encode(x[:, :, 5:], reference=behind)
    assert (again.flat() == found.ids[3:]).float().mean() > 0.95
    assert (behind - x[:, :, 4:5]).abs().mean() > 0.01
    assert vars(prior_push_none()) == {
        **vars(prior_push()),
        "name": "prior_push_none",
        "tokenizer": "reftok-push-none",
    }


def test_disturbed_windows_lead_to_other_references(leaning: RefTok) -> None:
    _, _, found = chain_of(leaning)
    _, _, worse = chain_of(leaning, disturbed=1.0)
    assert torch.equal(worse.ids[:3], found.ids[:3])
    assert not torch.equal(worse.references[3:], found.references[3:])
    tokens = leaning.under(start="given").encode(clip(4), reference=clip(1))
    same = disturb(tokens, 0.0, torch.Generator())
    assert torch.equal(same.ids, tokens.ids)


def test_what_is_refused(leaning: RefTok, plain: VidTok) -> None:
    config = masked.config_for(leaning, frames=4, size=SIZE, **SMALL)
    with pytest.raises(ValueError, match="a chain is"):
        tabulate_chains(leaning, config, [Example(x=clip(8))], links=2)
    with pytest.raises(ValueError, match="give at least one"):
        tabulate_chains(leaning, config, [], links=2)
    config = masked.config_for(plain, frames=5, size=SIZE, **SMALL)
    with pytest.raises(ValueError, match="has no references: leave chain=1"):
        tabulate_chains(plain, config, [Example(x=clip(9))], links=2)


def test_noise_comes_in_training_alone_and_is_told(leaning: RefTok) -> None:
    _, config, found = chain_of(leaning)
    prior = Prior(replace(config, noise=0.5))
    task, draw = PriorTask(prior, held_out=found), torch.Generator().manual_seed(0)
    prior.eval()
    assert task.conditions(found, draw).noise is None
    assert torch.equal(task.conditions(found, draw).reference, frames_of(found))
    prior.train()
    many = found[torch.arange(40) % len(found)]
    told = task.conditions(many, draw)
    moved = (told.reference - frames_of(many)).flatten(1).abs().amax(1)
    assert torch.equal(moved > 0, told.noise > 0)
    assert 2 <= (told.noise > 0).sum() <= 16
    assert told.noise.max() <= 0.5
    mask = torch.full_like(many.ids, config.vocabulary)
    assert not torch.equal(
        prior(mask, told)[0], prior(mask, replace(told, noise=torch.zeros(40)))[0]
    )
    scores = task.validate(0)
    assert scores["rare"] > 0
    assert task.usual == int(found.ids.flatten().mode().values)
