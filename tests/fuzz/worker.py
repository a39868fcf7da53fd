"""One process that feeds inputs to targets: 4 GB of memory, ten processor seconds an input.

python worker.py FOLDER TARGET FIRST COUNT SECONDS  (started by campaign.py)

It keeps the number of the input at hand in FOLDER/at, so that whoever watches it knows which one
it died of, and prints a line of JSON at the end.
"""

import json
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

MEMORY = 4 * 2**30  # bytes of addresses
PROCESSOR = 10  # seconds
Files = dict[str, bytes]


class Target(Protocol):
    """Something that reads files: makes damaged ones, and reads them.

    `run` returns, or raises, with `self.passed` saying whether the input got past the first check.
    `named`: errors must hold the name of one of the files. `writes`: it may change its folder, and
    every error is a fault.
    """

    passed: bool
    named: bool
    writes: bool

    def make(self, draw: random.Random) -> Files: ...

    def run(self, folder: Path) -> None: ...


class Hang(BaseException):
    """An input took more processor time than it may."""


def open_target(name: str, folder: Path) -> Target:
    """The target of that name, with its seeds made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.append(str(Path(__file__).parent.parent))  # where the small models of all tests are
    return import_module(name).Target(folder)


def place(files: Files, folder: Path, before: Files) -> None:
    """Make `folder` hold just these files; those that it holds from before stay."""
    for name in before.keys() - files.keys():
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        if before.get(name) != data or not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def try_one(target: Target, folder: Path) -> str | None:
    """What is wrong with how an input was taken, or None."""
    target.passed = False
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR)
    try:
        target.run(folder)
    except Hang:
        return f"took more than {PROCESSOR} processor seconds"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # torch has some that are no Exception
        said = fault(error, folder if target.named else None)
        return said or (repr(error) if target.writes else None)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def fault(error: BaseException, folder: Path | None) -> str | None:
    """Why an error is not one that is documented, or None."""
    text = str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {text[:200]}"
    own = type(error) is ValueError or type(error).__module__.startswith("reeltok.")
    if not isinstance(error, OSError) and not (own and isinstance(error, ValueError)):
        return f"undocumented {where}"
    if folder is not None and str(folder) not in text and str(folder) not in str(error.__dict__):
        names = getattr(error, "filename", None)
        if not (names and str(folder) in str(names)):
            return f"without the file's name {where}"
    return f"more than a line {where}" if len(text.splitlines()) > 1 else None


def campaign(name: str, base: Path, first: int, count: int, seconds: float) -> dict[str, Any]:
    """Try inputs `first` to `first + count`, for at most so many seconds."""
    target = open_target(name, base / "seeds" / name)
    folder, at = base / "input", (base / "at").open("r+b", buffering=0)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before: Files = {}
    tried = passed = 0
    faults: dict[int, str] = {}
    began = time.monotonic()
    for number in range(first, first + count):
        if time.monotonic() - began > seconds:
            break
        at.seek(0)
        at.write(f"{name} {number} {tried} {passed}".ljust(64).encode())
        files = target.make(random.Random(f"{name} {number}"))
        if target.writes:
            shutil.rmtree(folder)
            before = {}
        place(files, folder, before)
        before = files
        if wrong := try_one(target, folder):
            faults[number] = re.sub(r"\s+", " ", wrong)
            keep(base / "faults" / f"{name}-{number}", files)
        tried, passed = tried + 1, passed + target.passed
    spent = time.monotonic() - began
    return {"tried": tried, "passed": passed, "faults": faults, "seconds": spent}


def keep(folder: Path, files: Files) -> None:
    """Save an input that was not taken well."""
    shutil.rmtree(folder, ignore_errors=True)
    place(files, folder, {})


def limit() -> None:
    """Give this process its memory and its alarm."""

    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, ring)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    base, name, first, count, seconds = sys.argv[1:]
    limit()
    found = campaign(name, Path(base), int(first), int(count), float(seconds))
    print(json.dumps(found), flush=True)
