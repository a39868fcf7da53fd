"""Files of actions: one array of numbers, or one sentence with the file's name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reeltok.data.actions import read_actions, read_clip_actions
from reeltok.data.clip import Clip
from reeltok.generate.pixels.recipe import PixelRecipe
from reeltok.generate.recipes import prior_push
from reeltok.train.clips import DataConfig, Window


def test_rows_of_numbers_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.int16).reshape(3, 2))
    assert read_actions(tmp_path / "a.npy").tolist() == [[[0, 1], [2, 3], [4, 5]]]


def test_anything_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2)))
    whole = path.read_bytes()
    huge = whole.replace(b"(3, 2), }            ", b"(99999999999999, 2), }")
    assert huge != whole
    several = tmp_path / "b.npz"
    np.savez(several, a=np.zeros((3, 2)))
    bad = (b"", b"text", b"PK\x03\x04", whole[:40], whole[:-8], huge, several.read_bytes())
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.npy") as caught:
            read_actions(path)
        assert type(caught.value) is ValueError
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy"):
        read_actions(path)
    for wrong in (np.nan, np.inf):
        np.save(path, np.array([[0.0, 1], [0, wrong]]))
        with pytest.raises(ValueError, match=r"action 1 of .*a\.npy holds what is not a number"):
            read_actions(path)


def test_actions_of_a_clip_are_those_of_its_frames(tmp_path: Path) -> None:
    np.save(tmp_path / "a.actions.npy", np.arange(12).reshape(6, 2))
    clip = Clip(path=tmp_path / "a.mp4")
    found = read_clip_actions(clip, first=2, count=3, numbers=2)
    assert found.tolist() == [[[4, 5], [6, 7], [8, 9]]]
    ended = Clip(path=tmp_path / "a.mp4", end=2.0)
    assert read_clip_actions(ended, count=1, numbers=2).tolist() == [[[0, 1]]]
    with pytest.raises(ValueError, match="has 6 rows of 2 numbers: frames 4 to 7 of the clip need"):
        read_clip_actions(clip, first=4, count=3, numbers=2)
    with pytest.raises(ValueError, match=r"begins at 2 s of its file, and a\.actions\.npy has"):
        read_clip_actions(Clip(path=tmp_path / "a.mp4", start=2.0), count=1, numbers=2)
    with pytest.raises(FileNotFoundError, match=r"there are no actions for b\.mp4: write"):
        read_clip_actions(Clip(path=tmp_path / "b.mp4"), count=1, numbers=2)


def test_frames_that_are_left_out_would_shift_actions() -> None:
    data = DataConfig(windows=(Window(frames=5, size=64, batch=2),), damage="skip")
    with pytest.raises(ValueError, match="damage='skip' leaves frames out"):
        replace(prior_push(), data=data)
    with pytest.raises(ValueError, match="damage='skip' leaves frames out"):
        PixelRecipe(name="p", data=replace(data, validation=data.windows[0]))
