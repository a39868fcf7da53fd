"""Generators by their names, in 8-bit rows, and the frames that come along with a prior."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_priors import SIZE, prior_for

import reeltok
from reeltok.evaluate.push.locate import find_gripper
from reeltok.generate import flow, masked
from reeltok.generate import folder as folders
from reeltok.generate.bundle import bundle_generator, main
from reeltok.generate.folder import bundled_generators, find_generator, save_generator
from reeltok.generate.pipeline import GenerationRequest, generate_files, open_generator
from reeltok.generate.predictor import PriorPredictor
from reeltok.generate.recipes import prior_push
from reeltok.generate.starts import Starts, read_starts
from reeltok.models.reftok.network import RefTok
from reeltok.train.recipes import as_json
from reeltok.video.record import to_bytes

WEIGHTS = "model.safetensors"


def write_episodes(folder: Path, count: int, size: tuple[int, int] = SIZE) -> Path:
    """Clips of three frames with eight actions each, as `reeltok data push` writes them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        frames = torch.from_numpy(rng.integers(0, 255, (3, *size, 3), dtype=np.uint8))
        path = folder / f"push-5-{number:05d}.mkv"
        reeltok.write(reeltok.Video(frames, 10.0), path, lossless=True)
        np.save(path.with_suffix(".actions.npy"), rng.normal(size=(8, 2)).astype("float32"))
    return folder


@pytest.mark.parametrize(("seed", "numbers"), [(1, [0, 1, 2]), (2**80, [0, 1, 2]), (-3, [2, 0, 1])])
def test_starts_are_taken_in_turn_whatever_the_seed(seed: int, numbers: list[int]) -> None:
    frames = torch.arange(3.0).reshape(3, 1, 1, 1, 1)
    taken = Starts(frames=frames, actions=None).take(seed, 2, 3)
    assert taken.frames.flatten().tolist() == numbers


