"""bfloat16 and float16 on processors that multiply them and on those that do not."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import reeltok
from reeltok import devices
from reeltok.arguments import float_type
from reeltok.train.card import used_precision
from reeltok.train.logbook import read_lines
from reeltok.train.loop import run_task
from reeltok.train.losses import Losses
from reeltok.train.optimizers import ScheduleConfig, orthogonal
from reeltok.train.run import LoopConfig, Run


class Numbers:
    """A task of one layer."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 3)

    def parameters(self) -> nn.Module:
        return self.model

    def loss(self, batch: torch.Tensor, step: int, generator: torch.Generator | None) -> Losses:
        return Losses(self.model(batch).float().square().mean())

    def validate(self, step: int) -> dict[str, float]:
        return {}


@pytest.fixture(params=[True, False], ids=["in hardware", "lacking"])
def half(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether this processor has bfloat16 and float16, as a test is to believe."""
    monkeypatch.setattr(devices, "_has_half", lambda dtype: request.param)
    return request.param


def test_what_a_processor_lacks_is_computed_in_float32(half: bool) -> None:
    run = Run(Numbers(), LoopConfig(precision="bf16"))
    assert run.precision == ("bf16" if half else "fp32")
    with run.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == float_type(run.precision)
    with seen_types() as types:
        turned = orthogonal(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0)))
    assert (torch.bfloat16 in types) == half
    assert turned.dtype == torch.float32
    sizes = torch.linalg.svdvals(turned)
    assert sizes.min() > 0.6
    assert sizes.max() < 1.3


@contextmanager
def seen_types() -> Iterator[set[torch.dtype]]:
    """The types of what products inside give."""
    types = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
                types.add(made.dtype)
            return made

    with Watch():
        yield types


def test_the_features_of_processors_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert devices.multiplies(torch.float32, cpu)
    assert devices.multiplies(torch.float64, cpu)
    assert devices.multiplies(torch.bfloat16, torch.device("cuda"))
    for features, has in (
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"amx_bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features)
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True, raising=False
        )
        assert devices._has_half.__wrapped__(torch.bfloat16) == has


def test_a_type_that_a_processor_lacks_is_said(half: bool) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = reeltok.load("default", dtype="bf16")
        reeltok.load("default", dtype="fp32")
    assert model.dtype == torch.bfloat16
    texts = [str(each.message) for each in said]
    lacks = ["this processor lacks bfloat16: float32 is many times faster here"]
    assert texts == ([] if half else lacks)


def test_a_log_and_a_card_say_what_was_computed(
    half: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = LoopConfig(precision="bf16", schedule=ScheduleConfig(steps=1))
    run_task(Numbers(), lambda step: torch.ones(2, 3), loop, out=tmp_path)
    lines = read_lines(tmp_path / "log.jsonl")
    assert used_precision(lines, {"precision": "bf16"}) == ("bf16" if half else "fp32")
    assert ("everything is computed in fp32" in capsys.readouterr().err) != half
