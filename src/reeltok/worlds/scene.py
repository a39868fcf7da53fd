"""What is in a pushing scene: a walled table, an arm with a gripper, and objects drawn at random.

Lengths are in metres, the table's middle is the origin, x points right in the picture, y away from
the camera and z up. Everything is a primitive shape with a procedural texture, written as MJCF.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Shape = Literal["box", "cylinder", "sphere", "capsule", "slab"]
SHAPES: tuple[Shape, ...] = ("box", "cylinder", "sphere", "capsule", "slab")

TABLE = 0.36  # half of the table's side
WALL = 0.06  # height of the walls
REACH = (0.30, 0.30)  # how far the gripper gets from the middle, in x and y
HEIGHT = (0.012, 0.20)  # of the finger tips over the table
OPENING = (0.0, 0.035)  # of each finger, from the middle of the hand
PALM = 0.095  # height of the palm's middle over the finger tips
CAMERA = (0.0, -0.68, 0.86)
AIM = (0.0, -0.01, 0.04)  # what the camera looks at
FOVY = 44.0  # degrees
STEP = 0.005  # seconds of a step of physics
FPS = 10.0
STEPS = round(1 / FPS / STEP)  # steps of physics between two frames
HAND = (0.86, 0.10, 0.12)  # the palm's colour, which nothing else has: it is found by it
ARM = (0.24, 0.24, 0.27)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object: half of its extents, its colour (RGB in [0, 1]), weight in kg, where it begins."""

    shape: Shape
    size: tuple[float, float, float]
    colour: tuple[float, float, float]
    mass: float
    place: tuple[float, float, float]
    turn: float  # radians about z; a capsule, which lies along x, about its own axis


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One draw of the world, before anything moves."""

    things: tuple[Thing, ...]
    gripper: tuple[float, float, float]  # where the finger tips begin
    opening: float
    table: tuple[tuple[float, ...], tuple[float, ...]]  # its two colours
    wall: tuple[float, float, float]
    marks: Literal["none", "edge", "cross", "random"]
    squares: int  # of the table's checker, along a side
    lamp: tuple[float, float, float]
    ambient: float
    diffuse: float


def draw_scene(draw: np.random.Generator) -> Scene:
    """A scene with 3 to 6 objects of random shape, size, colour and weight."""
    gripper = (*draw.uniform(-0.22, 0.22, 2).tolist(), float(draw.uniform(0.015, 0.1)))
    taken = [(gripper[0], gripper[1])]
    things = [draw_thing(draw, taken) for _ in range(int(draw.integers(3, 7)))]
    table, light = draw_pale(draw, 0.35, 0.85), float(draw.uniform(-0.12, 0.12))
    return Scene(
        things=tuple(things),
        gripper=gripper,
        opening=float(draw.uniform(*OPENING)),
        table=(table, tuple(float(np.clip(c + light, 0, 1)) for c in table)),
        wall=draw_pale(draw, 0.25, 0.75),
        marks=("none", "edge", "cross", "random")[int(draw.integers(4))],
        squares=int(draw.integers(2, 9)),
        lamp=(*draw.uniform(-0.8, 0.8, 2).tolist(), 1.8),
        ambient=float(draw.uniform(0.35, 0.5)),
        diffuse=float(draw.uniform(0.35, 0.6)),
    )


def draw_thing(draw: np.random.Generator, taken: list[tuple[float, float]]) -> Thing:
    """An object away from the places that are `taken`, to which its own is added."""
    shape = SHAPES[int(draw.integers(len(SHAPES)))]
    a, b, c = draw.uniform(0.026, 0.042, 3).tolist()
    sizes = {
        "box": (a, b, c),
        "cylinder": (a, c, 0.0),
        "sphere": (a, 0.0, 0.0),
        "capsule": (a * 0.75, b, 0.0),
        "slab": (a * 1.25, b * 1.25, c * 0.45),
    }
    place = draw_place(draw, taken)
    taken.append(place)
    hue = float(draw.uniform(0.08, 0.88))  # no red: that is the gripper
    return Thing(
        shape=shape,
        size=sizes[shape],
        colour=from_hue(hue, draw.uniform(0.55, 1.0), draw.uniform(0.45, 1.0)),
        mass=float(np.exp(draw.uniform(np.log(0.05), np.log(0.4)))),
        place=(*place, 0.06),
        turn=float(draw.uniform(-np.pi, np.pi)),
    )


def draw_place(
    draw: np.random.Generator, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """A place on the table 11 cm from others, or the farthest of twenty."""
    places = draw.uniform(-TABLE + 0.08, TABLE - 0.08, (20, 2))
    gaps = np.array([[np.hypot(x - p[0], y - p[1]) for p in taken] for x, y in places]).min(1)
    best = int(np.argmax(gaps > 0.11)) if (gaps > 0.11).any() else int(np.argmax(gaps))
    return (float(places[best, 0]), float(places[best, 1]))


def draw_pale(draw: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A colour of little saturation."""
    return from_hue(float(draw.uniform(0, 1)), draw.uniform(0, 0.3), draw.uniform(low, high))


