"""Masked generation: schedules, confidence, COMMIT by hand; seeds, references, rollouts."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_priors import BODY, SIZE, SMALL, clip, prior_for
from torch import Tensor

from reeltok.generate import masked
from reeltok.generate.conditions import (
    Timing,
    actions_by_step,
    condition_video,
    give_around,
    give_frames,
    padding_cells,
    settled_cells,
)
from reeltok.generate.decoding import Known, apply_mask, decode_masked
from reeltok.generate.prior import (
    SIZES,
    Conditions,
    Prior,
    PriorConfig,
    choose_factors,
)
from reeltok.generate.schedule import (
    BAIR_DEBIASED,
    BAIR_STANDARD,
    ClipGenerators,
    Sampling,
    gumbel,
    least_confident,
    mask_ratio,
    masked_count,
    pick,
)
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import on_bytes
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig, GaussianConfig

# Schedules.


def test_shares_by_hand() -> None:
    assert mask_ratio("cosine", 0.0, 256) == 1
    assert mask_ratio("cosine", 0.5, 256) == pytest.approx(math.sqrt(0.5))
    assert mask_ratio("linear", 0.25, 256) == 0.75
    assert mask_ratio("square", 0.5, 256) == 0.75
    assert mask_ratio("exponential", 0.5, 256) == pytest.approx(1 - 1 / 16)
    assert mask_ratio("logarithm", 0.5, 256) == pytest.approx(1 / 8)
    for name in ("cosine", "linear", "square", "exponential", "logarithm"):
        assert mask_ratio(name, 1.0, 256) == pytest.approx(0, abs=1e-12)
    assert (BAIR_STANDARD.schedule, BAIR_STANDARD.temperature) == ("exponential", 400)
    assert (BAIR_DEBIASED.schedule, BAIR_DEBIASED.temperature) == ("cosine", 4.5)
    assert BAIR_STANDARD.steps == BAIR_DEBIASED.steps == 12


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "logarithm"])
@pytest.mark.parametrize(("cells", "steps"), [(256, 12), (5, 12), (1, 1), (12, 12)])
def test_every_round_settles_something(schedule: str, cells: int, steps: int) -> None:
    left, counts = cells, []
    for step in range(steps):
        before, left = left, masked_count(schedule, step, steps, cells, left)
        assert left < before or before == 0
        counts.append(left)
    assert counts[-1] == 0
    if (schedule, cells) == ("cosine", 256):
        assert counts == [floor_cosine(i) for i in range(1, 12)] + [0]


def floor_cosine(step: int) -> int:
    return math.floor(256 * math.cos(math.pi / 2 * step / 12))


def test_the_least_confident_are_masked_again() -> None:
    confidence = torch.tensor([[0.9, 0.1, 0.5, 0.1, 2.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert least_confident(confidence, 2).tolist() == [
        [False, True, False, True, False],
        [False, False, False, True, True],
    ]
    counts = torch.tensor([1, 4])
    assert least_confident(confidence, counts).sum(1).tolist() == [1, 4]
    assert least_confident(confidence, counts)[0].tolist() == [False, True, False, False, False]


def test_choices_follow_their_probabilities() -> None:
    probabilities = torch.tensor([0.2, 0.3, 0.5]).expand(1, 5, 3).contiguous()
    at = torch.tensor([[0.0, 0.19, 0.21, 0.49, 0.51]])
    assert pick(probabilities, at).tolist() == [[0, 0, 1, 1, 2]]
    many = torch.rand(1, 20_000)
    found = pick(probabilities[:, :1].expand(1, 20_000, 3).contiguous(), many)
    share = torch.bincount(found[0], minlength=3) / 20_000
    assert torch.allclose(share, torch.tensor([0.2, 0.3, 0.5]), atol=0.02)
    assert gumbel(torch.rand(100_000)).mean().item() == pytest.approx(0.5772, abs=0.02)
    assert gumbel(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


# What is given.


def test_conditions_by_hand(plain: VidTok, leaning: RefTok) -> None:
    x = clip(9)
    first = give_frames(9, SIZE, first=2)
    completed = condition_video(x, first)
    assert torch.equal(completed[:, :, :2], x[:, :, :2])
    assert torch.equal(completed[:, :, 2:], x[:, :, 1:2].expand(-1, -1, 7, -1, -1))
    ends = condition_video(x, give_frames(9, SIZE, first=1, last=1))
    assert torch.equal(ends[:, :, 7], x[:, :, 0])
    assert torch.equal(ends[:, :, 8], x[:, :, 8])
    hole = give_around(9, SIZE, (0, 8, 8, 16))
    filled = condition_video(x, hole)
    assert not filled[..., :8, 8:16].any()
    assert torch.equal(filled[..., 8:, :], x[..., 8:, :])
    assert not condition_video(x, ~give_frames(9, SIZE, first=9)).any()
    spec, grid = plain.spec, (3, 2, 3)
    assert padding_cells(first, spec, grid).flatten(1).all(1).tolist() == [False, False, True]
    assert settled_cells(first, spec, grid).flatten(1).all(1).tolist() == [True, False, False]
    around = padding_cells(hole, spec, grid)
    assert around[0].tolist() == [[False, True, False], [False, False, False]]
    assert not settled_cells(hole, spec, grid).any()
    follows = leaning.under(start="given").spec
    assert Timing.of(follows).step_of(8).tolist() == [0] * 4 + [1] * 4
    four = give_frames(8, SIZE, first=4)
    assert settled_cells(four, follows, (2, 2, 3)).flatten(1).all(1).tolist() == [True, False]
    with pytest.raises(ValueError, match="give fewer"):
        give_frames(4, SIZE, first=3, last=2)
    with pytest.raises(ValueError, match="does not lie"):
        give_around(4, SIZE, (0, 0, 17, 4))


def test_actions_lead_to_frames() -> None:
    actions = torch.arange(1.0, 9.0).view(1, 8, 1)  # after frames 0 to 7
    plain = Timing(first_frames=1, first_steps=1, frames_per_group=4, steps_per_group=1)
    found = actions_by_step(actions, plain, 6, follows=False)
    assert found.tolist() == [[[0, 0, 0, 0], [1, 2, 3, 4], [5, 0, 0, 0]]]
    after = Timing(first_frames=4, first_steps=1, frames_per_group=4, steps_per_group=1)
    found = actions_by_step(actions, after, 6, follows=True)
    assert found.tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0]]]
    with pytest.raises(ValueError, match="8 actions were given for 12 frames: give 11"):
        actions_by_step(actions, plain, 12, follows=False)


def test_masked_tokens_become_the_condition_video_or_the_mask() -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    is_masked = torch.tensor([[True, True, False, False]])
    padding = torch.tensor([True, False, True, False])
    known = Known(ids=torch.tensor([[5, 6, 7, 8]]), padding=padding, settled=padding & False)
    assert apply_mask(ids, is_masked, 99, known).tolist() == [[99, 6, 3, 4]]
    assert apply_mask(ids, is_masked, 99).tolist() == [[99, 99, 3, 4]]


# Vocabularies.


def test_large_vocabularies_are_split() -> None:
    assert choose_factors(1024) == (1024,)
    assert choose_factors(1000, (8, 5, 5, 5)) == (1000,)
    assert choose_factors(8**5, (8,) * 5) == (64, 512)
    assert choose_factors(8**6, (8,) * 6) == (512, 512)
    assert choose_factors(2**18, (2,) * 18) == (512, 512)
    assert choose_factors(262_144) == (262_144,)


@pytest.mark.parametrize(("size", "millions"), [("s", 15), ("b", 87), ("l", 306)])
def test_sizes(size: str, millions: int) -> None:
    timing = Timing(first_frames=4, first_steps=1, frames_per_group=4, steps_per_group=1)
    config = PriorConfig(grid=(4, 16, 16), timing=timing, factors=(1024,), **SIZES[size])
    with torch.device("meta"):
        count = sum(p.numel() for p in Prior(config).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.05)


# Decoding.


class Sharp(Prior):
    """Always guesses id 1, cell i with confidence that grows as `order` says; keeps what it saw."""

    def forward(self, ids: Tensor, conditions: Conditions | None = None) -> list[Tensor]:
        self.saw = [*getattr(self, "saw", []), ids.clone()]
        scores = torch.zeros(*ids.shape, self.config.vocabulary)
        scores[..., 1] = 10 + self.order.float()
        return [scores]


def sharp(order: list[int]) -> Sharp:
    timing = Timing(first_frames=1, first_steps=1, frames_per_group=4, steps_per_group=1)
    prior = Sharp(PriorConfig(grid=(1, 2, 4), timing=timing, factors=(4,), **SMALL))
    prior.order = torch.tensor(order)
    return prior


def test_the_surest_tokens_are_kept_first() -> None:
    prior, mask = sharp([3, 7, 1, 6, 0, 5, 2, 4]), 4
    sampling = Sampling(steps=4, schedule="linear", temperature=0.0)
    ids = decode_masked(prior, Conditions(), ClipGenerators(0, range(2)), sampling)
    assert ids.tolist() == [[1] * 8] * 2
    visible = [(saw != mask)[0].nonzero().flatten().tolist() for saw in prior.saw]
    assert visible == [[], [1, 3], [1, 3, 5, 7], [0, 1, 3, 5, 6, 7]]


def test_what_is_settled_stays_and_the_rest_is_refined() -> None:
    prior = sharp([0, 1, 2, 3, 4, 5, 6, 7])
    known = Known(
        ids=torch.full((1, 8), 3),
        padding=torch.tensor([False] * 4 + [True] * 4),
        settled=torch.tensor([True] * 2 + [False] * 6),
    )
    sampling = Sampling(steps=2, schedule="linear", temperature=0.0)
    ids = decode_masked(prior, Conditions(), ClipGenerators(0, range(1)), sampling, known=known)
    assert prior.saw[0].tolist() == [[3, 3, 3, 3, 4, 4, 4, 4]]
    assert prior.saw[1].tolist() == [[3, 3, 3, 3, 4, 1, 1, 1]]
    assert ids.tolist() == [[3, 3, 1, 1, 1, 1, 1, 1]]


def test_temperature_shuffles_the_order() -> None:
    orders = []
    for temperature in (0.0, 400.0):
        prior = sharp([3, 7, 1, 6, 0, 5, 2, 4])
        sampling = Sampling(steps=4, schedule="linear", temperature=temperature)
        decode_masked(prior, Conditions(), ClipGenerators(1, range(8)), sampling)
        orders.append((prior.saw[1] != 4).nonzero().tolist())
    assert orders[0] != orders[1]


# Clips.


def test_a_seed_gives_the_same_clips(leaning: RefTok) -> None:
    prior, first = prior_for(leaning, 8), clip(1)
    one = masked.generate(prior, leaning, count=3, seed=4, video=first)
    assert one.grid == (2, 2, 3)
    assert torch.equal(masked.generate(prior, count=3, seed=4, video=first).ids, one.ids)
    assert torch.equal(masked.generate(prior, count=3, seed=4, video=first, batch=2).ids, one.ids)
    later = masked.generate(prior, count=1, seed=4, video=first, first=2)
    assert torch.equal(later.ids[0], one.ids[2])
    other = masked.generate(prior, count=3, seed=5, video=first)
    assert not torch.equal(other.ids, one.ids)
    assert not torch.equal(one.ids[0], one.ids[1])


def test_clips_follow_their_reference(leaning: RefTok) -> None:
    prior, first = prior_for(leaning, 8), clip(1)
    tokens = masked.generate(prior, leaning, video=first)
    made = leaning.decode(tokens, reference=on_bytes(first))
    assert made.shape == (1, 3, 8, *SIZE)
    with pytest.raises(ValueError, match="not the reference frame"):
        leaning.decode(tokens, reference=on_bytes(clip(1, seed=2)))
    other = masked.generate(prior, leaning, video=clip(1, seed=2))
    assert not torch.equal(other.ids, tokens.ids)
    each = masked.generate(prior, leaning, count=2, video=clip(1, batch=2))
    assert leaning.decode(each, reference=on_bytes(clip(1, batch=2))).shape[0] == 2
    with pytest.raises(ValueError, match="a reference frame"):
        masked.generate(prior, leaning)


@pytest.mark.parametrize("shown", [1, 5])
def test_given_frames_keep_their_tokens(plain: VidTok, leaning: RefTok, shown: int) -> None:
    x = clip(9)
    tokens = masked.generate(prior_for(plain, 9), plain, video=x[:, :, :shown], count=2)
    own = plain.encode(x[:, :, :shown]).ids
    assert torch.equal(tokens.ids[:, : own.shape[1]], own.expand(2, -1, -1, -1))
    assert not torch.equal(tokens.ids[0], tokens.ids[1])
    after = masked.generate(prior_for(leaning, 8), leaning, video=x[:, :, :shown])
    if shown == 5:
        coded = leaning.encode(x[:, :, 1:5], reference=x[:, :, :1]).ids
        assert torch.equal(after.ids[:, :1], coded)


def test_each_given_video_is_continued(plain: VidTok) -> None:
    prior, x = prior_for(plain, 9), clip(9, batch=3)
    some, all_of_them = Sampling(steps=2), (3, *prior.config.grid)
    assert masked.generate(prior, plain, video=x[:, :, :1], sampling=some).ids.shape == all_of_them
    given = give_around(9, SIZE, (4, 4, 12, 12))
    made = masked.inpaint(prior, plain, x, given, sampling=some)
    assert torch.equal(made[:, :, given], x[:, :, given])


def test_inpainting_and_interpolation(plain: VidTok) -> None:
    prior, x = prior_for(plain, 9), clip(9)
    hole = give_around(9, SIZE, (0, 8, 8, 16))
    ends = give_frames(9, SIZE, first=1, last=4)
    for given in (hole, ends):
        tokens = masked.generate(prior, plain, video=x, given=given)
        assert plain.decode(tokens).shape == x.shape
    with pytest.raises(ValueError, match="marks pixels"):
        masked.generate(prior, plain, video=x, given=hole[:5])
    with pytest.raises(ValueError, match="give it too"):
        masked.generate(prior, video=x, given=hole)


def test_actions_go_with_the_frames_that_a_rollout_has(leaning: RefTok) -> None:
    """Also where fewer frames are given than clips overlap later."""
    acting, asked = prior_for(leaning, 8, actions=2), list[torch.Tensor]()
    acts = torch.arange(48.0).view(1, 24, 2)
    generate = masked.generate

    def watched(*args, **options):
        asked.append(options["actions"])
        return generate(*args, **options)

    for given, overlap in ((1, 3), (2, 5), (3, 3)):
        asked.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masked, "generate", watched)
            parts = masked.roll_out(
                acting, leaning, clip(given), clips=3, overlap=overlap, actions=acts
            )
            lengths = [part.shape[2] for part in parts]
        have = given
        for now, new in zip(asked, lengths, strict=True):
            first = have - min(have, overlap)  # of the frames that are seen
            assert now[0, 0, 0] == 2 * first
            have += new


def test_a_prior_sees_the_frame_that_the_whole_video_began_with(leaning: RefTok) -> None:
    prior, x = prior_for(leaning, 4, start=True), clip(3)
    told = {"seed": 1, "video": x[:, :, 2:]}
    alone = masked.generate(prior, leaning, **told)
    same = masked.generate(prior, leaning, **told, start=x[:, :, 2:])
    assert torch.equal(alone.ids, same.ids)
    earlier = masked.generate(prior, leaning, **told, start=x[:, :, :1])
    assert not torch.equal(earlier.ids, alone.ids)
    made = list(masked.roll_out(prior, leaning, x, clips=2, seed=0))
    last, start = made[0][:, :, -1:].clamp(-1, 1), x[:, :, :1]
    next_ids = masked.generate(prior, leaning, seed=1, video=last, start=start)
    assert torch.equal(leaning.decode(next_ids, reference=on_bytes(last)), made[1])
    without = prior_for(leaning, 4)
    assert torch.equal(
        masked.generate(without, leaning, **told, start=x[:, :, :1]).ids,
        masked.generate(without, leaning, **told).ids,
    )
    with pytest.raises(ValueError, match="the start has 8x8: give one of that size"):
        masked.generate(prior, leaning, **told, start=torch.zeros(1, 3, 1, 8, 8))


def test_heads_share_the_width(plain: VidTok) -> None:
    with pytest.raises(ValueError, match="width 16 does not divide by 3 heads"):
        masked.config_for(plain, frames=5, size=SIZE, width=16, depth=1, heads=3)


def test_a_start_needs_references_and_begins_at_nothing(plain: VidTok, leaning: RefTok) -> None:
    with pytest.raises(ValueError, match="start=True is for priors whose clips follow"):
        masked.config_for(plain, frames=5, size=SIZE, start=True, **SMALL)
    config = masked.config_for(leaning, frames=4, size=SIZE, start=True, **SMALL)
    prior, ids = Prior(config), torch.zeros(2, config.cells, dtype=torch.long)
    frames = [clip(1, batch=2, seed=seed) for seed in range(3)]
    one, other = (Conditions(reference=frames[0], start=frame) for frame in frames[1:])
    assert torch.equal(prior(ids, one)[0], prior(ids, other)[0])
    with pytest.raises(ValueError, match="from the frame that the whole video begins with"):
        prior(ids, Conditions(reference=frames[0]))


def test_rollouts_go_on_from_their_last_frame(plain: VidTok, leaning: RefTok) -> None:
    x = clip(3)
    made = list(masked.roll_out(prior_for(leaning, 8), leaning, x, clips=3, seed=1))
    assert [part.shape[2] for part in made] == [8, 8, 8]
    again = masked.generate(
        prior_for(leaning, 8), leaning, seed=2, video=made[0][:, :, -1:].clamp(-1, 1)
    )
    reference = on_bytes(made[0][:, :, -1:].clamp(-1, 1))
    assert torch.equal(leaning.decode(again, reference=reference), made[1])
    parts = masked.roll_out(prior_for(plain, 9), plain, x, clips=2, overlap=2)
    assert [part.shape[2] for part in parts] == [7, 7]
    acting = prior_for(leaning, 4, actions=2)
    acts = torch.rand(1, 8, 2)
    told = list(masked.roll_out(acting, leaning, x[:, :, :1], clips=2, actions=acts))
    other = list(
        masked.roll_out(acting, leaning, x[:, :, :1], clips=2, actions=acts * torch.tensor([1, -1]))
    )
    assert not torch.equal(told[0], other[0])


def test_a_rollout_is_on_the_device_of_its_tokenizer(
    plain: VidTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given may lie elsewhere: a video from a file is on the CPU."""
    prior, x, away = prior_for(plain, 9), clip(1), torch.device("meta")
    monkeypatch.setattr(VidTok, "device", away)
    monkeypatch.setattr(masked, "generate", lambda *_, video, **__: video)
    made = torch.zeros(1, 3, 9, *SIZE, device=away)
    monkeypatch.setattr(VidTok, "decode", lambda *_, reference: made)
    parts = list(masked.roll_out(prior, plain, x, clips=2))
    assert [(part.shape[2], part.device) for part in parts] == [(8, away)] * 2


