"""The linear probe."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reeltok.evaluate.clips import ScoredClip
from reeltok.evaluate.probe import (
    Described,
    assign_folds,
    collect_features,
    fit_classifier,
    read_labels,
    run_probe,
)
from reeltok.models.presets import COMPACT
from reeltok.models.vidtok.network import VidTok
from reeltok.video.record import Video


def described(x: torch.Tensor, labels: list[str], each: int = 1) -> Described:
    """Clips, `each` of a source."""
    return Described(x=x, labels=labels, sources=[f"{i // each}" for i in range(len(labels))])


def test_what_is_linear_is_read_off_and_noise_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    y = ["cat"] * 20 + ["dog"] * 20 + ["rare"] * 2
    x = torch.randn(42, 6, generator=draw)
    noise = run_probe(described(x, y))
    assert noise.accuracy.mean < 0.75
    x[:20, 2] += 6
    found = run_probe(described(x, y))
    assert found.accuracy.mean > 0.95
    assert found.chance == 0.5
    assert found.labels == {"cat": 20, "dog": 20}
    assert found.left_out == {"rare": "of only 2 sources"}
    with pytest.raises(ValueError, match="a probe needs two labels of 5 sources"):
        run_probe(described(x[:20], y[:20]))


def test_a_number_that_never_varied_decides_nothing() -> None:
    """Divided by 1e-6, a difference of 0.1 in the clip that is asked for had weighed 100,000."""
    draw = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(40, 1, generator=draw), torch.full((40, 6), 0.3)], dim=1)
    y = (x[:, 0] > 0).long()
    weights = fit_classifier(x, y, 2)
    moved = x.clone()
    moved[:, 1:] += 0.1
    assert torch.allclose(weights(x), weights(moved), atol=0.1)


def test_what_is_known_of_a_source_is_not_read_off() -> None:
    """Labels at random by source, whose clips are alike: those of other folds would tell them."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20, 1, 64, generator=draw) + torch.randn(20, 8, 64, generator=draw) / 10
    y = [name for name in ("cat", "dog") * 10 for _ in range(8)]
    found = run_probe(described(x.flatten(0, 1), y, each=8))
    low, high = found.accuracy.low, found.accuracy.high
    assert low is not None
    assert high is not None
    assert low < 0.5 < high
    assert high - low > 0.3  # twenty sources, not 160 clips
    with pytest.raises(ValueError, match=r"two labels of 5 sources .* found cat \(2\), dog \(2\)"):
        run_probe(described(x[:4].flatten(0, 1), y[:32], each=8))


def test_windows_of_a_video_are_one_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a classifier would have seen a neighbour of what it is asked."""
    monkeypatch.setattr(
        "reeltok.evaluate.probe.describe_clip", lambda _, one: torch.tensor([float(one.sha256)])
    )
    video = Video.of(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), fps=1)
    shots = [
        ScoredClip(name=f"{name}#{k}", video=video, sha256=str(10 * k + at), source=name)
        for at, name in enumerate(("a.mp4", "b.mp4", "c.mp4"))
        for k in range(3)
    ]
    alone = ScoredClip(name="d#1.mp4", video=video, sha256="7")
    labels = {"a.mp4": "x", "b.mp4": "y", "d#1.mp4": "y"}
    found = collect_features(VidTok(COMPACT), [*shots, replace(alone, origin="a.mp4")], labels)
    assert found.x.flatten().tolist() == [10, 11, 7]
    assert found.labels == ["x", "y", "y"]
    assert found.sources == ["a.mp4", "b.mp4", "a.mp4"]
    assert set(found.left_out) == {"c.mp4#0", "c.mp4#1", "c.mp4#2"}


def test_a_name_that_several_clips_have_is_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reeltok.evaluate.probe.describe_clip", lambda *given: torch.zeros(1))
    video = Video.of(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), fps=1)
    clips = [ScoredClip(name=name, video=video, sha256="") for name in ("a/0.mkv", "b/0.mkv")]
    labels = {"0.mkv": "cat"}
    assert collect_features(VidTok(COMPACT), clips[:1], labels).labels == ["cat"]
    with pytest.raises(ValueError, match=r"a/0.mkv and b/0.mkv may both be meant .* 0.mkv"):
        collect_features(VidTok(COMPACT), clips, labels)
    with pytest.raises(ValueError, match="let the labels name clips by their paths"):
        collect_features(VidTok(COMPACT), clips, {"a/0.mkv": "cat", "0.mkv": "dog"})
    found = collect_features(VidTok(COMPACT), clips, {"a/0.mkv": "cat", "b/0.mkv": "dog"})
    assert found.labels == ["cat", "dog"]
    above = [replace(clips[0], name="0.mkv"), *clips]
    for given in (above, above[::-1]):  # the label is of the one clip with this very path
        found = collect_features(VidTok(COMPACT), given, labels)
        assert (found.labels, found.sources) == (["cat"], ["0.mkv"])
        assert set(found.left_out) == {"a/0.mkv", "b/0.mkv"}


def test_every_fold_has_its_share_of_every_label() -> None:
    fold = assign_folds([0] * 10 + [1] * 5, [*map(str, range(15))], 5, seed=0)
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
