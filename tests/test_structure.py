"""The house: imports point one way, public names are few, the package wakes up fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reeltok

SOURCE = Path(reeltok.__file__).parent
# A module may import those above it, and its own room.
ORDER = [
    "files",
    "records",
    "configuration",
    "devices",
    "video",
    "tokens",
    "data",
    "wording",
    "nn",
    "metrics",
    "tokenizer",
    "models",
    "hub",
    "zoo",
    "train",
    ("evaluate", "generate"),
    "recipes",
    "demo",
    "cli",
    "viewer",
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
    return found - {"__version__"}


FILES = sorted(set(SOURCE.rglob("*.py")) - {SOURCE / "__init__.py", SOURCE / "__main__.py"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_up(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} has no place in the order of rooms"
    for other in imports(path):
        if other != room and other in RANK:
            assert RANK[other] < RANK[room], f"{room} imports {other}"


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
