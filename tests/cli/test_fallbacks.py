"""What a machine lacks for the fast ways is said once, and only with --debug."""

from collections.abc import Callable

import pytest
import torch

from reeltok import devices
from reeltok.cli import fallbacks as own
from reeltok.cli import main as cli
from reeltok.tokens.packing import coder

LACKS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "glibc": (lambda m: m.setattr(own, "has_glibc", lambda: False), "no glibc here"),
    "AVX2": (
        lambda m: m.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT"),
        "no AVX2 in this processor or torch (DEFAULT): wide convolutions",
    ),
    "oneDNN": (
        lambda m: m.setattr(torch.backends.mkldnn, "is_available", lambda: False),
        "built without oneDNN",
    ),
    "bfloat16": (
        lambda m: m.setattr(devices, "_has_half", lambda dtype: False),
        "no bfloat16 in this processor or torch",
    ),
    "its product": (
        lambda m: (
            m.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512"),
            m.setattr(devices, "processor", lambda fact: "AuthenticAMD"),
            m.setattr(devices, "has_onednn", lambda: False),
        )[0],
        "no product of oneDNN in this torch",
    ),
    "constriction": (lambda m: m.setattr(coder, "can_pack", lambda: False), "constriction is not"),
}


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing were missing, and nobody had asked for a way."""
    for name in (devices.MATMUL, devices.CONVOLUTION):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(own, "has_glibc", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_has_half", lambda dtype: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "processor", lambda fact: "GenuineIntel")
    monkeypatch.setattr(coder, "can_pack", lambda: True)


def test_a_machine_with_everything_is_silent(complete: None) -> None:
    assert own.fallbacks() == []


@pytest.mark.parametrize("lack", [*LACKS])
def test_what_is_missing_is_one_line(
    lack: str, complete: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away, said = LACKS[lack]
    take_away(monkeypatch)
    (line,) = own.fallbacks()
    assert said in line
    assert "\n" not in line


def test_no_gpu_is_said(complete: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert own.fallbacks() == ["torch sees no GPU (CUDA or Metal) here: the device auto is the CPU"]


def test_what_was_asked_for_is_no_fallback(complete: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv(devices.CONVOLUTION, "direct")
    assert own.fallbacks() == []


def test_commands_say_it_once_with_debug_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own, "fallbacks", lambda: ["there is no wheel"])
    assert cli.main(["--version"]) == 0
    assert "wheel" not in capsys.readouterr().err
    assert cli.main(["--version", "--debug"]) == 0
    assert capsys.readouterr().err == "reeltok: debug: there is no wheel\n"
    with pytest.raises(ValueError, match="there is no command"):
        cli.main(["nothing", "--debug"])
    assert capsys.readouterr().err == "reeltok: debug: there is no wheel\n"


def test_torch_is_not_loaded_to_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "sys", type("Loaded", (), {"modules": {}}))
    monkeypatch.setattr(devices, "slower_ways", lambda: ["asked"])
    assert "asked" not in own.fallbacks()
    monkeypatch.setattr(own.sys, "modules", {"torch": torch})
    assert "asked" in own.fallbacks()
