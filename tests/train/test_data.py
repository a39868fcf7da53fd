"""Which clips are drawn and which pixels: deterministic, by group, nothing replaced."""

import csv
import io
import re
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reeltok.data.clip import Clip
from reeltok.data.find import find_clips
from reeltok.recipes import find_recipe
from reeltok.train.clips import DataConfig, Window
from reeltok.train.data import ClipSource, balance_groups
from reeltok.train.frames import (
    ClipFrames,
    check_clips,
    cut_clips,
    frame_cap,
    open_clips,
    unread_cache,
)
from reeltok.train.loader import Loader
from reeltok.train.loop import split_batch
from reeltok.train.synthetic import moving_still
from reeltok.video.record import to_unit


def invented(
    count: int, *, frames: int = 40, fps: float = 30.0, group: str = "a", short: int = 40
) -> dict[Clip, ClipFrames]:
    """Clips in memory: frame t of clip n holds the value t + n everywhere."""
    found = {}
    for number in range(count):
        name = f"{group}{number}"
        clip = Clip(
            path=Path(name),
            group=group,
            source=name,
            frames=frames,
            fps=fps,
            height=short,
            width=short + 8,
        )
        held = np.arange(frames, dtype=np.uint8)[:, None, None, None] + np.uint8(number)
        found[clip] = ClipFrames(clip, np.broadcast_to(held, (frames, short, short + 8, 3)))
    return found


def plain(**values) -> DataConfig:
    return replace(DataConfig(windows=(Window(frames=5, size=16, batch=4),), holdout=0.0), **values)


def test_a_step_is_a_function_of_seed_and_number() -> None:
    clips = invented(4)
    one, two = (ClipSource(clips, plain(scale=(0.5, 1.0)), seed=3) for _ in range(2))
    assert torch.equal(one.batch(7).x, two.batch(7).x)
    assert one.batch(7).names == two.batch(7).names
    assert one.batch(7).names != one.batch(8).names
    other = ClipSource(clips, plain(scale=(0.5, 1.0)), seed=4)
    assert not torch.equal(one.batch(7).x, other.batch(7).x)


def test_clips_are_drawn_as_ever() -> None:
    """A run that goes on sees the clips that it would have seen: those of `Generator.choice`."""
    clips = invented(3, group="a") | invented(9, group="b") | invented(2, group="c")
    source = ClipSource(clips, plain(weights={"a": 0.7, "b": 0.2}, other=0.1), seed=5)
    (window,) = source.odds
    for step in range(60):
        random = np.random.default_rng((5, step, 1))
        wanted = random.choice(len(source.train), p=source.odds[window])
        assert source.draw(step, 0)[1].clip == wanted


def test_processes_share_a_batch_and_threads_change_nothing() -> None:
    source = ClipSource(invented(4), plain(workers=3), seed=0)
    whole = source.batch(2)
    halves = [source.batch(2, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([half.x for half in halves]), whole.x)
    loader = Loader(source)
    assert all(torch.equal(loader(step).x, source.batch(step).x) for step in (0, 1, 2, 9, 3))
    loader.close()


def test_nothing_is_begun_behind_the_last_step() -> None:
    window = Window(frames=5, size=16, batch=4, until=3)
    source = ClipSource(invented(4), plain(windows=(window,), prefetch=4), seed=0)
    loader = Loader(source, steps=3)
    assert all(torch.equal(loader(step).x, source.batch(step).x) for step in range(3))
    with pytest.raises(ValueError, match=r"no entry of data\.windows covers step 3"):
        loader(3)
    loader.close()


def test_shape_and_range() -> None:
    batch = ClipSource(invented(4), plain(), seed=0).batch(0)
    assert batch.x.shape == (4, 3, 5, 16, 16)
    assert batch.x.abs().max() <= 1
    assert [part.x.shape[0] for part in split_batch(batch, 2)] == [2, 2]
    assert [len(part) for part in split_batch(torch.arange(8), 2)] == [4, 4]  # packing's batch
    for left in (1, 2, 3, 5):  # a process that lost clips makes as many parts as the others
        parts = split_batch(torch.arange(left), 4)
        assert [len(part) > 0 for part in parts] == [True] * 4
        assert set(torch.cat(parts).tolist()) == set(range(left))


def test_frames_are_consecutive_at_the_stride() -> None:
    for strides, fps, expected in (((1,), None, {1}), ((2, 3), None, {2, 3}), ((2, 3), 10.0, {1})):
        source = ClipSource(invented(2), plain(strides=strides, fps=fps), seed=0)
        for step in range(5):
            x = source.batch(step).x[:, 0, :, 0, 0]
            gaps = ((x[:, 1:] - x[:, :-1]) * 127.5).round().long()
            assert set(gaps.flatten().tolist()) <= expected


def test_groups_are_drawn_by_weight_not_by_clips() -> None:
    clips = invented(2, group="rare") | invented(30, group="robot") | invented(3, group="x")
    config = plain(weights={"rare": 0.6, "robot": 0.3}, other=0.1)
    source = ClipSource(clips, config, seed=0)
    drawn = Counter(source.train[source.draw(s, 0)[1].clip].group for s in range(1500))
    shares = [drawn[group] / 1500 for group in ("rare", "robot", "x")]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.04)