@pytest.fixture
def run(leaning: RefTok, tmp_path: Path) -> Path:
    """The folder of a run: recipe, log and model."""
    run = tmp_path / "run"
    prior = prior_for(leaning, 4, actions=2, fps=10.0)
    masked.save(prior, run / "model")
    (run / "recipe.json").write_text(as_json(prior_push()))
    lines = [
        {"step": 5, "time": 2.0, "validation": True, "held_out": 3.0, "masked": 2.5, "rare": 4.0},
        {"step": 9, "time": 4.0, "loss": 2.0},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def known(run: Path, tmp_path: Path, leaning: RefTok, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a bundled prior, with two frames to begin with."""
    home = tmp_path / "bundled"
    monkeypatch.setattr(folders, "BUNDLED", home)
    episodes = write_episodes(tmp_path / "episodes", 3)
    bundle_generator(
        run, home / "tiny-prior", hardware="a test", starts=episodes, count=2, notes=["So."]
    )
    leaning.save_pretrained(tmp_path / "leaning")
    return "tiny-prior"


def test_a_bundled_generator_is_found_by_its_name(known: str, run: Path) -> None:
    assert bundled_generators() == [known]
    small, full = masked.load(known), masked.load(run / "model")
    for name, weight in full.named_parameters():
        worst = (small.get_parameter(name) - weight).abs().max()
        assert worst <= weight.abs().max() / 120, name
    with pytest.raises(FileNotFoundError, match=r"RUN/model, or one of tiny-prior$"):
        find_generator("tiny")


def test_the_card_says_how_it_was_trained(known: str) -> None:
    card = (find_generator(known) / "README.md").read_text()
    assert card.startswith("# Model card: `tiny-prior`")
    for said in ("9 steps", "on a test", "reeltok train prior_push", "| 5 | 3 | 2.5 | 4 |", "So."):
        assert said in card, said


def test_it_begins_with_frames_and_actions_that_come_along(known: str, tmp_path: Path) -> None:
    tokenizer, request = str(tmp_path / "leaning"), GenerationRequest(steps=1, blocks=2)
    made = open_generator(Path(known), request, tokenizer=tokenizer, device="cpu")
    targets = [tmp_path / f"{number}.mkv" for number in range(3)]
    list(generate_files(made, targets, seed=1, lossless=True))
    starts = read_starts(known, made.clip)
    assert starts is not None
    assert starts.actions.shape == (2, 8, 2)
    videos = [reeltok.read(path) for path in targets]
    for number, video in enumerate(videos):
        assert len(video) == 1 + 2 * 4
        first = starts.frames[(number + 1) % 2, :, 0].permute(1, 2, 0)
        assert torch.equal(video.frames[0], ((first + 1) * 127.5).round().byte())
    other = tmp_path / "other.npy"
    np.save(other, np.full((8, 2), 3.0, "float32"))
    asked = GenerationRequest(steps=1, blocks=2, actions=other)
    told = open_generator(Path(known), asked, tokenizer=tokenizer, device="cpu")
    list(generate_files(told, [tmp_path / "told.mkv"], seed=1, lossless=True))
    found = reeltok.read(tmp_path / "told.mkv")
    assert torch.equal(found.frames[0], videos[0].frames[0])
    assert not torch.equal(found.frames[1:], videos[0].frames[1:])


def test_actions_that_do_not_fit_are_refused_before_anything_is_made(
    known: str, tmp_path: Path
) -> None:
    path, tokenizer = tmp_path / "acts.npy", str(tmp_path / "leaning")

    def ask(actions: np.ndarray | None, blocks: int) -> None:
        if actions is not None:
            np.save(path, actions.astype("float32"))
        asked = GenerationRequest(steps=1, blocks=blocks, actions=None if actions is None else path)
        open_generator(Path(known), asked, tokenizer=tokenizer, device="cpu")

    ask(np.zeros((8, 2)), 2)
    with pytest.raises(ValueError, match="holds 8 actions, a video of 13 frames needs 12"):
        ask(np.zeros((8, 2)), 3)
    with pytest.raises(ValueError, match="has 3 numbers in an action, this prior was trained on 2"):
        ask(np.zeros((8, 3)), 2)
    with pytest.raises(ValueError, match="comes with 8 actions, a video of 13 frames needs 12"):
        ask(None, 3)
    with pytest.warns(UserWarning, match="the first 4 of 8 actions are used"):
        ask(np.zeros((8, 2)), 1)
    with pytest.warns(UserWarning, match="the actions reach 1000, those that come with the prior"):
        ask(np.full((8, 2), 1000.0), 2)


def test_a_prior_without_any_asks_for_a_frame(known: str, run: Path, tmp_path: Path) -> None:
    tokenizer = str(tmp_path / "leaning")
    with pytest.raises(ValueError, match="name a video with `given`"):
        open_generator(run / "model", GenerationRequest(), tokenizer=tokenizer, device="cpu")
    given = GenerationRequest(given=tmp_path / "episodes" / "push-5-00000.mkv")
    with pytest.raises(ValueError, match="give them with `actions`"):
        open_generator(Path(known), given, tokenizer=tokenizer, device="cpu")


def test_frames_of_another_size_are_refused(known: str, leaning: RefTok, tmp_path: Path) -> None:
    write_episodes(find_generator(known) / "starts", 2, size=(8, 8))
    clip = masked.load(known).config.clip
    with pytest.raises(ValueError, match="8x8, the prior makes 16x24"):
        read_starts(known, clip)


def test_the_bundled_prior_moves_the_gripper_where_it_is_told() -> None:
    prior = PriorPredictor("prior-push")
    assert prior.tokenizer.hash() == reeltok.load("reftok-push").hash()
    starts = read_starts("prior-push", masked.pick_clip(prior.prior.config, prior.tokenizer))
    assert starts is not None
    frames = torch.cat([to_bytes(one[None]) for one in starts.frames[:3]])
    ways = {"no": (0, 0.0), "right": (0, 1.0), "left": (0, -1.0), "away": (1, 1.0), "near": (1, -1)}
    found = {"start": find_gripper(frames.numpy()).mean(0)}
    for name, (axis, much) in ways.items():
        actions = torch.zeros(len(frames), 8, 4)
        actions[:, :, axis] = much
        made = prior.follow(frames, actions, frames=9)[:, :, -1:]
        last = torch.cat([to_bytes(one[None]) for one in made])
        found[name] = find_gripper(last.numpy()).mean(0)
    assert np.abs(found["no"] - found["start"]).max() < 3
    assert found["right"][0] - found["left"][0] > 30  # pixels of 64, in 8 frames
    assert found["near"][1] - found["away"][1] > 20


def test_the_bundled_flow_is_of_the_bundled_planes() -> None:
    clip = flow.pick_clip(flow.load("sit-push").config, reeltok.load("coordtok-push"))
    assert (clip.frames, clip.height, clip.width) == (128, 64, 64)


@pytest.mark.slow
def test_the_bundled_flow_makes_an_arm_that_moves() -> None:
    """Red is the palm's alone; noise, or planes of one still picture, has none that moves."""
    tokenizer, model = reeltok.load("coordtok-push"), flow.load("sit-push")
    made = tokenizer.decode(flow.generate(model, tokenizer, count=2, steps=60, seed=0))
    assert isinstance(made, torch.Tensor)
    for one in made:
        frames = to_bytes(one[None].clamp(-1, 1))
        palm = find_gripper(frames.numpy())
        seen = palm[np.isfinite(palm).all(1)]
        assert len(seen) > 32
        assert (seen.std(0) > 3).any()  # pixels
        still = frames.float().std(0).mean((1, 2)) < 8  # rows of pixels: walls do not change
        assert still[-8:].all()


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "out"), "--hardware", "none"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_rows_of_few_bits_are_stored(leaning: RefTok, tmp_path: Path) -> None:
    prior = prior_for(leaning, 4)
    sizes = [
        (save_generator(prior, tmp_path / str(bits), family="masked", bits=bits) / WEIGHTS)
        .stat()
        .st_size
        for bits in (None, 8, 6)
    ]
    assert sizes[1] < 0.7 * sizes[0]
    assert sizes[2] < sizes[1]
