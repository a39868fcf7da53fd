"""A study from end to end in seconds, on made clips: it trains, judges, draws, and goes on."""

import argparse
import json
import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from push_episodes import draw_episode, write_episodes
from small_models import DISCRETE, save_random
from thorough import slow_but

from reeltok.generate import masked
from reeltok.generate.prior import Prior
from reeltok.models.reftok.flow import MotionConfig
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.layers import Conv
from reeltok.nn.linear import Linear
from reeltok.train.build import build_model
from reeltok.train.checks import require_groups
from reeltok.video.record import Video, write

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "studies"
NAMES = ("quantizers", "compression", "architecture", "stages", "frame_rate")
OURS = ("planes", "references")  # whose lines mostly have none of a paper beside them


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Import a script of studies/, which imports its neighbours by their bare names."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(STUDIES))
    for key in ("CACHE", "WEIGHTS", "SHARED"):  # no LPIPS weights, no clips of another test
        monkeypatch.setenv(f"REELTOK_{key}", str(tmp_path / key))
    known = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == STUDIES:
            del sys.modules[name]


def make_clips(folder: Path) -> Path:
    """Ten short clips of noise that moves, with a manifest; one may not be shown."""
    folder.mkdir()
    rows = ["file,group,repo,path,clear"]
    for number in range(10):
        field = np.random.default_rng(number).integers(0, 255, (64, 72, 3), dtype=np.uint8)
        steps = [np.roll(field, 2 * t, axis=1)[:, :64] for t in range(18)]
        video = Video(frames=torch.from_numpy(np.stack(steps)), fps=8.0)
        write(video, folder / f"{number}.mkv", lossless=True)
        rows.append(f"{number}.mkv,open,r,{number},{'yes' if number else 'no'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def conduct(load, monkeypatch: pytest.MonkeyPatch, data: Path, out: Path) -> None:
    """Run the study `stages` as people do, two steps a stage."""
    stages = load("stages")
    words = ["stages.py", "--data", str(data), "--out", str(out), "--steps", "2", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--device", "cpu"])
    load("command").run(stages.STUDY)


def test_what_draws_at_the_end_is_imported_at_the_start() -> None:
    """Where matplotlib is missing that is said at once, and not after hours of training."""
    for path in [*STUDIES.glob("*.py"), *(ROOT / "bench").glob("*.py")]:
        assert not re.search(r"^\s+(from|import) matplotlib", path.read_text(), re.M), path.name


def test_a_study_writes_what_it_found_and_uses_its_runs_again(
    load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_clips(tmp_path / "clips"), tmp_path / "stages"
    conduct(load, monkeypatch, data, out)
    record, table = json.loads((out / "record.json").read_text()), (out / "table.md").read_text()
    assert {"cpu", "commit"} <= set(record["machine"])
    assert "At small scale" in table
    assert "29.21" in table, "the published line stands beside ours"
    assert (out / "stages.png").stat().st_size > 0
    scores = {row["name"]: row["scores"] for row in record["rows"]}
    assert all(np.isfinite(found["psnr"]) for found in scores.values())
    cost = {name: found["tflop"] for name, found in scores.items()}
    assert cost["32"] < cost["32 then 64, encoder fixed"] < cost["32 then 64, encoder trained"]
    trained = {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*/cost.json")}
    assert len(trained) == 4, "three lines share their first stage"
    conduct(load, monkeypatch, data, out)
    assert {p: p.stat().st_mtime_ns for p in trained} == trained
    assert (out / "table.md").read_text() == table
    asked = load("lab").Lab(study=load("stages").STUDY, data=data, out=out, setting="tiny")
    assert "0.mkv" not in asked.clear()
    assert "1.mkv" in asked.clear()


@pytest.mark.parametrize("name", [*NAMES, *OURS])
@pytest.mark.parametrize("setting", slow_but(["tiny"], ["tiny", "full"]))
def test_every_line_of_every_study_can_be_built(load, name: str, setting: str) -> None:
    study = load(name).STUDY
    display = load("display")
    build_lines(study, setting)
    if study.simulated is not None and setting == "tiny":
        assert all(line.follow for line in build_lines(study.simulated, "push"))
    for line in study.rows(setting, 0):
        found = display.find_published(study.published, line.published)
        assert name in OURS or (found is None) == line.name.endswith(", even")  # ours alone


def build_lines(study, setting: str) -> list:
    """The lines of a study, each with a name of its own and stages that can be built."""
    lines = study.rows(setting, 0)
    assert len({line.name for line in lines}) == len(lines)
    for line in lines:
        with torch.device("meta"):
            for stage in line.stages:
                fresh = replace(stage, start="fresh")
                require_groups(fresh, build_model(fresh))
    return lines


def test_bad_input_is_one_sentence(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"stages: there is no file or folder .*nothing"):
        conduct(load, monkeypatch, tmp_path / "nothing", tmp_path / "out")


def test_operations_are_counted_whatever_library_computes_them(load) -> None:
    torch.manual_seed(0)
    conv, product = Conv(64, 64, (3, 3, 3)), Linear(64, 32)
    x, counted = torch.randn(1, 4, 16, 16, 64), []
    for way in (torch.enable_grad, torch.no_grad):  # torch's own, and by oneDNN where it is there
        with way(), load("judging").flop_counter() as counter:
            product(conv.convolve(x))
        counted.append(counter.get_total_flops())
    multiplied = 2 * 16 * 16 * (2 * 27 * 64 * 64 + 2 * 64 * 32)  # two frames: time is not padded
    assert counted == [multiplied, multiplied]


def test_long_clips_are_measured(load, capsys: pytest.CaptureFixture[str]) -> None:
    study = load("long_clips")
    torch.manual_seed(0)
    whole = study.taken(study.step_of("CoordTok, whole clip", 16, 32))
    assert whole["processor_s"] > 0
    assert whole["mib"] >= 0
    study.one(["flow", "1280"], 32)
    assert json.loads(capsys.readouterr().out)["processor_s"] > 0
    found = {"processor_s": 1.0, "mib": 2.0}
    steps = {f"{way} 16": found for way in study.WAYS} | {f"{study.WAYS[0]} 32": {}}
    steps |= {f"{way} 32": found for way in study.WAYS[1:]}
    record = {
        "step": steps,
        "flow": dict.fromkeys(map(str, study.CELLS), found),
        "sample": dict.fromkeys(study.SAMPLERS, found),
    }
    text = study.tables(record, [16, 32])
    assert "| CoordTok, random patches | 2 | failed |" in text
    assert "CoordTok-SiT-L/2 9.8 s, 4.5 GB" in text


@pytest.mark.slow
def test_leaning_compares_ways_to_code(load, tmp_path: Path) -> None:
    study, reeltok = load("leaning"), import_module("reeltok")
    data = make_clips(tmp_path / "clips")
    assert study.eval_shots(data) == [], "18 frames are too few"
    model = reeltok.load("reftok-robot", weights="random")
    with torch.no_grad():  # untrained injections are zero: nothing leans yet
        for name, weight in model.named_parameters():
            if "_injection" in name:
                weight.normal_(std=0.3)
    shots = [
        study.Shot(
            str(i),
            torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(i)) * 2 - 1,
        )
        for i in range(2)
    ]
    found = study.judge_all(study.variants(model, shots), shots, None)
    means = {name: np.mean([one.scores["psnr"] for one in each]) for name, each in found.items()}
    assert len(set(means.values())) == len(means), "every way is another"
    assert len(study.by_block(found["previous"])) == 3
    bits = {name: each[0].bits for name, each in found.items()}
    assert bits["first, given"] < bits["previous"] < bits["previous, frame 0 lossless"]
    apart = study.gap(found["previous"], found["none"], "psnr")
    assert apart.mean == pytest.approx(means["previous"] - means["none"])
    assert apart.low <= apart.mean <= apart.high
    lines = study.table(found, "none")
    assert len(lines) == 2 + len(found)
    assert f"| {bits['previous']:,} |" in lines[2]
    joined = study.cut_shots(shots)
    assert torch.equal(joined[0].x[:, :, :9], shots[0].x)


def test_the_page_and_its_record_speak_of_the_bundled_weights(load) -> None:
    """New weights need new figures: a record names the hashes that its page names."""
    study, reeltok = load("leaning"), import_module("reeltok")
    leaning, plain = reeltok.load("reftok-default"), reeltok.load("default")
    page = (ROOT / "docs" / "reftok.md").read_text()
    models = study.named(leaning, leaning, plain)
    assert models["default"] == {"name": "default", "weights": plain.hash()}
    for model in (leaning, plain):
        assert f"`{model.hash()[:12]}`" in page, f"measure {model.name} again"
    hashes = {model.name: model.hash() for model in (leaning, plain)}
    for path in sorted((ROOT / "docs" / "studies").glob("*.json")):
        record = json.loads(path.read_text())
        for one in record.get("models", {}).values() if isinstance(record, dict) else ():
            assert one["weights"] == hashes.get(one["name"], one["weights"]), f"{path.name} is old"
        assert path.stem != "leaning" or "models" in record, "it may be that of other weights"


def test_priors_are_judged_by_what_they_predict(load, tmp_path: Path) -> None:
    study, reeltok = load("priors"), import_module("reeltok")
    shots = [
        torch.rand(1, 3, 6, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1
        for i in (0, 1)
    ]
    judged, sizes = {}, {}
    for name, model, frames in (("RefTok", "reftok-robot", 5), ("plain", "reftok-robot-none", 5)):
        tokenizer = reeltok.load(model, weights="random")
        size = {"width": 24, "depth": 1, "heads": 2}
        config = masked.config_for(tokenizer, frames=frames, size=(32, 32), **size)
        rival = study.Rival(name, Prior(config).eval(), tokenizer)
        judged[name], sizes[name] = study.judge(rival, shots, None, samples=2), 1.0
    found = {name: study.summary(one) for name, one in judged.items()}
    assert all(one["best psnr"] >= one["psnr"] for one in found.values())
    assert torch.equal(judged["RefTok"].first[0][:, :, :1], shots[0][:, :, :1]), "frame 0 is given"
    still = study.judge(study.Still(), shots, None, samples=2).first[0]
    assert torch.equal(still[:, :, 5:], shots[0][:, :, :1])
    assert study.best("lpips", torch.tensor([0.2, 0.1])) == pytest.approx(0.1)
    text = study.table(found, sizes)
    assert text.count("| RefTok |") == 1
    assert "best ssim" in text
    study.draw(shots, judged, [0], tmp_path / "priors.png")
    assert (tmp_path / "priors.png").stat().st_size > 0
    with pytest.raises(ValueError, match="give NAME=RUN"):
        study.open_rival("runs/prior")


def test_crops_are_boxes_of_a_clip(load) -> None:
    study = load("crops")
    x = torch.rand(1, 3, 49, 128, 128)
    for place in study.PLACES:
        assert place.of(x).shape[-2:] == (study.SIDE, study.SIDE), "the box lies inside"
    side = study.SIDE * study.SCALE
    assert study.enlarged(study.PLACES[0].of(x)).shape == (3, side, side)


def test_the_ceiling_of_motion_pays_its_bits(load) -> None:
    study = load("motion_ceiling")
    assert study.golomb(torch.tensor([[0, 0, 0, 0], [1, -1, 0, 2]])).tolist() == [4, 12]
    x = torch.rand(1, 5, 16, 24, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, block = x[:, 0], x[:, 1:]
    assert torch.allclose(study.restore(study.transform(block), block), block, atol=1e-5)
    still = study.predict(before, torch.zeros(2, 3, 4))
    assert torch.equal(still, x[:, :1].expand(-1, 4, -1, -1, -1))
    made = {kind: study.code(before, block, kind) for kind in study.KINDS}
    scores = {kind: study.psnr(each.frames, block) for kind, each in made.items()}
    assert made["copy"].vectors == 0 < made["motion"].vectors
    assert scores["copy"] > study.psnr(still, block)
    assert scores["motion, free vectors"] >= scores["motion"] >= scores["vectors"]


def test_speed_of_motion_compares_an_episode_with_itself(load, tmp_path: Path) -> None:
    study = load("speed_of_motion")
    real, _ = draw_episode(21)
    assert np.array_equal(study.at_speed(real, 4, 6)[:, 0], real[::4][:6, 0])
    assert np.array_equal(study.at_speed(real, 0, 6), np.repeat(real[:1], 6, axis=0))
    with pytest.raises(ValueError, match="6 frames at speed 5 take 26, an episode has 21"):
        study.at_speed(real, 5, 6)
    repeated = study.score_changes(real, np.broadcast_to(real[:1], real.shape))
    assert repeated["still"] == pytest.approx(80), (
        "pixels that do not change are those of the first frame"
    )
    assert repeated["changing"] < 15
    assert "changing" not in study.score_changes(real[:1], real[:1])
    write_episodes(tmp_path / "held", 3, 21)
    asked = argparse.Namespace(
        model=str(save_random({"small": DISCRETE}, tmp_path)["small"]),
        data=tmp_path / "held",
        frames=6,
        episodes=2,
        out=tmp_path / "out",
    )
    study.study(asked)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert len(record["episodes"]) == 2
    changes = [one["model"]["4"]["all pixels"] for one in record["episodes"].values()]
    slower = [one["model"]["1"]["all pixels"] for one in record["episodes"].values()]
    found = record["found"]["model, all pixels, change"]["1 to 4"]
    assert found["mean"] == pytest.approx(np.mean(changes) - np.mean(slower), abs=1e-4)
    share = record["found"]["share of pixels that change"]
    assert 0 == share["0"]["mean"] < share["1"]["mean"] < share["4"]["mean"]
    assert "| mean frame, all pixels | exact |" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "speed_of_motion.png").stat().st_size > 0


def test_a_verdict_counts_if_its_sign_stays_and_nothing_shrinks(load, tmp_path: Path) -> None:
    study = load("points")
    noise = np.random.default_rng(0).normal(size=(2, 8, 20))
    steps = range(100, 900, 100)

    def runs(rise: float, growth: float = 0.0) -> list:
        """Two seeds, twenty clips: so many dB above what is hard, more with every step."""
        hard = 20 + 5 * noise[0, 0]
        return [
            {
                step: {"psnr": (hard + rise + growth * step / 800 + 0.1 * noise[seed, i]).tolist()}
                for i, step in enumerate(steps)
            }
            for seed in (0, 1)
        ]

    verdict = lambda ours, **how: study.decide(ours, runs(0), "psnr", **how).verdict
    assert verdict(runs(1)) == "holds at 800 steps"
    assert verdict(runs(-1)) == "does not hold at 800 steps"
    assert verdict(runs(-1), less=True) == "holds at 800 steps"
    assert verdict(runs(1, -0.8)) == "not shown at 800 steps: it shrinks"
    assert verdict(runs(-1, 0.8)) == "not shown at 800 steps: it shrinks"
    assert verdict(runs(0)) == "not shown at 800 steps"
    assert verdict(runs(-0.9, 1.5)) == "not shown at 800 steps", "the sign changes on the way"
    found = study.decide(runs(1), runs(0), "psnr")
    assert found.gains[800].low < 1.1
    assert found.gains[800].high - found.gains[800].low < 0.5, "what makes a clip hard cancels"
    text = study.verdict_table({"ours over theirs": [found]})
    assert "| ours over theirs | psnr | +" in text
    study.draw_gains({"ours over theirs": [found]}, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").stat().st_size > 0


def test_points_keep_every_clip_and_survive_a_restart(load, tmp_path: Path) -> None:
    study, judging = load("points"), load("judging")
    model = build_small()
    clips = [
        (None, 2 * torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(i)) - 1)
        for i in range(3)
    ]
    seen, how = judging.Seen({None: clips}, None), judging.Judge(frames=9, size=32)
    validate = study.record_points(model, seen, how, tmp_path)
    means = validate(5)
    validate(10)
    kept = study.read_points(tmp_path)
    assert list(kept) == [5, 10]
    assert np.mean(kept[5]["psnr"]) == pytest.approx(means["psnr"], abs=1e-4)
    with torch.no_grad():
        alone = judging.compare(None, clips[1][1], how.pass_through(model.eval(), clips[1][1]))
        coded = replace(how, coded=True).pass_through(model, clips[0][1])
        passed = how.pass_through(model, clips[0][1])
    assert kept[5]["psnr"][1] == pytest.approx(alone["psnr"], abs=0.01)
    assert torch.allclose(coded.clamp(-1, 1), passed.clamp(-1, 1), atol=1e-4)


def build_small() -> torch.nn.Module:
    torch.manual_seed(1)
    return VidTok(DISCRETE, "small")


def test_seeds_trained_elsewhere_are_judged_along(load, tmp_path: Path) -> None:
    """One seed here, the other from the record that it left: as if both had been trained here."""
    command, study, lab = load("command"), load("references").STUDY.simulated, load("lab")
    both = lab.Lab(study=study, data=tmp_path, out=tmp_path, setting="push")
    results = [
        lab.Result(
            row=row,
            seed=seed,
            scores={"packed": 300.0 - place, "psnr": 20.0},
            stages=[],
            points={n: {"psnr": [20.0 - place, 21.0 + seed]} for n in (4, 8)},
        )
        for seed in (0, 1)
        for place, row in enumerate(study.rows("push", seed))
    ]
    command.write(both, results[:4])
    known = command.read_record(both, tmp_path / "record.json")
    assert known == results[:4]
    command.write(both, [*known, *results[4:]])
    study.draw(both, [*known, *results[4:]])
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["rows"]) == 8
    twin = record["verdicts"]["RefTok over its twin, equal nominal bits"]["psnr"]
    assert twin["gains"]["8"]["mean"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"seed 0 is asked and in --known"):
        command.conduct(both, range(1), known)
    with pytest.raises(ValueError, match=r"record of references push, not of planes push"):
        command.read_record(
            replace(both, study=load("planes").STUDY.simulated), tmp_path / "record.json"
        )
    del record["rows"][0]["points"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"keeps no scores of single clips"):
        command.read_record(both, tmp_path / "old.json")


def test_lines_meet_at_equal_packed_bits(load) -> None:
    study, lab = load("references"), load("lab")
    levels = (20.0, 15.0, 18.0, 10.0)
    bits = (300.0, 500.0, 400.0, 200.0)
    results = []
    for line, psnr, packed in zip(study.PUSH_LINES, levels, bits, strict=True):
        row = lab.Row(name=line.name, stages=(), judge=None)
        points, scores = {8: {"psnr": [psnr, psnr + 1]}}, {"packed": packed}
        results.append(lab.Result(row=row, seed=0, scores=scores, stages=[], points=points))
    mixed, weight, ratio = study.at_packed_bits(results)
    assert (weight, ratio) == (pytest.approx(0.5), 1.0)
    assert "RefTok over Cosmos-style FSQ, equal packed bits" in study.push_verdicts(results)[0]
    assert mixed == [{8: {"psnr": [14.0, 15.0]}}]
    results[0].scores["packed"] = 100.0
    assert study.at_packed_bits(results)[1] == 0.0, "nothing is extrapolated"
    found, _ = study.push_verdicts(results)
    assert list(found)[2] == "RefTok over Cosmos-style FSQ, -50% packed bits"
    assert [one[0].gains[8].mean for one in found.values()] == [5.0, 2.0, 10.0]
    found, weight = study.push_verdicts(results[:2])
    assert list(found) == ["RefTok over its twin, equal nominal bits"]
    assert weight is None


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_a_claim_in_simulation_runs_from_end_to_end(
    load, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_episodes(tmp_path / "push", 60, 131 if name == "planes" else 17, side=64)
    words = ["--data", str(tmp_path / "push"), "--out", str(tmp_path / "out"), "--setting", "push"]
    words += ["--steps", "4", "--seeds", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [name, *words])
    load("command").run(load(name).STUDY)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    for verdicts in record["verdicts"].values():
        assert {"psnr", "changing"} <= set(verdicts)
        assert len(verdicts["psnr"]["gains"]) >= 2
    assert "In simulation" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 0


def test_refinement_is_compared_with_none(load, monkeypatch: pytest.MonkeyPatch) -> None:
    study, leaning = load("refinement"), load("leaning")
    monkeypatch.setattr(study, "STEPS", (0, 2))
    torch.manual_seed(0)
    shots = [leaning.Shot("a", torch.rand(1, 3, 5, 16, 16) * 2 - 1)]
    model = VidTok(DISCRETE).eval()
    found = study.judge(model, model, shots)
    assert (found[0]["gain"], found[2]["gain"] > 0) == (0.0, True)
    assert found[2]["psnr"][0] - found[0]["psnr"][0] == pytest.approx(found[2]["gain"])
    assert found[2]["encoding over decoding"] > found[0]["encoding over decoding"]


def test_bits_are_weighed_against_psnr(load, tmp_path: Path) -> None:
    pytest.importorskip("constriction")
    from tests.tokenizer.test_rate import clip, made

    study, leaning = load("rate"), load("leaning")
    for kind in ("fsq", "skipping"):
        plain = made(kind, tmp_path / kind)
        rows = study.judge(plain, [leaning.Shot("a", clip())], [0.0, 20.0])
        assert [row.get("rate_weight") for row in rows] == [None, 0.0, 20.0]
        assert rows[2]["bits_per_token"] <= rows[1]["bits_per_token"]
        assert rows[1]["psnr"] > rows[0]["psnr"]
        assert (rows[0]["skipped"] > 0) == (kind == "skipping")
        per_pixel = rows[0]["bits_per_token"] * plain.encode(clip()).ids.numel() / (9 * 16 * 24)
        assert rows[0]["bits_per_pixel"] == pytest.approx(per_pixel)


def test_a_transplanted_reftok_is_its_body(load) -> None:
    study = load("transplant")
    torch.manual_seed(0)
    body = VidTok(replace(DISCRETE, edge="past-first", upsampling="nearest")).eval()
    torch.manual_seed(1)
    model = RefTok(RefTokConfig(body=body.config, width=4, motion=MotionConfig(width=4))).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "_injection" in name or "flow" in name:
                weight.normal_(std=0.5)
    x = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    before = {k: v.clone() for k, v in model.state_dict().items() if "reference_encoder" in k}
    assert not torch.equal(model.encode(x).ids, body.encode(x).ids)
    study.transplant(model, body)
    assert torch.equal(model.encode(x).ids, body.encode(x).ids)
    torch.testing.assert_close(model.decode(model.encode(x)), body.decode(body.encode(x)))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
