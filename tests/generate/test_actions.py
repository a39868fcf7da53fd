"""Files of actions: one array of numbers, or one sentence with the file's name."""

from pathlib import Path

import numpy as np
import pytest

from reeltok.generate.conditions import read_actions


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
