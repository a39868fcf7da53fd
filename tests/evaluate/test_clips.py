"""Clips follow their protocol to the letter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reeltok.data.find import find_clips
from reeltok.evaluate.clips import (
    ClipCache,
    clips,
    crop_to_groups,
    fit_to_protocol,
    hash_of,
    resize,
    sound_parts,
    window_starts,
)
from reeltok.evaluate.protocols import Protocol
from reeltok.metrics.paired import Box
from reeltok.video.record import Video, write

PLAIN = Protocol(name="test", data="made here", source="the tests", frames=4)


def video(frames: int, height: int = 32, width: int = 48, fps: float = 10) -> Video:
    """Every frame holds its number as its brightness; columns rise to the right."""
    pixels = torch.arange(frames).view(-1, 1, 1, 1) * 2 + torch.arange(width).view(1, 1, -1, 1)
    return Video(pixels.expand(-1, height, -1, 3).to(torch.uint8).contiguous(), fps)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(video(4), tmp_path / "a.mkv", lossless=True)
    write(video(10), tmp_path / "b.mkv", lossless=True)
    write(video(3), tmp_path / "c.mkv", lossless=True)
    return tmp_path


def lengths(protocol: Protocol, data: Path, **more: object) -> dict[str, tuple[int, int]]:
    found = clips(protocol, data, **more)  # type: ignore[arg-type]
    return {clip.name: (len(clip.video), clip.filled) for clip in found}


def test_the_first_frames_are_taken_and_short_clips_filled(folder: Path) -> None:
    assert lengths(PLAIN, folder) == {"a.mkv": (4, 0), "b.mkv": (4, 0), "c.mkv": (4, 1)}
    last = [*clips(PLAIN, folder)][-1].video.frames
    assert (last[3] == last[2]).all()


def test_short_and_small_clips_are_left_out_with_the_reason(folder: Path) -> None:
    found = clips(replace(PLAIN, short="skip"), folder)
    assert [clip.name for clip in found] == ["a.mkv", "b.mkv"]
    assert found.left_out == {"c.mkv": "3 frames, but 4 are asked for"}
    found = clips(replace(PLAIN, smallest=33), folder)
    assert [*found] == []
    assert found.left_out["a.mkv"] == "32x48 pixels, but 33 are asked for"


def test_held_clips_are_the_same_and_need_no_file(folder: Path) -> None:
    for protocol in (PLAIN, replace(PLAIN, window="consecutive")):
        cache = ClipCache()
        first = clips(protocol, folder, cache=cache)
        seen = [(clip.name, clip.sha256, clip.filled) for clip in first]
        again = clips(protocol, folder, cache=cache)
        for item in again.items:
            item.path.rename(item.path.with_suffix(".away"))
        assert [(clip.name, clip.sha256, clip.filled) for clip in again] == seen
        assert (again.filled, again.broken) == (first.filled, {})
        for item in again.items:
            item.path.with_suffix(".away").rename(item.path)


def test_held_clips_of_one_length_are_not_those_of_another(folder: Path) -> None:
    cache, plan = ClipCache(), replace(PLAIN, noncausal_frames=5)
    for causal, frames in ((True, 4), (False, 5), (True, 4)):
        found = clips(plan, folder, causal=causal, cache=cache)
        assert {len(clip.video) for clip in found} == {frames}


def test_what_is_held_is_bounded_and_never_hides_what_was_left_out(folder: Path) -> None:
    one = 4 * 32 * 48 * 3  # bytes of a clip
    cache = ClipCache(2 * one - 1)
    assert len([*clips(PLAIN, folder, cache=cache)]) == 3
    assert [name for name, _ in cache.kept] == ["a.mkv"]
    assert cache.left == one - 1
    short = replace(PLAIN, window="consecutive", short="skip")
    cache = ClipCache()
    found = [clips(short, folder, cache=cache) for _ in range(2)]
    assert [[clip.name for clip in every] for every in found] == [
        ["a.mkv#0", "b.mkv#0", "b.mkv#1"]
    ] * 2
    assert found[0].left_out == found[1].left_out
    assert set(found[0].left_out) == {"b.mkv", "c.mkv"}


def test_consecutive_clips_cover_the_video_and_the_last_is_filled(folder: Path) -> None:
    protocol = replace(PLAIN, window="consecutive", noncausal_frames=5)
    assert lengths(protocol, folder) == {
        **{"a.mkv#0": (4, 0), "b.mkv#0": (4, 0), "b.mkv#1": (4, 0), "b.mkv#2": (4, 2)},
        "c.mkv#0": (4, 1),
    }
    assert lengths(protocol, folder, causal=False)["b.mkv#1"] == (5, 0)
    frames = torch.cat([c.video.frames for c in clips(protocol, folder) if c.name[0] == "b"])
    assert (frames[:10] == video(10).frames).all()


def test_a_lower_rate_takes_every_second_frame(folder: Path) -> None:
    protocol = replace(PLAIN, fps=5, rate="stride")
    (_, clip, _) = clips(protocol, folder)
    assert (clip.video.frames == video(10).frames[:8:2]).all()
    assert clip.video.fps == 5
    cut = replace(protocol, window="consecutive")
    assert lengths(cut, folder)["b.mkv#1"] == (4, 3)  # 10 frames: 0 2 4 6, then 8
    assert lengths(replace(protocol, fps=12), folder)["b.mkv"] == (4, 0)  # a higher one: none


def test_whole_videos_may_be_cut_to_groups_and_seconds(folder: Path) -> None:
    whole = replace(PLAIN, frames=None, window="whole")
    assert lengths(whole, folder) == {"a.mkv": (4, 0), "b.mkv": (10, 0), "c.mkv": (3, 0)}
    assert lengths(replace(whole, seconds=0.5), folder)["b.mkv"] == (5, 0)
    found = clips(replace(whole, groups_of=3, short="skip"), folder)
    assert [(c.name, len(c.video)) for c in found] == [("a.mkv", 4), ("b.mkv", 10)]
    assert found.left_out == {"c.mkv": "3 frames, but 4 are asked for"}
    (*_, last) = clips(replace(whole, groups_of=3), folder)
    assert (last.name, len(last.video), last.filled) == ("c.mkv", 4, 1)
    assert (last.video.frames[:3] == video(3).frames).all()
    assert [crop_to_groups(n, 16) for n in (1, 16, 17, 32, 33)] == [1, 16, 17, 17, 33]


def test_windows_and_crops_are_spread(folder: Path) -> None:
    protocol = replace(PLAIN, window="spread", windows=2, crops=3, size=32, crop=32)
    found = {clip.name: clip.video for clip in clips(protocol, folder)}
    assert [name for name in found if name[0] == "b"] == [f"b.mkv#{i}" for i in range(6)]
    assert [int(found[f"b.mkv#{i}"].frames[0, 0, 0, 0]) for i in range(6)] == [0, 8, 16, 12, 20, 28]
    assert found["b.mkv#0"].frames.shape == (4, 32, 32, 3)
    assert window_starts(10, 4, 3) == [0, 3, 6]


def test_crops_are_even_central_and_at_most_as_asked() -> None:
    cut = lambda h, w, **more: fit_to_protocol(video(1, h, w), replace(PLAIN, **more))[0]
    assert cut(31, 45, crop=32).frames.shape == (1, 30, 32, 3)
    assert int(cut(32, 48, crop=32).frames[0, 0, 0, 0]) == 8
    assert cut(20, 31, size=10).frames.shape == (1, 10, 15, 3)  # 15.5, rounded down
    assert cut(31, 20, size=40, crop=40).frames.shape == (1, 40, 40, 3)
    assert cut(20, 30, size=40, enlarge=False).frames.shape == (1, 20, 30, 3)


def test_boxes_move_with_their_pixels() -> None:
    boxes = (
        Box(name="in", left=20, top=4, width=8, height=6),
        Box(name="out", left=0, top=0, width=3, height=3),
    )
    _, moved = fit_to_protocol(video(1, 16, 48), replace(PLAIN, size=32, crop=32), boxes)
    assert moved == (Box(name="in", left=8, top=8, width=16, height=12),)
    whole, scaled = fit_to_protocol(video(1, 16, 48), replace(PLAIN, size=8, crop=None), boxes[:1])
    assert whole.frames.shape == (1, 8, 24, 3)
    assert scaled == (Box(name="in", left=10, top=2, width=4, height=3),)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_resizing_is_that_of_pillow(kernel: str) -> None:
    from PIL import Image

    frames = torch.randint(0, 256, (1, 60, 80, 3), dtype=torch.uint8)
    ways = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    picture = Image.fromarray(frames[0].numpy()).resize((40, 30), ways[kernel])
    found = resize(frames, (30, 40), kernel)[0].int()
    assert (found - torch.from_numpy(np.array(picture)).int()).abs().max() <= 2  # it rounds twice


def test_broken_files_are_counted_and_the_others_go_on(folder: Path) -> None:
    (folder / "aa.mp4").write_bytes(b"no video" * 100)
    (folder / "list.csv").write_text("file\na.mkv\ngone.mp4\naa.mp4\nb.mkv\n")
    found = clips(PLAIN, folder / "list.csv")
    assert [clip.name for clip in found] == ["a.mkv", "b.mkv"]
    assert found.broken.keys() == {"gone.mp4", "aa.mp4"}
    assert "there is no file" in found.broken["gone.mp4"]


def test_a_video_that_breaks_midway_gives_no_clip(folder: Path) -> None:
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (400, 40, 48, 3), generator=noise, dtype=torch.uint8)
    write(Video(pixels, 10), folder / "b.mkv", lossless=True)
    raw = bytearray((folder / "b.mkv").read_bytes())
    at = len(raw) * 3 // 4
    raw[at : at + len(raw) // 20] = bytes(len(raw) // 20)
    (folder / "b.mkv").write_bytes(raw)
    found = clips(replace(PLAIN, window="consecutive"), folder)
    assert [clip.name for clip in found] == ["a.mkv#0", "c.mkv#0"]
    assert (found.broken.keys(), found.filled) == ({"b.mkv"}, 1)


def test_long_videos_are_decoded_twice_and_not_held(folder: Path) -> None:
    item = next(clip for clip in find_clips(folder) if clip.name == "b.mkv")
    one = 4 * 32 * 48 * 3  # bytes of a part
    for limit in (0, one, 2 * one, 10**9):
        parts = [part.frames for part in sound_parts(item, 4, limit=limit)]
        assert [len(part) for part in parts] == [4, 4, 2]
        assert torch.equal(torch.cat(parts), video(10).frames)


def test_shards_and_finished_clips(folder: Path) -> None:
    halves = [lengths(PLAIN, folder, shard=(rank, 2)) for rank in (0, 1)]
    assert [list(half) for half in halves] == [["a.mkv", "c.mkv"], ["b.mkv"]]
    assert list(lengths(PLAIN, folder, done={"a.mkv"})) == ["b.mkv", "c.mkv"]
    protocol = replace(PLAIN, window="consecutive")
    assert list(lengths(protocol, folder, done={"b.mkv#0", "b.mkv#2"})) == [
        *("a.mkv#0", "b.mkv#1", "c.mkv#0")
    ]


def test_a_larger_set_is_sampled_the_same_way_every_time(folder: Path) -> None:
    few = replace(PLAIN, clips=2)
    assert list(lengths(few, folder)) == list(lengths(few, folder))
    assert len(lengths(few, folder)) == 2


def test_the_hash_is_of_the_pixels_and_their_shape(folder: Path) -> None:
    first, again = ([c.sha256 for c in clips(PLAIN, folder)] for _ in range(2))
    assert first == again
    assert len(set(first)) == 2  # a and b begin alike, c is filled
    x = video(2)
    assert hash_of(x) != hash_of(Video(x.frames.reshape(4, 16, 48, 3), 10))


def test_an_unknown_protocol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no protocol"):
        clips("best", tmp_path)


@pytest.mark.weights
def test_the_default_protocol_takes_22_of_the_shared_clips(shared: Path) -> None:
    found = clips("shared-eval", shared / "data/eval")
    assert len(found.items) == 23
    sizes = {clip.name: tuple(clip.video.frames.shape[:3]) for clip in found}
    assert len(sizes) == 22
    assert sizes.pop("18_realshort.mp4") == (17, 240, 256)
    assert set(sizes.values()) == {(17, 256, 256)}
    assert list(found.left_out) == ["16_carphone_pristine.mp4"]
    assert found.broken == {}
