"""Latents that are refined for fewer bits too: rate beside distortion."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from moving_clips import moving
from small_models import CAUSAL, DISCRETE, NONCAUSAL
from small_packing import small_network
from torch import Tensor

import reeltok
from reeltok import zoo
from reeltok.cli.main import main
from reeltok.corpus import Corpus, LoadedTokenizer, Shaping
from reeltok.evaluate.candidates.own import open_own
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import FSQConfig, LFQConfig, VQConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.rate import IdRate
from reeltok.tokens.digits import split_digits
from reeltok.tokens.packing.expected import bits_between, bits_of_clip, bits_of_step, score_symbols
from reeltok.tokens.packing.model import NAME, PackingModel
from reeltok.tokens.packing.network import PackingNetwork, split_symbols
from reeltok.tokens.reel import load_tokens
from reeltok.transcode.encode import encode_file, is_encoded
from reeltok.video.record import write
from tests.corpus.corpus_clips import build as build_corpus
from tests.corpus.corpus_clips import write_clips
from tests.tokenizer.test_refinement import clip, error, values

BODY = replace(DISCRETE, edge="past-first", upsampling="nearest")
KINDS = {
    "fsq": DISCRETE,
    "noncausal": replace(NONCAUSAL, quantizer=FSQConfig(levels=(8, 8, 8))),
    "lfq": replace(DISCRETE, quantizer=LFQConfig(bits=6)),
}


def made(kind: str, folder: Path, **changes: Any) -> Tokenizer:
    """A small tokenizer with a packing model that expects the ids of its clip."""
    torch.manual_seed(0)
    skip = 1.0 if kind == "skipping" else 0.0
    model: Tokenizer = (
        VidTok(KINDS[kind], kind)
        if kind in KINDS
        else RefTok(RefTokConfig(body=BODY, width=4, skip=skip), kind)
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_injection" in name and not weight.any():
                weight.normal_(std=0.5)
    levels = model.quantizer.config.levels
    centre = model.quantizer.centre_id if skip else None
    about = {"tokenizer": model.hash(), "vocabulary": model.spec.vocabulary, "skip": centre}
    network = small_network(**about | {"digits": levels, "groups": (1,) * len(levels)} | changes)
    expect(network, model.encode(clip()).ids)
    folder.mkdir(parents=True, exist_ok=True)
    PackingModel.of(network).save(folder / NAME)
    model.packing = folder / NAME
    return model


def expect(network: PackingNetwork, ids: Tensor) -> None:
    """Let the network expect symbols as often as these ids have them."""
    symbols = split_symbols(ids.flatten(), network.config)
    for part in network.passes:
        for number, answer in enumerate(part.answer):
            size = network.config.alphabets[number]
            counts = torch.bincount(symbols[:, number], minlength=size) + 0.1
            answer.bias.data = (2 * counts.log()).clamp(-3, 3)
            answer.weight.data *= 0.1


def bits(model: Tokenizer, ids: Tensor) -> float:
    """What ids of one clip take by its packing model."""
    assert model.packing is not None
    return bits_of_clip(PackingModel.load(model.packing).network, ids[0]).sum().item()


# -- bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [None, 5])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_bits_are_those_of_packing(skip: int | None, steps: int) -> None:
    network = small_network(skip=skip)
    ids = torch.randint(1024, (2, steps, 5, 4), generator=torch.Generator().manual_seed(0))
    ids[:, :, ::2] = 5
    places = split_digits(ids[:, -1], network.config.digits).float()
    found, halves = bits_between(network, ids, places), bits_of_step(network, ids)
    assert found.shape == (2, 5, 4)
    cells = [s.cells for s in score_symbols(network, ids) if s.number == 0]
    torch.testing.assert_close(found.flatten()[torch.cat(cells)], torch.cat(halves))


def test_the_slope_is_what_the_next_level_costs() -> None:
    """Of the last digit, on which no other symbol of its id depends, exactly."""
    network = PackingModel.of(small_network(groups=(1, 1, 1, 1, 1))).network
    ids = torch.randint(1024, (1, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    digits = split_digits(ids[:, -1], network.config.digits)
    for shift in (-0.2, 0.2):  # towards the level below, and above
        places = (digits + shift).requires_grad_()
        total = bits_between(network, ids, places)[0, 1, 2]
        (slopes,) = torch.autograd.grad(total, places)
        here = digits[0, 1, 2, -1].item()
        low = min(max(here if shift > 0 else here - 1, 0), 0)  # of two levels, always the lower
        costs = []
        for level in (low, low + 1):
            other = ids.clone()
            other[0, -1, 1, 2] += (level - here) * (16 * 4 * 4 * 2)
            costs.append(bits_between(network, other, places.detach())[0, 1, 2].item())
        assert slopes[0, 1, 2, -1].item() == pytest.approx(costs[1] - costs[0], abs=1e-3)
        assert slopes.count_nonzero() <= 5  # of that id alone


@pytest.mark.parametrize("shift", [-0.3, 0.3])
def test_the_slope_is_between_the_two_nearest_levels(shift: float) -> None:
    network = small_network(digits=(16, 64), groups=(1, 1))
    ids = torch.full((1, 1, 1, 1), 7 + 16 * 30)
    for digit in range(2):
        places = torch.tensor([7.0, 30.0]).view(1, 1, 1, 2).clone()
        places[..., digit] += shift
        places.requires_grad_()
        (slope,) = torch.autograd.grad(bits_between(network, ids, places).sum(), places)
        symbol = [s for s in score_symbols(network, ids) if len(s.cells)][digit]
        each = -symbol.scores[0].log_softmax(-1) / torch.log(torch.tensor(2.0))
        value = int(symbol.values)
        want = each[value + 1] - each[value] if shift > 0 else each[value] - each[value - 1]
        assert slope[0, 0, 0, digit].item() == pytest.approx(want.item(), abs=1e-4)


def test_a_skipped_id_costs_its_flag_alone() -> None:
    network = small_network(skip=5)
    ids = torch.full((1, 1, 2, 2), 5)
    places = split_digits(ids[:, -1], network.config.digits).float().requires_grad_()
    total = bits_between(network, ids, places)
    (slopes,) = torch.autograd.grad(total.sum(), places)
    assert not slopes.any()
    flags = sum(s.bits().sum() for s in score_symbols(network, ids) if s.number == 0)
    assert isinstance(flags, Tensor)
    torch.testing.assert_close(total.sum(), flags, check_dtype=False)


def test_earlier_steps_count() -> None:
    """As in packing: the last two, wherever the group begins."""
    torch.manual_seed(0)
    model = VidTok(DISCRETE).eval()
    levels = DISCRETE.quantizer.levels
    packing = PackingModel.of(
        small_network(vocabulary=model.spec.vocabulary, digits=levels, groups=(1,) * len(levels))
    )
    rate = IdRate(packing, model.quantizer)
    z = torch.randn(1, 5, 3, 4, len(levels))
    ids = model.quantizer(z).ids
    whole = rate.bits(z, ids, None)
    for first in (1, 2, 4):
        later = rate.bits(z[:, first:], ids[:, first:], ids[:, max(0, first - 2) : first])
        torch.testing.assert_close(later, whole[:, first:])
    torch.testing.assert_close(whole.sum(), bits_of_clip(packing.network, ids[0]).sum())


# -- what encoding makes of them -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "reftok", "skipping"])
def test_fewer_bits_for_a_little_more_error(kind: str, tmp_path: Path) -> None:
    plain, x = made(kind, tmp_path), clip()
    before = plain.encode(x)
    refined, rated = (plain.under(refine=8, rate_weight=weight).encode(x) for weight in (0.0, 3.0))
    assert bits(plain, rated.ids) < 0.97 * bits(plain, refined.ids)
    assert error(plain, x, rated) < error(plain, x, before)
    assert rated.settings["rate_weight"] == 3.0
    assert rated.settings["rate_model"] == PackingModel.load(tmp_path / NAME).hash[:12]
    assert "rate_weight" not in refined.settings
    assert "rate_model" not in refined.settings
    assert torch.equal(plain.under(refine=8, rate_weight=3.0).decode(rated), plain.decode(rated))


def test_more_is_skipped_where_bits_weigh(tmp_path: Path) -> None:
    model = made("skipping", tmp_path).under(skip=0.5)
    centre = model.quantizer.centre_id
    shares = [
        (model.under(refine=2, rate_weight=weight).encode(clip(13)).ids == centre).float().mean()
        for weight in (0.0, 100.0)
    ]
    assert shares[1] > shares[0]


@pytest.mark.parametrize("kind", ["fsq", "reftok", "skipping"])
@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_weighed_tokens_do_not_depend_on_the_chunk(kind: str, chunk: int, tmp_path: Path) -> None:
    model, x = made(kind, tmp_path).under(refine=2, rate_weight=20.0), clip(14)
    whole = values(model.encode(x))
    assert (values(model.encode(x, chunk=chunk)) == whole).float().mean() > 0.9
    state = model.new_encode_state()
    cut = torch.cat(
        [values(model.encode_chunk(part, state)) for part in x.split([1, 4, 9], dim=2)], dim=-3
    )
    assert (cut == whole).float().mean() > 0.9


def test_the_ids_of_the_steps_before_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in a stream those of the chunk before."""
    model, seen = made("fsq", tmp_path).under(refine=1, rate_weight=1.0), list[Tensor | None]()
    rate_of = IdRate.bits

    def watched(self: IdRate, features: Tensor, ids: Tensor, before: Tensor | None) -> Tensor:
        seen.append(before)
        return rate_of(self, features, ids, before)

    monkeypatch.setattr(IdRate, "bits", watched)
    for chunk in (None, 4):
        seen.clear()
        ids = model.encode(clip(17), chunk=chunk).ids
        assert seen[0] is None
        for step in range(1, 5):  # two tries of each group
            before = seen[2 * step]
            assert before is not None
            assert torch.equal(before, ids[:, max(0, step - 2) : step])