def from_hue(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """RGB in [0, 1] of a hue, saturation and value in [0, 1]."""
    ramps = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    red, green, blue = (value * (1 - saturation + saturation * ramps)).tolist()
    return (red, green, blue)


# ---------------------------------------------------------------- MJCF

SHELL = """<mujoco model="push">
  <option timestep="{step}" integrator="implicitfast"/>
  <visual>
    <headlight ambient="{ambient} {ambient} {ambient}" diffuse=".25 .25 .25" specular="0 0 0"/>
    <quality shadowsize="{shadows}" offsamples="{samples}" numslices="16" numstacks="8"
      numquads="2"/>
    <global offwidth="{side}" offheight="{side}"/>
    <map znear=".05" zfar="8"/>
  </visual>
  <asset>
    <texture name="table" type="2d" builtin="checker" rgb1="{table1}" rgb2="{table2}"
      {marks} width="128" height="128"/>
    <material name="table" texture="table" texrepeat="{squares} {squares}" specular=".1"/>
    <material name="wall" rgba="{wall} 1" specular=".1"/>
    <material name="arm" rgba="{arm} 1" specular=".3"/>
    <material name="hand" rgba="{hand} 1" specular="0" emission=".25"/>
  </asset>
  <worldbody>
    <light pos="{lamp}" dir="{toward}" diffuse="{diffuse} {diffuse} {diffuse}"
      specular=".2 .2 .2" cutoff="45" castshadow="{cast}"/>
    <camera name="front" pos="{camera}" xyaxes="{axes}" fovy="{fovy}"/>
    <geom name="table" type="box" size="{half} {half} .02" pos="0 0 -.02" material="table"
      friction=".6 .005 .001"/>
    <geom type="plane" size="4 4 1" pos="0 0 -.3" rgba=".12 .12 .13 1" contype="0"
      conaffinity="0"/>
{walls}
    <body name="hand" gravcomp="1">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <geom type="cylinder" size=".048 .02" pos="0 0 {palm}" material="hand" mass=".6"/>
      <geom type="capsule" size=".03" fromto="0 .012 .13 0 .5 1.1" material="arm" mass=".2"
        contype="0" conaffinity="0"/>
      <body name="left" gravcomp="1" pos="-.011 0 .04">
        <joint name="left" type="slide" axis="-1 0 0" range="{opening}" limited="true"/>
        <geom type="box" size=".011 .018 .04" material="arm" mass=".1" friction="1 .01 .001"/>
      </body>
      <body name="right" gravcomp="1" pos=".011 0 .04">
        <joint name="right" type="slide" axis="1 0 0" range="{opening}" limited="true"/>
        <geom type="box" size=".011 .018 .04" material="arm" mass=".1" friction="1 .01 .001"/>
      </body>
    </body>
{things}
  </worldbody>
  <actuator>
    <position name="x" joint="x" kp="3000" kv="110" forcerange="-40 40"/>
    <position name="y" joint="y" kp="3000" kv="110" forcerange="-40 40"/>
    <position name="z" joint="z" kp="3000" kv="110" forcerange="-40 40"/>
    <position name="left" joint="left" kp="800" kv="18" forcerange="-12 12"/>
    <position name="right" joint="right" kp="800" kv="18" forcerange="-12 12"/>
  </actuator>
</mujoco>
"""
THING = """    <body name="thing{number}" pos="{place}" euler="0 0 {turn}">
      <freejoint/>
      <geom type="{kind}" size="{size}" rgba="{colour} 1" mass="{mass}" condim="4"
        friction=".5 .006 .0005"/>
    </body>"""


def mjcf(scene: Scene, *, side: int, shadows: int = 512, samples: int = 4) -> str:
    """The scene as MuJoCo's XML, for pictures of `side` pixels.

    `shadows` is the side of the shadow map in texels, 0 for none; `samples` are those of a pixel.
    """
    marks = "" if scene.marks == "none" else f'mark="{scene.marks}" markrgb=".2 .2 .2" random=".02"'
    values: dict[str, Any] = {
        "step": STEP,
        "ambient": numbers([scene.ambient * 0.6]),
        "diffuse": numbers([scene.diffuse]),
        "shadows": max(1, shadows),
        "cast": "true" if shadows else "false",
        "samples": samples,
        "side": side,
        "table1": numbers(scene.table[0]),
        "table2": numbers(scene.table[1]),
        "marks": marks,
        "squares": scene.squares,
        "wall": numbers(scene.wall),
        "arm": numbers(ARM),
        "hand": numbers(HAND),
        "lamp": numbers(scene.lamp),
        "toward": numbers([-scene.lamp[0], -scene.lamp[1], -scene.lamp[2]]),
        "camera": numbers(CAMERA),
        "axes": numbers(camera_axes()[:2].ravel()),
        "fovy": FOVY,
        "half": TABLE,
        "palm": PALM,
        "opening": numbers(OPENING),
        "walls": "\n".join(walls()),
        "things": "\n".join(map(thing_mjcf, range(len(scene.things)), scene.things)),
    }
    return SHELL.format(**values)


def thing_mjcf(number: int, thing: Thing) -> str:
    """A free body of one geom. A capsule lies, as it would after falling."""
    count = {"box": 3, "slab": 3, "sphere": 1}.get(thing.shape, 2)
    turn = f"{np.degrees(thing.turn):.4f}"
    text = THING.format(
        number=number,
        place=numbers(thing.place),
        turn=turn,
        kind="box" if thing.shape == "slab" else thing.shape,
        size=numbers(thing.size[:count]),
        colour=numbers(thing.colour),
        mass=numbers([thing.mass]),
    )
    return text.replace(f"0 0 {turn}", f"0 90 {turn}") if thing.shape == "capsule" else text


def walls() -> list[str]:
    """The four walls around the table."""
    thick, long = 0.015, TABLE + 0.03
    each = [
        (long, thick, 0, TABLE + thick, WALL / 2),
        (long, thick, 0, -TABLE - thick, WALL / 2),
        (thick, long, TABLE + thick, 0, WALL / 2),
        (thick, long, -TABLE - thick, 0, WALL / 2),
    ]
    return [
        f'    <geom type="box" size="{numbers([sx, sy, h])}" pos="{numbers([x, y, h])}" '
        'material="wall" friction=".3 .005 .001"/>'
        for sx, sy, x, y, h in each
    ]


def numbers(values: Any) -> str:
    """Numbers as MJCF writes them."""
    return " ".join(f"{float(value):.6g}" for value in values)


# ---------------------------------------------------------------- camera


def camera_axes() -> np.ndarray:
    """The camera's right, up and backward directions, one a row."""
    back = np.subtract(CAMERA, AIM)
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(back, right), back])


def to_pixels(points: np.ndarray, side: int) -> np.ndarray:
    """Where points "... 3" are in a picture of `side` pixels: "... 2", x right and y down.

    The upper left pixel's middle is (0.5, 0.5).
    """
    right, up, back = np.moveaxis((points - np.array(CAMERA)) @ camera_axes().T, -1, 0)
    scale = side / 2 / np.tan(np.radians(FOVY) / 2) / -back
    return np.stack([side / 2 + right * scale, side / 2 - up * scale], axis=-1)
