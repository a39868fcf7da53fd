"""Multiply-adds of coding a clip: one pass, whatever the processor and whatever is asked for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import COORDTOK, DISCRETE
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reeltok import devices
from reeltok.evaluate.candidates import candidate
from reeltok.evaluate.candidates.candidate import TokenizerCandidate
from reeltok.evaluate.candidates.functions import Reconstructor
from reeltok.evaluate.candidates.macs import Macs, count_macs, counting
from reeltok.evaluate.clips import ScoredClip
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.presets import COMPACT, PRESETS
from reeltok.models.reftok.flow import MotionConfig
from reeltok.models.reftok.injection import RefTokConfig
from reeltok.models.reftok.network import RefTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn import winograd
from reeltok.tokenizer.contract import Tokenizer
from reeltok.video.record import Video


def clip_of(frames: int, height: int, width: int) -> ScoredClip:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (frames, height, width, 3), generator=draw, dtype=torch.uint8)
    return ScoredClip(name="a", video=Video.of(pixels, fps=10), sha256="")


def facts(tokenizer: Tokenizer, clip: ScoredClip, **more: Any) -> dict[str, float]:
    return TokenizerCandidate(tokenizer=tokenizer, name="t", **more).facts(clip)


@pytest.fixture
def fewer_products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Winograd's way on any processor, from 4 channels on; the list gets a number for each use."""
    monkeypatch.setenv(devices.CONVOLUTION, "winograd")
    monkeypatch.setattr(winograd, "LEAST_WIDTH", {1: 4, 3: 4})
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 1)
    taken: list[int] = []
    convolve = winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda *a, **k: (taken.append(1), convolve(*a, **k))[1]
    )
    return taken


def test_fewer_products_of_a_processor_count_no_less(fewer_products: list[int]) -> None:
    model, clip = VidTok(DISCRETE, "v").eval(), clip_of(6, 30, 34)  # padded to 9, 32 and 40
    with torch.no_grad(), FlopCounterMode(display=False) as wanted:
        model.to("meta")(torch.empty(1, 3, 9, 32, 40, device="meta"))
    model = VidTok(DISCRETE, "v").eval()
    assert facts(model, clip)["macs"] == wanted.get_total_flops() / 2 > 1e5
    x = clip.video.tensor()
    with torch.no_grad(), counting() as macs:
        model.decode(model.encode(x))
    assert macs.total == wanted.get_total_flops() / 2
    assert not fewer_products
    with torch.no_grad(), Macs() as fewer:
        model.decode(model.encode(x))
    assert fewer_products
    assert fewer.total < macs.total
    assert devices.convolution() == "winograd"  # as it was asked for


@pytest.mark.parametrize("frames", [8, 5, 19])
def test_windows_count_as_they_are_coded(frames: int) -> None:
    """With attention, in slices, the last window for its own frames."""
    model = CoordTok(replace(COORDTOK, slices=2), "c").eval()
    clip = clip_of(frames, *COORDTOK.size[1:])
    with torch.no_grad(), counting() as macs:
        model.decode(model.encode(clip.video.tensor()))
    assert facts(model, clip)["macs"] == macs.total > 1e5


@pytest.mark.parametrize(
    "used",
    [
        {"start": "plain"},
        {"start": "webp", "skip": 1.0},
        {"start": "lossless", "skip": 100.0, "motion": MotionConfig()},
    ],
)
def test_a_closed_loop_counts_one_pass(used: dict[str, Any]) -> None:
    """Though encoding decodes, and each block twice where cells are skipped."""
    body = replace(COMPACT, width=8)
    model = RefTok(RefTokConfig(body=body, width=8, **used), "r").eval()
    for frames in (1, 5, 13):
        clip = clip_of(frames, 32, 40)
        with torch.no_grad(), counting() as macs:
            model.under(skip=0.0)(clip.video.tensor())
        assert facts(model, clip)["macs"] == macs.total > 1e5
    with torch.no_grad(), counting() as more:
        model.encode(clip.video.tensor())
    assert more.total >= macs.total


@pytest.mark.parametrize("name", ["reftok-default", "reftok-push"])
def test_bundled_loops_are_counted(name: str) -> None:
    config = PRESETS[name][1]
    assert isinstance(config, RefTokConfig)
    with torch.device("meta"):
        model = RefTok(replace(config, skip=1.0), name)
    assert (count_macs(model, (17, 64, 64)) or 0) > 1e9


def test_what_takes_several_passes_has_its_count_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = VidTok(DISCRETE, "v").eval(), clip_of(9, 32, 32)
    whole = facts(model, clip)
    assert facts(model, clip, chunk=4) == facts(model, clip, tile=16) == whole
    monkeypatch.setattr(candidate, "count_macs", lambda *_: None)  # as of a foreign network
    assert facts(model, clip) == whole
    loop = RefTok(RefTokConfig(body=replace(COMPACT, width=8), width=8), "r").eval()
    for found in (facts(model, clip, chunk=4), facts(model, clip, tile=16), facts(loop, clip)):
        assert found.keys() == {"parameters"}


def test_packing_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = VidTok(DISCRETE, "v").eval(), clip_of(5, 16, 16)
    whole = facts(model, clip)
    packs = lambda *_: int((torch.ones(8, 8) @ torch.ones(8, 8)).sum())
    monkeypatch.setattr(candidate, "packed_bits", packs)
    assert facts(model, clip) == whole
    monkeypatch.setattr(candidate, "count_macs", lambda *_: None)
    assert facts(model, clip) == whole
    assert TokenizerCandidate(tokenizer=model, name="t").reconstruct(clip).stored_bits == 512


def test_a_function_is_counted_in_any_mode() -> None:
    layer = nn.Linear(3, 3, bias=False)

    @torch.inference_mode()
    def mixed(x: Tensor) -> Tensor:
        return layer(x.movedim(1, -1)).movedim(-1, 1)

    def summed(x: Tensor) -> Tensor:
        rows = x.flatten(2).mT
        return torch.zeros_like(rows).baddbmm_(rows, layer.weight[None]).mT.view_as(x)

    clip = clip_of(2, 4, 4)
    for function in (mixed, summed):
        found = Reconstructor(name="f", function=function).facts(clip)
        assert found == {"macs": 2 * 4 * 4 * 3 * 3}
    assert Reconstructor(name="f", function=lambda x: x / 2).facts(clip) == {}
