"""Latents that are refined as a clip is encoded: better, and the same however it is cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import reeltok
from reeltok.cli.main import main
from reeltok.corpus import Corpus, LoadedTokenizer, NamedTokenizer, Shaping
from reeltok.corpus.plan import plan_of_record
from reeltok.corpus.sources import find_sources
from reeltok.corpus.verify import draw_rows, look
from reeltok.evaluate.candidates.own import open_own
from reeltok.evaluate.clips import ScoredClip
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import LFQConfig, VQConfig
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokenizer.refinement import RefinedModule, refine_latents
from reeltok.transcode.encode import encode_file, is_encoded
from reeltok.transcode.options import Coding
from reeltok.transcode.reconstruct import reconstruct_file
from reeltok.video.record import write
from tests.corpus.corpus_clips import build as build_corpus
from tests.corpus.corpus_clips import write_clips
from tests.models.toy_family import Toy, ToyConfig
from tests.moving_clips import moving
from tests.small_models import CAUSAL, COORDTOK, DISCRETE, NONCAUSAL, SMALL

BODY = replace(DISCRETE, edge="past-first", upsampling="nearest")
VIDTOKS = {
    "fsq": DISCRETE,
    "kl": CAUSAL,
    "vq": replace(DISCRETE, quantizer=VQConfig(codes=64)),
    "lfq": replace(DISCRETE, quantizer=LFQConfig(bits=6)),
    "ahead": replace(COMPACT, upsampling="trilinear", sampler="blend", **SMALL),
    "zeros": replace(COMPACT, edge="past-zeros", sampler="plain", **SMALL),
    "noncausal": NONCAUSAL,
}
KINDS = [*VIDTOKS, "reftok", "skipping", "coordtok"]


def made(kind: str) -> Tokenizer:
    """A small tokenizer whose references matter."""
    torch.manual_seed(0)
    if kind in VIDTOKS:
        return VidTok(VIDTOKS[kind], kind).eval()
    if kind in ("coordtok", "sliced"):
        return CoordTok(replace(COORDTOK, slices=2 if kind == "sliced" else 1)).eval()
    model = RefTok(RefTokConfig(body=BODY, width=4, skip=1.0 if kind == "skipping" else 0.0)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_injection" in name and not weight.any():
                weight.normal_(std=0.5)
    return model


def clip(frames: int = 9, seed: int = 0) -> Tensor:
    size = (16, 24)
    coarse = torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.7
    wide = torch.nn.functional.interpolate(coarse, (16, 24 + frames), mode="bilinear")
    return torch.stack([wide[..., i : i + size[1]] for i in range(frames)], dim=2)


def values(tokens: Any) -> Tensor:
    return tokens.latents if tokens.ids is None else tokens.ids


def error(model: Tokenizer, x: Tensor, tokens: Any) -> float:
    return (model.decode(tokens) - x).square().mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_refined_tokens_are_better_and_decode_without_it(kind: str) -> None:
    plain = made(kind)
    x, refined = clip(), plain.under(refine=6)
    before, tokens = plain.encode(x), refined.encode(x)
    assert tokens.settings["refine"] == 6
    assert "refine" not in before.settings
    share = 1.0 if kind == "vq" else 0.999  # the codes of a fresh codebook are all alike
    assert error(plain, x, tokens) < share * error(plain, x, before)
    assert torch.equal(refined.decode(tokens), plain.decode(tokens))
    assert refined.hash() == plain.hash()
    assert (plain.refine, plain.under(refine=0)) == (0, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_no_clip_of_a_batch_depends_on_another(kind: str) -> None:
    model = made(kind).under(refine=2)
    one, two = clip(seed=1), clip(seed=2)
    both = values(model.encode(torch.cat([one, two])))
    for got, x in zip(both, (one, two), strict=True):
        alone = values(model.encode(x))[0]
        if alone.is_floating_point():
            torch.testing.assert_close(got, alone, rtol=1e-3, atol=1e-4)
        else:
            assert (got == alone).float().mean() > 0.9  # rounding may fall otherwise


@pytest.mark.parametrize("kind", ["fsq", "kl", "ahead", "zeros", "reftok", "skipping"])
@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_tokens_do_not_depend_on_the_chunk(kind: str, chunk: int) -> None:
    model, x = made(kind).under(refine=2), clip(14)
    whole, parts = values(model.encode(x)), values(model.encode(x, chunk=chunk))
    if whole.is_floating_point():
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)
    else:
        assert (parts == whole).float().mean() > 0.9
    state, cut = model.new_encode_state(), x.split([1, 4, 9], dim=2)
    by_hand = torch.cat([values(model.encode_chunk(part, state)) for part in cut], dim=-3)
    assert by_hand.shape == whole.shape
    assert ((by_hand - whole).abs() < 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("kind", sorted({*KINDS, "sliced"} - {"vq", "lfq", "skipping"}))
def test_what_is_judged_is_what_decoding_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group after what precedes it, against its own frames; all of the last are known."""
    shown: list[tuple[Tensor, Tensor]] = []

    def unrefined(
        self: Any, features: Tensor, target: Tensor, decode: Any, *_: Any, **__: Any
    ) -> Tensor:
        shown.append((decode(features), target))
        return features

    monkeypatch.setattr(RefinedModule, "refined", unrefined)
    model, x = made(kind), clip({"noncausal": 8, "coordtok": 5, "sliced": 5}.get(kind, 13))
    with torch.no_grad():
        whole = model.decode(model.under(refine=1).encode(x))
    time = 1 if kind == "reftok" else 2
    groups, targets = (torch.cat(parts, dim=time) for parts in zip(*shown, strict=True))
    if kind == "reftok":
        groups, targets = (part.movedim(-1, 1) for part in (groups, targets))
    assert torch.equal(targets, x)
    known = shown[-1][0].shape[time] if kind == "ahead" else x.shape[2]
    torch.testing.assert_close(groups[:, :, -known:], whole[:, :, -known:], rtol=1e-4, atol=1e-5)


