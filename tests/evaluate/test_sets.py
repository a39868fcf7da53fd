"""Sets of clips are compared at the size, and by the windows, that a protocol says."""

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_clips import moving
from torch import Tensor

import reeltok
from reeltok.cli.fvd import said_of_sets
from reeltok.evaluate import scores
from reeltok.evaluate.clips import clips, resize
from reeltok.evaluate.protocols import PROTOCOLS
from reeltok.evaluate.sets import lossy_codec, set_distances
from reeltok.metrics.lpips import random_lpips
from reeltok.metrics.networks import Extractor
from reeltok.nn.moments import Moments


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, ...]]:
    """The shapes of the clips that the network of a distance is given."""
    shapes: list[tuple[int, ...]] = []

    def features(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape[2:]))
        return x.mean((3, 4)).flatten(1)[:, :8]

    monkeypatch.setenv("REELTOK_SHARED", str(tmp_path / "absent"))
    monkeypatch.delenv("REELTOK_WEIGHTS", raising=False)
    network = Extractor(name="test", apply=features, frames=None)
    monkeypatch.setitem(scores.EXTRACTORS, "i3d", lambda **options: network)
    for name, frames, size in (("real", 24, (40, 64)), ("made", 16, (32, 32))):
        for number in range(2):
            path = tmp_path / name / f"{number}.mkv"
            path.parent.mkdir(exist_ok=True)
            reeltok.write(moving(frames + number, *size), path, lossless=True)
    return shapes


