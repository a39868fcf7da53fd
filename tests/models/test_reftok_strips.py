"""RefTok in strips of frames: block by block, and in its own closed loop, as with whole frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import reeltok
from reeltok.models.presets import COMPACT
from reeltok.models.reftok.flow import MotionConfig
from reeltok.models.reftok.injection import ReferenceInjection, RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.reftok.reference import find_cuts, thumbnails
from reeltok.nn.quantizers import FSQConfig
from reeltok.nn.quantizers.contract import Quantized
from reeltok.tokenizer.tiling import Tiling, tiling_of
from reeltok.tokens.record import Tokens
from reeltok.transcode import Coding, memory, need
from reeltok.transcode.memory import bounded
from reeltok.transcode.need import Workload, memory_need

FSQ = FSQConfig(levels=(8, 8, 5), regularization=False)
BODY = replace(COMPACT, width=8, blocks=(1, 1), quantizer=FSQ)
TINY = RefTokConfig(body=BODY, width=4)
MOTION = MotionConfig(width=8)
DEEP: dict[str, Any] = {
    "multipliers": (1, 2, 2),
    "blocks": (1, 1, 1),
    "space_down": (0, 1),
    "space_up": (1, 2),
    "time_down": (1,),
    "time_up": (2,),
}
KINDS: dict[str, RefTokConfig] = {
    "plain start": TINY,
    "stored": replace(TINY, start="lossless", cuts="stored"),
    "first": replace(TINY, policy="first+previous", references=2),
    "refreshed": replace(TINY, refresh=2),
    "encoder": replace(TINY, where="encoder", block=8),
    "decoder": replace(TINY, where="decoder"),
    "none": replace(TINY, policy="none", skip=1.0),  # nor is anything skipped
    "4x16x16": replace(TINY, body=replace(BODY, **DEEP)),
    "motion": replace(TINY, motion=MOTION),
    "motion and SKIP": replace(
        TINY, motion=MOTION, skip=0.7, skip_margin=0.2, policy="first+previous", references=2
    ),
    "searched": replace(TINY, motion=replace(MOTION, where="encoder"), cuts="stored"),
    "followed": replace(TINY, motion=replace(MOTION, where="decoder"), block=8, start="lossless"),
    "motion, 4x16x16": replace(
        TINY, motion=MOTION, skip=0.6, skip_margin=0.2, body=replace(BODY, **DEEP)
    ),
    "SKIP": replace(TINY, skip=0.7, skip_margin=0.2, where="decoder", refresh=2),
    "still": replace(TINY, skip=1e-3, skip_after=1, cuts="ignore"),
    "still, decoder": replace(TINY, skip=1e-3, skip_after=2, where="decoder", start="lossless"),
}


def build(config: RefTokConfig) -> RefTok:
    """A narrow network whose references matter."""
    torch.manual_seed(0)
    model = RefTok(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ("_injection" in name or "flow" in name) and not weight.any():
                weight.normal_(std=0.3)
    return model


MODELS = {kind: build(config) for kind, config in KINDS.items()}


def scenes(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Two noisy clips; the second cuts to another scene behind frame 4."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, frames, height, width, generator=generator) * 0.4 - 0.8
    x[1, :, 5:] += 1
    return x


@contextmanager
def quantized_as(model: RefTok, wanted: list[Quantized] | None) -> Iterator[list[Quantized]]:
    """What the quantizer gives; the network goes on with what is `wanted` in its stead."""
    made: list[Quantized] = []

    def note(_: Any, given: Any, result: Quantized) -> Quantized:
        made.append(replace(result, logvar=given[0]))  # and what it was given
        return result if wanted is None else wanted[len(made) - 1]

    hook = model.quantizer.register_forward_hook(note)
    try:
        yield made
    finally:
        hook.remove()


def assert_blocks_are_those_of_whole_frames(
    kind: str, x: torch.Tensor, chunk: int | None, cells: int, room: int | None
) -> None:
    """On the references of whole frames, which equal tokens give: values, ids and frames."""
    model = MODELS[kind]
    way = Tiling(pixels=cells * model.spec.factors[1], room=room)
    with quantized_as(model, None) as whole:
        tokens = model.encode(x, chunk=chunk)
    with quantized_as(model, whole) as strips:
        model.encode(x, chunk=chunk, tile=way)
    for a, b in zip(whole, strips, strict=True):
        torch.testing.assert_close(b.logvar, a.logvar, rtol=0, atol=1e-5)
        assert (a.ids != b.ids).sum() <= 1e-3 * a.ids.numel()
    shown, found = (model.decode(tokens, chunk=chunk, tile=tile) for tile in (None, way))
    torch.testing.assert_close(found, shown, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("kind", "room"),
    [
        ("first", 9_000),
        ("motion and SKIP", 9_000),
        ("none", None),
        pytest.param("encoder", None, marks=pytest.mark.slow),
        pytest.param("4x16x16", 0, marks=pytest.mark.slow),
    ],
)
def test_every_block_is_that_of_whole_frames(kind: str, room: int | None) -> None:
    height = 7 * MODELS[kind].spec.factors[1] + 5  # two strips, few behind them
    assert_blocks_are_those_of_whole_frames(kind, scenes(6, height, 16, 2), 4, 6, room)


@pytest.mark.parametrize("kind", ["still", "still, decoder"])
def test_cells_rest_in_strips_as_in_whole_frames(kind: str) -> None:
    """Cells that stand still from the start, that come to rest, and that move."""
    model, height = MODELS[kind], 7 * MODELS[kind].spec.factors[1] + 5
    x = scenes(21, height, 24, 2)
    x[:, :, 1:, 8:40] = x[:, :, :1, 8:40]
    x[:, :, 9:, 40:] = x[:, :, 8:9, 40:]
    x[:, :, :, :8] *= torch.tensor([1.0, -1.0])[(torch.arange(21) + 3) // 4 % 2].view(21, 1, 1)
    assert_blocks_are_those_of_whole_frames(kind, x, 4, 2, 9_000)
    skipped = model.encode(x, tile=Tiling(pixels=2 * model.spec.factors[1])).ids
    skipped = skipped == model.quantizer.centre_id
    assert skipped[0, -1, 1:].all()
    assert not skipped[:, :, 0].any()


@pytest.mark.slow
@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    kind=st.sampled_from([*KINDS]),
    frames=st.integers(1, 18),
    height=st.integers(17, 90),
    width=st.integers(17, 40),
    chunk=st.sampled_from([None, 1, 4]),
    cells=st.integers(1, 4),
    room=st.sampled_from([None, 0, 50_000]),
    seed=st.integers(0, 99),
)
def test_every_block_of_any_clip_is_that_of_whole_frames(
    kind: str,
    frames: int,
    height: int,
    width: int,
    chunk: int | None,
    cells: int,
    room: int | None,
    seed: int,
) -> None:
    x = scenes(frames, height, width, seed)
    assert_blocks_are_those_of_whole_frames(kind, x, chunk, cells, room)


@pytest.mark.parametrize("kind", [pytest.param("plain start", marks=pytest.mark.slow), "stored"])
def test_a_cut_in_one_clip_of_two_resets_that_one(kind: str) -> None:
    x, model = scenes(9, 56, 16, 3), MODELS[kind]
    tokens, found = model.encode(x), model.encode(x, tile=40)
    assert [*tokens.extras] == [*found.extras]
    assert {name[-1] for name in tokens.extras if "start" not in name} == {"1"}
    assert torch.equal(tokens.ids, found.ids)
    torch.testing.assert_close(
        model.decode(found, tile=40), model.decode(tokens), atol=5e-5, rtol=0
    )


@pytest.mark.slow
def test_a_given_reference_and_a_range() -> None:
    x, model = scenes(12, 24, 16, 5)[:1], MODELS["refreshed"]
    frame = x[:, :, :1]
    tokens, found = (model.encode(x, tile=tile, reference=frame) for tile in (None, 16))
    assert torch.equal(tokens.ids, found.ids)
    ways: list[dict[str, Any]] = [{}, {"start": 9, "stop": 11}]
    for way in ways:
        shown, strips = (
            model.decode(tokens, tile=tile, reference=frame, **way) for tile in (None, 8)
        )
        torch.testing.assert_close(strips, shown, rtol=0, atol=5e-5)


@pytest.mark.slow
def test_the_bundled_model_in_its_own_loop() -> None:
    """Rounding may move an id, and the loop goes on from there: PSNR within 0.01 dB."""
    model = reeltok.load("reftok-default")
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 1, 12, 14, generator=generator)[:, :, 0] * 1.6 - 0.8
    wide = torch.nn.functional.interpolate(coarse, (200, 136), mode="bicubic").clamp(-1, 1)
    x = torch.stack([wide[..., 2 * i :, i : i + 112][..., :176, :] for i in range(9)], dim=2)
    whole, strips = (model.encode(x, chunk=4, tile=tile) for tile in (None, 16))
    assert (whole.ids != strips.ids).sum() <= 1e-2 * whole.ids.numel()
    made = [model.decode(whole, chunk=4), model.decode(strips, chunk=4, tile=24)]
    levels = [-10 * (y - x).square().mean().div(4).log10() for y in made]
    assert levels[0] > 20
    assert abs(levels[0] - levels[1]) < 0.01


def test_what_takes_whole_frames() -> None:
    """Attention and group norm; a budget's strips then change nothing."""
    assert all(model.spec.strips for model in MODELS.values())
    for values in (
        {"inject": "attend"},
        {"body": replace(BODY, groups=4)},
        {"body": replace(BODY, middle="full")},
    ):
        model = RefTok(replace(TINY, **values))
        assert not model.spec.strips
        assert tiling_of(Tiling(pixels=16, room=0), model.spec)["tile"] is None
        with pytest.raises(ValueError, match="cannot bound its memory: leave `memory` out"):
            bounded(model, Coding(memory=2), Workload(work="encode", size=(64, 64)))