def test_each_clip_keeps_the_best_of_its_tries() -> None:
    """What comes in goes out where every step makes it worse, whatever the others of a batch."""
    start, target = torch.tensor([[[4.0]], [[5.0]]]), torch.zeros(2, 1)
    way = torch.tensor([[-1.0], [1.0]])  # the gradient of clip 0 points away from its target
    found = refine_latents(
        start, target, lambda x: (x.detach() + way[..., None] * (x - x.detach()))[:, 0], 4
    )
    assert torch.equal(found[0], start[0])
    assert 0 < found[1].item() < 5


def test_a_step_is_as_long_in_whatever_unit_latents_are() -> None:
    start, target = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    a = refine_latents(start, target, lambda x: x, 3)
    b = refine_latents(start * 100, target, lambda x: x / 100, 3)
    torch.testing.assert_close(b / 100, a, rtol=1e-4, atol=1e-5)


def test_half_precision_is_refined_too() -> None:
    model = reeltok.zoo.cast(made("fsq"), torch.bfloat16).under(refine=2)
    assert model.encode(clip()).ids.dtype == torch.int64


@pytest.mark.parametrize("kind", ["fsq", "kl", "skipping"])
def test_large_frames_are_refined_and_decoded_as_by_the_plain_tokenizer(kind: str) -> None:
    plain, x = made(kind), clip(5)
    view = plain.under(refine=4)
    assert view.spec.strips == plain.spec.strips
    tokens = view.encode(x, tile=16)
    assert error(plain, x, tokens) < error(plain, x, plain.encode(x, tile=16))
    for tile in (8, None):
        assert torch.equal(view.decode(tokens, tile=tile), plain.decode(tokens, tile=tile))
    torch.testing.assert_close(view.decode(tokens, tile=8), view.decode(tokens))


def test_no_grad_makes_no_difference_and_inference_mode_is_refused() -> None:
    model, x = made("fsq").under(refine=2), clip()
    with torch.no_grad():
        inside = model.encode(x)
    assert torch.equal(inside.ids, model.encode(x).ids)
    assert all(weight.grad is None for weight in model.parameters())
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"inference_mode\(\) rules out: use torch.no_grad"),
    ):
        model.encode(x)


def test_nothing_of_the_graph_is_left() -> None:
    with torch.no_grad():
        found = refine_latents(torch.randn(1, 4, 3), torch.randn(1, 4, 3), lambda x: x, 3)
    assert not found.requires_grad
    assert not made("kl").under(refine=2).encode(clip().requires_grad_()).latents.requires_grad


