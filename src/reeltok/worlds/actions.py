"""What the arm is told to do: actions of four numbers a frame, drawn at random.

An action is (dx, dy, dz, grip), each in [-1, 1]: how far the finger tips go until the next frame,
in units of `STRIDE`, and how far the fingers close (above 0) or open.
"""

from dataclasses import dataclass

import numpy as np

from reeltok.worlds.scene import HEIGHT, OPENING, REACH

STRIDE = (0.05, 0.05, 0.04, 0.012)  # metres a frame, at 1
WIDTH = 4
LOW = 0.03  # metres over the table: below, the fingers push what stands there


def steer(target: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Where the hand goes from `target` (x, y, z, opening) by an action: within its reach."""
    low = np.array([-REACH[0], -REACH[1], HEIGHT[0], OPENING[0]])
    high = np.array([REACH[0], REACH[1], HEIGHT[1], OPENING[1]])
    way = np.clip(action, -1, 1) * np.array(STRIDE) * np.array([1, 1, 1, -1])
    return np.clip(target + way, low, high)


@dataclass
class Policy:
    """Draws actions, each held for 2 to 8 frames.

    A fifth of them is none, a fifth goes along one axis as keys do. `seeks`: the others steer
    towards a random object with noise; else they go anywhere.
    """

    draw: np.random.Generator
    seeks: bool
    left: int = 0
    held: np.ndarray | None = None
    kind: str = "none"
    aim: int = 0

    def action(self, target: np.ndarray, things: np.ndarray) -> np.ndarray:
        """The next action "4", with the hand at `target` (x, y, z, opening), objects at "n 3"."""
        if self.left == 0:
            self.left = int(self.draw.integers(2, 9))
            self.kind = ("none", "axis", "free", "free", "free")[int(self.draw.integers(5))]
            self.aim = int(self.draw.integers(len(things)))
            self.held = self.draw_action(target, things)
        self.left -= 1
        assert self.held is not None
        return self.held

    def draw_action(self, target: np.ndarray, things: np.ndarray) -> np.ndarray:
        """One action of the kind whose turn it is."""
        action = np.zeros(WIDTH)
        if self.kind == "axis":
            axis = int(self.draw.choice(WIDTH, p=(0.36, 0.36, 0.16, 0.12)))
            action[axis] = self.draw.choice((-1.0, 1.0))
        elif self.kind == "free":
            action[:2] = self.direction(target, things)
            action[2] = self.climb(target)
            action[3] = self.draw.uniform(-1, 1) if self.draw.random() < 0.3 else 0.0
        return np.round(action, 3)

    def direction(self, target: np.ndarray, things: np.ndarray) -> np.ndarray:
        """Anywhere, rather towards the middle; or to an object and beyond, where it `seeks`."""
        goal = self.draw.uniform(-0.34, 0.34, 2)
        if self.seeks:
            way = things[self.aim, :2] - target[:2]
            beyond = way / max(float(np.hypot(*way)), 1e-6) * 0.1
            goal = things[self.aim, :2] + beyond + self.draw.normal(0, 0.025, 2)
        way = goal - target[:2]
        span = float(np.hypot(*way))
        speed = (
            min(1.0, span / (self.left * STRIDE[0])) if self.seeks else self.draw.uniform(0.2, 1)
        )
        return np.clip(way / max(span, 1e-6) * speed, -1, 1)

    def climb(self, target: np.ndarray) -> float:
        """Down to push in most cases, up in others, over the frames for which it is held."""
        goal = self.draw.uniform(HEIGHT[0], LOW)
        if self.draw.random() < (0.12 if self.seeks else 0.3):
            goal = self.draw.uniform(LOW, HEIGHT[1])
        return float(np.clip((goal - target[2]) / (self.left * STRIDE[2]), -1, 1))
