"""A deterministic predictor of pixels: what it is made of, its training, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from push_episodes import write_episodes
from torch import Tensor

from reeltok.generate.pixels.network import (
    UNIT,
    FramePredictor,
    FramePredictorConfig,
    Seen,
    compose,
    from_squares,
    load,
    save,
    to_squares,
)
from reeltok.generate.pixels.predictor import PixelPredictor
from reeltok.generate.pixels.recipe import PIXELS, PixelRecipe, pixel_push
from reeltok.generate.pixels.training import (
    ActedClips,
    ActedSource,
    PixelTask,
    predictor_of,
)
from reeltok.parallel import Rank
from reeltok.recipes import find_recipe, run_recipe, try_recipe
from reeltok.train.launch import open_clip_source
from reeltok.train.loop import split_batch
from reeltok.train.recipe import as_json, change

SMALL = FramePredictorConfig(size=16, actions=4, widths=(8, 12))
CPU = Rank(device=torch.device("cpu"))


@pytest.fixture
def network() -> FramePredictor:
    """Random weights everywhere, the last layer too, which begins with zeros."""
    torch.manual_seed(0)
    model = FramePredictor(SMALL)
    torch.nn.init.normal_(model.conv_out.weight, std=0.1)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("pixels") / "clips", 6, 8)


def small_recipe() -> PixelRecipe:
    windows = (
        '[{"frames": 3, "size": 32, "batch": 4, "until": 2}, '
        '{"frames": 5, "size": 32, "batch": 2, "since": 2}]'
    )
    return change(
        pixel_push(),
        {
            "settings.widths": "[8, 8]",
            "data.windows": windows,
            "data.validation": '{"frames": 5, "size": 32, "batch": 2}',
            "data.holdout": "0.2",
            "loop.schedule": '{"steps": 4}',
            "loop.validate_every": "2",
            "loop.precision": "fp32",
        },
    )


def inputs(count: int = 2, frames: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(count, 3, 1, 16, 16, generator=generator) * 2 - 1
    return start, torch.rand(count, frames, 4, generator=generator) * 2 - 1


def test_shapes_and_batches(network: FramePredictor) -> None:
    start, actions = inputs()
    made = network(start, actions)
    assert made.shape == (2, 3, 3, 16, 16)
    assert torch.equal(made, network(start, actions))  # nothing is drawn
    near = {"rtol": 1e-4, "atol": 1e-4}  # a single clip may take another kernel
    torch.testing.assert_close(made[1:], network(start[1:], actions[1:]), **near)
    torch.testing.assert_close(made[:, :, :2], network(start, actions[:, :2]), **near)  # causal
    with pytest.raises(ValueError, match=r"a frame is 8x8, this network predicts 16x16: scale it"):
        network(start[..., :8, :8], actions)


def test_untrained_it_holds_the_frame() -> None:
    """All of the field is zero then, and the mask mixes what is the same but for the colours."""
    start, actions = inputs()
    made = FramePredictor(SMALL)(start, actions).detach()
    still = start.expand_as(made)
    assert float((made - still).abs().mean()) < 0.15 * float(still.abs().mean())


def test_actions_and_every_weight_matter(network: FramePredictor) -> None:
    start, actions = inputs()
    made = network(start, actions)
    other = actions.clone()
    other[:, 1, 0] += 1
    changed = (network(start, other) - made).abs().amax(dim=(0, 1, 3, 4))
    assert changed[0] == 0
    assert changed[1:].min() > 1e-4  # the action between frames 1 and 2, and all that follows
    made.square().mean().backward()
    still = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert still == []


def test_layers_are_moved_and_mixed() -> None:
    first, last = torch.rand(2, 1, 1, 6, 6, 3)
    parts = torch.zeros(1, 1, 6, 6, 8)
    parts[..., 0], parts[..., 2:5] = 2 / UNIT, 0.5
    seen = Seen(first=first, last=last, memory=torch.zeros(1, 1, 1, 1, 1))
    chosen = []
    for layer in range(3):
        parts[..., 5:] = -50.0
        parts[..., 5 + layer] = 50.0
        chosen.append(compose(seen, parts))
    torch.testing.assert_close(chosen[0][:, :, :4], last[:, :, 2:])  # what is two rows below
    torch.testing.assert_close(chosen[1], first)
    torch.testing.assert_close(chosen[2], torch.full_like(first, 0.5))
    x = torch.rand(1, 1, 4, 6, 3)
    assert torch.equal(from_squares(to_squares(x)), x)


def test_the_field_is_learned_from_the_loss() -> None:
    """A picture that moves by one pixel a frame: a few steps halve the error of a still one."""
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 1, 20, 20).round()
    clip = torch.cat([picture[..., 2:18, i : i + 16] for i in range(3)], dim=2) * 2 - 1
    batch = ActedClips(x=clip, actions=torch.ones(1, 2, 4))
    task = PixelTask(FramePredictor(SMALL), "l2")
    optimizer = torch.optim.Adam(task.model.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        found = task.loss(batch, step, None)
        found.total.backward()
        optimizer.step()
        losses.append(found.total.item())
    assert losses[-1] < 0.5 * losses[0]


def test_it_is_kept_and_judged(network: FramePredictor, tmp_path: Path) -> None:
    save(network, tmp_path)
    start, actions = inputs()
    torch.testing.assert_close(load(tmp_path)(start, actions), network(start, actions))
    bytes_of = ((start[:, :, 0].permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
    made = PixelPredictor(tmp_path).follow(bytes_of, actions, frames=3, seed=5)
    assert (made.shape, made.device.type) == ((2, 3, 3, 16, 16), "cpu")
    torch.testing.assert_close(made[:, :, 0], start[:, :, 0], atol=0.01, rtol=0)
    assert made.abs().max() <= 1
    for wrong in (None, actions[..., :3], actions[:, :1]):
        with pytest.raises(ValueError, match="3 frames follow from 2 actions of 4 numbers, given"):
            PixelPredictor(tmp_path).follow(bytes_of, wrong, frames=3)
    (tmp_path / "config.json").write_text('{"family": "masked", "config": {}}')
    with pytest.raises(ValueError, match="holds a 'masked', not a predictor of pixels"):
        load(tmp_path)


def test_a_mirrored_window_has_mirrored_actions(data: Path, tmp_path: Path) -> None:
    """Frames and actions are those of the same moment: in these clips all goes right."""
    for clip in data.glob("*.mkv"):
        actions = np.arange(8, dtype=np.float32)[:, None].repeat(4, axis=1) + 1
        np.save(clip.with_suffix(".actions.npy"), actions)
    recipe = small_recipe()
    source = ActedSource(open_clip_source(recipe, data, tmp_path, CPU), recipe, CPU)
    assert source(0).x.shape == (4, 3, 3, 32, 32)
    assert source(2).actions.shape == (2, 4, 4)
    assert torch.equal(source(1).x, source(1).x)
    mirrored = 0
    for index in range(12):
        window, drawn = source.source.draw(0, index)
        found = source.sample(0, index)
        expected = torch.arange(drawn.start, drawn.start + window.frames - 1) + 1.0
        torch.testing.assert_close(found.actions[0, :, 1], expected)
        sign = -1 if drawn.mirrored else 1
        torch.testing.assert_close(found.actions[0, :, 0], sign * expected)
        mirrored += drawn.mirrored
    assert 0 < mirrored < 12
    halves = split_batch(source(0), 2)
    assert [len(half) for half in halves] == [2, 2]
    assert torch.equal(halves[1].x, source(0).x[2:])


def test_a_run_stops_goes_on_and_is_the_same(data: Path, tmp_path: Path) -> None:
    recipe = small_recipe()
    whole = run_recipe(recipe, data=data, out=tmp_path / "whole")
    half = change(recipe, {"loop.schedule.steps": "2"})
    run_recipe(half, data=data, out=tmp_path / "cut")
    cut = run_recipe(recipe, data=data, out=tmp_path / "cut", resume=True)
    pairs = zip(whole.model.parameters(), cut.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    for name in ("log.jsonl", "recipe.json", "model/config.json", "best/model.safetensors"):
        assert (tmp_path / "whole" / name).is_file()
    assert set(whole.validate()) == {"psnr", "changing"}
    assert find_recipe(tmp_path / "whole") == recipe


@pytest.mark.parametrize(("levels", "counted"), [(10, False), (11, True)])
def test_pixels_that_change_differ_by_more_than_ten_levels(
    network: FramePredictor, levels: int, counted: bool
) -> None:
    first = torch.arange(256).remainder(245).view(1, 1, 1, 16, 16).expand(-1, 3, -1, -1, -1)
    x = torch.cat([first, first + levels], dim=2) / 255 * 2 - 1

    class Held(ActedSource):
        def __init__(self) -> None: ...

        def validation(self) -> Iterator[ActedClips]:
            yield ActedClips(x=x, actions=torch.zeros(1, 1, 4))

    found = PixelTask(network, "l2", held_out=Held()).validate(0)
    assert ("changing" in found) == counted


def test_recipes(tmp_path: Path) -> None:
    for name, make in PIXELS.items():
        assert make().name == name
        (tmp_path / "recipe.json").write_text(as_json(make()))
        assert find_recipe(tmp_path) == make() == find_recipe(name)
    tried = try_recipe(small_recipe())
    assert tried.parameters == sum(p.numel() for p in predictor_of(small_recipe()).parameters())
    assert 1.9e6 < sum(p.numel() for p in predictor_of(pixel_push()).parameters()) < 2.3e6
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert all(f"`{name}`" in page for name in PIXELS)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data.strides", "[1, 2]", "data.strides=(1, 2) makes other frames"),
        ("data.fps", "5", "data.fps=5.0 makes other frames"),
        ("data.windows.0.size", "16", "data.windows and data.validation have 16, 32: give one"),
        ("data.windows.0.frames", "1", "a window of 1 frame holds nothing to predict"),
        ("mirrored", "[4]", "names numbers of an action, which has 4: count from 0"),
    ],
)
def test_what_a_recipe_refuses(key: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match="recipe") as error:
        change(small_recipe(), {key: value})
    assert said in str(error.value)


def test_what_training_refuses(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="halve the size 32 as often"):
        predictor_of(change(small_recipe(), {"settings.widths": json.dumps([8] * 6)}))
    with pytest.raises(ValueError, match="need 7 of 5"):
        run_recipe(change(small_recipe(), {"actions": "5"}), data=data, out=tmp_path / "five")
    bare = write_episodes(tmp_path / "bare", 2, 8)
    (bare / "push-0-00001.actions.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"push-0-00001\.actions\.npy"):
        run_recipe(small_recipe(), data=bare, out=tmp_path / "none")
