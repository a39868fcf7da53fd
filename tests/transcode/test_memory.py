"""Budgets of memory: what frames need, what is chosen for them, and what is said of it."""

import math
import tracemalloc
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_clips import moving

import reeltok
from reeltok.models.presets import COMPACT
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.past import Past
from reeltok.tokenizer.tiling import Tiling
from reeltok.tokens.reel import Reel
from reeltok.transcode import (
    Coding,
    Writing,
    decode_file,
    encode_file,
    memory,
    need,
    reconstruct_file,
)
from reeltok.transcode.memory import (
    Bounds,
    bounded,
    halved,
    released,
    whole_groups_of,
)
from reeltok.transcode.need import Sides, Work, Workload, memory_need, remembered, waiting
from reeltok.transcode.options import USUAL
from reeltok.transcode.reconstruct import Passed
from reeltok.video.record import Video, stream

NARROW = replace(COMPACT, width=8, multipliers=(1, 1), blocks=(1, 1))


def encoding(size: tuple[int, int]) -> Workload:
    return Workload(work="encode", size=size)


@pytest.fixture(scope="module")
def tok() -> VidTok:
    torch.manual_seed(1)
    return VidTok(NARROW, "narrow").eval()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a process took nothing, and had little by itself."""
    monkeypatch.setattr(need, "PROCESS", 0)
    for name in ("BESIDE", "LEAST"):
        monkeypatch.setattr(memory, name, 1_000)


def test_small_frames_are_coded_whole_and_nothing_is_said(tok: VidTok) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bounded(tok, USUAL, Workload(work="reconstruct", size=(256, 256))) == Bounds(
            chunk=16, tile=None
        )
        assert bounded(tok, Coding(memory=64), encoding((1080, 1920))).tile is None


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (256, 256)])
def test_small_frames_are_never_cut_but_fewer_are_coded_at_a_time(
    tok: VidTok, small: None, size: tuple[int, int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bounded(tok, USUAL, encoding(size))
    assert found.tile is None
    assert 4 <= found.chunk < USUAL.chunk_for(*size)


def test_large_frames_of_the_default_are_coded_in_strips() -> None:
    model = VidTok(COMPACT, "default").eval()
    with pytest.warns(UserWarning, match="frames of 2160x3840 .* GB wait in a temporary file"):
        found = bounded(model, USUAL, Workload(work="reconstruct", size=(2160, 3840)))
    assert isinstance(found.tile, Tiling)
    assert found.tile.pixels % 8 == 0
    needed = memory_need(model, USUAL, Workload(work="reconstruct", size=(2160, 3840)))
    assert needed.least < 1.5e9 < needed.unbounded
    assert bounded(model, USUAL, Workload(work="reconstruct", size=(256, 456))).tile is None


def test_what_is_remembered_grows_with_the_cells(tok: VidTok) -> None:
    found, past = remembered(tok), Past()
    with torch.no_grad():
        for frames in (1, 4):
            tok.encode_part(torch.zeros(1, 3, frames, 24, 40), past)
    assert found.encoder * 15 == sum(x.nbytes for x in past.kept.values())
    assert found.decoder > 0
    whole = VidTok(replace(NARROW, edge="both", sampler="joint"), "whole").eval()
    assert remembered(whole) == Sides(0, 0)


def test_what_is_needed_moves_with_the_models_sizes(tok: VidTok) -> None:
    def of(config: Any, work: Work = "encode", **more: Any) -> need.Need:
        return memory_need(
            VidTok(config).eval(), USUAL, Workload(work=work, size=(2160, 3840), **more)
        )

    wide, deep = of(replace(NARROW, width=16)), of(replace(NARROW, blocks=(3, 3)))
    narrow = of(NARROW)
    assert wide.layer == 2 * narrow.layer
    assert deep.layer == narrow.layer
    assert wide.weights > deep.weights > narrow.weights
    assert narrow.waits < wide.waits < 2 * narrow.waits  # frames have three colours in all
    assert narrow.waits < deep.waits
    assert narrow.within(64) < deep.within(64)
    assert narrow.within(64) < wide.within(64)
    assert waiting(VidTok(NARROW).eval().double(), "encode") == 2 * narrow.waits
    assert waiting(tok, "decode") < of(NARROW, "reconstruct").waits == narrow.waits
    written = [of(NARROW, "decode", frames=n).within(64) for n in (9, 90, None)]
    assert written[0] == written[1] == written[2]  # so large, x264 does not look ahead


def test_what_x264_holds_grows_with_the_frames_it_looks_ahead(tok: VidTok) -> None:
    def of(size: tuple[int, int], frames: int | None, **more: Any) -> float:
        found = memory_need(
            tok, USUAL, Workload(work="reconstruct", size=size, frames=frames, **more)
        )
        return found.codecs / math.prod(size)

    measured = {9: 85, 24: 160, 48: 256, 90: 271}  # bytes a pixel, 960x544 and 1920x1080
    for frames, found in measured.items():
        assert found < of((544, 960), frames) - 33 < 1.2 * found
    assert of((544, 960), 90) == of((544, 960), None)
    assert of((1080, 1920), 24) - 33 > 155
    assert of((543, 959), 60) - 33 > 416
    assert of((544, 960), 9, beside=True) > 2.5 * of((544, 960), 9)
    assert of((2160, 3840), 9, beside=True) < 2 * of((2160, 3840), 9)


def test_other_encoders_hold_more(tok: VidTok) -> None:
    measured = {((1080, 1920), 30): 200, ((540, 960), 60): 312, ((2160, 3840), 12): 55}
    for (size, frames), found in measured.items():  # bytes a pixel that x265 held
        job = Workload(work="decode", size=size, frames=frames)
        own, others = (
            memory_need(tok, USUAL, replace(job, codec=codec)).codecs / math.prod(size)
            for codec in ("libx264", "h265")
        )
        assert own < others
        assert found < others - 3 < 1.4 * found


def test_a_budget_counts_the_codec_that_is_asked_for(
    tok: VidTok, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Workload] = []
    monkeypatch.setattr(memory, "memory_need", lambda *a: (jobs.append(a[2]), memory_need(*a))[1])
    clip, reel = tmp_path / "clip.mkv", tmp_path / "clip.reel"
    reeltok.write(moving(5, 64, 64), clip, lossless=True)
    encode_file(tok, clip, reel)
    decode_file(tok, reel, tmp_path / "a.mp4", writing=Writing(codec="hevc"))
    reconstruct_file(tok, clip, tmp_path / "b.mp4", writing=Writing(codec="libx265"))
    assert [(job.work, job.codec) for job in jobs] == [
        ("encode", None),
        ("decode", "hevc"),
        ("reconstruct", "libx265"),
    ]


def test_strips_were_measured_to_need_no_more() -> None:
    """What encoding 1920x1080 in strips of 64 pixels took by reftok-default, pasts not counted."""
    model, job = reeltok.load("reftok-default"), encoding((1080, 1920))
    assert memory_need(model, USUAL, job).within(64) > 0.86e9


def test_a_budget_too_small_names_the_least_which_is_enough(tok: VidTok) -> None:
    least = memory_need(tok, USUAL, encoding((2160, 3840))).least / 1e9
    with pytest.raises(ValueError, match=r"`memory=0.2` GB is too little.*: give (\S+) or") as said:
        bounded(tok, Coding(memory=0.2), encoding((2160, 3840)))
    named = float(str(said.value).split("give ")[1].split()[0])
    assert least <= named < least + 0.011
    with pytest.warns(UserWarning, match="in strips of 8 pixels"):
        found = bounded(tok, Coding(memory=named), encoding((2160, 3840)))
    assert isinstance(found.tile, Tiling)


def test_strips_that_were_asked_for_are_held_to_the_budget(tok: VidTok) -> None:
    size = (2160, 3840)
    with pytest.raises(ValueError, match=r"`tile=1024` does not fit into `memory=0.8` GB .* lower"):
        bounded(tok, Coding(tile=1024, memory=0.8), encoding(size))
    with pytest.warns(UserWarning, match="in strips of 2048 pixels") as said:
        assert bounded(tok, Coding(tile=2048), encoding(size)).tile is not None
    assert "stay within" not in str(said[0].message)
    with pytest.warns(UserWarning, match=r"in strips of 8 pixels, and 0\.2 GB wait"):
        bounded(tok, Coding(tile=8), encoding(size))
    with pytest.warns(UserWarning, match=r"in strips of 8 pixels to stay within 1\.00 GB"):
        bounded(tok, Coding(tile=8, memory=1.0), encoding(size))


@pytest.mark.parametrize("work", ["encode", "decode"])
def test_a_tile_that_is_none_is_refused_before_strips_are_noted(tok: VidTok, work: Work) -> None:
    said = "`tile=3` is less than the 8 pixels of a token of narrow: give 8 or more"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=said):
            bounded(tok, Coding(tile=3), Workload(work=work, size=(64, 64)))


def test_files_share_a_budget(tok: VidTok, small: None) -> None:
    size = (640, 64)
    gb = memory_need(tok, USUAL, encoding(size)).unbounded / 1e9
    alone = Coding(memory=gb * 1.01)
    assert bounded(tok, alone, encoding(size)) == Bounds(chunk=USUAL.chunk_for(*size), tile=None)
    shared = bounded(tok, replace(alone, jobs=2), encoding(size))
    assert shared.tile is None
    assert 4 <= shared.chunk < USUAL.chunk_for(*size)
    with pytest.warns(UserWarning, match="in strips of"):
        assert bounded(tok, replace(alone, jobs=2, chunk=25), encoding(size)).tile is not None


def test_what_cannot_be_bounded_is_said(tok: VidTok, monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = VidTok(replace(NARROW, groups=4), "grouped").eval()
    with pytest.raises(ValueError, match="grouped cannot bound its memory: leave `memory` out, or"):
        bounded(grouped, Coding(memory=2), encoding((64, 64)))
    with pytest.warns(UserWarning, match="`tile=256` takes less, and changes ids"):
        assert bounded(grouped, USUAL, encoding((2160, 3840))).tile is None
    assert bounded(grouped, Coding(tile=32), encoding((64, 64))).tile == 32
    monkeypatch.setattr(VidTok, "device", torch.device("cuda"))
    assert bounded(tok, USUAL, encoding((2160, 3840))).tile is None
    with pytest.raises(ValueError, match=r"cannot bound its memory on cuda: leave `memory` out$"):
        bounded(tok, Coding(memory=2), encoding((64, 64)))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_number_of_gb(value: float) -> None:
    with pytest.raises(ValueError, match="is not a number of GB: give one above 0"):
        Coding(memory=value)


def test_ever_fewer_frames_are_tried() -> None:
    assert list(halved(25, 4)) == [25, 12, 6, 4]
    assert list(halved(4, 4)) == [4]


@pytest.fixture
def in_strips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which ways through the network frames of 40 pixels' width went in strips."""
    gone: list[str] = []
    for name in ("encode_strips", "decode_strips"):
        way = getattr(VidTok, name)

        def noted(self: VidTok, *given: Any, name: str = name, way: Any = way, **how: Any) -> Any:
            if given[0].shape[-1] in (5, 40):  # not the column that is passed to find out
                gone.append(name)
            return way(self, *given, **how)

        monkeypatch.setattr(VidTok, name, noted)
    return gone


