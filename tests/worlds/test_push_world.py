"""The pushing world's physics and policy: no pictures, so that it runs wherever MuJoCo does."""

import json
import sys
import threading
from itertools import groupby
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from reeltok.cli.main import main
from reeltok.worlds import episodes, pictures
from reeltok.worlds.actions import STRIDE, steer
from reeltok.worlds.push import World, first_draw, open_mujoco, play
from reeltok.worlds.scene import HEIGHT, PALM, REACH, TABLE, draw_scene, mjcf, to_pixels

pytest.importorskip("mujoco", reason="needs mujoco (extra sim)")
GOLDEN = Path(__file__).parents[1] / "golden" / "push.json"


def a_world(number: int = 0) -> World:
    return World(draw_scene(np.random.default_rng(number)))


def test_an_episode_is_decided_by_its_seed_and_number() -> None:
    first, again, other = play(3, 1, frames=12), play(3, 1, frames=12), play(3, 2, frames=12)
    np.testing.assert_array_equal(first.truth.objects, again.truth.objects)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert not np.array_equal(first.actions, other.actions)
    longer = play(3, 1, frames=20)
    np.testing.assert_array_equal(longer.truth.gripper[:12], first.truth.gripper)


def test_positions_are_those_that_were_kept() -> None:
    """30 frames, within a millimetre, on any machine (`make golden` writes them)."""
    for number, kept in enumerate(json.loads(GOLDEN.read_text())["episodes"]):
        truth = play(0, number, frames=30).truth
        np.testing.assert_allclose(truth.gripper[:, :3], kept["gripper"], atol=1e-3)
        np.testing.assert_allclose(truth.objects[..., :3], kept["objects"], atol=1e-3)


@pytest.mark.parametrize("number", range(3))
def test_stored_actions_lead_from_each_frame_to_the_next(number: int) -> None:
    """Played again, they give the stored positions, of which each is as physics has it."""
    found, world = play(5, number, frames=30), World(first_draw(5, number))
    asked = []
    for frame, action in enumerate(found.actions):
        fingers, things = world.data.qpos[3:5], world.data.qpos[5:].reshape(-1, 7)
        hand = [*world.data.qpos[:3], fingers.mean()]
        np.testing.assert_allclose(found.truth.gripper[frame], hand, atol=1e-6)
        np.testing.assert_allclose(found.truth.objects[frame], things, atol=1e-6)
        asked.append(world.target[3])
        world.step(np.round(action.astype(np.float64), 3))  # as they were before float32
    assert np.abs(found.truth.gripper[:, 3] - asked).max() > 1e-3  # the fingers lag behind
    assert not np.array_equal(found.actions[:, 0], found.actions[:, 1])


