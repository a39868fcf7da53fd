"""Judging runs: whole, interrupted, broken; with and without weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import CAUSAL

from reeltok.data.clip import Clip
from reeltok.evaluate import run
from reeltok.evaluate.candidates.candidate import (
    CodedClip,
    TokenizerCandidate,
    pad_clip,
)
from reeltok.evaluate.clips import ScoredClip, boxes_of
from reeltok.evaluate.intervals import estimate
from reeltok.evaluate.protocols import PROTOCOLS, Protocol
from reeltok.evaluate.results import CandidateKind, Result
from reeltok.evaluate.run import ClipProgress, evaluate, kept_ids, why_none
from reeltok.evaluate.scores import Scorer
from reeltok.metrics.lpips import random_lpips
from reeltok.models.presets import COMPACT, CONTINUOUS
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers.lattice import FSQConfig
from reeltok.video.record import Video, write

PLAN = replace(PROTOCOLS["shared-eval"], frames=5, crop=32, smallest=16, metrics=("psnr", "ssim"))
JUDGE = Scorer(metrics=PLAN.metrics)


@dataclass
class Dim:
    """A candidate that makes clips darker; it counts how often it is asked."""

    name: str = "dim"
    fault: str = ""
    asked: list[str] = field(default_factory=list)
    trained: bool = True
    kind: CandidateKind = "peer"
    weights: str | None = None
    causal: bool = True
    vocabulary: int | None = 16
    settings: Mapping[str, Any] = field(default_factory=dict)

    def reconstruct(self, clip: ScoredClip) -> CodedClip:
        self.asked.append(clip.name)
        x = clip.video.tensor() * 0.5
        if self.fault == "NaN":
            x = x * torch.nan
        if self.fault == "shape":
            x = x[:, :, 1:]
        if self.fault == clip.name:
            raise KeyboardInterrupt
        ids = torch.arange(8).reshape(2, 2, 2)
        return CodedClip(x=x, bits=32, ids=ids, seconds={"encode": 0.5, "decode": 0.25})

    def facts(self, clip: ScoredClip) -> dict[str, float]:
        return {"parameters": 3.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos, one too short, one broken."""
    folder = tmp_path_factory.mktemp("data")
    draw = torch.Generator().manual_seed(0)
    for name, frames in (("a", 6), ("b", 5), ("c", 8), ("short", 3)):
        pixels = torch.randint(0, 255, (frames, 40, 48, 3), generator=draw, dtype=torch.uint8)
        write(Video.of(pixels, fps=10), folder / f"{name}.mkv", lossless=True)
    (folder / "torn.mkv").write_bytes(b"no video")
    return folder


def judged(candidate: Any, data: Path, plan: Protocol = PLAN, **more: Any) -> Result:
    return evaluate(candidate, data, protocol=plan, scorer=JUDGE, **more)


def test_a_run_counts_what_it_judged_and_what_it_did_not(data: Path) -> None:
    told: list[ClipProgress] = []
    result = judged(Dim(), data, progress=told.append)
    assert [clip["name"] for clip in result.clips] == ["a.mkv", "b.mkv", "c.mkv"]
    assert set(result.broken) == {"torn.mkv"}
    assert set(result.left_out) == {"short.mkv"}
    assert result.summary["bits_per_pixel"].mean == pytest.approx(32 / (5 * 32 * 32))
    assert result.summary["encode_fps"].mean == pytest.approx(10)
    assert result.extra["parameters"] == 3
    assert result.extra["utilization"] == 0.5
    assert result.extra["perplexity"] == pytest.approx(8)
    assert [(one.clip, one.done, one.total) for one in told] == [
        *(("a.mkv", 1, 5), ("b.mkv", 2, 5), ("c.mkv", 3, 5))
    ]


def test_a_result_names_the_networks_that_judged(data: Path) -> None:
    judge = Scorer(metrics=("psnr", "lpips-alex"), lpips=[random_lpips("alex")])
    result = evaluate(Dim(), data, protocol=PLAN, scorer=judge)
    assert result.networks == judge.networks()
    assert [name.rpartition("-")[0] for name in result.networks] == ["lpips-alex"]


def test_memory_is_what_a_candidate_itself_takes(data: Path) -> None:
    """Whatever was judged before it."""

    class Heavy(Dim):
        def reconstruct(self, clip: ScoredClip) -> CodedClip:
            torch.ones(int(self.settings["bytes"]), dtype=torch.uint8)
            return super().reconstruct(clip)

    for size in (1e8, 3e8, 1e8):
        memory = judged(Heavy(settings={"bytes": size}), data).extra["coding_memory_bytes"]
        assert memory == pytest.approx(size, rel=0.2)