def test_generated_clips_are_scored_at_the_protocols_size(
    seen: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """k600-fp: real videos give two windows of three crops, made ones are a clip; all at 64."""
    plan = replace(PROTOCOLS["k600-fp"], fps=None, size=32, crop=32, scored_size=16)
    found = set_distances(tmp_path / "real", tmp_path / "made", plan)
    assert (found.real, found.made, found.filled) == (12, 2, 0)
    assert set(seen) == {(16, 16, 16)}
    assert torch.tensor(found.distances["fvd-i3d-test"]) > 0


def test_memory_holds_a_sum_and_not_each_clip(seen: list[tuple[int, ...]], tmp_path: Path) -> None:
    plan = replace(PROTOCOLS["k600-fp"], fps=None, size=32, crop=32, scored_size=16)
    held: list[int] = []

    def count(clip: object) -> None:
        held.append(sum(type(one) is Moments for one in gc.get_objects()))

    set_distances(tmp_path / "real", tmp_path / "made", plan, progress=count)
    assert len(held) == 14
    assert max(held) <= min(held) + 3  # of both sets, and of the clip at hand


def test_without_one_they_keep_the_size_of_clips(
    seen: list[tuple[int, ...]], tmp_path: Path
) -> None:
    plan = replace(PROTOCOLS["k600-fp"], fps=None, size=32, crop=32, scored_size=None)
    set_distances(tmp_path / "made", tmp_path / "made", plan)
    assert set(seen) == {(16, 32, 32)}


def test_clips_that_are_too_short_are_counted(seen: list[tuple[int, ...]], tmp_path: Path) -> None:
    plan = replace(PROTOCOLS["ucf-128"], fps=None, crop=16, size=16, smallest=1)
    found = set_distances(tmp_path / "real", tmp_path / "made", plan)
    assert (found.real, found.made, found.filled) == (2, 2, 4)


def test_frames_of_a_generator_are_the_clip_whatever_their_rate(
    seen: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """Files of 10 frames per second had been resampled to 25, and half of each clip was judged."""
    plan = replace(PROTOCOLS["k600-fp"], size=16, crop=16, scored_size=None)
    found = set_distances(tmp_path / "real", tmp_path / "made", plan)
    assert (found.off_rate, found.filled) == (2, 0)
    (first, *_) = clips(plan.of_made, tmp_path / "made")
    whole = reeltok.read(tmp_path / "made" / "0.mkv")
    assert torch.equal(first.video.frames, resize(whole.frames, (16, 16), plan.kernel))
    assert set_distances(tmp_path / "real", tmp_path / "made", replace(plan, fps=10)).off_rate == 0


def test_made_videos_that_went_through_a_lossy_codec_are_told(tmp_path: Path) -> None:
    """H.264 alone had taken an appearance distance of 64x64 videos from 65.5 to 92.8."""
    kinds = {"exact": ".mkv", "lossy": ".mp4", "pictures": ""}
    for name, suffix in kinds.items():
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"a{suffix}"
        reeltok.write(moving(4, 32, 32), path, lossless=suffix == ".mkv")
    (tmp_path / "mixed").mkdir()
    for number, name in enumerate(("exact/a.mkv", "lossy/a.mp4")):
        path = tmp_path / name
        shutil.copy(path, tmp_path / "mixed" / f"{number:03d}{path.suffix}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mp4").write_bytes(b"no video")
    found = {name: lossy_codec(tmp_path / name) for name in (*kinds, "mixed", "broken")}
    assert (found.pop("lossy"), found.pop("mixed")) == ("h264", "h264")
    assert found == {"exact": None, "pictures": None, "broken": None}


def test_clips_of_one_frame_have_no_distance_and_are_not_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scores, "LPIPS", random_lpips)
    plan = PROTOCOLS["shared-eval-whole"]
    for name, lengths in (("real", (8, 8, 1)), ("made", (8, 1, 1)), ("stills", (1, 1))):
        for number, frames in enumerate(lengths):
            path = tmp_path / name / f"{number}.mkv"
            path.parent.mkdir(exist_ok=True)
            reeltok.write(moving(frames, 40, 64), path, lossless=True)
    real = tmp_path / "real"
    found = set_distances(real, real, plan)
    assert (found.real, found.made, [*found.distances]) == (2, 2, ["appearance"])
    assert found.without == {"appearance": 2}
    told = "clips of both sets that are too short for appearance and do not count: 2"
    assert told in said_of_sets(found, plan)
    for name, count in (("made", 1), ("stills", 0)):
        said = f"{name} gives {count} clips under .*: .* is one frame, which has no distance"
        with pytest.raises(ValueError, match=said):
            set_distances(real, tmp_path / name, plan)
    with pytest.raises(ValueError, match="stills gives 0 clips"):
        set_distances(tmp_path / "stills", real, plan)


def test_clips_are_counted_for_each_network(
    monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, ...]], tmp_path: Path
) -> None:
    """A network may take a single frame, of which there is no appearance distance."""
    monkeypatch.setattr(scores, "LPIPS", random_lpips)
    network = Extractor(name="test", apply=lambda x: x.mean((2, 3, 4)), frames=None)
    monkeypatch.setitem(scores.EXTRACTORS, "i3d", lambda **options: network)
    plan = replace(PROTOCOLS["shared-eval-whole"], metrics=("fvd-i3d",), smallest=1)
    for number, frames in enumerate((1, 1, 8)):
        path = tmp_path / "mixed" / f"{number}.mkv"
        path.parent.mkdir(exist_ok=True)
        reeltok.write(moving(frames, 40, 64), path, lossless=True)
    real, mixed = tmp_path / "real", tmp_path / "mixed"
    for found in (set_distances(real, mixed, plan), set_distances(mixed, real, plan)):
        assert {found.real, found.made} == {2, 3}
        assert [*found.distances] == ["fvd-i3d-test"]
        assert found.without == {"appearance": 2}
        few = "gives 1 clip long enough for it, a distance needs two of each set"
        assert found.too_few == {"appearance": f"{mixed} {few}"}


def test_sets_of_unlike_sizes_are_told(seen: list[tuple[int, ...]], tmp_path: Path) -> None:
    plan = replace(PROTOCOLS["k600-fp"], fps=None, size=None, crop=None, scored_size=None)
    real, made = tmp_path / "real", tmp_path / "made"
    found = set_distances(real, made, plan)
    assert (found.real_sizes, found.made_sizes) == (["64x40"], ["32x32"])
    (told,) = (said for said in said_of_sets(found, plan) if "pixels" in said)
    assert told.startswith("real clips are 64x40 pixels and made ones 32x32: scale them alike")
    for alike in (set_distances(made, made, plan), set_distances(real, made, PROTOCOLS["ucf-128"])):
        assert not [said for said in said_of_sets(alike, plan) if "pixels" in said]
