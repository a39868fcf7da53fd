"""The pushing world: an arm moves among objects on a table, by actions of four numbers a frame.

Physics by MuJoCo (extra `sim`); pictures are those of `reeltok.worlds.pictures`, which need OpenGL.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from reeltok.data.push import Truth
from reeltok.worlds.actions import Policy, steer
from reeltok.worlds.scene import PALM, STEPS, Scene, draw_scene, mjcf, to_pixels

SETTLE = 200  # steps of physics, a second, in which what was dropped comes to rest


def open_mujoco() -> ModuleType:
    """MuJoCo. ImportError that names the extra where it is not installed."""
    try:
        import mujoco
    except ImportError:
        raise ImportError(
            "a simulated world needs mujoco, which is not installed: pip install 'reeltok[sim]'"
        ) from None
    return mujoco


class World:
    """A scene in motion. `model` and `data` are MuJoCo's; `target` is where the hand was sent."""

    def __init__(self, scene: Scene, *, side: int = 64, shadows: int = 512) -> None:
        self.mujoco = open_mujoco()
        self.scene, self.side = scene, side
        self.model: Any = self.mujoco.MjModel.from_xml_string(
            mjcf(scene, side=side, shadows=shadows)
        )
        self.data: Any = self.mujoco.MjData(self.model)
        self.target = np.array([*scene.gripper, scene.opening])
        self.data.qpos[:5] = [*scene.gripper, scene.opening, scene.opening]
        self._command(self.target)
        self.mujoco.mj_step(self.model, self.data, nstep=SETTLE)

    def step(self, action: np.ndarray) -> None:
        """Move on to the next frame: the hand goes evenly to where the action sends it."""
        since, self.target = self.target, steer(self.target, action)
        for step in range(1, STEPS + 1):
            self._command(since + (self.target - since) * step / STEPS)
            self.mujoco.mj_step(self.model, self.data)

    def _command(self, target: np.ndarray) -> None:
        self.data.ctrl[:] = [*target, target[3]]

    @property
    def hand(self) -> np.ndarray:
        """Where the hand is: x, y, z of the finger tips and the opening, "4"."""
        return np.array([*self.data.qpos[:3], self.data.qpos[3:5].mean()])

    @property
    def things(self) -> np.ndarray:
        """Where the objects are, x, y, z and a quaternion (w first): "n 7"."""
        return np.array(self.data.qpos[5:]).reshape(-1, 7)


@dataclass(frozen=True, eq=False, kw_only=True)
class Episode:
    """What one episode holds: "t h w 3" pictures (None without), "t 4" actions, positions."""

    frames: np.ndarray | None
    actions: np.ndarray
    truth: Truth


def drawer(seed: int, number: int) -> np.random.Generator:
    """The random numbers of an episode."""
    return np.random.default_rng(np.random.SeedSequence([seed, number]))


def first_draw(seed: int, number: int) -> Scene:
    """The scene with which an episode begins."""
    return draw_scene(drawer(seed, number))


def play(
    seed: int,
    number: int,
    *,
    frames: int,
    side: int = 64,
    shadows: int = 512,
    picture: Callable[[World], np.ndarray] | None = None,
) -> Episode:
    """Episode `number` of a `seed`, which alone decide it. Half of the episodes seek objects.

    `picture` gives "h w 3" of the world as it stands; None plays the physics alone.
    """
    draw = drawer(seed, number)
    world = World(draw_scene(draw), side=side, shadows=shadows)
    policy = Policy(draw=draw, seeks=bool(draw.random() < 0.5))
    pictures, actions, hands, things = [], [], [], []
    for frame in range(frames):
        if picture is not None:
            pictures.append(picture(world))
        hands.append(world.hand)
        things.append(world.things)
        actions.append(policy.action(world.target, world.things[:, :3]))
        if frame + 1 < frames:
            world.step(actions[-1])
    return Episode(
        frames=np.stack(pictures) if pictures else None,
        actions=np.stack(actions).astype(np.float32),
        truth=truth_of(world.scene, np.stack(hands), np.stack(things), side),
    )


def truth_of(scene: Scene, hands: np.ndarray, things: np.ndarray, side: int) -> Truth:
    """The positions of an episode: hands "t 4", objects "t n 7"."""
    palms = hands[:, :3] + np.array([0, 0, PALM])
    return Truth(
        gripper=hands.astype(np.float32),
        objects=things.astype(np.float32),
        gripper_pixels=to_pixels(palms, side).astype(np.float32),
        objects_pixels=to_pixels(things[..., :3], side).astype(np.float32),
        colours=np.array([thing.colour for thing in scene.things], np.float32),
        shapes=tuple(thing.shape for thing in scene.things),
    )
