"""Episodes of the pushing world that are drawn here, where no simulator is needed."""

from pathlib import Path

import numpy as np

from reeltok.data.push import Truth, truth_path
from reeltok.video.record import Video, write

COLOURS = np.array([[40, 90, 220], [30, 180, 60]])


def draw_episode(frames: int, *, side: int = 32, number: int = 0) -> tuple[np.ndarray, Truth]:
    """A red square and two objects on grey; the gripper and the first object move right."""
    time = np.arange(frames)[:, None]
    gripper = np.array([6 + number % 4, 8]) + time * [1, 0]
    first = np.array([9, 20 + number % 3]) + time * [1, 0]
    second = np.array([24, 25]) + time * [0, 0]
    video = np.full((frames, side, side, 3), 120, np.uint8)
    for places, colour in ((first, COLOURS[0]), (second, COLOURS[1]), (gripper, [220, 20, 30])):
        for frame, (x, y) in enumerate(places):
            video[frame, y - 2 : y + 3, x - 2 : x + 3] = colour
    middle = lambda places: places.astype(np.float32) + 0.5
    objects = np.zeros((frames, 2, 7), np.float32)
    truth = Truth(
        gripper=np.zeros((frames, 4), np.float32),
        objects=objects,
        gripper_pixels=middle(gripper),
        objects_pixels=np.stack([middle(first), middle(second)], axis=1),
        colours=(COLOURS / 255).astype(np.float32),
        shapes=("box", "box"),
    )
    return video, truth


def write_episodes(folder: Path, count: int, frames: int, *, side: int = 32) -> Path:
    """A folder as `reeltok data push` writes it, but for its list of clips."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        video, truth = draw_episode(frames, side=side, number=number)
        clip = folder / f"push-0-{number:05d}.mkv"
        truth.save(truth_path(clip))
        actions = np.zeros((frames, 4), np.float32)
        actions[:, 0] = 0.1 * number
        np.save(clip.with_suffix(".actions.npy"), actions)
        write(Video.of(video, fps=10.0), clip, lossless=True)
    return folder
