"""A short clip to try a tokenizer on: a camera moves over a desk with paper, a photo, a portrait.

Everything is drawn here, the same on every machine: textures are fractal noise, the text is set in
Pillow's own font, the portrait blinks and speaks.
"""

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from reeltok.video.record import Video

FRAMES, SIDE, FPS = 48, 256, 24.0
DESK = (720, 560)  # width and height of the scene in pixels
FINE = 2  # the camera sees so many pixels for each of the clip's
TEXT = """A video tokenizer turns moving
pictures into a few thousand small
whole numbers, and those numbers
into moving pictures again. What is
lost on the way shows first in fine
print, in faces, in grass and cloth,
and where things move. That is why
this page is here, and why the
camera does not hold still."""
SKIN, HAIR, SHIRT = (214, 164, 133), (62, 41, 32), (58, 84, 112)

Picture = UInt8[np.ndarray, "h w 3"]
NoiseMap = Float[np.ndarray, "h w"]


def render_clip(frames: int = FRAMES, side: int = SIDE, fps: float = FPS) -> Video:
    """The clip: `frames` pictures of `side` x `side` pixels."""
    desk = draw_desk()
    shots = [shoot(desk, number / (FRAMES - 1), side) for number in range(frames)]
    return Video(torch.from_numpy(np.stack(shots)), fps)


def shoot(desk: Image.Image, time: float, side: int) -> Picture:
    """What the camera sees at `time` (0 to 1): it drifts, turns, and comes closer."""
    scene = desk.copy()
    scene.paste(draw_portrait(time), (300, 240))
    roll_ball(scene, time)
    ease = time * time * (3 - 2 * time)
    x, y = 210 + 190 * ease, 215 + 95 * ease + 8 * math.sin(5 * time)
    scale = (1.35 - 0.45 * ease) * SIDE / side / FINE
    angle = math.radians(-7 + 12 * ease)
    cos, sin, middle = scale * math.cos(angle), scale * math.sin(angle), side * FINE / 2
    view = (
        *(cos, -sin, x - cos * middle + sin * middle),
        *(sin, cos, y - sin * middle - cos * middle),
    )
    large = (side * FINE, side * FINE)
    seen = scene.transform(large, Image.Transform.AFFINE, view, Image.Resampling.BICUBIC)
    seen = seen.resize((side, side), Image.Resampling.BOX)
    return light(np.asarray(seen), time)


def light(picture: Picture, time: float) -> Picture:
    """Daylight from a window that moves a little over the scene."""
    ramp = np.linspace(-1, 1, len(picture))
    far = (ramp[:, None] + 0.5) ** 2 + (ramp[None, :] + 0.7 - 0.6 * time) ** 2
    lit = picture * (1.12 - 0.11 * far)[..., None]
    return np.clip(lit + 0.5, 0, 255).astype(np.uint8)


# The scene.


def draw_desk() -> Image.Image:
    """Wood, and on it a page, a landscape photo, and a piece of woven cloth."""
    desk = Image.fromarray(wood(*DESK))
    lay(desk, Image.fromarray(cloth(230, 190)), (455, 25), -4)
    lay(desk, draw_page(), (60, 60), 5)
    lay(desk, draw_photo(), (60, 365), -3)
    return desk


def lay(desk: Image.Image, sheet: Image.Image, place: tuple[int, int], degrees: float) -> None:
    """Put a sheet on the desk, turned a little, with its shadow."""
    x, y = place
    edge = round(0.1 * max(sheet.size))
    room = (sheet.width + 2 * edge, sheet.height + 2 * edge)
    mask, page = Image.new("L", room), Image.new("RGB", room, sheet.getpixel((0, 0)))
    mask.paste(255, (edge, edge, edge + sheet.width, edge + sheet.height))
    page.paste(sheet, (edge, edge))
    mask, page = (turned(layer, degrees) for layer in (mask, page))
    shadow = mask.filter(ImageFilter.GaussianBlur(5)).point(lambda value: value * 0.45)
    desk.paste((18, 10, 6), (x - edge + 6, y - edge + 8), shadow)
    desk.paste(page, (x - edge, y - edge), mask)


