"""Help says of every option what it takes and its default, and ends with an example that parses."""

import re
import shlex

import pytest

from reeltok.cli.examples import EXAMPLES
from reeltok.cli.main import COMMANDS, EPILOG, command_of, find_command, main, overview

WIDTH = 80  # of a terminal


def options(name: str) -> list:
    return [each for each in command_of(name).params if each.param_type_name == "option"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_takes(name: str) -> None:
    for option in options(name):
        said = option.help or ""
        assert re.fullmatch(r"[A-Z].*[.]", said, re.DOTALL), f"{name} {option.opts}: {said!r}"
        assert len(said.split()) >= 3, f"{name} {option.opts}: {said!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_its_default(name: str) -> None:
    for option in options(name):
        flag = option.is_flag
        shown = option.default is not None and option.show_default
        told = re.search(r"\bdefault\b|required", option.help or "")
        assert flag or shown or told, f"{name} {option.opts}: {option.help!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_parses(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert main([*name.split(), "--help"]) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.strip() == f"Example: {EXAMPLES[name]}"
    words = shlex.split(EXAMPLES[name])[1:]
    assert find_command(words) == name
    command_of(name).make_context(f"reeltok {name}", words[len(name.split()) :])


def test_commands_and_examples_are_the_same() -> None:
    assert list(EXAMPLES) == list(COMMANDS)
    assert EPILOG in overview()
