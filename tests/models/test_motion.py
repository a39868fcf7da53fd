"""Motion in RefTok: the search, warping, the zero start, SKIP, and both sides' agreement."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_reftok import TINY, build, clip, encoder_side, pieces
from torch import Tensor

from reeltok import zoo
from reeltok.models.reftok import motion
from reeltok.models.reftok.flow import MotionConfig
from reeltok.models.reftok.motion import (
    REACH,
    displacements,
    drop_small,
    enlarge_field,
    search,
    warp,
)
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.skip import (
    CODED,
    copy_skipped,
    count_still,
    keep_coded,
    mean_errors,
    worth_skipping,
)
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.past import Past
from reeltok.nn.quantizers import FSQ, FSQConfig, GaussianConfig
from reeltok.nn.quantizers.lattice import unevenness
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import load_tokens, save_tokens

MOVING = replace(TINY, motion=MotionConfig(width=8))
SKIPPING = replace(MOVING, skip=0.25)
"""An untrained network makes so much of its tokens that some cells are worth skipping."""
CELL = (8, 8)


def texture(size: int = 128) -> Tensor:
    """A picture "1 h w 3" with structure at several scales."""
    generator = torch.Generator().manual_seed(4)
    parts = [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, size // side, size // side, generator=generator),
            (size, size),
            mode="bicubic",
        )
        for side in (16, 4)
    ]
    return (parts[0] + 0.4 * parts[1] - 0.7).permute(0, 2, 3, 1)


def panned(speed: tuple[float, float], change: tuple[float, float], frames: int = 4) -> Tensor:
    """The middle of `texture` and of frames that have come `speed` t + `change` t^2 from there."""
    times = torch.arange(frames + 1) / frames
    moved = torch.stack([v * times + a * times**2 for v, a in zip(speed, change, strict=True)], -1)
    whole = texture()
    field = moved.view(1, frames + 1, 1, 1, 2).expand(-1, -1, *whole.shape[1:3], -1)
    return warp(whole, field, cubic=True)[:, :, 32:96, 32:96]


def still(frames: int, size: tuple[int, int] = (32, 48)) -> Tensor:
    return clip(1, size).expand(-1, -1, frames, -1, -1)


def shake(model: RefTok, names: tuple[str, ...] = ("flow", "_injection")) -> RefTok:
    """The same as if trained: what starts at zero moves and matters."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in names) and not weight.any():
                weight.normal_(std=0.3)
    return model


def test_half_precision_follows_the_same_motion() -> None:
    """The fields are float32, what follows them is of the network's own type."""
    model, x = shake(build(SKIPPING)), clip(9)
    full = model.decode(model.encode(x).ids)
    half = shake(build(SKIPPING)).to(torch.bfloat16)
    assert half.encode(x).ids.shape == model.encode(x).ids.shape
    found = half.decode(model.encode(x).ids)
    assert (found.float() - full).square().mean() < 0.02 * full.square().mean()


# Search and warp.


@pytest.mark.parametrize(
    ("speed", "change"),
    [((0, 0), (0, 0)), ((-7, 20), (2, 0)), ((3, -1), (0, 0)), ((-14, -24), (0, 0))],
)
def test_the_search_finds_a_translation_to_half_a_pixel(speed, change) -> None:
    frames = panned(speed, change)
    found = search(frames[:, 0], frames[:, 1:], steps=1, cell=CELL)
    inner = (slice(None), slice(None), slice(3, 5), slice(3, 5))
    for i, time in enumerate((0.5, 1.0)):
        true = torch.tensor([v * time + a * time**2 for v, a in zip(speed, change, strict=True)])
        assert (found.moved[inner][:, i] - true).abs().max() <= 0.5
    true = torch.tensor([*speed, *change]).float()
    assert (found.field[inner] - true).abs().max() <= 3.0  # what half a pixel twice comes to


def test_warping_restores_a_translated_block() -> None:
    frames = panned((-7, 20), (2, 0))
    found = search(frames[:, 0], frames[:, 1:], steps=1, cell=CELL)
    made = warp(frames[:, 0], displacements(enlarge_field(found.field, CELL), 4), cubic=True)
    inner = (slice(None), slice(None), slice(24, 40), slice(24, 40))
    assert (made - frames[:, 1:])[inner].square().mean() < 1e-4
    assert (frames[:, :1] - frames[:, 1:])[inner].square().mean() > 1e-2