def test_classes_and_guidance(plain: VidTok) -> None:
    prior = prior_for(plain, 9, classes=("push", "pull"), dropout=0.1)
    prior.class_embed.data.mul_(10)  # as if trained: at the start they hardly change an id
    push, pull, any_class = (
        masked.generate(prior, class_name=name).ids for name in ("push", "pull", None)
    )
    assert not torch.equal(push, pull)
    assert not torch.equal(push, any_class)
    strong = masked.generate(prior, class_name="push", sampling=Sampling(guidance=40.0)).ids
    assert not torch.equal(push, strong)
    bare = masked.generate(prior, class_name="push", sampling=Sampling(guidance=0.0)).ids
    assert torch.equal(bare, any_class)


def test_guidance_without_anything_to_follow_is_refused(plain: VidTok) -> None:
    """But for the prior's own, which nobody asked for."""
    prior = prior_for(plain, 9, classes=("push", "pull"), dropout=0.1)
    strong = Sampling(guidance=2.0)
    with pytest.raises(ValueError, match=r"guidance=2\.0 needs a class: name one of push, pull"):
        masked.generate(prior, sampling=strong)
    bare = prior_for(plain, 9, dropout=0.1)
    with pytest.raises(ValueError, match="has no classes, actions or reference frame to follow"):
        masked.generate(bare, sampling=strong)
    prior.config = replace(prior.config, sampling=strong)
    assert torch.equal(masked.generate(prior).ids, masked.generate(prior, sampling=Sampling()).ids)
    acting = prior_for(plain, 9, actions=2, dropout=0.1)
    acts = torch.ones(1, 8, 2)
    plainly, strongly = (
        masked.generate(acting, actions=acts, sampling=sampling).ids
        for sampling in (Sampling(), Sampling(guidance=40.0))
    )
    assert not torch.equal(plainly, strongly)