def test_a_video_that_breaks_late_is_in_no_mean(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    for name, frames in (("a#1", 40), ("b", 400), ("b#0", 40)):
        pixels = torch.randint(0, 255, (frames, 40, 48, 3), generator=draw, dtype=torch.uint8)
        write(Video.of(pixels, fps=10), tmp_path / f"{name}.mkv", lossless=True)
    names = ("psnr", "lpips-alex", "appearance")
    plan = replace(PROTOCOLS["vidtok"], size=32, crop=32, smallest=16, metrics=names)
    judge = Scorer(metrics=names, lpips=[random_lpips("alex")])
    damaged = tmp_path / "b.mkv"
    raw = bytearray(damaged.read_bytes())
    at = len(raw) * 3 // 4
    raw[at : at + len(raw) // 20] = bytes(len(raw) // 20)
    damaged.write_bytes(raw)
    dim = Dim()
    result = evaluate(dim, tmp_path, protocol=plan, scorer=judge)
    assert set(result.broken) == {"b.mkv"}
    assert {name.split(".")[0] for name in dim.asked} == {"a#1", "b#0"}
    damaged.unlink()
    without = evaluate(Dim(), tmp_path, protocol=plan, scorer=judge)
    assert result.clips == without.clips
    assert result.summary == without.summary  # the distance is of no features of it, either
    assert [name for name in result.summary if name.startswith("appearance")]
    assert result.extra["utilization"] == without.extra["utilization"]


def test_an_interrupted_run_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        judged(Dim(fault="c.mkv"), data, work=tmp_path)
    again = Dim()
    told: list[ClipProgress] = []
    result = judged(again, data, work=tmp_path, progress=told.append)
    assert again.asked == ["c.mkv"]
    assert [one.again for one in told] == [True, True, False]
    whole = judged(Dim(), data)
    assert result.summary == whole.summary
    assert result.extra["perplexity"] == whole.extra["perplexity"]
    assert result.extra["utilization"] == whole.extra["utilization"]
    third = Dim()
    assert judged(third, data, work=tmp_path).extra["parameters"] == 3
    assert third.asked == []
    other = Dim(settings={"tile": 8})  # other settings, other scores
    judged(other, data, work=tmp_path)
    assert len(other.asked) == 3


def test_what_is_measured_once_is_that_of_the_set(data: Path, tmp_path: Path) -> None:
    """Of its first clip, whatever another set needed, and wherever a run was interrupted."""

    class Sized(Dim):
        def facts(self, clip: ScoredClip) -> dict[str, float]:
            return {"macs": float(clip.video.frames.sum())}

    wanted = judged(Sized(), data).extra["macs"]
    with pytest.raises(KeyboardInterrupt):
        judged(Sized(fault="c.mkv"), data, work=tmp_path / "kept")
    (tmp_path / "other.csv").write_text(f"path\n{data / 'c.mkv'}\n")
    other = judged(Sized(), tmp_path / "other.csv", work=tmp_path / "kept").extra["macs"]
    assert other != wanted
    for _ in range(2):
        assert judged(Sized(), data, work=tmp_path / "kept").extra["macs"] == wanted


def test_what_is_measured_once_is_known_where_every_score_is(data: Path, tmp_path: Path) -> None:
    """Though the set's first clip was scored as another set's second."""

    class Sized(Dim):
        def facts(self, clip: ScoredClip) -> dict[str, float]:
            return {"macs": float(clip.video.frames.sum())}

    judged(Sized(), data, work=tmp_path / "kept")
    (tmp_path / "some.csv").write_text(f"path\n{data / 'c.mkv'}\n{data / 'b.mkv'}\n")
    wanted = judged(Sized(), tmp_path / "some.csv").extra
    for asked in (["c.mkv"], []):
        again = Sized()
        found = judged(again, tmp_path / "some.csv", work=tmp_path / "kept").extra
        assert again.asked == asked
        assert found["macs"] == wanted["macs"]


def test_boxes_are_known_whatever_their_capitals() -> None:
    clip = Clip(path=Path("a"), row={" Boxes": "text:0,0,16,16"})
    assert [box.name for box in boxes_of(clip)] == ["text"]


def test_other_boxes_are_judged_anew(data: Path, tmp_path: Path) -> None:
    asked = Dim()
    for boxes in ("text:0,0,16,16", "text:0,0,16,16", "text:8,8,16,16"):
        (tmp_path / "list.csv").write_text(f'path,boxes\n{data / "a.mkv"},"{boxes}"\n')
        judged(asked, tmp_path / "list.csv", work=tmp_path / "kept")
    assert len(asked.asked) == 2


def test_another_machine_measures_its_own_speeds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(Dim(), data, work=tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    other = Dim()
    assert judged(other, data, work=tmp_path).machine["threads"] == "77"
    assert len(other.asked) == 3


@pytest.mark.parametrize("changed", ["protocol", "metrics", "networks", "code", "clip"])
def test_whatever_decides_a_score_is_part_of_where_it_is_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    folder, plan, scorer = tmp_path / "videos", PLAN, JUDGE
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.mkv").write_bytes((data / f"{name}.mkv").read_bytes())
    judged(Dim(), folder, work=tmp_path / "kept")
    asked = ["a.mkv", "b.mkv"]
    if changed == "protocol":
        plan = replace(PLAN, via_mp4=True)  # of the same clips
    elif changed == "metrics":
        scorer = Scorer(metrics=("psnr",))
    elif changed == "networks":
        monkeypatch.setattr(Scorer, "networks", lambda self: ["lpips-alex-1111aaaa"])
    elif changed == "code":
        monkeypatch.setattr(run, "code_hash", lambda: "other")
    else:
        (folder / "a.mkv").write_bytes((data / "c.mkv").read_bytes())
        asked = ["a.mkv"]
    other = Dim()
    evaluate(other, folder, protocol=plan, scorer=scorer, work=tmp_path / "kept")
    assert other.asked == asked


def test_ids_of_clips_that_were_kept_count(data: Path, tmp_path: Path) -> None:
    """Each clip has its own, so that those of an earlier run are missed."""

    class Counting(Dim):
        def reconstruct(self, clip: ScoredClip) -> CodedClip:
            first = {"a.mkv": 0, "b.mkv": 4, "c.mkv": 8}[clip.name]
            return replace(super().reconstruct(clip), ids=torch.arange(first, first + 4))

    used = [judged(Counting(), data, work=tmp_path).extra for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        judged(Counting(fault="c.mkv"), data, work=tmp_path / "other")
    used.append(judged(Counting(), data, work=tmp_path / "other").extra)
    for extra in used:
        assert extra["utilization"] == 0.75
        assert extra["perplexity"] == pytest.approx(12)


def test_scores_are_kept_for_a_configuration_too(data: Path, tmp_path: Path) -> None:
    """Equal weights are used in other ways; what only training reads is no other way."""
    quantizer = FSQConfig(levels=(4, 4, 4))
    config = replace(CAUSAL, quantizer=quantizer)
    model = VidTok(config, "tiny").eval()

    def kept(**changes: Any) -> Result:
        other = VidTok(replace(config, **changes), "tiny").eval()
        other.load_state_dict(model.state_dict())
        candidate = TokenizerCandidate(tokenizer=other, name="tiny")
        return judged(candidate, data, work=tmp_path)

    trained = {"commitment": 0.5, "temperature": 1.0, "rounding_from": 9, "even": 0.1}
    changes: list[dict[str, Any]] = [
        {},
        {"quantizer": replace(quantizer, **trained)},
        {"upsampling": "trilinear"},
        {"edge": "past-first"},
        {"quantizer": FSQConfig(levels=(4, 2, 8))},
    ]
    results = [kept(**each) for each in changes]
    assert len({result.weights for result in results}) == 1
    assert results[0].settings == results[1].settings
    assert len([*tmp_path.iterdir()]) == 4
    assert len({result.summary["psnr"].mean for result in results}) == 4


def test_a_latent_is_drawn_where_that_is_asked_for(data: Path) -> None:
    """The same one each time; ids are never drawn."""
    torch.manual_seed(0)
    model = VidTok(replace(CONTINUOUS, width=8), "tiny").eval()
    mode, drawn, again = (
        judged(TokenizerCandidate(tokenizer=model, name="tiny", sample=sample), data)
        for sample in (False, True, True)
    )
    assert mode.settings["latent"] == "mode"
    assert drawn.settings["latent"] == "sample"
    values = [result.summary["psnr"].mean for result in (mode, drawn, again)]
    assert values[0] != values[1] == values[2]


def test_parts_of_a_file_are_drawn_together(data: Path, tmp_path: Path) -> None:
    rows = [f"{data / name}.mkv,{start},{start + 0.3}" for name in "ac" for start in (0, 0.2)]
    (tmp_path / "list.csv").write_text("\n".join(["path,start,end", *rows]))
    plan = replace(PLAN, frames=3)
    found = judged(Dim(), tmp_path / "list.csv", plan, work=tmp_path / "kept")
    groups = [f"{data / name}.mkv" for name in "aacc"]
    values, weights = [c["values"]["psnr"] for c in found.clips], [3] * 4
    assert len({c["name"] for c in found.clips}) == 4
    assert found.summary["psnr"] == estimate(values, weights, groups)
    assert found.summary["psnr"] != estimate(values, weights)
    assert Result.load(saved(found, tmp_path)).scores().summary() == found.summary
    again = judged(Dim(), tmp_path / "list.csv", plan, work=tmp_path / "kept")
    assert again.summary == found.summary
    whole = judged(Dim(), data)
    assert not any("source" in clip for clip in whole.clips)


def saved(result: Result, folder: Path) -> Path:
    result.save(folder / "result.json")
    return folder / "result.json"


def test_weights_that_are_used_in_another_way_are_judged_anew(data: Path, tmp_path: Path) -> None:
    """Their hash is the same, what they make is not."""
    torch.manual_seed(0)
    model = RefTok(RefTokConfig(body=COMPACT, start="webp", quality=30)).eval()
    results = [
        judged(TokenizerCandidate(tokenizer=tokenizer, name="t"), data, work=tmp_path)
        for tokenizer in (model, model.under(start="lossless"), model)
    ]
    bits = [result.summary["bits_per_pixel"].mean for result in results]
    assert bits[1] > 2 * bits[0]
    assert bits[2] == bits[0]


def test_what_is_to_be_kept_is_made_again_where_it_is_lost(data: Path, tmp_path: Path) -> None:
    kept: list[str] = []
    keep = lambda clip, coded: kept.append(clip.name)
    judged(Dim(), data, work=tmp_path, keep=keep)
    assert len(kept) == 3
    judged(Dim(), data, work=tmp_path, keep=keep, kept=lambda clip: clip.name != "b.mkv")
    assert kept[3:] == ["b.mkv"]


@pytest.mark.parametrize(("fault", "said"), [("NaN", "holds NaN"), ("shape", "4")])
def test_a_peer_at_fault_is_named(data: Path, fault: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"no clip could be judged .*dim, a.mkv: .*{said}"):
        judged(Dim(fault=fault), data)
    with pytest.raises(ValueError, match=r"2 clips could not be judged with dim, more than `max_"):
        judged(Dim(fault=fault), data, max_broken=1)


def test_why_no_clip_is_left_names_each_kind_of_reason() -> None:
    small = {"a.mp4": "64x96 pixels, but 240 are asked for", "b.mp4": "9 frames"}
    assert why_none({"c.mp4": "it is cut off"}, small) == (
        "2 clips, such as a.mp4: 64x96 pixels, but 240 are asked for; c.mp4 failed: it is cut off"
    )
    assert why_none({}, {}) == "there are none"


def test_random_weights_have_speed_but_no_quality(data: Path) -> None:
    result = judged(Dim(trained=False), data)
    assert "psnr" not in result.summary
    assert result.missing["psnr"].startswith("no weights")
    assert result.summary["encode_fps"].mean == pytest.approx(10)


def test_a_protocol_of_generators_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="bair judges generators"):
        judged(Dim(), data, PROTOCOLS["bair"])


def test_an_mp4_read_back_is_judged_where_the_protocol_says_so(data: Path) -> None:
    exact = judged(Dim(), data).summary["psnr"].mean
    lossy = judged(Dim(), data, replace(PLAN, via_mp4=True)).summary["psnr"].mean
    assert 8 < lossy < exact  # noise loses its colours


def test_a_tokenizer_of_ours_is_judged(data: Path) -> None:
    torch.manual_seed(0)
    model = VidTok(replace(COMPACT, width=8), "tiny").eval()
    result = judged(TokenizerCandidate(tokenizer=model, name="tiny"), data)
    assert result.weights == model.hash()
    assert result.summary["bits_per_pixel"].mean == pytest.approx(2 * 16 * 15 / (5 * 32 * 32))
    assert result.extra["parameters"] == model.parameter_count()
    assert result.extra["macs"] > 1e6
    assert result.settings["factors"] == [4, 8, 8]


def test_clips_are_completed_by_repeating_edges() -> None:
    x = torch.randn(1, 3, 4, 5, 6)
    whole = pad_clip(x, 6, (4, 4))
    assert whole.shape == (1, 3, 6, 8, 8)
    assert torch.equal(whole[:, :, :4, :5, :6], x)
    assert torch.equal(whole[:, :, 5, :5, :6], x[:, :, 3])
    assert torch.equal(whole[:, :, 0, 7, :6], x[:, :, 0, 4])


def test_what_an_earlier_run_kept_and_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ids").write_bytes(b"\x10\0\0\0")
    with pytest.raises(ValueError, match=r"a\.ids holds no ids .*`again`"):
        kept_ids(tmp_path / "a.ids")