def test_short_clips_are_counted_and_absent() -> None:
    clips = invented(2, frames=4, group="short") | invented(2, group="long")
    source = ClipSource(clips, plain(), seed=0)
    drawn = {source.train[source.draw(s, 0)[1].clip].group for s in range(50)}
    assert drawn == {"long"}
    assert "2 too short or small for 5x16" in source.summary()
    with pytest.raises(ValueError, match=r"none of 2 training clips has 5 frames of 16 pixels"):
        ClipSource(invented(2, frames=4), plain(), seed=0)


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gives no weight to any of: a"):
        ClipSource(invented(2), plain(weights={"b": 1.0}, other=0.0), seed=0)


def test_windows_come_by_share_and_by_step() -> None:
    windows = (
        Window(frames=5, size=16, batch=4, share=3.0, until=200),
        Window(frames=1, size=32, batch=2, share=1.0),
    )
    source = ClipSource(invented(3), plain(windows=windows), seed=0)
    early = Counter(source.window(step).frames for step in range(200))
    assert early[5] / 200 == pytest.approx(0.75, abs=0.08)
    assert {source.window(step).frames for step in range(200, 220)} == {1}
    image = source.batch(205)
    assert image.x.shape == (2, 3, 1, 32, 32)
    late = ClipSource(invented(3), plain(windows=windows[:1]), seed=0)
    with pytest.raises(ValueError, match=r"covers step 300"):
        late.batch(300)


def test_held_out_sources_never_train() -> None:
    clips = invented(60)
    same = {replace(clip, source="one") for clip in clips}
    assert len({clip.held_out(0.5) for clip in same}) == 1
    source = ClipSource(
        clips, plain(holdout=0.3, validation=Window(frames=5, size=16, batch=6)), seed=0
    )
    assert 8 <= len(source.held) <= 28
    assert not set(source.held) & set(source.train)
    batches = list(source.validation())
    assert len(batches) == 6
    assert batches[0].x.shape == (1, 3, 5, 16, 16)
    assert torch.equal(batches[0].x, next(iter(source.validation())).x)


def test_clips_smaller_than_the_window_are_not_validated() -> None:
    clips = invented(12, short=20) | invented(12, short=40, group="b")
    window = Window(frames=5, size=32, batch=24)
    source = ClipSource(clips, plain(holdout=0.5, validation=window), seed=0)
    assert {clip.short for clip in source.validation_clips} == {40}
    small = sum(clip.short == 20 for clip in source.held)
    assert small
    assert f"{small} too short or small for validation" in source.summary()


def test_validation_is_spread_over_groups() -> None:
    clips = [*invented(9, group="a"), *invented(3, group="b"), *invented(1, group="c")]
    assert Counter(clip.group for clip in balance_groups(clips, 5)) == {"a": 2, "b": 2, "c": 1}


def test_synthetic_motion_is_smooth_and_deterministic() -> None:
    still = np.random.default_rng(0).integers(0, 255, (1, 60, 80, 3), dtype=np.uint8)
    clip = Clip(path=Path("p"), source="p", frames=8, fps=10, height=60, width=80)
    clips = {clip: ClipFrames(clip, np.repeat(still, 8, 0))}
    source = ClipSource(clips, plain(synthetic=1.0), seed=0)
    x = source.batch(0).x
    assert x.shape == (4, 3, 5, 16, 16)
    assert torch.equal(x, source.batch(0).x)
    assert all((clip[:, 1:] - clip[:, :-1]).abs().max() > 0 for clip in x)