def test_files_within_a_budget_are_the_same(
    tok: VidTok,
    small: None,
    in_strips: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released: list[str] = []
    monkeypatch.setattr(memory, "release_freed", lambda: released.append("released"))
    clip, whole = tmp_path / "clip.mkv", Coding(memory=9, chunk=4)
    reeltok.write(moving(11, 200, 40), clip, lossless=True)

    def tight(work: Work) -> Coding:
        needed = memory_need(tok, whole, Workload(work=work, size=(200, 40), frames=11))
        return replace(whole, memory=needed.within(16) / 1e9)

    encode_file(tok, clip, tmp_path / "whole.reel", coding=whole)
    assert not in_strips
    with pytest.warns(UserWarning, match="in strips of 16 pixels"):
        encode_file(tok, clip, tmp_path / "strips.reel", coding=tight("encode"))
    assert {*in_strips} == {"encode_strips"}
    with Reel(tmp_path / "whole.reel") as a, Reel(tmp_path / "strips.reel") as b:
        assert a.settings == b.settings
        ids = [each.ids for each in (a.tokens(), b.tokens()) if each.ids is not None]
    assert (ids[0] != ids[1]).sum() <= 1e-3 * ids[0].numel()
    exact, source = Writing(lossless=True), tmp_path / "whole.reel"
    decode_file(tok, source, tmp_path / "a.mkv", writing=exact, coding=whole)
    in_strips.clear()
    with pytest.warns(UserWarning, match="in strips of 16 pixels"):
        decode_file(tok, source, tmp_path / "b.mkv", writing=exact, coding=tight("decode"))
    assert {*in_strips} == {"decode_strips"}
    parts = len(released)
    assert parts == 2 * 3  # around each, of 5, 4 and 2 frames
    frames = [reeltok.read(tmp_path / f"{name}.mkv").frames.int() for name in "ab"]
    assert (frames[0] - frames[1]).abs().max() <= 1
    with pytest.warns(UserWarning, match="in strips of 16 pixels"):
        made = reconstruct_file(tok, clip, tmp_path / "c.mkv", coding=tight("reconstruct"))
    assert made.frames == 11
    assert len(released) - parts == 2 * 4
    assert {*in_strips} == {"encode_strips", "decode_strips"}


def test_what_the_network_freed_goes_back_before_frames_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    monkeypatch.setattr(memory, "release_freed", lambda: order.append("released"))

    def decoded() -> Iterator[Video]:
        for _ in range(2):
            order.append("decoded")
            yield moving(1, 16, 16)

    for tile, between in ((Tiling(pixels=8), ["released"]), (8, []), (None, [])):
        order.clear()
        for _ in released(decoded(), tile):
            order.append("written")
        assert order == ["decoded", *between, "written", *between] * 2


def test_frames_go_before_the_next_are_read(tok: VidTok, tmp_path: Path) -> None:
    clip, one = tmp_path / "clip.mkv", 128 * 128 * 3
    reeltok.write(moving(25, 128, 128), clip, lossless=True)
    tracemalloc.start()
    try:
        for _ in range(2):  # the first time modules are loaded too
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with stream(clip) as video:
                for part in whole_groups_of(video, tok, Tiling(pixels=8)):
                    del part
        assert 4 * one < tracemalloc.get_traced_memory()[1] - before < 7 * one
        arrays: list[Any] = []

        def groups() -> Iterator[Video]:
            for frames in (1, 4, 4, 4):
                assert not [a for a in arrays[1:] if a() is not None]
                array = np.zeros((frames, 16, 16, 3), np.uint8)
                arrays.append(weakref.ref(array))
                yield Video(torch.from_numpy(array), fps=24.0)
                del array

        for tokens in tok.stream_encode(groups()):
            del tokens
    finally:
        tracemalloc.stop()
    assert len(arrays) == 4


def test_originals_wait_for_their_reconstructions_alone() -> None:
    passed, x = Passed(), moving(12)
    for part in passed.frames(x[a:b] for a, b in ((0, 1), (1, 5), (5, 12))):
        del part
    found = [passed.original_of(x[a:b]).frames for a, b in ((0, 1), (1, 4), (4, 7), (7, 12))]
    assert torch.equal(torch.cat(found), x.frames)
    stored = [y.untyped_storage().data_ptr() for y in found]
    assert stored[0] == stored[1] == stored[3] != stored[2]  # one spans two parts, none else copies
    assert not passed.waiting


def test_strips_read_whole_groups(tok: VidTok, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    reeltok.write(moving(11), clip, lossless=True)
    for tile, parts in ((Tiling(pixels=8), [1, 4, 4, 2]), (8, [3, 3, 3, 2])):
        with stream(clip, chunk=3) as video:
            found = [*whole_groups_of(video, tok, tile)]
        assert [len(part) for part in found] == parts
        assert torch.equal(torch.cat([part.frames for part in found]), moving(11).frames)


def test_no_jobs_are_no_way_to_work() -> None:
    with pytest.raises(ValueError, match="`jobs` 0 is too small or no whole number"):
        Coding(jobs=0)
