"""`evaluate`, `compare`, `probe`: what a user sees of judging, of peers at fault, of going on."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moving_clips import moving
from ran import Ran

import reeltok
from reeltok.evaluate.comparison import Comparison

Run = Callable[..., Ran]
Models = dict[str, Path]
WHOLE = ("--protocol", "shared-eval-whole")
PEERS = """
def fine(x): return x * .9
def narrow(x): return x[..., :-1]
def short(x): return x[:, :, :-1]
def nothing(x): return x * float("nan")
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Three clips, and one that is none."""
    place = tmp_path / "clips"
    place.mkdir()
    for number, name in enumerate("abc"):
        reeltok.write(moving(5 + number), place / f"{name}.mp4")
    (place / "broken.mp4").write_bytes(bytes(100))
    return place


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, without weights of judges and with peers of all kinds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REELTOK_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "none"))
    (tmp_path / "peers_of_a_test.py").write_text(PEERS)
    return tmp_path


def page(folder: Path) -> dict[str, Any]:
    found = re.search(
        r'type="application/json">(.*?)</script>', (folder / "index.html").read_text(), re.DOTALL
    )
    assert found
    return json.loads(found[1])


def test_evaluate_counts_and_goes_on(run: Run, models: Models, clips: Path, there: Path) -> None:
    words = ("evaluate", models["discrete"], clips, *WHOLE, "--work", "work")
    first = run(*words)
    assert first.code == 0
    assert "3 clips in clips (1 broken)" in first.out
    assert "no weights" in first.out
    assert "put alexnet-owt-7be5be79.pth into" in first.out
    assert re.search(r"note: broken.mp4 left out: .*is not a video", first.err)
    again = run(*words, "--json").json
    assert again["broken"].keys() == {"broken.mp4"}
    assert again["missing"].keys() >= {"lpips-alex", "fvd-i3d", "appearance"}
    assert {clip["name"] for clip in again["clips"]} == {"a.mp4", "b.mp4", "c.mp4"}
    # The seconds are those of the first run: nothing was coded again.
    kept = [f"{again['summary'][key]['mean']:.1f}" for key in ("encode_fps", "decode_fps")]
    assert all(value in first.out for value in kept)
    strict = run(*words, "--max-broken", 0)
    assert strict.code == 2
    assert "1 clip could not be judged with discrete, more than --max-broken 0" in strict.err


def test_compare_makes_one_report(run: Run, models: Models, clips: Path, there: Path) -> None:
    peers = ("--peer", "h264", "--peer", "resize", "--peer", "peers_of_a_test:fine")
    made = run("compare", models["discrete"], *peers, clips, *WHOLE, "--work", "w", "--out", "r")
    assert made.code == 0
    assert len([line for line in made.err.splitlines() if "broken.mp4" in line]) == 1
    assert "left out for all" in made.err
    names = [model["name"] for model in page(there / "r")["models"]]
    assert names[:3] == ["discrete", "h264, bits of each clip", "h264, bits of the set"]
    assert names[-2:] == ["resize", "peers_of_a_test:fine"]
    assert page(there / "r")["judged"] == "3 clips in clips"
    results = sorted((there / "r" / "results").glob("*.json"))
    from_files = run("compare", *results[:2], "--out", "s")
    assert from_files.code == 0
    assert len(page(there / "s")["models"]) == 2


def test_a_report_is_never_among_the_clips(
    run: Run, models: Models, clips: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips)
    for data in (".", clips, "**/*.mp4", "*"):
        ran = run("compare", models["discrete"], data, *WHOLE)
        assert ran.code == 2
        assert f"in report would be among the clips of {data}: name another --out" in ran.err
    ran = run("compare", models["discrete"], "*.mp4", *WHOLE, "--work", there / "w")
    assert ran.code == 0, ran.err
    assert page(clips / "report")["title"] == "1 result on 3 clips"


def test_all_candidates_have_the_clips_that_the_first_one_found(
    run: Run, models: Models, clips: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Comparison.judge

    def and_more(self: Comparison, candidate: Any) -> Any:
        found = judge(self, candidate)
        shutil.copy(clips / "a.mp4", clips / "late.mp4")
        return found

    monkeypatch.setattr(Comparison, "judge", and_more)
    words = (models["discrete"], f"b={models['discrete']}", clips, *WHOLE, "--work", "w")
    results = run("compare", *words, "--out", "r", "--json").json["results"]
    assert [len(result["clips"]) for result in results] == [3, 3]


def test_the_title_counts_the_clips_of_the_table(
    run: Run, models: Models, clips: Path, there: Path
) -> None:
    assert run("evaluate", models["discrete"], clips, *WHOLE, "--out", "one.json").code == 0
    (clips / "c.mp4").unlink()
    assert run("evaluate", models["discrete"], clips, *WHOLE, "--out", "two.json").code == 0
    assert run("compare", "one.json", "two.json", "--out", "r").code == 0
    assert page(there / "r")["title"] == "2 results on 2 clips"
    assert page(there / "r")["judged"] == "2 clips in clips"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--peer", "h264"), "--peer is for what is judged now, on DATA"),
        (("--device", "cuda"), "--device is for what is judged now, on DATA"),
        (("--protocol", "vidtok"), "--protocol is for what is judged now, on DATA"),
        (("--root", "x"), "--root is for what is judged now, on DATA"),
        (("--chunk", 5), "--chunk is for tokenizers that are judged now"),
        (("--tile", 64), "--tile is for tokenizers that are judged now"),
        (("--dtype", "bf16"), "--dtype is for tokenizers that are judged now"),
        (("--weights", "x"), "--weights is for tokenizers that are judged now"),
        (("clips",), "all models are results and there is no --peer: leave clips out"),
    ],
)
def test_what_results_have_no_use_for_is_refused(
    run: Run, there: Path, words: tuple[str, ...], said: str
) -> None:
    Path("one.json").write_text("{}")
    ran = run("compare", "one.json", *words, "--out", "r")
    assert ran.code == 2
    assert said in ran.err
    assert not (there / "r").exists()


def test_a_record_replaces_nothing_that_is_read(
    run: Run, models: Models, clips: Path, there: Path
) -> None:
    shutil.copytree(models["discrete"], there / "model")
    (clips / "manifest.csv").write_text("file\na.mp4\n")
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    for words in (
        ("push", "model", clips, "--out", clips / "manifest.csv"),
        ("push", "model", clips, "--beside", "model", "--out", "model/config.json"),
        ("fvd", clips, clips, "--out", clips / "a.mp4"),
        ("evaluate", "model", clips, "--out", "model/config.json"),
        ("bair", "model", clips, "--out", "model/model.safetensors"),
    ):
        ran = run(*words, "--force")
        assert ran.code == 2
        assert "lies in what is read" in ran.err
    assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == before


def test_codecs_are_matched_to_the_first_model_named(
    run: Run, models: Models, clips: Path, there: Path
) -> None:
    """Be it a result or a model, whichever was judged before."""
    how = (*WHOLE, "--work", "w")
    assert run("evaluate", models["discrete"], clips, *how, "--out", "d.json").code == 0
    found = json.loads(Path("d.json").read_text())
    for clip in found["clips"]:
        clip["bits"] *= 3
    Path("dear.json").write_text(json.dumps(found))
    for first, second, times in (
        (models["discrete"], "dear=dear.json", 1),
        ("dear.json", "d.json", 3),
    ):
        words = ("compare", first, second, clips, "--peer", "h264", *how, "--out", "r", "--json")
        results = run(*words).json["results"]
        bits = [sum(clip["bits"] for clip in each["clips"]) for each in results[:2]]
        assert bits[0] == times * sum(clip["bits"] for clip in found["clips"]) / 3
        assert bits[1] != bits[0]
        assert results[2]["settings"]["role"] == "clip"
        assert results[2]["settings"]["bits"] == bits[0]


def test_models_are_called_by_their_runs(
    run: Run, models: Models, clips: Path, there: Path
) -> None:
    for name in ("a", "b"):
        shutil.copytree(models["discrete"], there / "runs" / name / "model")
    words = ("runs/a/model", "runs/b/model", "third=runs/a/model", clips, *WHOLE, "--work", "w")
    made = run("compare", *words, "--out", "r")
    assert made.code == 0, made.err
    assert [model["name"] for model in page(there / "r")["models"]] == ["a", "b", "third"]
    assert "| a |" in made.out
    results = sorted((there / "r" / "results").glob("*.json"))
    again = run("compare", f"mine={results[0]}", results[1], "--out", "s")
    assert again.code == 0
    assert page(there / "s")["models"][0]["name"] == "mine"


def test_clips_left_out_are_told(run: Run, models: Models, clips: Path, there: Path) -> None:
    (clips / "broken.mp4").unlink()
    reeltok.write(moving(17, 240, 256), clips / "large.mp4")
    words = (models["discrete"], clips, "--work", "w")
    made = run("compare", *words, "--out", "r")
    assert made.code == 0, made.err
    assert (
        "The protocol leaves out 3 of 4: a.mp4 (32x40 pixels, but 240 are asked for), " in made.out
    )
    assert set(page(there / "r")["left_out"]) == {"a.mp4", "b.mp4", "c.mp4"}
    assert "The protocol leaves out 3 of 4: a.mp4 (" in run("evaluate", *words).out


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("narrow", r"was given frames \(1, 3, 5, 32, 40\) and gave back \(1, 3, 5, 32, 39\)"),
        ("short", r"was given frames \(1, 3, 5, 32, 40\) and gave back \(1, 3, 4, 32, 40\)"),
        ("nothing", "holds NaN or infinity"),
    ],
)
def test_a_peer_at_fault_is_named(
    run: Run, models: Models, clips: Path, there: Path, peer: str, said: str
) -> None:
    (clips / "broken.mp4").unlink()
    words = ("compare", models["discrete"], "--peer", f"peers_of_a_test:{peer}", clips, *WHOLE)
    ran = run(*words, "--work", "w", "--out", "r", "--max-broken", 0)
    assert ran.code == 2
    assert re.search(rf"peers_of_a_test:{peer}.*{said}", ran.err)


@pytest.mark.parametrize("wrong", [("--peer", "h266"), ("--peer", "h264@good"), ("nothing",)])
def test_a_wrong_name_is_told_before_anything_is_judged(
    run: Run, models: Models, clips: Path, there: Path, wrong: tuple[str, ...]
) -> None:
    ran = run("compare", models["discrete"], *wrong, clips, *WHOLE, "--work", "w", "--out", "r")
    assert ran.code == 2
    assert wrong[-1] in ran.err
    assert not (there / "r").exists()
    assert not (there / "w").exists()


def test_mixed_protocols_are_refused(run: Run, models: Models, clips: Path, there: Path) -> None:
    for name, protocol in (("one", "shared-eval-whole"), ("two", "vidtok")):
        words = ("--protocol", protocol, "--work", "w", "--out", f"{name}.json")
        assert run("evaluate", models["discrete"], clips, *words).code == 0
    ran = run("compare", "one.json", "two.json", "--out", "r")
    assert ran.code == 2
    assert re.search(r"do not compare, they differ in name .*frames \(None and 17\)", ran.err)


def test_what_would_not_compare_is_refused_before_it_is_judged(
    run: Run, models: Models, clips: Path, there: Path
) -> None:
    words = ("--work", "w", "--out", "r", "--protocol")
    both = models["discrete"], models["noncausal"]
    ran = run("compare", *both, clips, *words, "vidtok")
    assert ran.code == 2
    assert re.search(r"do not compare, they differ in frames \(17 and 16\): vidtok", ran.err)
    assert run("evaluate", both[1], clips, *WHOLE, "--work", "v", "--out", "one.json").code == 0
    ran = run("compare", "one.json", both[0], clips, *words, "shared-eval")
    assert ran.code == 2
    assert "differ in name ('shared-eval-whole' and 'shared-eval')" in ran.err
    assert not (there / "w").exists()
    assert run("compare", "one.json", both[0], clips, *words, WHOLE[1]).code == 0
    assert len(page(there / "r")["models"]) == 2


@pytest.mark.slow
def test_two_processes_share_the_clips(run: Run, models: Models, clips: Path, there: Path) -> None:
    words = [str(models["discrete"]), str(clips), *WHOLE, "--peer", "h264"]
    alone = run("compare", *words, "--work", "w", "--out", "alone")
    assert alone.code == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [
        *launch,
        "-m",
        "reeltok",
        "compare",
        *words,
        "--work",
        "v",
        "--out",
        "shared",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("report: ") == 1
    one, two = page(there / "alone"), page(there / "shared")
    assert [clip["name"] for clip in two["clips"]] == ["a.mp4", "b.mp4", "c.mp4"]
    for first, second in zip(one["models"], two["models"], strict=True):
        assert first["videos"] == second["videos"]
        means = [model["values"]["psnr"]["mean"] for model in (first, second)]
        exact = first["kind"] == "tokenizer"  # x264's bytes may depend on how threads are scheduled
        assert means[0] == pytest.approx(means[1], abs=1e-4 if exact else 0.2)


def test_the_probe_reads_a_corpus(run: Run, models: Models, tmp_path: Path) -> None:
    for number in range(10):
        place = tmp_path / "clips" / ("odd", "even")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        video = moving(10, 32 if number % 2 else 64, 64)
        reeltok.write(video, place / f"{number}.mkv", lossless=True)
    out = tmp_path / "tokens"
    options = ("--model", models["discrete"], "--frames", 5, "--size", "32x32", "--device", "cpu")
    assert run("corpus", "build", tmp_path / "clips", out, *options).code == 0
    found = run("probe", models["discrete"], out, "--labels", "group", "--json")
    assert found.code == 0, found.err
    assert (found.json["labels"], found.json["clips"]) == ({"even": 5, "odd": 5}, 10)
    words = ("probe", models["discrete"], out, "--labels", "group")
    for idle in (("--protocol", "ucf-128"), ("--root", tmp_path)):
        said = f"{idle[0]} is for clips, and DATA is a corpus: leave it out"
        assert said in run(*words, *idle).err
    refused = run("probe", models["discrete"], out, "--labels", "colour")
    assert "has the columns group: 'colour' is none of them" in refused.err


def test_the_probe_leaves_a_broken_clip_out(run: Run, models: Models, tmp_path: Path) -> None:
    lines = ["path,label"]
    for number in range(10):
        video = moving(17, 32 if number % 2 else 64, 64)
        reeltok.write(video, tmp_path / f"{number}.mkv", lossless=True)
        lines.append(f"{number}.mkv,{number % 2}")
    (tmp_path / "x.mkv").write_text("not a video")
    (tmp_path / "list.csv").write_text("\n".join([*lines, "x.mkv,1"]))
    words = ("probe", models["discrete"], tmp_path / "list.csv")
    found = run(*words, "--labels", f"{tmp_path}/list.csv:label", *WHOLE, "--json")
    assert found.code == 0, found.err
    assert "x.mkv left out" in found.err
    assert list(found.json["broken"]) == ["x.mkv"]