def test_pages_of_print_move_and_leave_other_samples_as_they_were() -> None:
    still = torch.full((1, 200, 260, 3), 128, dtype=torch.uint8)
    window = Window(frames=5, size=64)
    made = [
        [moving_still(still, window, np.random.default_rng(n), pages=pages) for n in range(40)]
        for pages in (0.0, 1.0, 1.0)
    ]
    words, printed, again = (torch.cat(some) for some in made)
    assert torch.equal(printed, again)
    edges = lambda x: x.diff(dim=-1).abs().mean()
    assert edges(printed) > 3 * edges(words), "small print everywhere"
    assert (printed.diff(dim=2).abs().amax((1, 2, 3, 4)) > 0.3).float().mean() > 0.8
    assert printed.abs().max() <= 1
    with pytest.raises(ValueError, match=r"data\.pages=0\.5 is a share of the synthetic samples"):
        DataConfig(pages=0.5)


@pytest.mark.parametrize("cache", ["disk", "memory", "none"])
def test_an_address_can_be_trained_on(clips: Path, tmp_path: Path, cache: str) -> None:
    held = find_clips(clips)[0].path
    address = shutil.copy(held, tmp_path / f"a b{held.suffix}").as_uri()  # its path is no file's
    config = DataConfig(cache=cache, cache_size=16)
    opened, broken = open_clips(find_clips(address), config, cache=tmp_path)
    assert (len(opened), broken) == (1, [])
    (found,) = opened.values()
    assert found.cut(slice(0, 2)).shape[0] == 2


def test_a_scale_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.scale=\[0\.9, 0\.5\] begins above its end"):
        DataConfig(scale=(0.9, 0.5))


@pytest.mark.parametrize("name", ["vidtok_stage1", "vidtok_stage2"])
def test_vidtoks_stages_see_and_judge_clips_at_the_window(name: str) -> None:
    data = replace(find_recipe(name).data, holdout=0.0)
    source = ClipSource(invented(2, short=256), data, seed=0)
    assert {source.draw(step, 0)[1].side for step in range(20)} == {256}
    assert data.validation.size == data.windows[0].size


def test_lively_samples_are_the_ones_that_move() -> None:
    """The liveliest of three: 19 of 27 samples move instead of 9; a cut counts for nothing."""
    steps = {
        "still": np.zeros(40),
        "cut": np.repeat([0, 200], 20),
        "moving": 6 * np.arange(40),
    }
    clips = {}
    for name, levels in steps.items():
        clip = Clip(path=Path(name), source=name, frames=40, fps=30.0, height=40, width=48)
        held = np.broadcast_to(levels.astype(np.uint8)[:, None, None, None], (40, 40, 48, 3))
        clips[clip] = ClipFrames(clip, held)

    def share(lively: float) -> float:
        source = ClipSource(clips, plain(lively=lively), seed=0)
        drawn = [source.train[source.draw(step, 0)[1].clip].name for step in range(300)]
        return drawn.count("moving") / len(drawn)

    assert share(0.0) == pytest.approx(1 / 3, abs=0.08)
    assert share(1.0) == pytest.approx(1 - (2 / 3) ** 3, abs=0.08)
    assert share(0.5) == pytest.approx(0.52, abs=0.08)


def test_lively_samples_keep_to_the_weights_of_groups() -> None:
    clips = invented(4, group="moving")
    for clip, entry in invented(4, group="still").items():
        clips[clip] = replace(entry, held=np.zeros_like(entry.held))
    drawn = {}
    for lively in (0.0, 1.0):
        config = plain(weights={"still": 0.8, "moving": 0.2}, lively=lively)
        source = ClipSource(clips, config, seed=0)
        drawn[lively] = [source.train[source.draw(s, 0)[1].clip].group for s in range(100)]
    assert drawn[0.0] == drawn[1.0]


def test_lively_needs_frames_at_hand() -> None:
    with pytest.raises(ValueError, match="lively"):
        ClipSource(invented(4), plain(lively=0.5, cache="none"), seed=0)


def test_longest_clips_are_cut_to_the_budget() -> None:
    clips = [*invented(2, frames=10), *invented(2, frames=200, group="long")]
    frame = 40 * 48 * 3
    roomy, tight = (plain(cache_gb=n * frame / 1e9) for n in (1000, 100))
    assert frame_cap(clips, roomy) == 200
    assert frame_cap(clips, tight) == 40


