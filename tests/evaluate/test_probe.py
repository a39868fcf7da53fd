"""The linear probe."""

from pathlib import Path

import pytest
import torch

from reeltok.evaluate.probe import assign_folds, read_labels, run_probe


def test_what_is_linear_is_read_off_and_noise_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    y = ["cat"] * 20 + ["dog"] * 20 + ["rare"] * 2
    x = torch.randn(42, 6, generator=draw)
    noise = run_probe(x, y)
    assert noise.accuracy.mean < 0.75
    x[:20, 2] += 6
    found = run_probe(x, y)
    assert found.accuracy.mean > 0.95
    assert found.chance == 0.5
    assert found.labels == {"cat": 20, "dog": 20}
    assert found.left_out == {"rare": "only 2 clips"}
    with pytest.raises(ValueError, match="a probe needs two labels of 5 clips"):
        run_probe(x[:20], y[:20])


def test_every_fold_has_its_share_of_every_label() -> None:
    fold = assign_folds([0] * 10 + [1] * 5, 5, seed=0)
    assert torch.bincount(fold[:10]).tolist() == [2] * 5
    assert torch.bincount(fold[10:]).tolist() == [1] * 5


def test_labels_are_a_column_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,group\na.mp4,x\nb.mp4,\n")
    assert read_labels("m.csv:group", tmp_path) == {"a.mp4": "x"}
    with pytest.raises(ValueError, match="has the columns file, group: 'kind'"):
        read_labels("m.csv:kind", tmp_path)
    with pytest.raises(ValueError, match=r"write it as manifest.csv:column"):
        read_labels("m.csv", tmp_path)
    with pytest.raises(FileNotFoundError, match="no list of labels"):
        read_labels("n.csv:group", tmp_path)