def test_what_was_not_trained_is_not_generated(plain: VidTok) -> None:
    with pytest.raises(ValueError, match="without dropout of its classes: name one of push, pull"):
        masked.generate(prior_for(plain, 9, classes=("push", "pull")))
    with pytest.raises(ValueError, match="actions were given, but this prior was trained without"):
        masked.generate(prior_for(plain, 9), actions=torch.zeros(1, 8, 2))


@pytest.mark.parametrize("value", [math.inf, math.nan, 2e6, -1.0])
@pytest.mark.parametrize("name", ["temperature", "guidance", "token_temperature"])
def test_numbers_that_overflow_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is {value}, it should be"):
        Sampling().with_(**{name: value})
    with pytest.raises(ValueError, match="`token_temperature` is 1e-40, it should be"):
        Sampling().with_(token_temperature=1e-40)


def test_a_prior_says_how_it_is_sampled(plain: VidTok, tmp_path: Path) -> None:
    prior = prior_for(plain, 9)
    usual, cold = masked.generate(prior).ids, Sampling(token_temperature=1e-4, temperature=0)
    likely = [masked.generate(prior, seed=seed, sampling=cold).ids for seed in (0, 1)]
    assert torch.equal(*likely)  # the likeliest ids whatever the seed
    assert not torch.equal(usual, likely[0])
    prior.config = replace(prior.config, sampling=cold)
    held = masked.load(masked.save(prior, tmp_path / "prior"))
    assert held.config.sampling == cold
    assert torch.equal(masked.generate(held, seed=7).ids, likely[0])
    assert cold.with_(steps=None, guidance=2.0) == replace(cold, guidance=2.0)
    assert torch.equal(masked.generate(held, sampling=Sampling()).ids, usual)