def test_no_codebook_follows_what_is_tried() -> None:
    config = replace(DISCRETE, quantizer=VQConfig(codes=64, ema=0.9))
    torch.manual_seed(0)
    view = VidTok(config).train().under(refine=3)
    seen = []
    forward = view.quantizer.forward
    view.quantizer.forward = lambda *args, **options: (
        seen.append(view.quantizer.training) or forward(*args, **options)
    )
    view.encode(clip(1))
    assert seen == [False] * 5 + [True]  # four tries, the group for the next one; the tokens
    assert view.training


def test_views_know_the_hash_of_cast_weights() -> None:
    plain = made("fsq")
    before, view = plain.hash(), plain.under(refine=2)
    view.to(torch.bfloat16)
    assert plain.hash() == view.hash() == before
    plain.decode(view.encode(clip()))


def test_memory_that_runs_out_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("reeltok.tokenizer.refinement.refine_latents", full)
    with pytest.raises(MemoryError, match="give a lower `tile`, smaller frames, or `refine=0`"):
        made("fsq").under(refine=2).encode(clip(17))


def test_a_corpus_is_verified_as_it_was_made(tmp_path: Path) -> None:
    folder = made("fsq").save_pretrained(tmp_path / "model")
    clips, windows = write_clips(tmp_path / "clips", (5, 5)), Shaping(frames=5, size=(16, 16))
    held = NamedTokenizer(load=str(folder), refine=4)
    build_corpus(clips, tmp_path / "out", windows, held=held)
    corpus = Corpus(tmp_path / "out")
    assert corpus.load().refine == 4
    plan = plan_of_record(corpus.manifest, find_sources(str(clips)))
    shares = [
        look(corpus, corpus.load().under(refine=steps), draw_rows(corpus, 1, 0), plan)[0].same
        for steps in (4, 0)
    ]
    assert shares[0] == 1.0 > shares[1]


def test_means_and_latents_of_a_corpus_are_refined_once_and_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, windows = write_clips(tmp_path / "clips", (5, 5)), Shaping(frames=5, size=(16, 16))
    held = LoadedTokenizer(tokenizer=made("kl").under(refine=2), load="x")
    calls: list[int] = []

    def counted(*args: Any) -> Tensor:
        calls.append(len(args[0]))
        return refine_latents(*args)

    monkeypatch.setattr("reeltok.tokenizer.refinement.refine_latents", counted)
    kept = []
    for keep in ("latents", "moments"):
        calls.clear()
        build_corpus(clips, tmp_path / keep, windows, held=held, coding={"keep": keep})
        assert sum(calls) == 2 * 2  # clips of two groups
        kept.append(list(Corpus(tmp_path / keep)))
    for latents, mean in zip(*kept, strict=True):
        assert latents.settings["refine"] == mean.settings["refine"] == 2
        torch.testing.assert_close(mean.latents, latents.latents)


def test_planes_are_refined_for_the_frames_that_are_decoded() -> None:
    plain = made("coordtok")
    for frames in (1, 2, 8):
        x = clip(frames)
        assert error(plain, x, plain.under(refine=6).encode(x)) < error(plain, x, plain.encode(x))


def test_planes_are_refined_in_the_slices_that_they_will_be_decoded_in() -> None:
    x, whole = clip(8), made("coordtok").under(refine=3)
    cut = whole.encode(x, slices=2)
    assert torch.equal(values(cut), values(made("sliced").under(refine=3).encode(x)))
    assert not torch.equal(values(cut), values(whole.encode(x)))
    assert torch.equal(values(whole.encode(x)), values(whole.encode(x, slices=1)))


@pytest.mark.parametrize("steps", [-1, 1.5, True, "8"])
def test_what_is_no_number_of_steps_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="is not a number of steps: give 0 or more"):
        made("fsq").under(refine=steps)


def test_what_cannot_be_refined_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be refined: leave `refine=0`"):
        Toy(ToyConfig(), "toy").under(refine=2)
    with pytest.raises(ValueError, match="leave out refine=2"):
        made("ahead").under(refine=2).encode(clip(), pad="front")
    with pytest.raises(ValueError, match="has no setting 'skip'"):
        made("fsq").under(skip=1.0)