def test_no_clip_of_a_batch_depends_on_another(tmp_path: Path) -> None:
    model = made("fsq", tmp_path).under(refine=2, rate_weight=20.0)
    one, two = clip(seed=1), clip(seed=2)
    both = model.encode(torch.cat([one, two])).ids
    for got, x in zip(both, (one, two), strict=True):
        assert (got == model.encode(x).ids[0]).float().mean() > 0.9


def test_weights_of_half_precision_are_weighed_too(tmp_path: Path) -> None:
    model = zoo.cast(made("fsq", tmp_path), torch.bfloat16).under(refine=2, rate_weight=10.0)
    assert model.encode(clip()).ids.dtype == torch.int64


def test_the_packing_model_stays_as_it_is(tmp_path: Path) -> None:
    """It is shared with packing, which needs it on the CPU, in whole numbers."""
    model = made("fsq", tmp_path).under(refine=1, rate_weight=10.0)
    assert model.rate is not None
    before = {name: tensor.clone() for name, tensor in model.rate.model.network.named_parameters()}
    model.encode(clip())
    for name, tensor in model.rate.model.network.named_parameters():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None


# -- how it is asked for -------------------------------------------------------------------------


def test_views_keep_the_weight_and_say_it(tmp_path: Path) -> None:
    plain = made("skipping", tmp_path)
    view = plain.under(refine=3, rate_weight=10, skip=0.5)
    assert (view.refine, view.rate_weight, view.config.skip) == (3, 10.0, 0.5)
    assert view.spec.used["rate_weight"] == 10.0
    assert view.under(policy="none").rate_weight == view.under(refine=4).rate_weight == 10.0
    assert view.under(refine=0).rate_weight == view.under(rate_weight=0).rate_weight == 0.0
    assert "rate_weight" not in view.under(rate_weight=0).used
    assert view.under(**view.used).used == view.used
    assert plain.rate is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rate_weight": 10.0}, "is for refined latents: give `refine`, such as 8"),
        ({"refine": 2, "rate_weight": -1.0}, "rate_weight=-1.0 is no weight: give 0 or more"),
        ({"refine": 2, "rate_weight": float("nan")}, "rate_weight=nan is no weight"),
        ({"refine": 2, "rate_weight": True}, "rate_weight=True is no weight"),
        ({"refine": 2, "rate_weight": "10"}, "rate_weight='10' is no weight"),
        (
            {"refine": 2, "rate_weight": 1.0, "rate_model": "abc"},
            "weighed by the packing model abc, and here is [0-9a-f]{12}: take the packing.saf",
        ),
        ({"refine": 2, "rate_model": "abc"}, "by the packing model abc, and here is none"),
    ],
)
def test_what_cannot_be_weighed_so_is_refused(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        made("fsq", tmp_path).under(**asked)


def test_tokenizers_without_packing_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    asked = {"refine": 2, "rate_weight": 1.0}
    with pytest.raises(ValueError, match=r"has no packing model: train one .* `rate_weight` out"):
        VidTok(DISCRETE, "bare").under(**asked)
    with pytest.raises(ValueError, match=r"has latents, and only ids are packed: leave `rate_weig"):
        VidTok(CAUSAL, "kl").under(**asked)
    model = made("fsq", tmp_path)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(ValueError, match=r"trained on ids of other weights.*leave `rate_weight`"):
        model.under(**asked)


def test_ids_that_are_no_levels_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = VidTok(replace(DISCRETE, quantizer=VQConfig(codes=64)), "vq").eval()
    network = small_network(tokenizer=model.hash(), vocabulary=64, digits=(8, 8), groups=(1, 1))
    PackingModel.of(network).save(tmp_path / NAME)
    model.packing = tmp_path / NAME
    with pytest.raises(ValueError, match=r"not the levels of channels .* leave `rate_weight=0`"):
        model.under(refine=2, rate_weight=1.0)
    other = made("lfq", tmp_path / "lfq", digits=(8, 8), groups=(1, 1))
    with pytest.raises(ValueError, match="are not the levels of channels"):
        other.under(refine=2, rate_weight=1.0)


def test_a_file_that_was_weighed_otherwise_is_made_again(tmp_path: Path) -> None:
    plain = made("fsq", tmp_path)
    write(moving(9), tmp_path / "a.mkv", lossless=True)
    view = plain.under(refine=2, rate_weight=10.0)
    encode_file(view, tmp_path / "a.mkv", tmp_path / "a.reel")
    assert is_encoded(view, tmp_path / "a.mkv", tmp_path / "a.reel")
    for weight in (0.0, 20.0):
        again = plain.under(refine=2, rate_weight=weight)
        assert not is_encoded(again, tmp_path / "a.mkv", tmp_path / "a.reel")
    other = made("fsq", tmp_path / "other", features=4).under(refine=2, rate_weight=10.0)
    assert not is_encoded(other, tmp_path / "a.mkv", tmp_path / "a.reel")


def test_a_corpus_is_gone_on_with_alike(tmp_path: Path) -> None:
    clips, windows = write_clips(tmp_path / "clips", (5, 5)), Shaping(frames=5, size=(16, 16))
    plain = made("fsq", tmp_path)
    held = [
        LoadedTokenizer(tokenizer=plain.under(refine=2, rate_weight=weight), load="x")
        for weight in (10.0, 0.0)
    ]
    build_corpus(clips, tmp_path / "out", windows, held=held[0])
    build_corpus(clips, tmp_path / "out", windows, held=held[0])
    assert {row.settings["rate_weight"] for row in Corpus(tmp_path / "out")} == {10.0}
    with pytest.raises(ValueError, match=r"begun differently.*rate_\w+"):
        build_corpus(clips, tmp_path / "out", windows, held=held[1])


def test_results_say_the_weight() -> None:
    candidate = open_own("default", refine=2, rate_weight=10.0)
    assert candidate.name == "default (refine=2, rate_weight=10)"
    assert candidate.settings["used"]["rate_weight"] == 10.0
    assert len(candidate.settings["used"]["rate_model"]) == 12


def test_commands_weigh_bits_and_refuse_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(moving(5, 32, 32), tmp_path / "a.mkv", lossless=True)
    words = ["encode", str(tmp_path / "a.mkv"), str(tmp_path / "a.reel")]
    weigh, out = (
        ["--refine", "1", "--rate-weight", "10"],
        ["--out", str(tmp_path.parent / "report")],
    )
    assert main([*words, *weigh]) == 0
    assert load_tokens(tmp_path / "a.reel").settings["rate_weight"] == 10.0
    capsys.readouterr()
    for asked, said in (
        (
            [*words, "--rate-weight", "10", "--force"],
            "is for refined latents: give --refine, such as 8",
        ),
        (
            ["compare", "default", "default-kl", str(tmp_path), *weigh, *out],
            "default-kl has latents",
        ),
        (
            ["compare", "a.json", "b.json", "--rate-weight", "10", *out],
            "--rate-weight is for tokenizers that are judged now: leave it out",
        ),
    ):
        assert main(asked) == 2
        assert said in capsys.readouterr().err


def test_the_bundled_default_saves_bits() -> None:
    """On a smooth clip; docs/decisions/0014-rate-of-ids.md has real ones."""
    tok, video, found = reeltok.load("default"), moving(9, 64, 64), []
    frames = video.frames.movedim(-1, 1).float()
    smooth = F.avg_pool2d(frames, 9, stride=1, padding=4, count_include_pad=False)
    video = replace(video, frames=smooth.movedim(1, -1).round().byte())
    for weight in (0.0, 80.0):
        tokens = tok.under(refine=6, rate_weight=weight).encode(video)
        apart = (tok.decode(tokens).frames.float() - video.frames.float()).square().mean()
        found.append((bits(tok, tokens.ids), 10 * torch.log10(255**2 / apart).item()))
    assert found[1][0] < 0.95 * found[0][0]
    assert found[1][1] > found[0][1] - 1.0


def test_what_bits_are_worth_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    """`rate_weight` times the bits of a clip per pixel of it."""
    model = made("fsq", tmp_path).under(refine=1, rate_weight=20.0)
    assert model.rate is not None
    x = torch.cat([clip(seed=1), clip(seed=2)])
    z = torch.randn(2, 3, 2, 4, model.quantizer.config.channels)
    ids = model.quantizer(z).ids
    both = model.worth_of_bits(z, ids, None, x)
    for i in range(2):
        one = model.worth_of_bits(z[i : i + 1], ids[i : i + 1], None, x[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], one)
        bits = model.rate.bits(z[i : i + 1], ids[i : i + 1], None).sum()
        torch.testing.assert_close(one.mean(), 20.0 * bits / (x[0].numel() / 3))


@pytest.mark.parametrize(("kind", "first", "each"), [("reftok", 2, 2), ("skipping", 2, 3)])
def test_a_reftok_knows_the_ids_of_the_steps_before(
    kind: str, first: int, each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """also those of its first frame, and of the block before (two tries of each block,
    and where cells are skipped what its tokens are worth)."""
    model, seen = made(kind, tmp_path).under(refine=1, rate_weight=1.0), list[Tensor | None]()
    rate_of = IdRate.bits

    def watched(self: IdRate, features: Tensor, ids: Tensor, before: Tensor | None) -> Tensor:
        seen.append(before)
        return rate_of(self, features, ids, before)

    monkeypatch.setattr(IdRate, "bits", watched)
    for chunk in (None, 4):
        seen.clear()
        ids = model.encode(clip(17), chunk=chunk).ids
        assert len(seen) == first + 4 * each
        assert seen[0] is seen[1] is None
        for step in range(1, 5):
            for before in seen[first + each * (step - 1) : first + each * step]:
                assert before is not None
                assert torch.equal(before, ids[:, max(0, step - 2) : step])


@pytest.mark.parametrize(
    "words",
    [
        "encode A.mkv OUT.reel --model default-kl",
        "reconstruct A.mkv OUT.mp4 --model default-kl",
        "evaluate default-kl DATA --out OUT.json",
        "compare default-kl DATA --out OUT",
        "corpus build DATA OUT --model default-kl --frames 5 --size 32",
        "push default-kl EPISODES --frames 5",
    ],
    ids=lambda words: words.split()[0],
)
def test_every_command_that_refines_weighs_bits(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """each hands the weight on, so each refuses a tokenizer that has no ids."""
    write(moving(5, 32, 32), tmp_path / "data" / "a.mkv", lossless=True)
    places = {"A.mkv": "data/a.mkv", "DATA": "data", "EPISODES": "data"}
    asked = [
        str(tmp_path / places.get(word, word)) if word.isupper() or word[:3] in ("OUT", "A.m")
        else word
        for word in words.split()
    ]  # fmt: skip
    assert main([*asked, "--refine", "1", "--rate-weight", "10"]) == 2
    assert "default-kl has latents, and only ids are packed" in capsys.readouterr().err
