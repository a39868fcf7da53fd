"""True positions beside a clip: written, read back, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from reeltok.data.push import Truth, read_truth, truth_path


def make_truth(frames: int = 4, things: int = 3) -> Truth:
    draw = np.random.default_rng(0)
    sizes = {
        "gripper": (frames, 4),
        "objects": (frames, things, 7),
        "gripper_pixels": (frames, 2),
        "objects_pixels": (frames, things, 2),
        "colours": (things, 3),
    }
    arrays = {name: draw.random(size, np.float32) for name, size in sizes.items()}
    return Truth(**arrays, shapes=("box", "sphere", "slab")[:things])


def test_comes_back_and_is_the_same_bytes(tmp_path: Path) -> None:
    clip, truth = tmp_path / "a.mkv", make_truth()
    truth.save(truth_path(clip))
    first = truth_path(clip).read_bytes()
    again = read_truth(clip)
    again.save(truth_path(clip))
    assert truth_path(clip).read_bytes() == first
    assert again.shapes == truth.shapes
    np.testing.assert_array_equal(again.objects, truth.objects)


def test_what_is_refused(tmp_path: Path) -> None:
    clip = tmp_path / "a.mkv"
    with pytest.raises(FileNotFoundError, match=r"a\.truth\.safetensors should be beside it"):
        read_truth(clip)
    whole = make_truth().save(truth_path(clip)).read_bytes()
    other = whole.replace(b"reeltok-push-1", b"reeltok-push-9")
    worse = make_truth()
    worse.gripper[1, 0] = np.nan
    spoiled = [b"", whole[:40], whole[:-8], other, worse.save(truth_path(clip)).read_bytes()]
    for data in spoiled:
        truth_path(clip).write_bytes(data)
        with pytest.raises(ValueError, match="does not hold true positions: make the clip again"):
            read_truth(clip)