def test_no_motion_is_exact_and_far_motion_bounded() -> None:
    frame = texture(32)
    none = torch.zeros(1, 3, 32, 32, 2)
    for cubic in (True, False):
        assert torch.equal(warp(frame, none, cubic=cubic), frame[:, None].expand(-1, 3, -1, -1, -1))
    little = torch.full((1, 1, 4, 4, 2), 0.12)
    assert not drop_small(little).any()
    assert torch.equal(drop_small(little + 0.1), little + 0.1)
    far = displacements(torch.full((1, 1, 2, 2, 4), 900.0), 4)
    assert far.max() == REACH
    beyond = warp(frame, far[:, :1].repeat_interleave(16, 2).repeat_interleave(16, 3))
    assert torch.allclose(beyond, frame[:, -1:, -1:].expand_as(beyond))


def test_gradients_reach_a_field_that_stands_still() -> None:
    frames = panned((4, 0), (0, 0))
    field = torch.zeros(1, 1, 8, 8, 4, requires_grad=True)
    moved = drop_small(displacements(enlarge_field(field, CELL), 4))
    (warp(frames[:, 0], moved, cubic=True) - frames[:, 1:]).square().mean().backward()
    assert field.grad is not None
    assert (field.grad[..., 0].mean() < 0) == (field.grad[..., 2].mean() < 0)
    assert field.grad[..., 0].mean() < 0 < -field.grad[..., :2].mean()


def test_two_steps_have_fields_of_their_own() -> None:
    frames = panned((8, 16), (0, 0), frames=8)
    found = search(frames[:, 0], frames[:, 1:], steps=2, cell=CELL)
    assert found.moved.shape == (1, 4, 8, 8, 2)
    assert found.field.shape == (1, 2, 8, 8, 4)
    true = torch.tensor([8.0, 16.0, 0.0, 0.0])
    assert (found.field[:, :, 3:5, 3:5] - true).abs().max() <= 4.0


def test_frames_smaller_than_the_search() -> None:
    tiny = clip(5, size=(8, 16)).permute(0, 2, 3, 4, 1)
    found = search(tiny[:, 0], tiny[:, 1:], steps=1, cell=CELL)
    assert found.field.shape == (1, 1, 1, 2, 4)
    assert found.field.isfinite().all()
    model, x = shake(build(SKIPPING)), clip(9, size=(5, 9))
    assert model.decode(model.encode(x)).shape == x.shape


# The network.


def test_the_zero_start_is_the_plain_tokenizer() -> None:
    model, x = build(replace(MOVING, cuts="ignore"), shaken=False), clip(9, size=(16, 24))
    plain = VidTok(TINY.body).eval()
    weights = model.state_dict()
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()})
    tokens = model.encode(x)
    stream = list(plain.stream_encode(pieces(x, [1, 4, 4])))
    assert torch.equal(tokens.ids, torch.cat([part.ids for part in stream], dim=1))
    assert torch.equal(model.decode(tokens), torch.cat(list(plain.stream_decode(stream)), dim=2))


def test_rows_are_skipped_where_their_cells_are() -> None:
    """Some rows of frames alone, of any height: as in whole frames."""
    generator = torch.Generator().manual_seed(0)
    frames, reference = (torch.rand(2, t, 24, 16, 3, generator=generator) for t in (4, 1))
    skipped = torch.rand(2, 1, 3, 2, generator=generator) < 0.5
    whole = copy_skipped(frames, reference, skipped, CELL)
    assert 0.2 < (whole == reference).float().mean() < 0.8
    for top, end in ((0, 5), (5, 13), (13, 24), (24, 24)):
        rows = frames[:, :, top:end], reference[:, :, top:end]
        assert torch.equal(copy_skipped(*rows, skipped, CELL, top), whole[:, :, top:end])


