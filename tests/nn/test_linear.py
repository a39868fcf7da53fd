"""Products with weights: oneDNN's are MKL's but for rounding, and a fixed rule says which."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from moving_clips import moving
from small_models import CAUSAL, COORDTOK

from reeltok import devices
from reeltok.evaluate.candidates.macs import Macs
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.vidtok.network import VidTok
from reeltok.nn import linear as products
from reeltok.nn.linear import Linear, linear
from reeltok.tokens.source import ReelSource
from reeltok.transcode import encode_file
from reeltok.video.record import write

needs_onednn = pytest.mark.skipif(not devices.has_onednn(), reason="a torch without oneDNN")
VENDORS = {"AuthenticAMD": "onednn", "GenuineIntel": "mkl", "": "mkl"}


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """oneDNN's way; the list gets a number for every product that takes it."""
    monkeypatch.setenv(devices.MATMUL, "onednn")
    taken: list[int] = []
    plain = products.is_plain
    monkeypatch.setattr(products, "is_plain", lambda x: plain(x) and not taken.append(x.numel()))
    return taken


@needs_onednn
@pytest.mark.parametrize("shape", [(16, 8), (2, 3, 5, 7, 24), (1, 1, 64), (0, 8), (700, 33)])
@pytest.mark.parametrize("biased", [True, False])
def test_both_ways_agree(onednn: list[int], shape: tuple[int, ...], biased: bool) -> None:
    x, weight = torch.randn(shape), torch.randn(40, shape[-1])
    bias = torch.randn(40) if biased else None
    rows = x.new_empty(*shape[:-1], 2 * shape[-1])[..., : shape[-1]].copy_(x)  # not contiguous
    with torch.no_grad():
        wanted = F.linear(x, weight, bias)
        for found in (linear(x, weight, bias), linear(rows, weight[:], bias)):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert onednn


@needs_onednn
@pytest.mark.parametrize("model", [CoordTok(COORDTOK, "c"), VidTok(CAUSAL, "v")], ids=type)
def test_models_agree_and_count_the_same(
    model: CoordTok | VidTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.eval()
    frames = model.spec.frames(model.spec.steps(8))
    x = torch.rand(1, 3, frames, 16, 24) * 2 - 1
    found = {}
    for way in ("mkl", "onednn"):
        monkeypatch.setenv(devices.MATMUL, way)
        with torch.no_grad(), Macs() as macs:
            found[way] = model(x).x, macs.total
    assert found["mkl"][1] == found["onednn"][1] > 0
    torch.testing.assert_close(found["mkl"][0], found["onednn"][0], rtol=0, atol=1e-5)


@needs_onednn
def test_training_and_other_types_take_torch_s_own(onednn: list[int]) -> None:
    layer, x = Linear(8, 4), torch.randn(32, 8, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None
    with torch.no_grad():
        layer.double()(x.double())
        layer.bfloat16()(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.float()(x).dtype == torch.bfloat16
        layer.to("meta")(x.to("meta"))
    assert not onednn


@pytest.mark.parametrize(("vendor", "way"), VENDORS.items())
@pytest.mark.parametrize("wide", ["AVX512", "AVX2"])
def test_the_rule_looks_at_vendor_and_instructions(
    vendor: str, way: str, wide: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n" * 2)
    monkeypatch.setattr(devices, "PROCESSOR", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: wide)
    monkeypatch.setattr(devices, "has_onednn", lambda: True)
    monkeypatch.delenv(devices.MATMUL, raising=False)
    usual = devices._usual_matmul.__wrapped__
    assert usual() == (way if wide == "AVX512" else "mkl")
    monkeypatch.setattr(devices, "has_onednn", lambda: False)
    assert usual() == "mkl"


def test_what_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.MATMUL, "blas")
    with pytest.raises(ValueError, match="REELTOK_MATMUL=blas is not known: give mkl or onednn"):
        linear(torch.ones(1, 1), torch.ones(1, 1))
    monkeypatch.setenv(devices.MATMUL, "onednn")
    monkeypatch.setattr(devices, "has_onednn", lambda: False)
    with pytest.raises(ValueError, match="needs a torch that was built with oneDNN: give mkl"):
        devices.describe_machine()


@needs_onednn
def test_files_and_records_say_which_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(moving(5), tmp_path / "a.mp4")
    model = VidTok(CAUSAL, "v").eval()
    for way in ("mkl", "onednn"):
        monkeypatch.setenv(devices.MATMUL, way)
        assert devices.describe_machine()["matmul"] == way
        encode_file(model, tmp_path / "a.mp4", tmp_path / "a.reel")
        source = ReelSource(tmp_path / "a.reel")
        source.close()
        assert source.about.settings.get("matmul") == (None if way == "mkl" else way)
