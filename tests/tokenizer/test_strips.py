"""Strips of frames, one below another: nothing changes, and no network sees more than one."""

import errno
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from reeltok.devices import CONVOLUTION
from reeltok.models.presets import COMPACT, VIDTOK
from reeltok.models.vidtok.network import VidTok, VidTokConfig
from reeltok.nn.layers import Conv
from reeltok.nn.past import Past, name_layers
from reeltok.nn.rows import Rows
from reeltok.tokenizer.offload import Offload
from reeltok.tokenizer.strips import Strips
from reeltok.tokenizer.tiling import Tiling
from reeltok.tokens.record import Tokens

SHORT = {"width": 8, "multipliers": (1, 1), "blocks": (1, 0)}
PUBLIC = {"width": 8, "multipliers": (1, 1, 1, 1), "blocks": (1, 1, 1, 1)}
FOUND = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking would take minutes
KINDS: dict[str, VidTokConfig] = {
    "short": replace(COMPACT, **SHORT),
    "zeros": replace(COMPACT, **SHORT, edge="past-zeros", sampler="plain"),
    "linear": replace(COMPACT, **SHORT, upsampling="trilinear", sampler="blend"),
    "not causal": replace(COMPACT, **SHORT, edge="both", sampler="joint", block="full"),
    "default": replace(COMPACT, width=8),
    "v1.0": replace(VIDTOK["vidtok_fsq_causal_488_262144"], **PUBLIC),
    "v1.1": replace(VIDTOK["vidtok_kl_causal_488_4chn_v1_1"], **PUBLIC),
    "v1.0, not causal": replace(VIDTOK["vidtok_kl_noncausal_488_4chn"], **PUBLIC),
    "middle of 2-D": replace(VIDTOK["vidtok_variant_3"], **PUBLIC),
}


def build(kind: str) -> VidTok:
    """A narrow model whose every weight matters."""
    torch.manual_seed(1)
    model = VidTok(KINDS[kind], kind).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 1.2 * parameter[0].numel() ** -0.5)
    return model


MODELS = {kind: build(kind) for kind in KINDS}


