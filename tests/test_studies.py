"""A study from end to end in seconds, on made clips: it trains, judges, draws, and goes on."""

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from thorough import slow_but

from reeltok.generate import masked
from reeltok.generate.prior import Prior
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
    lines = study.rows(setting, 0)
    assert len({line.name for line in lines}) == len(lines)
    for line in lines:
        found = display.find_published(study.published, line.published)
        assert name in OURS or (found is None) == line.name.endswith(", even")  # ours alone
        with torch.device("meta"):
            for stage in line.stages:
                fresh = replace(stage, start="fresh")
                require_groups(fresh, build_model(fresh))


def test_bad_input_is_one_sentence(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"stages: there is no file or folder .*nothing"):
        conduct(load, monkeypatch, tmp_path / "nothing", tmp_path / "out")


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