def test_bad_input(plain: VidTok, leaning: RefTok) -> None:
    prior = prior_for(plain, 9, classes=("push",))
    with pytest.raises(ValueError, match="no class 'pull': name one of push"):
        masked.generate(prior, class_name="pull")
    with pytest.raises(ValueError, match="leave guidance=1"):
        masked.generate(prior, sampling=Sampling(guidance=2.0))
    other = VidTok(replace(BODY, quantizer=FSQConfig(levels=(4, 4))), "other")
    with pytest.raises(ValueError, match="has a vocabulary of 16"):
        masked.generate(prior, other)
    with pytest.raises(ValueError, match=r"'leaning' .*load that tokenizer"):
        masked.generate(prior, leaning)
    with pytest.raises(ValueError, match="makes frames of 16x24, the video has 8x8"):
        masked.generate(prior, plain, video=torch.zeros(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match="actions, and none was given"):
        masked.generate(prior_for(plain, 9, actions=2), plain)
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"2 were given for {count} clips"):
            masked.generate(prior, plain, count=count, video=clip(1, batch=2))
    with pytest.raises(ValueError, match="`count` is 0: give 1 or more"):
        masked.generate(prior, count=0)
    with pytest.raises(ValueError, match="`batch` is 0: give 1 or more"):
        masked.generate(prior, batch=0)
    with pytest.raises(ValueError, match="`overlap` is 0: give 1 or more"):
        next(masked.roll_out(prior, plain, clip(1), clips=1, overlap=0))
    with pytest.raises(ValueError, match="makes 9 frames and goes on from 9: give fewer"):
        next(masked.roll_out(prior, plain, clip(9), clips=1, overlap=9))
    flowing = VidTok(replace(BODY, quantizer=GaussianConfig(channels=3)))
    with pytest.raises(ValueError, match="is continuous"):
        masked.config_for(flowing, frames=9, size=SIZE)


def test_a_folder_gives_the_same_prior(plain: VidTok, tmp_path: Path) -> None:
    prior = prior_for(plain, 9)
    again = masked.load(masked.save(prior, tmp_path / "prior"))
    assert again.config == prior.config
    assert torch.equal(masked.generate(again, seed=1).ids, masked.generate(prior, seed=1).ids)
    with pytest.raises(FileNotFoundError, match=r"there is no config\.json"):
        masked.load(tmp_path)
    (tmp_path / "prior" / "config.json").write_text('{"family": "flow"}')
    with pytest.raises(ValueError, match="holds a 'flow', not a prior"):
        masked.load(tmp_path / "prior")
