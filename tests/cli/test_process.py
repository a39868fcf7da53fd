"""What a command meets outside: closed and full pipes, signals, memory that runs out."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from ran import Ran
from thorough import slow_but

from reeltok import wording
from reeltok.cli import main as cli
from reeltok.cli import process
from reeltok.cli.report import Report
from reeltok.files.atomic import replacing

Run = Callable[..., Ran]


def reeltok(line: str) -> Ran:
    """A command in a shell of its own, which the redirections of `line` need."""
    command = f"{sys.executable} -m reeltok {line}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("line", "said"),
    slow_but(
        [
            ("--help <&- >&-", "standard output is closed"),
            ("encode --help > /dev/full", "cannot write standard output: the disk is full"),
        ],
        [
            ("--help >&-", "standard output is closed"),
            ("--help <&- >&-", "standard output is closed"),
            ("--version > /dev/full", "cannot write standard output: the disk is full"),
            ("encode --help >&-", "standard output is closed"),
            ("encode --help > /dev/full", "cannot write standard output: the disk is full"),
        ],
    ),
)
def test_output_that_goes_nowhere_is_one_sentence(line: str, said: str) -> None:
    done = reeltok(line)
    assert done.code == 2
    assert done.err.startswith(f"reeltok: {said}")
    assert done.err.count("\n") == 1


def test_errors_that_nobody_hears_are_no_errors() -> None:
    assert reeltok("encod 2>&-") == Ran(2, "", "")
    assert reeltok("encod 2>/dev/full") == Ran(2, "", "")
    assert reeltok("--version 2>&-").out.startswith("reeltok ")


def test_files_do_not_get_the_numbers_of_closed_pipes() -> None:
    code = (
        "import os, sys; from reeltok.cli.process import fill_descriptors; fill_descriptors();"
        "sys.exit(min(os.open('/dev/null', 0), sys.stdin is None and 9))"
    )
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" <&- >&- 2>&-'], check=False)
    assert done.returncode >= 3


@pytest.mark.parametrize("words", [("encode", "-", "x.reel"), ("decode", "-", "x.mp4")])
def test_closed_standard_input_is_one_sentence(
    run: Run,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)
    found = run(*words, "--model", models["discrete"])
    assert found.code == 2
    assert found.err.startswith("reeltok: standard input is closed")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["encode", "decode", "reconstruct"])
def test_closed_standard_output_is_one_sentence(
    run: Run,
    models: dict[str, Path],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model, source = ("--model", models["discrete"]), clip
    if command == "decode":
        assert run("encode", clip, "clip.reel", *model).code == 0
        source = Path("clip.reel")
    before = os.listdir(tmp_path)
    monkeypatch.setattr("sys.stdout", None)
    found = run(command, source, "-", *model)
    assert found.code == 2
    assert "standard output is closed" in found.err
    assert os.listdir(tmp_path) == before


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_that_cleans_up(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def work(words: object) -> Report:
        with replacing(tmp_path / "deep" / "x") as part:
            part.write_text("half")
            os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    monkeypatch.setattr(cli, "run", work)
    signal.signal(number, signal.SIG_DFL)  # also where these tests run under nohup
    before = signal.getsignal(number)
    found = run("models")
    assert found.code == 128 + number
    assert found.err == "reeltok: terminated; nothing half-written is left\n"
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_becomes_an_error_is_still_the_signal(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As torch makes one of what is raised while it loads weights."""

    def work(words: object) -> Report:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise ValueError("the checkpoint is damaged") from None
        raise AssertionError("it went on")

    monkeypatch.setattr(cli, "run", work)
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = signal.signal(number, usual[number])
    try:
        found = run("models")
    finally:
        signal.signal(number, before)
    said = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
    assert found == Ran(128 + number, "", f"reeltok: {said}; nothing half-written is left\n")


def test_a_signal_that_is_swallowed_does_not_make_deaf(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one ends the work, but none does while it is cleaned up."""
    cleaned = []

    def work(words: object) -> Report:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:  # one that lies in a cycle has gone as well
            cycle: list[object] = [error]
            cycle.append(cycle)
        del cycle
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)
        cleaned.append(False)  # it went on
        raise AssertionError

    monkeypatch.setattr(cli, "run", work)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        found = run("models")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (found.code, cleaned) == (143, [True])


def test_handlers_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with process.ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


# ---------------------------------------------------------------- memory

TORCH = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("encode a b", "give a smaller --chunk, or --tile 256"),
        ("evaluate default data", "give a smaller --chunk, or --tile 256"),
        ("generate model --out x", "give a smaller --batch"),
        ("bair model data", "give a smaller --batch"),
        ("train default_cpu", "give a smaller batch (--set data.windows.0.batch=1)"),
        ("fvd a b", "free some, or use a machine"),
        ("models", "free some, or use a machine"),
    ],
)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(TORCH)])
def test_out_of_memory_names_only_what_the_command_has(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str, said: str
) -> None:
    def work(words: object) -> Report:
        raise error

    monkeypatch.setattr(cli, "run", work)
    found = run(*words.split())
    assert found == Ran(2, "", found.err)
    assert found.err.startswith(f"reeltok: out of memory: {said}")
    assert found.err.count("\n") == 1


def test_every_hint_is_an_option_that_exists() -> None:
    options = {name: set(cli.options_of(name.split())) for name in cli.COMMANDS}
    for name, option in wording.LESS.items():
        assert any(name in found for found in options.values()), option
