"""`generate`: flows and priors, seeds, given frames, long videos, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_clips import moving
from ran import Ran
from small_generators import make_flow, make_prior, make_tokenizers

import reeltok

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generators in runs of their own, their tokenizers beside them; `lonely` has none."""
    base = tmp_path_factory.mktemp("generators")
    toks = make_tokenizers()
    two = ("walk", "run")
    shown = {"classes": two, "dropout": 0.1}
    made = {
        "flow": make_flow(toks["planes"], base / "flow" / "model"),
        "classes": make_flow(
            toks["planes"], base / "classes" / "model", classes=two, label_dropout=0.1
        ),
        "unmeasured": make_flow(toks["planes"], base / "unmeasured" / "model", known=False),
        "lonely": make_flow(toks["planes"], base / "lonely"),
        "prior": make_prior(toks["plain"], base / "prior" / "model", frames=5, **shown),
        "leaning": make_prior(toks["leaning"], base / "leaning" / "model", frames=4),
        "actions": make_prior(toks["plain"], base / "actions" / "model", frames=5, actions=2),
        "other": make_prior(toks["plain"], base / "other" / "model", frames=5),
    }
    pairs = {"flow": "planes", "classes": "planes", "unmeasured": "planes", "prior": "plain"}
    pairs |= {"leaning": "leaning", "actions": "plain"}
    for name, tok in pairs.items():
        toks[tok].save_pretrained(base / name / "tokenizer")
    wider = reeltok.load("default", weights="random")
    wider.save_pretrained(base / "other" / "tokenizer")
    return made


def frames_of(path: Path) -> torch.Tensor:
    return reeltok.read(path).frames


@pytest.mark.parametrize("sampler", ["euler-maruyama", "heun", "dopri5"])
def test_a_flow_makes_the_same_videos_again(
    run: Run, generators: dict[str, Path], tmp_path: Path, sampler: str
) -> None:
    steps = () if sampler == "dopri5" else ("--steps", 3)
    asked = (*steps, "--sampler", sampler, "--lossless", "--count", 3, "--json")
    one = run("generate", generators["flow"], "--out", tmp_path / "new" / "a", *asked)
    assert one.code == 0, one.err
    assert [row["frames"] for row in one.json["videos"]] == [4, 4, 4]
    assert (one.json["family"], one.json["videos"][0]["fps"]) == ("flow", 10)
    run("generate", generators["flow"], "--out", tmp_path / "b", "--batch", 2, *asked)
    run("generate", generators["flow"], "--out", tmp_path / "c", "--seed", 1, *asked)
    names = [f"{i:03d}.mkv" for i in range(3)]
    same = [frames_of(tmp_path / "new" / "a" / n) == frames_of(tmp_path / "b" / n) for n in names]
    assert all(equal.float().mean() > 0.999 for equal in same)  # batches round differently
    assert not torch.equal(
        frames_of(tmp_path / "new" / "a" / "000.mkv"), frames_of(tmp_path / "new" / "a" / names[1])
    )
    assert not torch.equal(
        frames_of(tmp_path / "new" / "a" / "000.mkv"), frames_of(tmp_path / "c" / "000.mkv")
    )


def test_classes_and_guidance(run: Run, generators: dict[str, Path], tmp_path: Path) -> None:
    asked = ("--steps", 3, "--lossless")
    for name, more in {"a": ("walk", 1), "b": ("run", 1), "c": ("run", 4)}.items():
        out, which = tmp_path / name, ("--class", more[0], "--guidance", more[1])
        found = run("generate", generators["classes"], "--out", out, *which, *asked)
        assert found.code == 0, found.err
    out = ("--out", tmp_path / "avi", "--class", "walk", "--suffix", ".avi")
    assert run("generate", generators["classes"], *out, *asked).code == 0
    assert torch.equal(
        frames_of(tmp_path / "avi" / "000.avi"), frames_of(tmp_path / "a" / "000.mkv")
    )
    a, b, c = (frames_of(tmp_path / name / "000.mkv") for name in "abc")
    assert not torch.equal(a, b)
    assert not torch.equal(b, c)


def test_a_prior_out_of_nothing(run: Run, generators: dict[str, Path], tmp_path: Path) -> None:
    asked = ("--steps", 2, "--class", "run", "--count", 2, "--lossless", "--json")
    one = run("generate", generators["prior"], "--out", tmp_path / "a", *asked)
    assert one.code == 0, one.err
    assert [row["frames"] for row in one.json["videos"]] == [5, 5]
    run("generate", generators["prior"], "--out", tmp_path / "b", "--batch", 1, *asked)
    for name in ("000.mkv", "001.mkv"):
        assert torch.equal(frames_of(tmp_path / "a" / name), frames_of(tmp_path / "b" / name))
    long = run("generate", generators["prior"], "--out", tmp_path / "c", "--blocks", 3, *asked)
    assert [row["frames"] for row in long.json["videos"]] == [13, 13]
    made = frames_of(tmp_path / "c" / "001.mkv")
    assert torch.equal(made[:5], frames_of(tmp_path / "a" / "001.mkv"))


