"""Freed memory stays with the process where it is asked to, and nowhere else."""

import os
import platform
import subprocess
import sys

import pytest

from reeltok import allocator
from reeltok.cli import main as cli

GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, sys
from reeltok import allocator
import numpy as np

getattr(allocator, sys.argv[1])()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23).sum()  # 64 MiB, twice what glibc keeps by itself
before = faults()
for _ in range(4):
    np.ones(2**23).sum()
print(faults() - before)
"""


def fresh(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_kept_blocks_are_taken_again_without_a_page_fault() -> None:
    kept, returned = (int(fresh(FAULTS, way).stdout) for way in ("keep_freed", "return_freed"))
    assert kept < 100
    assert returned > 4 * kept + 100  # the pages may be huge ones


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_commands_keep_what_they_free_unless_told_otherwise() -> None:
    code = "from reeltok import allocator; print(allocator.suit_commands())"
    assert fresh(code, REELTOK_FREED="").stdout.strip() == "True"
    assert fresh(code, REELTOK_FREED="return").stdout.strip() == "False"


def test_only_a_process_of_our_own_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that calls a command keeps its own allocator's settings."""
    called = []
    monkeypatch.setattr(cli, "suit_commands", lambda: called.append(1))
    monkeypatch.setattr(cli.atexit, "register", lambda function: called.append(2))
    cli.main(["--version"])
    assert not called
    monkeypatch.setattr(sys, "argv", ["reeltok", "--version"])
    cli.main()
    assert called == [2, 1]


def test_another_word_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(allocator.SETTING, "maybe")
    monkeypatch.setattr(sys, "argv", ["reeltok", "--version"])
    assert cli.main() == 2
    assert "REELTOK_FREED=maybe is not known: give keep or return" in capsys.readouterr().err


def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed()
    assert not allocator.return_freed()
    assert not allocator.release_freed()


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_freed_pages_go_back_once() -> None:
    """Small blocks below one that stays: nothing goes back by itself."""
    code = """
from pathlib import Path
from reeltok.allocator import keep_freed, release_freed
keep_freed()
def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmRSS")).split()[1])
blocks = [b"x" * 100_000 for _ in range(1_000)]
top = b"y" * 100_000
del blocks
before = held()
assert release_freed()
print(before - held())
"""
    assert int(fresh(code).stdout) > 50_000
