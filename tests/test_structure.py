"""The house: imports point one way, public names are few, the package wakes up fast."""

import ast
import builtins
import dis
import importlib.util
import re
import subprocess
import symtable
import sys
from pathlib import Path
from types import CodeType

import house
import pytest

import reeltok
from reeltok.cli.main import COMMANDS, options_of

SOURCE = Path(reeltok.__file__).parent
FLAG = re.compile(r"(?<![\w`(-])--[a-z][a-z-]*")
# A module may import those above it, and its own room.
ORDER = [
    "version",
    "lazy",
    "allocator",
    "arguments",
    "files",
    "records",
    "configuration",
    "devices",
    "parallel",
    "video",
    "tokens",
    "data",
    "wording",
    "nn",
    "metrics",
    "tokenizer",
    "hub",
    "models",
    "zoo",
    "export",
    "transcode",
    "corpus",
    "train",
    ("evaluate", "generate"),
    "recipes",
    "conversion",
    "demo",
    "worlds",
    "viewer",
    "cli",
]
RANK = {
    room: rank
    for rank, rooms in enumerate(ORDER)
    for room in ([rooms] if isinstance(rooms, str) else rooms)
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "reeltok":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reeltok."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names]
            found |= {name[1] for name in names if name[0] == "reeltok" and len(name) > 1}
        else:
            found |= named_in(node)
    return found


def named_in(node: ast.AST) -> set[str]:
    """The rooms of modules that a text names, as import_module, __import__ and tables take them."""
    if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.Constant):
        names = [str(node.values[0].value)]  # f"reeltok.cli.{module}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        names = [node.value]
    else:
        return set()
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "reeltok" and part[1:] and part[1] in RANK}