def test_a_budget_is_kept_with_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(need, "PROCESS", 0)
    for name in ("BESIDE", "LEAST"):
        monkeypatch.setattr(memory, name, 1_000)
    model, size, coding = MODELS["plain start"], (640, 64), Coding(chunk=4)
    needed = memory_need(model, coding, Workload(work="encode", size=size))
    with pytest.warns(UserWarning, match="in strips of 32 pixels .* wait in a temporary file"):
        found = bounded(
            model,
            replace(coding, memory=needed.within(32) / 1e9),
            Workload(work="encode", size=size),
        )
    assert isinstance(found.tile, Tiling)
    assert found.tile.pixels == 32
    with pytest.raises(ValueError, match="GB is too little for frames of 640x64 by reftok: give"):
        bounded(
            model, replace(coding, memory=needed.least / 2e9), Workload(work="encode", size=size)
        )


@pytest.mark.parametrize("kind", ["plain start", "motion and SKIP"])
def test_a_network_sees_no_more_than_a_strip(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 15 rows of cells five, and rows that wait; when references are read, too."""
    model, seen = MODELS[kind], []
    ways = [(RefTok, "encode_block"), (RefTok, "decode_block"), (ReferenceInjection, "read")]
    for owner, name in ways:
        way = getattr(owner, name)

        def noted(self: Any, x: torch.Tensor, *given: Any, way: Any = way, **how: Any) -> Any:
            high = {"encode_block": 1, "decode_block": 8, "read": 4}[way.__name__]
            seen.append(high * x.shape[2])
            return way(self, x, *given, **how)

        monkeypatch.setattr(owner, name, noted)
    model.encode(scenes(5, 120, 8, 0), tile=40)
    assert max(seen) == 40


def test_thumbnails_of_bytes_are_those_of_values() -> None:
    """Means over 16 x 16 areas, whatever the size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 5, 37, 50), dtype=torch.uint8, generator=generator)
    values = x.float() / 127.5 - 1
    areas = torch.nn.functional.adaptive_avg_pool2d(values.transpose(1, 2).flatten(0, 1), 16)
    for frames in (x, values):
        found = thumbnails(frames)
        torch.testing.assert_close(found, areas.unflatten(0, (2, 5)), rtol=0, atol=1e-6)
    assert not find_cuts(x[:, :, :1], values[:, :, 1:]).any()


def test_tokens_say_nothing_of_strips() -> None:
    model, x = MODELS["plain start"], scenes(1, 24, 16, 1)
    whole, strips = (model.encode(x, tile=tile) for tile in (None, 16))
    assert isinstance(strips, Tokens)
    assert whole.settings == strips.settings