@pytest.mark.parametrize("sides", [(8, 8), (4, 4), (16, 16)])
def test_a_search_in_parts_is_that_of_whole_frames(
    sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows move by up to 40 pixels, each by its own way."""
    whole = texture(320)
    far = 40 * torch.sin(torch.arange(320.0) / 30)[:, None, None] * torch.tensor([1.0, -0.5])
    times = torch.arange(5.0).view(1, 5, 1, 1, 1) / 4
    frames = warp(whole, times * far.expand(320, 320, 2), cubic=True)
    before, block = frames[:, 0], frames[:, 1:]
    found = search(before, block, steps=1, cell=sides).field
    monkeypatch.setattr(motion, "MOST_HELD", 1000)
    parts = search(before, block, steps=1, cell=sides).field
    assert found[..., 0].amax() > 20
    assert found[..., 0].amin() < -20
    assert torch.equal(parts, found)


@pytest.mark.parametrize("side", ["encoder", "decoder", "both"])
def test_both_sides_follow_the_same_motion(side: str) -> None:
    config = replace(SKIPPING, motion=MotionConfig(width=8, where=side))
    model, x = shake(build(config)), clip(13, size=(32, 48))
    tokens = model.encode(x)
    back = model.decode(tokens)
    assert torch.equal(encoder_side(model, x), back)
    skips = (tokens.ids[:, 1:] == model.quantizer.centre_id).float().mean()
    assert 0 < skips < 1
    calm = build(replace(SKIPPING, motion=None))
    calm.load_state_dict({k: v for k, v in model.state_dict().items() if k in calm.state_dict()})
    assert not torch.equal(calm.encode(x).ids, tokens.ids)
    assert torch.equal(calm.encode(x).ids[:, 0], tokens.ids[:, 0])
    assert (model.flow is None) == (side == "encoder")


def test_streams_give_what_the_whole_gives(tmp_path: Path) -> None:
    model, x = shake(build(SKIPPING)), clip(13, size=(16, 24))
    x[:, :, 6:10] = x[:, :, 5:6]
    tokens = model.encode(x)
    whole = model.decode(tokens)
    parts = list(model.stream_encode(pieces(x, [3, 6, 4])))
    assert torch.equal(Tokens.join(parts).ids, tokens.ids)
    assert torch.equal(torch.cat(list(model.stream_decode(parts)), dim=2), whole)
    save_tokens(tokens, tmp_path / "clip.reel")
    again = zoo.load(model.save_pretrained(tmp_path / "model"))
    assert again.config == model.config
    assert torch.equal(again.decode(load_tokens(tmp_path / "clip.reel")), whole)


def test_training_runs_the_loop_that_encoding_runs() -> None:
    model, x = shake(build(replace(SKIPPING, cuts="ignore"))), clip(9, batch=2)
    x[1, :, 1:] = x[1, :, :1]
    motions: list = []
    made = model(x, motions=motions)
    tokens = model.encode(x)
    assert len(motions) == 2
    assert torch.equal(made.quantized.ids, tokens.ids)
    assert torch.allclose(made.x, model.decode(tokens), atol=2e-4)


def test_a_cut_has_no_motion_and_nothing_to_skip() -> None:
    model, x = shake(build(SKIPPING)), clip(17, size=(16, 24))
    x[:, :, 9:] = clip(1, seed=9).expand(-1, -1, 8, -1, -1) * 0.3 + 0.8
    tokens = model.encode(x)
    assert [name.split(".")[1] for name in tokens.extras] == ["000003"]
    centre = model.quantizer.centre_id
    assert not (tokens.ids[:, 3] == centre).any()
    assert torch.equal(model.decode(tokens, start=9), model.decode(tokens)[:, :, 9:])


# SKIP.


def test_a_still_clip_is_skipped_without_loss() -> None:
    model, x = shake(build(replace(SKIPPING, skip=1e6))), still(17)
    tokens = model.encode(x)
    assert (tokens.ids[:, 1:] == model.quantizer.centre_id).all()
    back = model.decode(tokens)
    assert torch.equal(back[:, :, 1:], back[:, :, :1].expand(-1, -1, 16, -1, -1))


@pytest.mark.parametrize(
    ("knob", "values"),
    [("skip", (0.0, 0.25, 50.0)), ("skip_margin", (0.0, 0.02, 3.0)), ("skip_after", (0, 2, 1))],
)
def test_rate_knobs_are_kept_by_tokens(
    tmp_path: Path, knob: str, values: tuple[float, ...]
) -> None:
    model, x = shake(build(SKIPPING)), clip(13, size=(32, 48))
    x[..., 24:] = x[:, :, :1, :, 24:]
    other, skips = model.under(skip=1.0, skip_margin=1.0, skip_after=9), []
    for value in values:
        view = model.under(**{knob: value})
        tokens = view.encode(x)
        skips.append((tokens.ids == model.quantizer.centre_id).float().mean().item())
        assert tokens.settings.get(knob) == (str(value) if value else None)
        save_tokens(tokens, tmp_path / "clip.reel")
        kept = load_tokens(tmp_path / "clip.reel")
        assert getattr(other.as_coded(kept).config, knob) == value
        assert torch.equal(model.decode(kept), view.decode(tokens))
    assert skips == sorted(skips)
    assert skips[0] < skips[1] < skips[-1]


def test_no_margin_is_not_spoken_of() -> None:
    """Nor is it where nothing is skipped: files and plans from before there was one say so too."""
    model = build(SKIPPING)
    assert not {"skip_margin", "skip_after"} & model.spec.used.keys()
    assert model.under(skip_margin=0.5).spec.used["skip_margin"] == 0.5
    assert model.under(skip_after=3).spec.used["skip_after"] == 3
    tokens = model.under(skip=0.0, skip_margin=0.5, skip_after=3).encode(clip(5, size=(32, 48)))
    assert not {"skip", "skip_margin", "skip_after"} & tokens.settings.keys()


def test_what_stands_still_is_refined_for_so_many_blocks() -> None:
    """And again once it changes; clips of a batch and chunks of a stream by themselves."""
    model = shake(build(replace(SKIPPING, skip=1e-6, skip_after=2, cuts="ignore")))
    x = torch.cat([still(41), still(41)])
    x[0, :, 21:, :16] = -x[0, :, 21:, :16].sign()  # block 6 changes above
    x[1, :, 5:] = -x[1, :, 5:].sign()  # and block 2 everywhere
    tokens = model.encode(x)
    skipped = tokens.ids == model.quantizer.centre_id
    assert not skipped[1, :5].any()
    assert skipped[1, 5:].all()
    assert not skipped[0, :3].any()
    assert skipped[0, 3:6].all()
    assert not skipped[0, 6:9, :2].any()
    assert skipped[0, 6:, 2:].all()
    assert skipped[0, 9:].all()
    assert torch.equal(model.encode(x, chunk=4).ids, tokens.ids)
    assert torch.equal(model.encode(x[:1]).ids, tokens.ids[:1])
    assert not (model.under(skip_after=0).encode(x).ids == model.quantizer.centre_id).any()


def test_a_cut_begins_to_count_anew() -> None:
    model = shake(build(replace(SKIPPING, skip=1e-6, skip_after=1, refresh=4)))
    skipped = (model.encode(still(33)).ids[0] == model.quantizer.centre_id).float()
    assert skipped.mean((1, 2)).tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 1]  # block 5 has no reference


def test_a_slow_change_is_counted_from_what_was_coded_last() -> None:
    """Each block differs from the one before by less than counts as a change."""
    past, first = Past(), torch.zeros(1, 1, 8, 8, 3)
    keep_coded(past, first, CELL)
    copied, rests = torch.full((1, 1, 1, 1), 0.01), []
    for number in range(1, 7):
        block = torch.full((1, 4, 8, 8, 3), 0.01 * number)
        rests.append(count_still(past, block, copied, 1).item())
        keep_coded(past, block[:, -1:], CELL, torch.full((1, 1, 1, 1), rests[-1]))
    # the same as what was coded last, until 0.04 away from that: its square is more than 0.001
    assert rests == [False, True, True, True, False, False]


def test_a_block_is_still_where_none_of_its_steps_changes() -> None:
    past, block = Past(), torch.zeros(1, 8, 8, 16, 3)
    keep_coded(past, block[:, :1], CELL)
    block[:, 4:, :, 8:] = 0.5  # the second step of the right cell
    assert count_still(past, block, torch.ones(1, 2, 1, 2), 0).flatten().tolist() == [True, False]


def test_blocks_that_are_counted_are_whole_numbers_in_half_precision_too() -> None:
    past, frame = Past(), torch.zeros(1, 1, 8, 8, 3, dtype=torch.bfloat16)
    keep_coded(past, frame, CELL)
    for _ in range(300):
        rests = count_still(past, frame, torch.ones(1, 1, 1, 1), 299)
    assert rests.all()


def test_a_cell_that_rests_is_coded_where_that_would_gain_six_decibels() -> None:
    coded, copied = torch.tensor([1.0, 1.0]).view(1, 1, 1, 2), torch.tensor([3.9, 4.1])
    rests = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    errors = coded, copied.view(1, 1, 1, 2)
    assert worth_skipping(*errors, 1.0, 0.0, rests=rests).flatten().tolist() == [True, False]
    assert not worth_skipping(*errors, 1.0, 0.0, rests=~rests).any()


def test_only_skipped_cells_have_the_centre_code() -> None:
    quantizer = FSQ(FSQConfig(levels=(16, 4, 2), regularization=False)).eval()
    z = torch.zeros(1, 2, 3, 3)
    assert quantizer(z).ids.unique().tolist() == [quantizer.centre_id]
    skipped = torch.zeros(1, 2, 3, dtype=torch.bool)
    skipped[0, 0, 1] = True
    made = quantizer(z, skipped=skipped)
    assert torch.equal(made.ids == quantizer.centre_id, skipped)
    assert torch.equal((made.z == 0).all(-1), skipped)
    assert torch.equal(made.z, quantizer.lookup(made.ids))


def test_evenness_counts_cells_that_are_coded() -> None:
    x = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * 0.9
    coded = torch.arange(4000) < 3000
    spoilt = torch.where(coded[:, None], x, 7.0)
    assert unevenness(spoilt, coded) == pytest.approx(unevenness(x[:3000]).item(), abs=0.02)
    assert unevenness(spoilt) > 2 * unevenness(x[:3000])
    assert unevenness(x, torch.zeros(4000, dtype=torch.bool)) == pytest.approx(0, abs=1e-4)


def test_cells_are_skipped_where_the_tokens_gain_little() -> None:
    block = torch.zeros(1, 4, 16, 16, 3)
    made, still = torch.full_like(block, 0.1), torch.full_like(block[:, :1], 0.11)
    still[:, :, :8, :8] = 0.2
    errors = [mean_errors(block, frames, (1, 2, 2)) for frames in (made, still)]
    assert worth_skipping(*errors, 1.25, 0.0).tolist() == [[[[False, True], [True, True]]]]


@pytest.mark.parametrize(
    ("margin", "skipped"),
    [(0.0, [False, False]), (0.4, [True, False]), (0.6, [True, True])],
)
def test_a_margin_is_a_share_of_the_mean_error_of_a_clip(
    margin: float, skipped: list[bool]
) -> None:
    """Of two clips in a batch each has its own; here copies cost .3 and .5 of the mean more."""
    coded = torch.tensor([[1.0, 3.0], [100.0, 300.0]])[:, None, None]
    copied = coded + torch.tensor([0.6, 1.0]) * torch.tensor([[1.0], [100.0]])[:, None, None]
    found = worth_skipping(coded, copied, 1.0, margin)
    assert found[:, 0, 0].tolist() == [skipped, skipped]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"skip=0\.25 needs a codebook with a centre"):
        replace(SKIPPING, body=replace(TINY.body, quantizer=GaussianConfig(channels=3)))
    with pytest.raises(ValueError, match=r"skip=0\.25 needs a decoder that sees references"):
        replace(SKIPPING, motion=None, where="encoder")
    with pytest.raises(ValueError, match="both sides concatenate them"):
        replace(MOVING, inject="attend")
    with pytest.raises(ValueError, match="a multiple of 4 pixels, found 2x2"):
        replace(MOVING, body=replace(TINY.body, patch=(2, 1, 1)))


def test_a_block_of_two_steps_keeps_what_its_last_step_shows() -> None:
    """a cell that was skipped in the first step alone was coded last in the second."""
    past, frame = Past(), torch.zeros(1, 1, 8, 16, 3)
    keep_coded(past, frame, CELL)
    skipped = torch.tensor([[True, False], [False, True]]).view(1, 2, 1, 2)
    keep_coded(past, frame + 1, CELL, skipped)
    assert past.kept[CODED][0, 0, 0, ::8, 0].tolist() == [1.0, 0.0]


def shares(model: RefTok, x: Tensor) -> list[float]:
    """Of each step, the share of cells that are skipped."""
    skipped = (model.encode(x).ids[0] == model.quantizer.centre_id).float()
    return [round(each, 2) for each in skipped.mean((1, 2)).tolist()]


def test_after_a_block_without_a_reference_counting_begins_anew() -> None:
    """test_a_cut_begins_to_count_anew with `skip_after=1` cannot tell."""
    model = shake(build(replace(SKIPPING, skip=1e-6, skip_after=2, refresh=4)))
    assert shares(model, still(33)) == [0, 0, 0, 1, 1, 0, 0, 1, 1]


def test_stillness_is_that_of_the_original_beside_a_stored_frame() -> None:
    """what the picture lost is no change of what is shown."""
    config = replace(SKIPPING, skip=1e-6, skip_after=1, start="webp", quality=0, cuts="ignore")
    assert shares(shake(build(config)), still(17)) == [0, 1, 1, 1]


def test_stillness_begins_with_the_last_frame_of_a_block() -> None:
    """what moves within a block stands still from its last frame on."""
    model = shake(build(replace(SKIPPING, skip=1e-6, skip_after=1, cuts="ignore")))
    x = still(21).clone()
    for frame in range(4):
        x[:, :, frame] = x[:, :, frame] * (frame / 4) - (1 - frame / 4) * x[:, :, 4].sign()
    assert shares(model, x) == [0, 0, 0, 1, 1, 1]


def test_a_quarter_of_what_bits_are_worth_may_be_lost() -> None:
    """decision 14 says a quarter, of the mean error of the block."""
    coded, copied = torch.ones(1, 1, 1, 2), torch.tensor([1.24, 1.26]).view(1, 1, 1, 2)
    worth = torch.ones(1, 1, 1, 2)
    assert worth_skipping(coded, copied, 1.0, 0.0, worth).flatten().tolist() == [True, False]