FILES = sorted(set(SOURCE.rglob("*.py")) - {SOURCE / "__init__.py", SOURCE / "__main__.py"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_up(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} has no place in the order of rooms"
    for other in imports(path):
        if other != room and other in RANK:
            assert RANK[other] < RANK[room], f"{room} imports {other}"


def called_imports(path: Path) -> list[ast.expr]:
    """What a file gives to import_module and __import__."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = ("import_module", "__import__")
    return [c.args[0] for c in calls if ast.unparse(c.func).split(".")[-1] in names and c.args]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_import_hides_its_room(path: Path) -> None:
    """A module that is imported by a text says its room there, or it is not of this package."""
    for name in called_imports(path):
        text = ast.unparse(name)
        assert named_in(name) or "reeltok" not in text, f"{text} hides which room is imported"


def test_imports_by_name_are_seen(tmp_path: Path) -> None:
    hidden = [
        'import_module("reeltok.viewer.app")',
        '[importlib.import_module(f"reeltok.viewer.{name}") for name in ("app", "work")]',
        '__import__("reeltok.viewer.app")',
        'import_module(TABLE[0]); TABLE = {"view": "reeltok.viewer.app"}',
        "import reeltok.viewer",
        "def work():\n    from reeltok import viewer",
    ]
    for number, text in enumerate(hidden):
        path = tmp_path / f"{number}.py"
        path.write_text(text)
        assert imports(path) == {"viewer"}, text
    path.write_text('import_module(f"reeltok.{name}")')
    assert not named_in(called_imports(path)[0])


@pytest.mark.parametrize("folder", ["studies", "bench"])
def test_studies_and_benchmarks_use_the_library(folder: str) -> None:
    """What they need of a command is a function of the library."""
    for path in sorted((Path(__file__).parent.parent / folder).rglob("*.py")):
        assert "cli" not in imports(path), f"{path.name} imports a command"


def unknown_names(path: Path) -> set[str]:
    """Names that functions of a file look up in it, and that it neither makes nor imports.

    Shapes in annotations look like such names, so neither ruff nor mypy is asked.
    """
    top = symtable.symtable(path.read_text(), str(path), "exec")
    known = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    known |= set(dir(builtins)) | {"__file__", "__name__", "__doc__"}
    codes, found = [compile(path.read_text(), str(path), "exec")], set()
    for code in codes:
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        if code.co_name != "<module>":
            loads = [i for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"]
            found |= {load.argval for load in loads}
    return found - known


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_name_is_made_or_imported(path: Path) -> None:
    assert unknown_names(path) == set()


def test_an_import_that_was_forgotten_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("import os\ndef f(x):\n    return [left_out(os.sep, len(y)) for y in x]")
    assert unknown_names(path) == {"left_out"}


def test_every_room_has_something_in_it() -> None:
    rooms = {room_of(p) for p in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set(RANK)


def test_the_public_names_exist() -> None:
    for name in reeltok.__all__:
        assert getattr(reeltok, name) is not None
    with pytest.raises(AttributeError, match="it has Video"):
        reeltok.nothing  # noqa: B018


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import reeltok.cli.main, sys; sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("word", "home"), [(".3gp", "data/kinds.py"), ("filepath", "data/lists.py")]
)
def test_one_module_says_what_a_clip_is_called(word: str, home: str) -> None:
    """Suffixes of videos and columns of lists stand in one place: whatever finds clips asks it."""
    constants = {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Tuple | ast.List | ast.Set)
        for inner in node.elts
        if isinstance(inner, ast.Constant) and inner.value == word
    }
    assert constants == {home}


def test_processes_are_spoken_of_in_one_module() -> None:
    """Which process this is and what all hold is asked of `parallel`; training spreads models."""
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if "import torch.distributed as dist" in path.read_text()
    }
    assert users == {"parallel.py", "train/parallel.py", "train/checkpoint.py"}


def test_hashes_are_made_in_one_module() -> None:
    """But for the blocks of a stream, which are hashed as they are written and read."""
    users = {path.relative_to(SOURCE).as_posix() for path in FILES if "hashlib" in names_of(path)}
    assert users == {"files/hashes.py", "tokens/payload.py", "tokens/source.py"}


def test_the_nearest_name_is_found_in_one_module() -> None:
    users = {path.relative_to(SOURCE).as_posix() for path in FILES if "difflib" in names_of(path)}
    assert users == {"files/text.py"}


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option of every command."""
    found = {flag for name in COMMANDS for flag in options_of(name.split()).values()}
    return found - {"--version"}


def test_the_library_names_arguments_not_options(options: set[str]) -> None:
    """An error says `max_broken`; the command that shows it to people says --max-broken."""
    named = {}
    for path in FILES:
        texts = [text for node in ast.walk(ast.parse(path.read_text())) for text in said_by(node)]
        flags = {flag for text in texts if "reeltok " not in text for flag in FLAG.findall(text)}
        if room_of(path) != "cli" and flags & options:
            named[path.relative_to(SOURCE).as_posix()] = flags & options
    assert named == {}


def said_by(node: ast.AST) -> list[str]:
    """The texts of an error that is raised, or of a warning."""
    warns = isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    if not (warns or isinstance(node, ast.Raise)):
        return []
    inner = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return [text for text in inner if isinstance(text, str)]


def test_memory_and_machine_are_read_in_one_module() -> None:
    words = {"resource", "platform"}
    users = {path.relative_to(SOURCE).as_posix() for path in FILES if words & names_of(path)}
    assert users == {"devices.py"}


def names_of(path: Path) -> set[str]:
    """The modules that a file imports, by their first names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_functions_are_short() -> None:
    """Bodies of 40 lines at most: `LONG`."""
    assert not house.long_functions(SOURCE)


def test_a_long_function_is_seen(tmp_path: Path) -> None:
    doc = '    """What it does."""'
    body = "\n".join(["    x = 1"] * 41)
    (tmp_path / "a.py").write_text(f"def f():\n{doc}\n{body}\n\n\ndef g():\n    pass\n")
    assert house.long_functions(tmp_path) == {"a.py:f": 41}


def test_a_name_is_defined_once() -> None:
    """Or, for a reason in `house.SHARED`, by several modules."""
    twice = house.defined_twice(SOURCE)
    reasons = {name: house.shared_on_purpose(name, places) for name, places in twice.items()}
    assert not [name for name, reason in reasons.items() if reason is None], twice
    said = [reason for _, _, reason in house.SHARED]
    assert {*reasons.values()} == {*said}, "a reason without a name"


def test_a_name_that_is_defined_twice_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    pass\n\n\ndef f():\n    pass\n")
    assert house.defined_twice(tmp_path) == {}, "overloads"
    (tmp_path / "b.py").write_text("class f:\n    pass\n")
    assert house.defined_twice(tmp_path) == {"f": ["a.py", "b.py"]}
    assert house.shared_on_purpose("f", ["a.py", "b.py"]) is None
    assert house.shared_on_purpose("train", ["cli/training.py", "train/launch.py"])
    assert house.shared_on_purpose("train", ["models/a.py", "train/launch.py"]) is None


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=str)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by these alone."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("folder", ["bench", "studies"])
def test_scripts_import_what_there_is(folder: str) -> None:
    for path in sorted((Path(__file__).parent.parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reeltok"):
                module = importlib.import_module(node.module or "")
                for name in (each.name for each in node.names):
                    inside = f"{node.module}.{name}"
                    known = hasattr(module, name) or importlib.util.find_spec(inside)
                    assert known, f"{folder}/{path.name} imports {name} from {node.module}"