def test_clips_that_the_cache_cuts_are_told(clips: Path, tmp_path: Path) -> None:
    room = 10 * 6 * 48 * 56 * 3 / 1e9  # of six clips of 14 frames
    for cache in ("disk", "memory"):
        config = plain(cache=cache, cache_gb=room)
        opened, _ = open_clips(find_clips(clips), config, cache=tmp_path)
        assert cut_clips(opened, config) == (
            "6 of 6 clips are cut to 10 frames (28.6% of all frames are left out): "
            "raise data.cache_gb=0.00048384, or set data.cache=none"
        )
    whole = plain(cache="none", cache_gb=room)
    assert cut_clips(open_clips(find_clips(clips), whole, cache=tmp_path)[0], whole) is None


def test_a_cache_full_of_what_is_not_read_is_told(clips: Path, tmp_path: Path) -> None:
    room = 14 * 6 * 48 * 56 * 3 / 1e9  # of six clips of 14 frames
    config = plain(cache="disk", cache_gb=room)
    opened, _ = open_clips(find_clips(clips), config, cache=tmp_path)
    assert unread_cache(opened, config, tmp_path) is None
    bytes_ = round(room * 1e9)
    for size, full in ((3 * bytes_ - 9, False), (3 * bytes_ + 9, True)):
        tmp_path.joinpath("old.npy").write_bytes(bytes(size))
        assert (unread_cache(opened, config, tmp_path) is not None) == full
    said = unread_cache(opened, config, tmp_path)
    assert said is not None
    assert re.fullmatch(
        rf"{tmp_path} holds 0\.002 GB of decoded clips that this run does not read: it can be "
        "emptied at any time",
        said,
    )


# Files.


def opened(folder: Path, config: DataConfig, tmp_path: Path) -> ClipSource:
    clips, broken = open_clips(find_clips(folder), config, cache=tmp_path / "cache")
    assert not broken
    return ClipSource(clips, config, seed=0)


def test_every_cache_gives_the_same_batches(clips: Path, tmp_path: Path) -> None:
    kinds = ("disk", "memory", "none", "device")
    sources = [opened(clips, plain(cache=kind), tmp_path) for kind in kinds]
    for step in range(3):
        first, *others = (source.batch(step).x for source in sources)
        assert all(torch.equal(first, other) for other in others)
    again = opened(clips, plain(cache="disk"), tmp_path)
    assert torch.equal(again.batch(0).x, sources[0].batch(0).x)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 6
    assert not list((tmp_path / "cache").glob("*.part"))


def test_segments_of_one_file_are_cached_apart(clips: Path, tmp_path: Path) -> None:
    """The cache knows where each begins and ends, in whichever order they come."""
    file = min(clips.glob("*.mkv"))
    lengths = {}
    for number, ends in enumerate(([0.4, 0.2], [0.2, 0.4], [0.3])):
        listed = tmp_path / f"list{number}.csv"
        rows = [f"{file},0,{end}" for end in ends]
        listed.write_text("\n".join(["videos,start,end", *rows]) + "\n")
        for kind in ("disk", "memory"):
            held, _ = open_clips(find_clips(listed), plain(cache=kind), cache=tmp_path / "cache")
            lengths[number, kind] = [clip.frames for clip in held]
    for number in range(3):
        assert lengths[number, "disk"] == lengths[number, "memory"]
    assert lengths[0, "disk"] == lengths[1, "disk"][::-1]
    assert len(set(lengths[0, "disk"])) == 2


def test_cache_size_bounds_the_short_side(clips: Path, tmp_path: Path) -> None:
    source = opened(clips, plain(cache_size=24), tmp_path)
    assert {clip.short for clip in source.train} == {24}