@pytest.mark.parametrize(("name", "given", "frames"), [("prior", 2, 5), ("leaning", 1, 5)])
def test_a_prior_goes_on_from_given_frames(
    run: Run, generators: dict[str, Path], tmp_path: Path, name: str, given: int, frames: int
) -> None:
    source = moving(8, 32, 32)
    reeltok.write(source, tmp_path / "clip.mkv", lossless=True)
    asked = ("--given", tmp_path / "clip.mkv", "--given-frames", given, "--lossless", "--json")
    found = run("generate", generators[name], "--out", tmp_path / "a", "--steps", 2, *asked)
    assert found.code == 0, found.err
    assert found.json["videos"][0]["frames"] == frames
    start = reeltok.read(tmp_path / "clip.mkv", frames=given, size=(16, 16)).frames
    assert torch.equal(frames_of(tmp_path / "a" / "000.mkv")[:given], start)
    long = run("generate", generators[name], "--out", tmp_path / "b", "--blocks", 2, *asked)
    assert long.json["videos"][0]["frames"] == frames + frames - given


@pytest.mark.parametrize("name", ["prior", "leaning"])
def test_a_prior_fills_gaps(
    run: Run, generators: dict[str, Path], tmp_path: Path, name: str
) -> None:
    reeltok.write(moving(8, 16, 16), tmp_path / "clip.mkv", lossless=True)
    asked = ("--given", tmp_path / "clip.mkv", "--steps", 2, "--lossless", "--json")
    whole = frames_of(tmp_path / "clip.mkv")[:5]
    ways = {"ends": ("--last-frames", 1), "hole": ("--inpaint", "4,4,12,16")}
    ways["box"] = ("--outpaint", "4,4,12,16")
    made = {}
    for way, words in ways.items():
        found = run("generate", generators[name], "--out", tmp_path / way, *words, *asked)
        assert found.code == 0, found.err
        assert "the first 5 of 8 frames of" in found.err
        made[way] = frames_of(tmp_path / way / "000.mkv")
        assert made[way].shape == whole.shape
        assert torch.equal(made[way][0], whole[0]) or way != "ends"
        assert not torch.equal(made[way], whole)
    assert torch.equal(made["ends"][-1], whole[-1])
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[4:12, 4:16] = True
    assert torch.equal(made["hole"][:, ~hole], whole[:, ~hole])
    assert torch.equal(made["box"][:, hole], whole[:, hole])


def test_gaps_that_cannot_be_filled(run: Run, generators: dict[str, Path], tmp_path: Path) -> None:
    reeltok.write(moving(4, 16, 16), tmp_path / "short.mkv", lossless=True)
    short = ("--given", tmp_path / "short.mkv")
    wrong = {
        "has 4 frames, 5 were to be given": (*short, "--last-frames", 1),
        "'4,4,12' is not a box: give TOP,LEFT,BOTTOM,RIGHT": (*short, "--inpaint", "4,4,12"),
        "does not lie in frames of 16x16": (*short, "--outpaint", "4,4,12,40"),
        "--inpaint needs a video: name one with --given": ("--inpaint", "4,4,12,12"),
        "--inpaint and --outpaint do not go": ("--inpaint", "0,0,2,2", "--outpaint", "0,0,2,2"),
        "--last-frames and --blocks do not go": (*short, "--last-frames", 1, "--blocks", 2),
    }
    for said, words in wrong.items():
        found = run("generate", generators["prior"], "--out", tmp_path / "out", *words)
        assert (found.code, said in found.err.splitlines()[-1]) == (2, True), found.err


def test_the_middle_of_a_wide_clip_is_given(
    run: Run, generators: dict[str, Path], tmp_path: Path
) -> None:
    reeltok.write(moving(3, 16, 24), tmp_path / "wide.mkv", lossless=True)
    asked = ("--given", tmp_path / "wide.mkv", "--steps", 1, "--lossless")
    found = run("generate", generators["prior"], "--out", tmp_path / "a", *asked)
    assert "cropped to the middle 16x16" in found.err
    start = reeltok.read(tmp_path / "wide.mkv", frames=1).frames[:, :, 4:20]
    assert torch.equal(frames_of(tmp_path / "a" / "000.mkv")[:1], start)


