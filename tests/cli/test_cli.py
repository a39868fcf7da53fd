"""The command line itself: help, one line for errors, exit codes, notes."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from reeltok import __version__
from reeltok.cli import main as cli
from reeltok.cli.report import Report, facts, table

HELP = Path(__file__).parents[1] / "golden" / "help.txt"


def ran(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(list(words))
    return code, *capsys.readouterr()


def pretend(monkeypatch: pytest.MonkeyPatch, act: object) -> None:
    """Let every command do this instead."""
    monkeypatch.setattr(cli, "call", lambda name, words: act())


def raising(error: BaseException) -> object:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str], words: tuple) -> None:
    code, out, err = ran(capsys, *words)
    assert (code, err) == (0, "")
    assert out == HELP.read_text(), "look at the difference, then `make golden`"


def test_help_imports_neither_typer_nor_torch() -> None:
    code = (
        "import sys; from reeltok.cli.main import main; main(['--help']);"
        "sys.exit(str({'typer', 'rich', 'torch', 'av', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = ran(capsys, *name.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage: reeltok {name}" in out
    assert "--json" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "--version") == (0, f"reeltok {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("encod", "a", "b"), "there is no command 'encod': did you mean encode?"),
        (("qqq",), "there is no command 'qqq': `reeltok --help` lists them"),
        (("data",), "`reeltok data` is incomplete: give `reeltok data check`"),
        (("encode",), "missing argument 'IN'"),
        (("encode", "a"), "of `reeltok encode [OPTIONS] IN... OUT.reel|FOLDER`"),
        (("encode", "a", "b", "--siz", "3"), "--size"),
        (("encode", "a", "b", "--frames", "x"), "'--frames'"),
        (("encode", "a", "b", "--model"), "requires an argument"),
    ],
)
def test_misuse_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, out, err = ran(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("reeltok: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("two\nlines  here"), 2, "two lines here"),
        (FileNotFoundError(2, "No such file or directory", "a.mp4"), 2, "a.mp4: No such file"),
        (MemoryError(), 2, "out of memory"),
        (ModuleNotFoundError("no", name="matplotlib"), 2, "pip install 'reeltok[plot]'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    pretend(monkeypatch, raising(error))
    found, out, err = ran(capsys, "models")
    assert (found, out) == (code, "")
    assert err.startswith("reeltok: ")
    assert err.count("\n") == 1
    assert said in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, raising(ValueError("wrong")))
    with pytest.raises(ValueError, match="wrong"):
        cli.main(["models", "--debug"])


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["models"])


def test_a_broken_pipe_is_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, raising(BrokenPipeError()))
    assert ran(capsys, "models") == (141, "", "")


def test_an_exit_code_of_training_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, raising(SystemExit(143)))
    assert cli.main(["train"]) == 143


def test_warnings_are_notes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn() -> None:
        for text in ("one\nline", "one\nline", "another"):
            warnings.warn(text, UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    pretend(monkeypatch, warn)
    code, out, err = ran(capsys, "models")
    assert (code, out) == (0, "")
    assert err == "reeltok: note: one line\nreeltok: note: another\n"


def test_json_is_one_object_and_has_no_nan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(data={"a": [1.5, float("inf")], "path": Path("x")}, text="for people")
    pretend(monkeypatch, lambda: report)
    assert ran(capsys, "models", "--json") == (0, '{"a": [1.5, null], "path": "x"}\n', "")
    assert ran(capsys, "models") == (0, "for people\n", "")


def test_a_report_beside_a_pipe_goes_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(data={}, text="done", piped=True, failed="1 of 2 failed")
    pretend(monkeypatch, lambda: report)
    assert ran(capsys, "models") == (2, "", "done\nreeltok: 1 of 2 failed\n")


def test_a_flag_after_two_dashes_is_a_name() -> None:
    words = ["encode", "--json", "--", "--json"]
    assert cli.take_flag(words, "--json")
    assert not cli.take_flag(words, "--json")
    assert words == ["encode", "--", "--json"]


def test_tables_and_facts() -> None:
    assert facts({"a": None, "size": [2, 3], "bits per pixel": 0.12345}) == (
        "size            2x3\nbits per pixel  0.1235"
    )
    rows = [{"name": "x", "count": 1234}, {"name": "long", "count": None}]
    assert table(rows) == "name  count\nx     1,234\nlong      -"
    assert table([]) == ""
