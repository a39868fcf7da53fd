"""How tidy the package is, in counts: `python tests/house.py [FOLDER]`, of another checkout's src.

Lines of each room, functions with long bodies, names that several modules define, and the functions
that do by themselves what one place does for all: each count is to be one, or what its row says.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "reeltok"
LONG = 40  # lines of a body

# What a function does by itself, by the calls that show it.
CALLS = {
    "hashes of bytes": {"hashlib.sha256", "hashlib.sha1", "hashlib.md5", "sha256"},
    "nearest names": {"get_close_matches", "difflib.get_close_matches"},
    "names given to finished files": {"os.replace", "os.rename", "shutil.move"},
    "loads of a state": {"load_state_dict"},
    "readings of memory": {"resource.getrusage", "torch.cuda.max_memory_allocated"},
    "readings of the machine": {"platform.processor", "platform.machine"},
    "talk between processes": {
        *("dist.all_reduce", "dist.all_gather", "dist.all_gather_object", "dist.broadcast"),
        *("dist.broadcast_object_list", "dist.barrier"),
    },
}


def one_outside(*rooms: str) -> Callable[[list[str]], bool]:
    """Whether at most one module outside `rooms` defines a name."""
    return lambda places: sum(not place.startswith(rooms) for place in places) <= 1


# Names that several modules are to define: which, in which modules, and why.
SHARED: tuple[tuple[set[str], Callable[[list[str]], bool], str], ...] = (
    (
        {"main"},
        lambda places: True,
        "an entry point of the command line or of `python -m` is called main everywhere",
    ),
    (
        {"download", "evaluate", "generate", "train"},
        one_outside("cli/", "generate/flow.py", "generate/masked.py"),
        "a command is called what the library's function is that it calls",
    ),
    (
        {"config_for", "generate", "load", "pick_clip", "pick_label", "save"},
        one_outside("cli/", "generate/flow.py", "generate/masked.py", "generate/pixels/network.py"),
        "one interface of all kinds of generator; `zoo.load` is that of tokenizers",
    ),
    (
        {"write"},
        one_outside("corpus/formats/"),
        "one interface of the layouts of trainers; `reeltok.write` is that of videos",
    ),
)
VIDEO = {".mp4", ".mkv", ".mov"}  # a list of these says what a clip is called


@dataclass(frozen=True)
class Function:
    """A function, where it stands, and the lines of its body without the docstring."""

    module: str
    name: str
    lines: int
    calls: frozenset[str]


def modules(source: Path) -> list[Path]:
    return sorted(source.rglob("*.py"))


def name_of(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()


def functions(source: Path) -> Iterator[Function]:
    """Every function of a package."""
    for path in modules(source):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                called = (each for each in ast.walk(node) if isinstance(each, ast.Call))
                calls = frozenset(ast.unparse(each.func) for each in called)
                yield Function(name_of(path, source), node.name, lines, calls)


def long_functions(source: Path) -> dict[str, int]:
    """Functions with bodies of more than `LONG` lines."""
    found = {f"{f.module}:{f.name}": f.lines for f in functions(source) if f.lines > LONG}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def doing(source: Path, what: str) -> list[str]:
    """The functions that do what a row of `CALLS` says, by themselves."""
    wanted = CALLS[what]
    return [
        f"{f.module}:{f.name}"
        for f in functions(source)
        if any(call in wanted or call.rpartition(".")[2] in wanted for call in f.calls)
    ]


def finders(source: Path) -> list[str]:
    """The modules with a list of their own of what a video is called."""
    return [
        name_of(path, source)
        for path in modules(source)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Tuple | ast.List | ast.Set)
        and len({e.value for e in node.elts if isinstance(e, ast.Constant)} & VIDEO) > 1
    ]


def defined_twice(source: Path) -> dict[str, list[str]]:
    """Public functions and classes at the top of several modules, by name."""
    homes: dict[str, dict[str, None]] = defaultdict(dict)  # a module counts once: overloads
    for path in modules(source):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name][name_of(path, source)] = None
    return {name: list(places) for name, places in sorted(homes.items()) if len(places) > 1}


def shared_on_purpose(name: str, places: list[str]) -> str | None:
    """Why modules may define `name` each for itself, or None."""
    reasons = (reason for names, wanted, reason in SHARED if name in names and wanted(places))
    return next(reasons, None)


def lines_of_rooms(source: Path) -> dict[str, int]:
    """Lines of Python in each room."""
    found: dict[str, int] = defaultdict(int)
    for path in modules(source):
        room = path.relative_to(source).parts[0].removesuffix(".py")
        found[room] += len(path.read_text().splitlines())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def commands_outside(source: Path) -> list[str]:
    """The modules outside the command line that import it."""
    rooms = ("cli", "commands", "__main__")
    return [
        name_of(path, source)
        for path in modules(source)
        if path.relative_to(source).parts[0].removesuffix(".py") not in rooms
        and any(
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[:2] in (["reeltok", "cli"], ["reeltok", "commands"])
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]


def main(source: Path = SOURCE) -> None:
    rooms = lines_of_rooms(source)
    print(f"{sum(rooms.values()):6,} lines of Python")
    for room, lines in rooms.items():
        print(f"{lines:6,}   {room}")
    rows = {f"functions with bodies of over {LONG} lines": long_functions(source)}
    twice = defined_twice(source)
    meant = {name for name, places in twice.items() if shared_on_purpose(name, places)}
    rows |= {"public names that several modules define": twice.keys() - meant}
    rows |= {"names that several modules define on purpose (see SHARED)": sorted(meant)}
    rows |= {"modules outside the command line that import it": commands_outside(source)}
    rows |= {"lists of what a video is called": finders(source)}
    rows |= {what: doing(source, what) for what in CALLS}
    for what, found in rows.items():
        print(f"{len(found):6,} {what}: {', '.join(map(str, list(found)[:12]))}".rstrip(": "))


if __name__ == "__main__":
    main(*(Path(word) / "src" / "reeltok" for word in sys.argv[1:2]))