def test_actions_decide(run: Run, generators: dict[str, Path], tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", np.full((20, 2), 50.0 * number))
        asked = ("--actions", tmp_path / f"{number}.npy", "--blocks", 2, "--steps", 1, "--lossless")
        found = run("generate", generators["actions"], "--out", tmp_path / str(number), *asked)
        assert found.code == 0, found.err
    a, b = (frames_of(tmp_path / name / "000.mkv") for name in "01")
    assert len(a) == 9
    assert not torch.equal(a, b)
    np.save(tmp_path / "wide.npy", np.zeros((20, 5)))
    asked = ("--actions", tmp_path / "wide.npy", "--out", tmp_path / "c")
    found = run("generate", generators["actions"], *asked)
    assert (found.code, "has 5 numbers in an action, this prior was trained on 2" in found.err) == (
        2,
        True,
    )


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("unmeasured", (), "no latent statistics: measure those of its training clips"),
        ("flow", ("--guidance", 3), "guidance=3.0 was asked, but this model was trained without"),
        ("flow", ("--class", "walk"), "but the model is unconditional"),
        ("flow", ("--suffix", "mkv"), "--suffix mkv has no dot: give --suffix .mkv"),
        ("classes", ("--class", "wlak"), "there is no class 'wlak': did you mean 'walk'?"),
        ("classes", ("--guidance", 2), "guidance=2.0 needs a class: name one of walk, run"),
        ("flow", ("--sampler", "rk4"), "no sampler is called 'rk4'"),
        ("flow", ("--sampler", "dopri5", "--steps", 9), "steps=9 was asked, but dopri5 chooses"),
        ("flow", ("--steps", 1), "a path needs at least 2 points in time"),
        ("flow", ("--given", "x.mp4"), "--given was asked, but"),
        ("prior", ("--sampler", "euler"), "holds a prior: leave it out"),
        ("leaning", ("--guidance", 3), "without dropout of its conditions: leave guidance=1"),
        ("prior", ("--guidance", 2), "guidance=2.0 needs a class: name one of walk, run"),
        ("prior", ("--class", "runn"), "did you mean 'run'?"),
        ("prior", ("--schedule", "cubic"), "no schedule is called 'cubic'"),
        ("prior", ("--given-frames", 2), "needs a video: name one with --given"),
        ("leaning", (), "continues a reference frame: name a video with --given"),
        ("actions", (), "give them with --actions FILE.npy"),
        ("prior", ("--actions", "x.npy"), "was trained without actions"),
        ("other", (), "a vocabulary of 32768: load the tokenizer it was trained on"),
        ("lonely", (), "name its folder with --tokenizer"),
        ("lonely", ("--tokenizer", "absent"), "there is no model or folder 'absent'"),
    ],
)
def test_what_generate_refuses(
    run: Run,
    generators: dict[str, Path],
    tmp_path: Path,
    name: str,
    words: tuple[object, ...],
    said: str,
) -> None:
    found = run("generate", generators[name], "--out", tmp_path / "out", *words)
    assert found.code == 2
    assert said in found.err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.mp4"))


def test_samples_of_another_run_are_not_mixed_in(
    run: Run, generators: dict[str, Path], tmp_path: Path
) -> None:
    """They would be judged as one set, as would those that a longer run left."""
    out, asked = tmp_path / "made", ("--steps", 2, "--count", 2)
    assert run("generate", generators["flow"], "--out", out, *asked).code == 0
    (out / "notes.txt").write_text("mine")
    for words, left in ((("--lossless",), "000.mp4"), (("--force", "--count", 1), "001.mp4")):
        found = run("generate", generators["flow"], "--out", out, *asked, *words)
        assert found.code == 2
        assert f"holds {left}, which this run does not write: remove it" in found.err
    assert run("generate", generators["flow"], "--out", out, *asked, "--force").code == 0
    assert {path.name for path in out.iterdir()} == {"000.mp4", "001.mp4", "notes.txt"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--suffix", ".xyz"), "unknown suffix '.xyz': known are .mp4"),
        (("--suffix", ".mp4", "--lossless"), "ffv1 video does not go into .mp4: use .mkv or .avi"),
        (("--suffix", ".jpg", "--lossless"), "lossless does not go with JPEG: use .png"),
        (("--suffix", ".png"), "one .png file holds one frame and the video has more"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_made(
    run: Run,
    generators: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.setattr("reeltok.generate.flow.generate", lambda *a, **k: pytest.fail("it ran"))
    asked = ("--out", tmp_path / "out", "--count", 2, *words)
    found = run("generate", generators["flow"], *asked)
    assert found.code == 2
    assert said in found.err.splitlines()[-1]


def test_folders_of_something_else(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    found = run("generate", models["causal"], "--out", tmp_path / "out")
    assert "holds a vidtok and no generator" in found.err.splitlines()[-1]
    found = run("generate", tmp_path, "--out", tmp_path / "out")
    assert "there is no config.json" in found.err.splitlines()[-1]
    (tmp_path / "000.mp4").write_text("mine")
    found = run("generate", models["causal"], "--out", tmp_path)
    assert "give --force to replace it" in found.err.splitlines()[-1]
