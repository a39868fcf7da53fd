"""Sets of videos: what is counted of one, gaps between sets, and the nearest of others."""

import warnings

import numpy as np
import pytest
import torch
from push_episodes import draw_episode

from reeltok.evaluate.push.seen import distances_between
from reeltok.evaluate.push.sets import (
    SPOILED,
    blur,
    compare_sets,
    held_first_frame,
    kolmogorov,
    mean_turn,
    nearest_sketches,
    shuffle,
    sketch,
    statistics_of,
)
from reeltok.evaluate.push.untold import follow_objects, label_patches
from reeltok.metrics.lpips import random_lpips

pytestmark = pytest.mark.filterwarnings("ignore:gripper and objects are looked for")


def test_what_is_counted_of_a_video() -> None:
    frames = draw_episode(12, number=1)[0]
    found = statistics_of(frames)
    assert found["speed"] == pytest.approx(1)
    assert (found["turns"], found["resting"], found["missing"]) == (0, 0, 0)
    assert found["changing"] > 0
    assert found["pushed"] == 0  # all that changes is near the gripper's columns
    pushed = frames.copy()
    pushed[-1, 20:24, 27:31] = 40
    assert statistics_of(pushed)["pushed"] > 0
    still = statistics_of(held_first_frame(frames))
    assert (still["speed"], still["resting"], still["changing"]) == (0, 1, 0)
    empty = statistics_of(np.full((4, 16, 16, 3), 120, np.uint8))
    assert (empty["missing"], empty["speed"], empty["resting"]) == (1, 0, 1)
    assert mean_turn(np.array([[1.0, 0], [0, 1], [0, 0.1], [-1, 0]])) == pytest.approx(90)


def test_objects_that_nobody_told_of() -> None:
    """Found where the truth has them; one moves with the gripper beside it, one is covered."""
    frames, truth = draw_episode(12, number=1)
    found = follow_objects(frames)
    order = np.argsort(found.places[0, :, 0])
    places = found.places[:, order]
    np.testing.assert_allclose(places, truth.objects_pixels, atol=0.1)
    assert found.moved[order].tolist() == [True, False]
    assert not found.touched.any()  # 12 pixels away
    near = frames.copy()
    near[(frames == [220, 20, 30]).all(-1)] = 120
    for frame in range(12):
        near[frame, 12:16, 9 + frame : 12 + frame] = [220, 20, 30]
    assert follow_objects(near).touched.all()
    covered = frames.copy()
    covered[8:, 20:, 18:] = 120
    lost = follow_objects(covered)
    assert lost.lost[np.argsort(lost.places[0, :, 0])].tolist()[1]
    whole = statistics_of(covered)
    assert (whole["objects"], whole["moved"]) == (2, 1)
    none = follow_objects(np.full((3, 16, 16, 3), 120, np.uint8))
    assert (none.places.shape, none.touched.tolist()) == ((3, 0, 2), [False, False])


def test_patches_have_numbers() -> None:
    mask = np.zeros((5, 6), bool)
    mask[0, :3] = mask[1, 2] = mask[2, 2:5] = True  # one, around corners
    mask[3, 5] = mask[4, 0] = True  # two more: one touches the first by a corner alone
    labels = label_patches(mask)
    assert (labels > 0).sum() == mask.sum()
    assert len(np.unique(labels[mask])) == 3
    assert len(np.unique(labels[:3][mask[:3]])) == 1
    assert label_patches(np.ones((2, 2), bool)).tolist() == [[1, 1], [1, 1]]


def test_gaps_of_distributions() -> None:
    assert kolmogorov([1, 2, 3], [1, 2, 3]) == 0
    assert kolmogorov([1, 2], [3, 4]) == 1
    assert kolmogorov([1, 2, 3, 4], [3, 4, 5, 6]) == pytest.approx(0.5)


def test_spoiled_sets_are_farther_than_the_other_half() -> None:
    real = [draw_episode(10, number=n)[0] for n in range(8)]
    sets = {"half": real[1::2], **{n: [f(v) for v in real[1::2]] for n, f in SPOILED.items()}}
    found = compare_sets(real[::2], sets)
    assert all(found["half"].gap < found[name].gap for name in ("frozen", "shuffled"))
    assert found["shuffled"].means["speed"] > found["half"].means["speed"]
    assert found["half"].videos == 4
    with pytest.raises(ValueError, match="half holds 1 videos: give two or more"):
        compare_sets(real, {"half": real[:1]})
    assert np.array_equal(np.sort(shuffle(real[0]).sum((1, 2, 3))), np.sort(real[0].sum((1, 2, 3))))
    assert blur(real[0]).std() < real[0].std()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (64, 96)])
def test_pictures_of_another_size_are_told(height: int, width: int) -> None:
    frames = np.zeros((4, height, width, 3), np.uint8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        compare_sets([frames, frames], {"made": [frames, frames]})
    found = [str(each.message) for each in said if "looked for as in" in str(each.message)]
    assert len(found) == (0 if height == width == 64 else 1)
    assert all(f"64x64 pixels, these have {height}x{width}" in sentence for sentence in found)


def test_a_larger_set_is_not_nearer_for_its_size() -> None:
    real = [draw_episode(10, number=n)[0] for n in range(15)]
    wanted, other, made = real[:4], real[4:8], real[8:]
    found = compare_sets(wanted, {"made": [*made, *made[::-1]], "half": other})
    parts = [made[:4], [*made[4:], made[-1]], [*made[::-1]][1:5]]
    alone = [compare_sets(wanted, {"part": part, "half": other})["part"] for part in parts]
    assert (found["made"].videos, found["made"].groups) == (12, 3)
    assert found["made"].gap == pytest.approx(np.mean([each.gap for each in alone]))
    assert found["made"].means["speed"] == pytest.approx(
        np.mean([each.means["speed"] for each in alone])
    )
    few = compare_sets(wanted, {"made": made[:2], "half": other})
    assert [(few[name].videos, few[name].groups) for name in few] == [(2, 1), (4, 2)]
    net = random_lpips("alex")
    far = distances_between(net, wanted, {"made": [*made, *made[::-1]], "half": other})
    each = [distances_between(net, wanted, {"part": part, "half": other}) for part in parts]
    assert far["half"] == pytest.approx(each[0]["half"])
    assert far["made"] == pytest.approx(np.mean([found["part"] for found in each]))


def test_the_nearest() -> None:
    videos = [draw_episode(10, number=n)[0] for n in range(4)]
    rows = torch.stack([sketch(video) for video in videos])
    still = sketch(held_first_frame(videos[0]))
    found = nearest_sketches(torch.stack([rows[2], still]), rows)
    assert found.numbers == (2, 0)
    assert found.distances[0] == pytest.approx(0, abs=1e-3)
    assert found.distances[1] > 1
    many = torch.rand(60, rows.shape[1], generator=torch.Generator().manual_seed(0)) * 255
    near = nearest_sketches(many + 0.05, many)
    assert near.numbers == tuple(range(60))
    assert near.distances == pytest.approx([0.05] * 60, rel=1e-3)