def test_memory_is_not_bounded_where_latents_are_refined(tmp_path: Path) -> None:
    write(moving(5), tmp_path / "a.mkv", lossless=True)
    for steps, said in ((2, "with refine=2 cannot bound its memory"), (0, "is too little")):
        with pytest.raises(ValueError, match=said):
            encode_file(
                made("fsq").under(refine=steps),
                tmp_path / "a.mkv",
                tmp_path / "a.reel",
                coding=Coding(memory=0.01),
            )


def test_views_of_a_reftok_keep_both() -> None:
    model = made("skipping").under(refine=3, skip=0.5)
    assert model.spec.used["refine"] == 3
    assert model.under(policy="none").refine == 3
    assert (model.config.skip, model.under(refine=0).config.skip) == (0.5, 0.5)


def test_a_file_that_was_refined_otherwise_is_made_again(tmp_path: Path) -> None:
    plain = made("fsq")
    write(moving(9), tmp_path / "a.mkv", lossless=True)
    encode_file(plain.under(refine=2), tmp_path / "a.mkv", tmp_path / "a.reel")
    assert is_encoded(plain.under(refine=2), tmp_path / "a.mkv", tmp_path / "a.reel")
    for steps in (0, 3):
        assert not is_encoded(plain.under(refine=steps), tmp_path / "a.mkv", tmp_path / "a.reel")


def test_a_reconstruction_says_what_it_is_of(tmp_path: Path) -> None:
    write(moving(9), tmp_path / "a.mkv", lossless=True)
    scores = []
    for steps in (0, 4):
        found = reconstruct_file(
            made("fsq").under(refine=steps),
            tmp_path / "a.mkv",
            tmp_path / f"{steps}.mkv",
            coding=Coding(chunk=4),
        )
        scores.append(found.psnr)
    assert scores[1] > scores[0]


def test_a_corpus_is_not_gone_on_with_otherwise(tmp_path: Path) -> None:
    clips, windows = write_clips(tmp_path / "clips", (5, 5)), Shaping(frames=5, size=(16, 16))
    held = [LoadedTokenizer(tokenizer=made("fsq").under(refine=n), load="x") for n in (0, 2)]
    for first, then, said in ((0, 1, "refine 0, now.*refine 2"), (1, 0, "refine 2, now.*refine 0")):
        out = tmp_path / str(first)
        build_corpus(clips, out, windows, held=held[first])
        build_corpus(clips, out, windows, held=held[first])
        with pytest.raises(ValueError, match=f"begun differently.*{said}"):
            build_corpus(clips, out, windows, held=held[then])


def test_results_say_that_latents_were_refined() -> None:
    candidate = open_own("vidtok_fsq_causal_488_32768", weights="random", refine=2)
    assert candidate.name.endswith(" (refine=2)")
    assert candidate.settings["used"] == {"refine": 2}
    clip = ScoredClip(name="a", video=moving(5, 32, 32), sha256="")
    assert set(candidate.facts(clip)) == {"parameters"}  # one pass is not what was done
    plain = replace(candidate, tokenizer=candidate.tokenizer.under(refine=0))
    assert set(plain.facts(clip)) == {"parameters", "macs"}


def test_compare_refuses_before_it_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (
            ["default", "diffusers:/nowhere", "clips/"],
            "of diffusers:/nowhere cannot be refined: leave out",
        ),
        (["a.json", "b.json"], "--refine is for tokenizers that are judged now: leave it out"),
    ):
        assert main(["compare", *words, "--refine", "2", "--out", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err


def test_the_bundled_default_gains_half_a_decibel() -> None:
    """On a clip with edges and motion; .8 dB on real ones (docs/shared-eval.json)."""
    tok, video = reeltok.load("default"), moving(9, 64, 64)
    found = []
    for steps in (0, 6):
        decoded = tok.decode(tok.under(refine=steps).encode(video)).frames.float()
        apart = (decoded - video.frames.float()).square().mean()
        found.append(10 * torch.log10(255**2 / apart).item())
    assert found[1] > found[0] + 0.5
