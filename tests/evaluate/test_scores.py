"""Clip scores, means over sets, bootstrap intervals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reeltok.evaluate import scores
from reeltok.evaluate.intervals import estimate
from reeltok.evaluate.scores import ClipScore, Scorer, Scores, difference, open_scorer
from reeltok.evaluate.sets import clip_features
from reeltok.metrics import paired as metrics
from reeltok.metrics.distances import appearance_features, feature_moments, frechet_distance
from reeltok.metrics.lpips import LPIPS, PLANS, Backbone
from reeltok.metrics.networks import Extractor
from reeltok.metrics.paired import Box

MEAN = Extractor(name="mean", apply=lambda x: x.mean(dim=(2, 3, 4)), frames=None)


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    """An LPIPS of random weights: no file needed."""
    torch.manual_seed(0)
    widths = PLANS["alex"].widths
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate(widths)}
    return LPIPS("alex", backbone=Backbone("alex").state_dict(), heads=heads)


def pair(frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(1, 3, frames, 40, 48) * 2 - 1
    return x, (x + 0.1 * torch.randn_like(x)).clamp(-1, 1)


def clip(name: str, frames: int = 10, sha256: str = "a", **values: float) -> ClipScore:
    return ClipScore(
        name=name, sha256=sha256, frames=frames, pixels=frames * 100, values=values, psnr=[]
    )


def test_a_clip_measured_in_chunks_equals_the_whole(
    lpips: LPIPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = pair()
    scorer = Scorer(lpips=[lpips], extractors={"test": MEAN})
    box = Box(name="text", left=0, top=0, width=32, height=32)
    whole = scorer.score("a", x, y, boxes=[box], bits=960, seconds={"encode": 0.5})
    monkeypatch.setattr(scores, "CPU_PIXELS", 2 * 40 * 48)
    parts = scorer.score("a", x, y, boxes=[box])
    assert whole.values == pytest.approx(parts.values, rel=1e-5)
    assert set(whole.values) == {
        *("psnr", "psnr-uint8", "ssim", "detail", "flicker", "lpips-alex", "lpips-alex-text")
    }
    for name in ("psnr", "ssim", "detail", "flicker"):
        assert whole.values[name] == pytest.approx(getattr(metrics, name)(x, y).mean().item())
    assert whole.values["lpips-alex"] == pytest.approx(metrics.lpips(lpips, x, y).mean().item())
    assert len(whole.psnr) == whole.frames == 5
    assert whole.pixels == 5 * 40 * 48
    for key, (real, fake) in whole.features.items():
        torch.testing.assert_close(parts.features[key][0], real)
        assert real.shape == fake.shape == {"appearance": (4, 512)}.get(key, (1, 3))


def test_one_frame_has_no_flicker_and_no_appearance(lpips: LPIPS) -> None:
    found = Scorer(lpips=[lpips]).score("a", *pair(1))
    assert "flicker" not in found.values
    assert found.features == {}


def test_a_bad_reconstruction_is_named_with_its_clip() -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=r"dog.mp4: .*the reconstruction \(1, 3, 4"):
        Scorer().score("dog.mp4", x, y[:, :, :4])
    with pytest.raises(ValueError, match=r"dog.mp4: the reconstruction holds NaN"):
        Scorer().score("dog.mp4", x, y * torch.nan)


def test_a_score_survives_its_file(tmp_path: Path, lpips: LPIPS) -> None:
    score = Scorer(lpips=[lpips], extractors={"test": MEAN}).score("a", *pair(), notes=["filled"])
    score.save(tmp_path / "a.safetensors")
    again = ClipScore.load(tmp_path / "a.safetensors")
    assert again.record() == score.record()
    assert again.features.keys() == score.features.keys() == {"appearance", "fvd-test-mean"}
    torch.testing.assert_close(again.features["appearance"][1], score.features["appearance"][1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    plain = clip("b", psnr=1.0)
    plain.save(tmp_path / "b.safetensors")
    assert ClipScore.load(tmp_path / "b.safetensors").record() == plain.record()


def test_means_are_weighted_by_frames_and_bits_by_pixels() -> None:
    held = Scores()
    held.add(clip("short", frames=10, psnr=20.0))
    held.add(clip("long", frames=30, psnr=30.0, ssim=0.5))
    found = held.summary()
    assert found["psnr"].mean == 27.5
    assert (found["ssim"].mean, found["ssim"].clips, found["ssim"].low) == (0.5, 1, None)
    assert "bits_per_pixel" not in found
    record = clip("third").record() | {"bits": 50, "seconds": {"encode": 2.0}}
    held.add(ClipScore(**record))
    assert held.summary()["bits_per_pixel"].mean == 0.05
    assert "stored_bits_per_pixel" not in held.summary()
    held.add(replace(clip("fourth"), bits=50, stored_bits=30))
    assert held.summary()["bits_per_pixel"].mean == 0.05
    assert held.summary()["stored_bits_per_pixel"].mean == 0.03
    assert held.summary()["encode_fps"].mean == 5
    with pytest.raises(ValueError, match="third was scored twice"):
        held.add(clip("third"))


def test_windows_of_a_video_are_drawn_together() -> None:
    """They are alike: as clips of their own they would make intervals too narrow."""
    alone, windows = Scores(), Scores()
    for i, level in enumerate(torch.randn(12).tolist()):
        alone.add(clip(str(i), psnr=level))
        for k in range(10):
            windows.add(replace(clip(f"{i}#{k}", psnr=level), source=str(i)))
    one, many = alone.summary()["psnr"], windows.summary()["psnr"]
    assert (many.clips, one.clips) == (120, 12)
    for end in ("mean", "low", "high"):
        assert getattr(many, end) == pytest.approx(getattr(one, end), abs=1e-6)
    single = Scores()
    for k in range(3):
        single.add(replace(clip(f"a#{k}", psnr=1.0), source="a"))
    assert single.summary()["psnr"].low is None
    record = next(iter(windows.clips.values())).record()
    assert ClipScore(**record).source == "0"
    assert "source" not in next(iter(alone.clips.values())).record()
    gap = difference(windows, windows, "psnr")
    assert (gap.mean, gap.clips) == (0, 120)


def test_a_distance_counts_the_clips_that_have_features() -> None:
    scorer, held, other = Scorer(extractors={"test": MEAN}), Scores(), Scores()
    for i in range(4):
        score = scorer.score(str(i), *pair())
        held.add(score if i % 2 else replace(score, features={}))
    other.add(scorer.score("other", *pair()))
    assert "fvd-test-mean-n2" in held.summary()
    held.merge(other)
    assert held.summary()["fvd-test-mean-n3"].clips == 3


def test_other_networks_make_other_judges() -> None:
    nets = []
    for level in (1.0, 2.0):
        heads = {
            f"lin{i}.model.1.weight": torch.full((w,), level)
            for i, w in enumerate(PLANS["alex"].widths)
        }
        torch.manual_seed(0)
        nets.append(LPIPS("alex", backbone=Backbone("alex").state_dict(), heads=heads))
    one, other = (Scorer(lpips=[net]).networks() for net in nets)
    assert one != other
    assert one == Scorer(lpips=[nets[0]]).networks()
    parts = [replace(MEAN, name=name, frames=frames) for name, frames in (("a", 8), ("a", 16))]
    first, second = (Scorer(extractors={"x": part}).networks() for part in parts)
    assert first != second


def test_sets_stream_and_merge_into_the_same_distances() -> None:
    scorer = Scorer(extractors={"test": MEAN})
    made = [scorer.score(str(i), *pair()) for i in range(6)]
    whole, left, right = Scores(), Scores(), Scores()
    for i, score in enumerate(made):
        whole.add(score)
        (left if i < 2 else right).add(score)
    left.merge(right)
    assert all(not c.features for c in whole.clips.values())
    assert "fvd-test-mean-n6" in whole.summary()
    for key, value in whole.summary().items():
        assert left.summary()[key].mean == pytest.approx(value.mean, abs=1e-9)
    real = torch.cat([s.features["fvd-test-mean"][0] for s in made])
    fake = torch.cat([s.features["fvd-test-mean"][1] for s in made])
    of = feature_moments
    assert whole.summary()["fvd-test-mean-n6"].mean == pytest.approx(
        frechet_distance(of(real), of(fake)), abs=1e-9
    )
    with pytest.raises(ValueError, match="scored twice"):
        left.merge(right)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named_with_its_clip(wrong: float) -> None:
    total = Scores()
    with pytest.raises(ValueError, match=r"a\.mp4: its psnr is (nan|inf)"):
        total.add(clip("a.mp4", psnr=wrong))
    features = {"fvd-x": (torch.ones(3, 4), torch.ones(3, 4).index_fill(0, torch.tensor(1), wrong))}
    with pytest.raises(ValueError, match=r"fvd-x of a\.mp4: 1 of 3 feature vectors hold NaN"):
        total.add(replace(clip("a.mp4", psnr=1.0), features=features))
    assert not total.clips
    assert not total.moments
    with pytest.raises(ValueError, match=r"value 2 of 3 is (nan|inf)"):
        estimate([1.0, wrong, 2.0], [1, 1, 1])


@pytest.mark.parametrize("order", [("squeeze", "alex"), ("alex", "squeeze")])
def test_appearance_is_alexnet_s_whatever_stands_first(order: tuple[str, str]) -> None:
    """It was the first network of the protocol: other numbers under the same name."""
    nets = {}
    for net in order:
        heads = {f"lin{i}.model.1.weight": torch.ones(w) for i, w in enumerate(PLANS[net].widths)}
        nets[net] = LPIPS(net, backbone=Backbone(net).state_dict(), heads=heads)
    x, _ = pair(3)
    found = clip_features(x, Scorer(lpips=[nets[net] for net in order]))["appearance"]
    assert found.shape == (2, 512)
    expected = appearance_features(nets["alex"].backbone(x[0].transpose(0, 1))[-1])
    torch.testing.assert_close(found, expected)
    assert "appearance" not in clip_features(x, Scorer(lpips=[nets["squeeze"]]))


def test_intervals_are_seeded_and_of_the_right_width() -> None:
    values = torch.randn(400).tolist()
    found = estimate(values, [1.0] * 400)
    assert found == estimate(values, [1.0] * 400)
    assert found.low < found.mean < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
    assert str(estimate([1.0], [3.0])) == "1"
    with pytest.raises(ValueError, match="weights of a mean sum to 0"):
        estimate([1.0, 2.0], [0, 0])
    with pytest.raises(ValueError, match="at least one clip"):
        estimate([], [])


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    first, second = Scores(), Scores()
    for i, level in enumerate(torch.randn(30).tolist()):
        first.add(clip(str(i), psnr=30 + 5 * level))
        second.add(clip(str(i), psnr=30.5 + 5 * level + 0.1 * torch.randn(1).item()))
    gap = difference(first, second, "psnr")
    assert gap.low > 0.4
    assert gap.high < 0.6
    assert first.summary()["psnr"].high > second.summary()["psnr"].low  # apart: nothing to see
    second.add(clip("only here", psnr=1.0))
    assert difference(first, second, "psnr").clips == 30
    with pytest.raises(ValueError, match="no clip was scored for ssim"):
        difference(first, second, "ssim")
    other = Scores()
    other.add(clip("0", sha256="b", psnr=1.0))
    with pytest.raises(ValueError, match="0 is not the same original"):
        difference(first, other, "psnr")


def test_a_judge_without_weights_keeps_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "nothing"))
    scorer = open_scorer()
    assert scorer.missing.keys() == {"lpips-alex", "appearance", "fvd-i3d"}
    assert "put i3d_pretrained_400.pt into" in scorer.missing["fvd-i3d"]
    assert scorer.score("a", *pair()).values.keys() == {
        *("psnr", "psnr-uint8", "ssim", "detail", "flicker")
    }
    with pytest.raises(
        ValueError, match=r"no metric 'fvd-i4d'; there are .*fvd-i3d, fvd-styleganv"
    ):
        open_scorer(["psnr", "fvd-i4d"])
    few = open_scorer(["psnr", "ssim-uniform7", "appearance"])
    assert few.score("a", *pair()).values.keys() == {"psnr", "ssim-uniform7"}
    assert few.missing == {"appearance": "it needs lpips-alex beside it"}


@pytest.mark.weights
def test_a_judge_finds_the_shared_weights(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELTOK_SHARED", str(shared))
    scorer = open_scorer(["psnr", "lpips-alex", "appearance"])
    assert scorer.missing == {}
    assert 0 < scorer.score("a", *pair(2)).values["lpips-alex"] < 1


def test_a_kept_score_that_is_damaged_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    features = {"appearance": (torch.rand(3, 4), torch.rand(3, 4))}
    replace(clip("a", psnr=30.0), features=features).save(path)
    assert ClipScore.load(path).features["appearance"][0].shape == (3, 4)
    whole = path.read_bytes()
    for damaged in (b"", whole[:40], whole.replace(b'\\"frames\\"', b'\\"framed\\"')):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"clip\.safetensors is not a score .*`again`"):
            ClipScore.load(path)
    huge = {"appearance": (torch.full((3, 4), 1e30), torch.rand(3, 4))}
    replace(clip("a", psnr=30.0), features=huge).save(path)
    with pytest.raises(ValueError, match="features"):
        ClipScore.load(path)


def test_no_time_at_all_has_no_rate() -> None:
    held = Scores()
    held.add(replace(clip("a", psnr=30.0), seconds={"encode": 1e-320, "decode": 0.5}))
    assert "encode_fps" not in held.summary()
    assert held.summary()["decode_fps"].mean == 20.0


def test_what_a_damaged_score_says_obeys_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "clip.safetensors"
    clip("a", psnr=30.0).save(path)
    header = b'{"__metadata__":{"score":"{}"},"x":{"dtype":"\\u001b[31m\\n"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"not a score of a clip") as caught:
        ClipScore.load(path)
    assert str(caught.value).isprintable()
