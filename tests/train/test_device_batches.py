"""Batches cut together on a device: the samples that are cut one by one, in fewer kernels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reeltok.data.clip import Clip
from reeltok.train.clips import DataConfig, Window
from reeltok.train.data import ClipSource, resize_square
from reeltok.train.device_batches import AT_ONCE, device_batch, motions_of, resize_together
from reeltok.train.frames import ClipFrames
from reeltok.train.loader import Loader
from reeltok.video.record import to_unit

CONFIG = DataConfig(
    windows=(Window(frames=5, size=32, batch=2 * AT_ONCE + 3),),
    strides=(1, 2),
    scale=(0.3, 1.0),
    holdout=0.0,
    cache="device",
)


def noise(count: int) -> dict[Clip, ClipFrames]:
    """Clips of noise of several sizes, as tensors."""
    found = {}
    for number in range(count):
        height, width = 40 + 9 * number, 100 - 8 * number
        name, group = f"clip{number}", "ab"[number % 2]
        size = {"frames": 20, "fps": 10.0, "height": height, "width": width}
        clip = Clip(path=Path(name), group=group, source=name, **size)
        random = torch.Generator().manual_seed(number)
        held = torch.randint(256, (20, height, width, 3), generator=random, dtype=torch.uint8)
        found[clip] = ClipFrames(clip, held)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lively": 0.6},
        {"synthetic": 0.3, "lively": 0.3},
        {"synthetic": 1.0},
        {"flip": False, "scale": (1.0, 1.0)},
        {"windows": (Window(frames=1, size=40, batch=7),), "lively": 1.0},
    ],
)
def test_samples_of_a_batch_are_those_that_are_cut_one_by_one(changes: dict) -> None:
    source = ClipSource(noise(5), replace(CONFIG, **changes), seed=4)
    for step in range(3):
        plain, fast = source.batch(step), device_batch(source, step, range(len(source.batch(step))))
        assert fast.names == plain.names
        assert fast.groups == plain.groups
        assert fast.x.shape == plain.x.shape
        assert torch.allclose(fast.x, plain.x, atol=2e-5)


def test_squares_of_any_sizes_are_resized_and_mirrored_together() -> None:
    crops = [torch.randint(256, (3, side, side, 3), dtype=torch.uint8) for side in (16, 17, 31, 70)]
    made = resize_together(crops, 16, [False, True, False, True])
    for crop, x, mirrored in zip(crops, made, (False, True, False, True), strict=True):
        wanted = resize_square(to_unit(crop), 16)[0]
        assert torch.allclose(x, wanted.flip(-1) if mirrored else wanted, atol=2e-5)


def test_motion_of_squares_of_any_sizes() -> None:
    crops = [torch.randint(256, (4, side, side, 3), dtype=torch.uint8) for side in (9, 16, 33)]
    wanted = []
    for crop in crops:
        change = crop[:, ::4, ::4].float().diff(dim=0).abs()
        wanted.append(float(change.mean(dim=(1, 2, 3)).median()))
    assert motions_of(crops) == pytest.approx(wanted)


def test_a_loader_cuts_clips_where_they_lie() -> None:
    """And each process its share."""
    source = ClipSource(noise(4), replace(CONFIG, windows=(Window(frames=5, size=32, batch=6),)))
    assert source.device == torch.device("cpu")
    parts = []
    for rank in range(2):
        loader = Loader(source, rank=rank, world=2, steps=4, together=True)
        parts.append([loader(step) for step in (0, 1, 3)])
        loader.close()
    for step, one, two in zip((0, 1, 3), *parts, strict=True):
        whole = source.batch(step)
        assert one.names + two.names == whole.names
        assert torch.allclose(torch.cat([one.x, two.x]), whole.x, atol=2e-5)


class Calls(TorchDispatchMode):
    """Counts what a GPU would launch, nearly: operations that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_batch_takes_fewer_operations_than_its_samples() -> None:
    source = ClipSource(noise(5), replace(CONFIG, lively=0.5), seed=1)
    device_batch(source, 0, range(35))  # the filters are made once
    with Calls() as plain:
        source.batch(0)
    with Calls() as fast:
        device_batch(source, 0, range(35))
    assert fast.count < plain.count / 4
