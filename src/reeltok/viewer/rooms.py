"""Where the page keeps files: a room for each visitor, all in one folder that goes away with it."""

import re
import shutil
import tempfile
import time
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

PATIENCE = 3600.0  # seconds that a room is kept after its visitor was last heard of
NAME, BYTES = 60, 100  # characters kept of the name of a file that a visitor brought, and bytes


class Room:
    """The files and results of one visitor. Nobody else knows the name of its folder."""

    def __init__(self, root: Path) -> None:
        self.folder = root / f"room-{token_hex(16)}"
        self.folder.mkdir()
        self.results: dict[str, Any] = {}
        self.seen = time.monotonic()

    def place(self, name: str, end: str | None = None) -> Path:
        """A new path for a file called `name`, without what a name could do to a path.

        With `end` that takes the place of its suffix.
        """
        self.check()
        inner = self.folder / token_hex(8)
        inner.mkdir()
        return inner / clean_name(name, end)

    def check(self) -> None:
        """ValueError where the visitor has left: what still works for them can stop."""
        if not self.folder.is_dir():
            raise ValueError("this page was closed: open it again")

    def clear(self) -> None:
        """Forget the results and remove their files."""
        self.check()
        self.results = {}
        for inner in self.folder.iterdir():
            shutil.rmtree(inner, ignore_errors=True)


class Rooms:
    """The rooms of all visitors, by the key of their session, in one temporary folder."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="reeltok-view-")).resolve()
        self.patience = patience
        self.rooms: dict[str, Room] = {}
        self.lock = Lock()

    def of(self, key: str) -> Room:
        """The visitor's room, new where there is none; rooms long unused are removed."""
        with self.lock:
            now = time.monotonic()
            idle = [k for k, room in self.rooms.items() if now - room.seen > self.patience]
            for old in {*idle} - {key}:
                shutil.rmtree(self.rooms.pop(old).folder, ignore_errors=True)
            if key not in self.rooms:
                self.rooms[key] = Room(self.root)
            self.rooms[key].seen = now
            return self.rooms[key]

    def drop(self, key: str) -> None:
        """Remove a visitor's room, if there is one."""
        with self.lock:
            room = self.rooms.pop(key, None)
        if room is not None:
            shutil.rmtree(room.folder, ignore_errors=True)

    def holds(self, path: Path) -> bool:
        """Whether a path, its links followed, is a file in the page's folder."""
        whole = path.resolve()
        return whole.is_file() and whole.is_relative_to(self.root)

    def without_folders(self, sentence: str) -> str:
        """A sentence in which files of the page have their names only."""
        return re.sub(rf"{re.escape(str(self.root))}/(?:[^/\s]+/)*", "", sentence)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def clean_name(name: str, end: str | None = None) -> str:
    """A file name of letters, digits, dots, dashes and underscores: at most `NAME` + a suffix.

    `end` takes the place of the suffix, and is not shortened.
    """
    path = Path(clean(Path(name).name))
    stem = shorten(path.stem.lstrip(".-")) or "clip"
    if end is None:
        return stem + path.suffix[:8]
    return stem + clean(end)


def clean(text: str) -> str:
    """A text in which all but letters, digits, dots, dashes and underscores are dashes."""
    return re.sub(r"[^\w.-]+", "-", text)


def shorten(text: str) -> str:
    """The beginning of a text that is short enough for a part of a file's name."""
    return text[:NAME].encode()[:BYTES].decode(errors="ignore")