def turned(layer: Image.Image, degrees: float) -> Image.Image:
    """A layer turned about its middle, with smooth edges."""
    large = layer.resize((4 * layer.width, 4 * layer.height), Image.Resampling.BICUBIC)
    return large.rotate(degrees, Image.Resampling.BILINEAR).resize(layer.size, Image.Resampling.BOX)


def fractal(height: int, width: int, seed: int, *, cells: int = 4, octaves: int = 6) -> NoiseMap:
    """Fractal noise from 0 to 1: octaves of smooth random grids, each finer and fainter."""
    random, total = np.random.default_rng(seed), np.zeros((height, width), np.float32)
    for octave in range(octaves):
        grid = random.random((cells * 2**octave + 1, cells * 2**octave + 1), np.float32)
        total += (
            np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
            / 2**octave
        )
    return (total - total.min()) / (total.max() - total.min())


def blend(low: tuple[int, ...], high: tuple[int, ...], share: np.ndarray) -> Picture:
    """Colours between two, by a share from 0 to 1."""
    low_, high_ = np.array(low, np.float32), np.array(high, np.float32)
    return (low_ + (high_ - low_) * share[..., None]).clip(0, 255).astype(np.uint8)


def wood(width: int, height: int) -> Picture:
    """Planks with grain along them."""
    grain = fractal(height, width * 6, 1, cells=6)[:, ::6]
    rings = 0.5 + 0.5 * np.sin(40 * fractal(height, width, 2, cells=2, octaves=3) + 9 * grain)
    planks = 0.85 + 0.15 * (np.arange(height) // 112 % 2)[:, None]
    seams = np.where(np.arange(height) % 112 < 2, 0.5, 1.0)[:, None]
    return blend((92, 56, 32), (176, 122, 78), (0.6 * rings + 0.4 * grain) * planks * seams)


def cloth(width: int, height: int) -> Picture:
    """Checked cloth, woven finely enough to see its threads."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    weave = 0.5 + 0.25 * np.sin(x * 1.6) * np.sin(y * 1.6) + 0.25 * fractal(height, width, 3)
    check = ((x // 24 % 2) + (y // 24 % 2)) / 2
    return blend((120, 30, 38), (236, 226, 206), 0.75 * check + 0.35 * weave - 0.1)


def draw_page() -> Image.Image:
    """A printed page: a heading, a paragraph, a small figure."""
    paper = Image.fromarray(blend((228, 222, 208), (250, 247, 240), fractal(270, 232, 4)))
    pen = ImageDraw.Draw(paper)
    pen.text((20, 14), "reeltok", fill=(24, 22, 28), font=ImageFont.load_default(size=34))
    pen.multiline_text(
        (20, 62), TEXT, fill=(44, 42, 48), font=ImageFont.load_default(size=12), spacing=5
    )
    for i, height in enumerate((12, 20, 15, 31, 26)):
        pen.rectangle((24 + 16 * i, 254 - height, 34 + 16 * i, 254), fill=(60, 96, 140))
    pen.text((116, 240), "fig. 1", fill=(90, 88, 92), font=ImageFont.load_default(size=11))
    return paper


def draw_photo() -> Image.Image:
    """A landscape with sky, hills and a meadow, in a white frame."""
    height, width = 150, 220
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    clouds = np.clip(fractal(height, width, 5) * 2 - 0.9, 0, 1) * (1 - rows)
    haze = np.broadcast_to(np.clip(rows * 1.3, 0, 1), (height, width))
    scene = blend((84, 138, 196), (216, 226, 232), haze)
    scene = mix_pictures(scene, blend((200, 204, 210), (255, 252, 246), clouds), clouds)
    for seed, level, near, far in (
        (6, 0.50, (74, 96, 110), (124, 146, 160)),
        (7, 0.62, (52, 82, 58), (108, 132, 82)),
        (8, 0.78, (60, 92, 34), (152, 168, 72)),
    ):
        ridge = level + 0.16 * (fractal(1, width, seed, cells=3)[0] - 0.5)
        inside = np.clip((rows - ridge[None]) * height, 0, 1)
        scene = mix_pictures(
            scene, blend(near, far, fractal(height, width, seed + 9, cells=9)), inside
        )
    return Image.fromarray(np.pad(scene, ((9, 9), (9, 9), (0, 0)), constant_values=244))


def mix_pictures(under: Picture, over: Picture, share: np.ndarray) -> Picture:
    """`over` covers `under` by a share from 0 to 1."""
    return (under + (over.astype(np.float32) - under) * share[..., None]).astype(np.uint8)


def draw_portrait(time: float) -> Image.Image:
    """A framed portrait that sways, blinks twice and speaks."""
    width, height, fine = 190, 230, 4
    large = Image.new("RGB", (width * fine, height * fine), (172, 178, 170))
    pen = ImageDraw.Draw(large)

    def oval(x: float, y: float, rx: float, ry: float, colour: tuple[int, ...]) -> None:
        pen.ellipse([fine * v for v in (x - rx, y - ry, x + rx, y + ry)], fill=colour)

    x, y = 95 + 5 * math.sin(2 * math.pi * time), 104 + 2 * math.cos(4 * math.pi * time)
    blink = min(abs(time - 0.3), abs(time - 0.72)) < 0.035
    mouth = 3 + 4 * abs(math.sin(9 * math.pi * time))
    oval(95, 236, 78, 62, SHIRT)
    oval(x, y + 66, 20, 34, tint(SKIN, 0.86))
    oval(x, y - 10, 52, 62, HAIR)
    oval(x - 44, y + 6, 8, 13, tint(SKIN, 0.9))
    oval(x + 44, y + 6, 8, 13, tint(SKIN, 0.9))
    oval(x, y + 6, 43, 55, SKIN)
    oval(x + 2, y - 46, 44, 22, HAIR)
    for side in (-1, 1):
        eye = x + 18 * side
        oval(eye, y - 2, 9, 1.2 if blink else 5.5, (246, 243, 238))
        if not blink:
            oval(eye + 2 * math.sin(6 * time), y - 2, 4.2, 4.2, (70, 96, 88))
            oval(eye + 2 * math.sin(6 * time), y - 2, 2, 2, (16, 14, 16))
        oval(eye, y - 14, 11, 2.2, HAIR)
        oval(x + 25 * side, y + 22, 9, 6, tint(SKIN, 1.06))
    oval(x + 3, y + 14, 5, 9, tint(SKIN, 0.9))
    oval(x, y + 36, 14, mouth, (142, 64, 62))
    oval(x, y + 36 - 0.4 * mouth, 9, 0.35 * mouth, (238, 232, 226))
    small = np.asarray(large.resize((width, height), Image.Resampling.BOX))
    rough = 0.9 + 0.2 * skin(height, width)
    shade = np.linspace(1.08, 0.84, width, dtype=np.float32)[None]
    lit = np.clip(small * (rough * shade)[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(np.pad(lit, ((8, 8), (8, 8), (0, 0)), constant_values=36))


@cache
def skin(height: int, width: int) -> NoiseMap:
    """The unevenness of everything in the portrait; the same in all frames."""
    return fractal(height, width, 20, cells=8)


def tint(colour: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """A colour made darker or lighter."""
    return tuple(min(255, round(value * factor)) for value in colour)


def roll_ball(scene: Image.Image, time: float) -> None:
    """A striped ball rolls over the desk, with its shadow."""
    side, fine = 64, 4  # of its picture, in pixels; the ball fills two thirds
    x, y = 285 + 260 * time, 208 + 8 * math.sin(5 * time)
    v, u = (np.mgrid[: side * fine, : side * fine].astype(np.float32) / (side * fine) - 0.5) * 3
    inside = u * u + v * v <= 1
    depth = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
    stripe = np.sin(6 * np.arctan2(u, depth) - 13 * time) > 0
    lit = np.clip(0.35 + 0.65 * (0.6 * depth - 0.45 * u - 0.55 * v), 0.15, 1.1)
    ball = np.where(stripe[..., None], (226, 176, 48), (40, 92, 132)) * lit[..., None]
    bytes_ = ball.clip(0, 255).astype(np.uint8), (inside * 255).astype(np.uint8)
    face, mask = (
        Image.fromarray(part).resize((side, side), Image.Resampling.BOX) for part in bytes_
    )
    place = (round(x) - side // 2, round(y) - side // 2)
    dark = mask.filter(ImageFilter.GaussianBlur(4)).point(lambda value: value * 0.5)
    scene.paste((14, 8, 4), (place[0] + 7, place[1] + 9), dark)
    scene.paste(face, place, mask)