def test_folder_csv_and_tar_are_alike(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(clips.glob("*.mkv")):
            tar.add(file, arcname=f"inner/{file.name}")
        tar.addfile(tarfile.TarInfo("note.txt"), io.BytesIO())
    with (tmp_path / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["videos", "group"])
        table.writerows([str(clip), "g"] for clip in sorted(clips.glob("*.mkv")))
    listed, packed = find_clips(tmp_path / "list.csv"), find_clips(tmp_path / "shard.tar")
    assert len(listed) == len(packed) == len(find_clips(clips)) == 6
    assert {clip.group for clip in listed} == {"g"}
    assert packed[0].name == "shard.tar/inner/0.mkv"
    config = plain(cache="memory")
    from_tar, from_csv = (open_clips(c, config, cache=tmp_path)[0] for c in (packed, listed))
    for one, two in zip(from_tar.values(), from_csv.values(), strict=True):
        assert np.array_equal(one.held, two.held)


def test_folders_of_pictures_are_clips_in_folders_and_shards(tmp_path: Path) -> None:
    from PIL import Image

    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            color = (25 * number, 0, 0 if name == "a" else 255)
            Image.new("RGB", (24, 16), color).save(tmp_path / "set" / name / f"{number}.png")
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "set", arcname="set")
    config = plain(windows=(Window(frames=5, size=16, batch=2),), cache="memory")
    batches = []
    for data in (tmp_path / "set", tmp_path / "set.tar", f"{tmp_path}/set/*"):
        held, broken = open_clips(find_clips(data), config, cache=tmp_path / "cache")
        assert [clip.frames for clip in held] == [10, 10]
        assert not broken
        batches.append(
            {name: f.cut(slice(0, 10)) for name, f in zip("ab", held.values(), strict=True)}
        )
        assert ClipSource(held, config).batch(0).x.shape == (2, 3, 5, 16, 16)
    assert batches[0]["a"][:, 0, 0, 0].tolist() == [25 * number for number in range(10)]


def test_folders_name_groups_and_images_are_clips(clips: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "stills").mkdir()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "stills" / "red.png")
    (tmp_path / "moving").mkdir()
    (tmp_path / "moving" / "a.mkv").write_bytes((clips / "0.mkv").read_bytes())
    found = find_clips(tmp_path)
    assert {clip.group for clip in found} == {"stills", "moving"}
    windows = (Window(frames=1, size=16, batch=2),)
    held, broken = open_clips(found, plain(windows=windows), cache=tmp_path / "cache")
    assert not broken
    assert sorted(clip.frames for clip in held) == [1, 14]
    source = ClipSource(held, plain(windows=windows, weights={"stills": 1.0}, other=0.0), seed=0)
    assert torch.equal(source.batch(0).x[0, :, 0, 0, 0], torch.tensor([1.0, -1.0, -1.0]))