def test_the_truth_is_of_each_object_and_frame() -> None:
    scene, truth = first_draw(1, 2), play(1, 2, frames=30, side=48).truth
    assert truth.shapes == tuple(thing.shape for thing in scene.things)
    np.testing.assert_allclose(truth.colours, [thing.colour for thing in scene.things], atol=1e-6)
    places = [thing.place[:2] for thing in scene.things]
    np.testing.assert_allclose(truth.objects[0, :, :2], places, atol=0.03)
    pixels = to_pixels(truth.objects[..., :3], 48)
    np.testing.assert_allclose(truth.objects_pixels, pixels, atol=1e-3)
    assert np.abs(pixels[-1] - pixels[0]).max() > 1
    palms = truth.gripper[:, :3] + np.array([0, 0, PALM])
    np.testing.assert_allclose(truth.gripper_pixels, to_pixels(palms, 48), atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_hand_goes_where_it_is_sent(axis: int) -> None:
    world, action = a_world(), np.zeros(4)
    world.target[:3] = world.data.qpos[:3] = (0, 0, 0.15)  # above everything
    action[axis] = 0.5
    before = world.hand
    for _ in range(2):
        world.step(action)
    world.step(np.zeros(4))
    gone = world.hand - before
    assert gone[axis] == pytest.approx(STRIDE[axis], abs=4e-3)
    others = np.delete(gone[:3], axis)
    assert np.abs(others).max() < 2e-3
    world.step(np.array([0, 0, 0, 1.0]))
    assert world.hand[3] < before[3]  # the fingers close


def test_the_hand_stays_within_its_reach() -> None:
    target = np.array([0.0, 0, 0.1, 0.02])
    for _ in range(40):
        target = steer(target, np.array([1, -1, 1, 1]))
    np.testing.assert_allclose(target, [REACH[0], -REACH[1], HEIGHT[1], 0])


def test_what_is_pushed_moves_and_what_is_not_stays() -> None:
    world = a_world(4)
    thing = world.things[0, :3]
    side = np.array([-0.11, 0.0])
    others = world.things[1:, :2]
    far = np.hypot(*(others - thing[:2]).T) > 0.2
    world.data.qpos[:3] = (*(thing[:2] + side), 0.014)
    world.target[:3] = world.data.qpos[:3]
    for _ in range(4):
        world.step(np.array([0.9, 0, 0, 0]))
    moved = world.things[:, :2] - np.vstack([thing[:2], others])
    assert moved[0, 0] > 0.03
    assert np.abs(moved[1:][far]).max() < 5e-3


def test_episodes_are_as_the_page_says() -> None:
    """Nothing leaves the bin, half of the episodes move an object, actions are of every kind."""
    moved, actions = [], []
    for number in range(24):
        found = play(1, number, frames=30)
        places = found.truth.objects[..., :3]
        assert np.abs(places[..., :2]).max() < TABLE
        assert places[..., 2].min() > 0
        moved.append(np.linalg.norm(places[-1] - places[0], axis=-1).max() > 0.02)
        actions.append(found.actions)
    assert np.mean(moved) >= 0.5
    every = np.concatenate(actions)
    assert 0.12 < (every == 0).all(1).mean() < 0.32
    assert 0.1 < ((every != 0).sum(1) == 1).mean() < 0.3
    held = [len(list(run)) for _, run in groupby(map(tuple, actions[0][:-8]))]
    assert max(held) <= 16  # two of eight that happen to be the same
    assert np.abs(every).max() <= 1


def test_scenes_differ_and_shadows_can_be_left_out() -> None:
    scenes = [draw_scene(np.random.default_rng(number)) for number in range(12)]
    assert {len(scene.things) for scene in scenes} <= {3, 4, 5, 6}
    assert len({scene.table for scene in scenes}) == 12
    assert 'castshadow="false"' in mjcf(scenes[0], side=64, shadows=0)
    assert 'castshadow="true"' in mjcf(scenes[0], side=64)


def test_right_and_up_in_the_picture_are_x_and_z() -> None:
    middle, right, up = to_pixels(np.array([[0, 0, 0], [0.1, 0, 0], [0, 0, 0.1]]), 64)
    assert middle[0] == pytest.approx(32)
    assert right[0] > middle[0] + 5
    assert right[1] == pytest.approx(middle[1])
    assert up[1] < middle[1] - 3


def test_without_mujoco_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"pip install 'reeltok\[sim\]'"):
        open_mujoco()


def test_what_opens_and_does_not_draw_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GLFW without a display: its context opens, and MuJoCo fails at the first use of it."""
    import mujoco

    def fail(*words: object) -> None:
        raise mujoco.FatalError("no valid OpenGL context")

    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(pictures, "open_context", lambda backend, side: MagicMock())
    monkeypatch.setattr(mujoco, "MjrContext", fail)
    monkeypatch.setattr(episodes, "CAMERAS", threading.local())
    with pytest.raises(
        ImportError, match=r"glfw does not draw \(no valid OpenGL context\): it needs"
    ):
        pictures.Camera(16)
    assert main(["data", "push", str(tmp_path / "push"), "--episodes", "1"]) == 2
    said = capsys.readouterr().err
    assert "glfw does not draw" in said
    assert "Traceback" not in said