def clip(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def assert_same_tokens(a: Tokens, b: Tokens) -> None:
    """Equal but for one in a thousand, which rounding may move over a boundary between codes."""
    if a.ids is None or b.ids is None:
        torch.testing.assert_close(a.latents, b.latents, rtol=0, atol=1e-5)
        return
    assert (a.ids != b.ids).sum() <= 1e-3 * a.ids.numel()


def assert_strips_change_nothing(
    model: VidTok, x: torch.Tensor, *, chunk: int | None, tile: int
) -> None:
    whole = model.encode(x, chunk=chunk)
    assert_same_tokens(model.encode(x, chunk=chunk, tile=tile), whole)
    frames = model.decode(whole, chunk=chunk)
    striped = model.decode(whole, chunk=chunk, tile=tile)
    torch.testing.assert_close(striped, frames, rtol=0, atol=3e-5)  # 1.7e-5 at 197x317


@settings(max_examples=9, deadline=None, phases=FOUND)
@given(
    kind=st.sampled_from([*KINDS]),
    frames=st.integers(1, 6),
    height=st.integers(17, 70),
    width=st.integers(17, 40),
    chunk=st.sampled_from([None, 1, 4]),
    cells=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_strips_change_nothing(
    kind: str, frames: int, height: int, width: int, chunk: int | None, cells: int, seed: int
) -> None:
    x, model = clip(frames, height, width, seed), MODELS[kind]
    assert_strips_change_nothing(model, x, chunk=chunk, tile=8 * cells)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, phases=FOUND)
@given(
    kind=st.sampled_from([*KINDS]),
    frames=st.integers(1, 18),
    height=st.integers(192, 320),
    width=st.integers(192, 320),
    chunk=st.sampled_from([None, 1, 4, 5, 16]),
    tile=st.integers(8, 200),
    seed=st.integers(0, 99),
)
def test_strips_of_large_frames_change_nothing(
    kind: str, frames: int, height: int, width: int, chunk: int | None, tile: int, seed: int
) -> None:
    x, model = clip(frames, height, width, seed), MODELS[kind]
    assert_strips_change_nothing(model, x, chunk=chunk, tile=tile)


def test_group_norm_takes_whole_frames() -> None:
    assert not VidTok(replace(COMPACT, **SHORT | {"groups": 4})).spec.strips
    assert all(model.spec.strips for model in MODELS.values())


def test_a_strip_lower_than_a_token_is_refused_with_the_least() -> None:
    model = MODELS["short"]
    message = "`tile=7` is less than the 8 pixels of a token of short: give 8 or more, or leave"
    with pytest.raises(ValueError, match=message):
        model.encode(clip(1, 64, 64, 0), tile=7)
    with pytest.raises(ValueError, match=message):
        model.decode(model.encode(clip(1, 64, 64, 0)), tile=7)


def test_a_network_sees_no_more_than_a_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a row or two that wait above it, also at the end, where all that waited comes: of 40."""
    model, most = MODELS["default"], 0
    convolve = type(model.encoder.conv_in).convolve

    def watch(conv: Any, x: torch.Tensor, past: Past | None = None) -> torch.Tensor:
        nonlocal most
        most = max(most, x.shape[2])
        return convolve(conv, x, past)

    monkeypatch.setattr(type(model.encoder.conv_in), "convolve", watch)
    tokens = model.encode(clip(2, 320, 8, 0), tile=8)
    assert 2 <= most <= 6
    most = 0
    model.decode(tokens, tile=16)
    assert 4 <= most <= 10
    most = 0
    model.encode(clip(2, 320, 8, 0))
    assert most == 80


def test_strips_that_memory_asks_for_change_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("short"), clip(1, 320, 64, 0)
    whole, encode = model.encode(x), model.encode_part

    def small(part: torch.Tensor, *args: object, **options: object) -> object:
        if part.shape[3] > 260:
            raise torch.OutOfMemoryError("out of memory")
        return encode(part, *args, **options)

    monkeypatch.setattr(model, "encode_part", small)
    with pytest.warns(UserWarning, match="going on in strips of 160 pixels"):
        tiled = model.encode(x)
    assert_same_tokens(tiled, whole)


def test_memory_that_ends_within_a_strip_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("short"), clip(1, 64, 40, 0)
    tokens = model.encode(x)

    def none(*_: object, **__: object) -> object:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(model.encoder, "forward", none)
    monkeypatch.setattr(model.decoder, "forward", none)
    message = "memory ran out in strips of 16 pixels of frames of 64x40: give a lower `memory`"
    for call in (lambda: model.encode(x, tile=16), lambda: model.decode(tokens, tile=16)):
        with pytest.raises(MemoryError, match=message):
            call()


# Where strips' pasts wait.


@settings(max_examples=30)
@given(
    sizes=st.lists(st.lists(st.integers(0, 40), max_size=3), min_size=1, max_size=5),
    rounds=st.integers(1, 3),
    room=st.integers(0, 400),
)
def test_pasts_come_back_from_the_file(sizes: list[list[int]], rounds: int, room: int) -> None:
    """Whatever their sizes, also where they grow; in memory there is what fits."""
    offload, pasts = Offload(room), [Past() for _ in sizes]
    wanted: list[dict[str, torch.Tensor]] = [{} for _ in sizes]
    for turn in range(rounds):
        for number, (past, each) in enumerate(zip(pasts, sizes, strict=True)):
            offload.take(("one", number), past)
            assert {k: v.tolist() for k, v in past.kept.items()} == {
                k: v.tolist() for k, v in wanted[number].items()
            }
            past.kept = {str(i): torch.rand(n * (turn + 1)) for i, n in enumerate(each)}
            past.kept["half"] = torch.rand(3).bfloat16()
            wanted[number] = dict(past.kept)
            offload.put(("one", number), past)
            assert sum(x.nbytes for one in pasts for x in one.kept.values()) <= room


@pytest.mark.parametrize("room", [0, 20_000])
@pytest.mark.parametrize("kind", ["default", "v1.0", "linear"])
def test_a_stream_whose_pasts_wait_in_a_file_is_the_same(kind: str, room: int) -> None:
    model, x, way = MODELS[kind], clip(9, 64, 24, 3), Tiling(pixels=16, room=room)
    whole = model.encode(x, chunk=4)
    assert_same_tokens(model.encode(x, chunk=4, tile=way), whole)
    frames = model.decode(whole, chunk=4)
    torch.testing.assert_close(model.decode(whole, chunk=4, tile=way), frames, rtol=0, atol=1e-5)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    offload, past = Offload(0), Past()
    past.kept = {"x": torch.rand(8)}
    offload.put(("one", 0), past)
    assert not [*tmp_path.iterdir()]

    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    offload.file.close()
    offload.__dict__["file"] = SimpleNamespace(seek=lambda at: at, write=full)
    past.kept = {"x": torch.rand(8)}
    said = f"cannot write {re.escape(str(tmp_path))} .*TMPDIR names another folder.*disk is full"
    with pytest.raises(OSError, match=said):
        offload.put(("one", 1), past)


# What layers keep of rows, and strips of frames.


class Layer:
    path = "layer"


@settings(max_examples=60)
@given(
    heights=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    above=st.integers(0, 2),
    below=st.integers(0, 2),
)
def test_every_window_comes_once(
    heights: list[int], kernel: int, stride: int, above: int, below: int
) -> None:
    """The windows over strips are those over all rows."""
    stride = min(stride, kernel)
    x, rows, found = torch.arange(1.0, 1 + sum(heights)), Rows(), []
    windows: Callable[[torch.Tensor], list[Any]] = lambda y: [
        y[i : i + kernel].tolist() for i in range(0, len(y) - kernel + 1, stride)
    ]
    for number, strip in enumerate(x.split(heights)):
        rows.ending = int(number == len(heights) - 1)
        part = strip.view(1, 1, -1, 1, 1)
        part = rows.window(Layer(), part, kernel=kernel, stride=stride, edge=(above, below))
        found += windows(part.flatten())
    padded = torch.cat([torch.zeros(above), x, torch.zeros(below)])
    assert found == windows(padded)
    assert not rows.kept


def test_streams_wait_for_one_another() -> None:
    rows, x = Rows(), torch.arange(8.0).view(1, 1, 8, 1, 1)
    first = rows.align(Layer(), [x[:, :, :3], x[:, :, :1]])
    assert [each.flatten().tolist() for each in first] == [[0], [0]]
    rest = rows.align(Layer(), [x[:, :, 3:], x[:, :, 1:]])
    assert torch.equal(rest[0], x[:, :, 1:])
    assert torch.equal(rest[1], x[:, :, 1:])


@pytest.mark.parametrize("way", ["direct", "winograd"])
def test_wide_convolutions_are_those_of_whole_frames(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONVOLUTION, way)
    torch.manual_seed(0)
    conv = Conv(96, 96, (3, 3, 3))
    name_layers(conv, "conv")
    x = torch.randn(1, 3, 64, 20, 96)
    strips = Strips(cells=16, pasts={})
    with torch.no_grad():
        parts = [conv(x[:, :, rows], past) for rows, past in strips.walk("one", 64)]
        torch.testing.assert_close(torch.cat(parts, dim=2), conv(x), rtol=0, atol=1e-5)