def test_broken_clips_are_reported_and_left_out(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.mkv").write_bytes((clips / "0.mkv").read_bytes())
    (folder / "noise.mp4").write_bytes(b"this is no video" * 100)
    held, broken = open_clips(find_clips(folder), plain(), cache=tmp_path / "cache")
    assert [clip.name for clip in held] == ["good.mkv"]
    assert [bad.name for bad in broken] == ["noise.mp4"]
    (folder / "good.mkv").unlink()
    with pytest.raises(
        ValueError, match=r"none of 1 clips decodes; the first: noise.mp4: it is not"
    ):
        open_clips(find_clips(folder), plain(), cache=tmp_path / "cache")


def test_a_clip_that_breaks_later_is_missing_and_counted(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plain(cache="none", windows=(Window(frames=14, size=16, batch=8),))
    source = opened(clips, config, tmp_path)
    bad = source.train[0]
    kept = [name for name in source.batch(0).names if name != bad.name]
    source.frames = {
        c: ClipFrames(replace(c, path=tmp_path / "gone.mp4")) if c == bad else f
        for c, f in source.frames.items()
    }
    loader = Loader(source)
    batch = loader(0)
    loader.close()
    assert list(batch.names) == kept
    assert sum(loader.lost.values()) > 0
    assert "left out: 0.mkv" in capsys.readouterr().err
    assert sum(len(part) for part in split_batch(batch, 3)) == len(kept)


def test_another_clip_is_drawn_where_nothing_is_left_of_a_batch(
    clips: Path, tmp_path: Path
) -> None:
    config = plain(cache="none", windows=(Window(frames=5, size=16, batch=1),))
    source = opened(clips, config, tmp_path)
    step = next(step for step in range(99) if source.draw(step, 0)[1].clip == 0)
    bad, frames = source.train[0], source.frames
    gone = ClipFrames(replace(bad, path=tmp_path / "gone.mp4"))
    source.frames = {**frames, bad: gone}
    batches = []
    for _ in range(2):  # as after a resume
        loader = Loader(source)
        batches.append(loader(step))
        loader.close()
    assert batches[0].names == batches[1].names != (bad.name,)
    assert torch.equal(batches[0].x, batches[1].x)
    source.frames = dict.fromkeys(frames, gone)
    with pytest.raises(ValueError, match=f"no clip of step {step} decodes"):
        Loader(source)(step)


def test_a_held_out_clip_that_breaks_later_is_not_scored(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plain(cache="none", holdout=0.6, validation=Window(frames=5, size=16, batch=9))
    source = opened(clips, config, tmp_path)
    bad, *kept = source.validation_clips
    gone = ClipFrames(replace(bad, path=tmp_path / "gone.mp4"))
    source.frames = {**source.frames, bad: gone}
    assert kept
    for _ in range(2):
        assert [batch.names for batch in source.validation()] == [(clip.name,) for clip in kept]
    assert capsys.readouterr().err.count(f"left out of validation: {bad.name}: there is no") == 1


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        find_clips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds neither videos nor images"):
        find_clips(tmp_path)
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"has the columns a, b: one of file, filename"):
        find_clips(tmp_path / "list.csv")
    (tmp_path / "bad.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not a readable tar"):
        find_clips(tmp_path / "bad.tar")


def test_check_writes_a_report_and_a_clean_list(clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in clips.glob("*.mkv"):
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (folder / "3.mkv").read_bytes()
    (folder / "3.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "4.mkv").write_bytes(b"")
    found = check_clips(folder)
    assert (found.clips, len(found.broken)) == (4, 2)
    assert found.frames == 4 * 14
    assert "broken" in found.report.read_text()
    clean = find_clips(found.clean)
    assert len(clean) == 4
    held, broken = open_clips(clean, plain(), cache=tmp_path / "cache")
    assert (len(held), broken) == (4, [])


def test_pixels_are_those_of_the_file(clips: Path, tmp_path: Path) -> None:
    """A square as large as the clip, unscaled, is what `read` and `to_unit` give."""
    from reeltok.video.record import read

    config = plain(windows=(Window(frames=3, size=48, batch=1),), flip=False)
    source = opened(clips, config, tmp_path)
    window, drawn = source.draw(0, 0)
    x = source.batch(0).x
    frames = read(source.train[drawn.clip].path).frames[drawn.start : drawn.start + window.frames]
    assert torch.equal(x, to_unit(frames[:, :, drawn.left : drawn.left + 48]))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"PK\x03\x04", b"cut"])
def test_a_damaged_cache_is_made_again(clips: Path, tmp_path: Path, damage: bytes) -> None:
    first = opened(clips, plain(cache="disk"), tmp_path)
    wanted = first.batch(3).x
    for kept in (tmp_path / "cache").glob("*.npy"):
        whole = kept.read_bytes()
        kept.write_bytes(whole[: len(whole) // 2] if damage == b"cut" else damage)
    again = opened(clips, plain(cache="disk"), tmp_path)
    assert torch.equal(again.batch(3).x, wanted)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="lists of open files are Linux's")
def test_a_cache_holds_no_file_open_for_each_clip(clips: Path, tmp_path: Path) -> None:
    """Systems allow a process some 1,000 open files; data sets have more clips."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = opened(clips, plain(cache="disk"), tmp_path)
    source.batch(0)
    assert len(source.frames) == 6
    maps = Path("/proc/self/maps").read_text()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert str(tmp_path / "cache") not in maps


def test_a_file_that_leaves_the_cache_is_made_again(clips: Path, tmp_path: Path) -> None:
    source = opened(clips, plain(cache="disk"), tmp_path)
    wanted = source.batch(3).x
    files = list((tmp_path / "cache").glob("*.npy"))
    for kept in files:
        kept.unlink()
    assert torch.equal(source.batch(3).x, wanted)
    assert 0 < len(list((tmp_path / "cache").glob("*.npy"))) <= len(files)


def test_a_list_of_the_users_is_not_replaced_by_a_check(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "clean.csv").write_text("my,own,notes")
    with pytest.raises(ValueError, match=r"clean\.csv is not of an earlier check"):
        check_clips(clips, out=tmp_path)
    assert (tmp_path / "clean.csv").read_text() == "my,own,notes"
    (tmp_path / "clean.csv").unlink()
    check_clips(clips, out=tmp_path)
    check_clips(clips, out=tmp_path)


def test_what_is_judged_is_told_by_window_rate_and_clips() -> None:
    held = {"holdout": 0.5, "validation": Window(frames=5, size=16, batch=3)}
    judged = lambda **more: ClipSource(invented(9), plain(**held | more)).judged
    assert judged() == judged(flip=False)
    sizes = ((4, 16, 3), (5, 8, 3), (5, 16, 2))
    windows = [Window(frames=frames, size=size, batch=batch) for frames, size, batch in sizes]
    others = [judged(validation=window) for window in windows]
    assert len({judged(), judged(fps=5.0), *others}) == 5
