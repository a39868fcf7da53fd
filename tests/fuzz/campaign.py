"""The fuzzing campaign: damaged files, command lines and kills, until the time is over.

    python tests/fuzz/campaign.py --minutes 30            (make fuzz MINUTES=30)
    python tests/fuzz/campaign.py --target records --number 173   (one input again)

An input is made from the name of its target and its number alone. One that is not taken well is
saved in out/fuzz/TARGET-NUMBER, and the command to run it again is printed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OUT = HERE.parent.parent / "out" / "fuzz"
STUCK = 300.0  # seconds on the clock at one input, however busy the machine
WANTED = {  # inputs of a whole campaign
    "reel_header": 50_000,
    "reel_hashed": 50_000,
    "records": 50_000,
    "model_folders": 50_000,
    "checkpoints": 50_000,
    "containers": 20_000,
    "command_lines": 300,
    "kills": 200,
}
MOST_AT_ONCE = 10_000  # inputs of one process: what it leaks goes with it


@dataclass
class Tally:
    """What became of the inputs of a target."""

    tried: int = 0
    passed: int = 0
    seconds: float = 0.0
    faults: dict[int, str] = field(default_factory=dict)

    def add(self, found: dict[str, Any]) -> None:
        self.tried += found["tried"]
        self.passed += found["passed"]
        self.seconds += found["seconds"]
        self.faults |= {int(number): text for number, text in found["faults"].items()}

    @property
    def share(self) -> float:
        """Of the inputs, those that got past the first check."""
        return self.passed / max(1, self.tried)


def run(name: str, first: int, count: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Let one worker try some inputs; what it found, also where it died or hung."""
    (folder / "at").write_text("".ljust(64))
    words = [sys.executable, str(HERE / "worker.py"), str(folder), name]
    words += [str(first), str(count), str(seconds)]
    home = {"REELTOK_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(words, stdout=subprocess.PIPE, env={**os.environ, **home})
    died = watch(worker, folder / "at")
    assert worker.stdout is not None
    said = worker.stdout.read().decode().strip()
    worker.stdout.close()
    if died is None and said:
        return json.loads(said.splitlines()[-1])
    words = (folder / "at").read_text().split() or [name, str(first), "0", "0"]
    number, tried, passed = (int(word) for word in words[1:4])
    fault = died or f"the process died (code {worker.returncode})"
    return {"tried": tried + 1, "passed": passed, "seconds": 0.0, "faults": {number: fault}}


def watch(worker: "subprocess.Popen[bytes]", at: Path) -> str | None:
    """Wait for a worker; one that stays at the same input for long is killed."""
    seen, since = "", time.monotonic()
    while worker.poll() is None:
        time.sleep(0.2)
        now = at.read_text()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > STUCK:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            return f"stayed at one input for {STUCK:.0f} s"
    return None


def fuzz(name: str, first: int, count: int, seconds: float) -> Tally:
    """Try `count` inputs of a target from number `first` on, for at most so many seconds."""
    tally, end, stop = Tally(), time.monotonic() + seconds, first + count
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else None) as place:
        while first < stop and (left := end - time.monotonic()) > 0:
            found = run(name, first, min(stop - first, MOST_AT_ONCE), left, Path(place))
            tally.add(found)
            first += max(1, found["tried"])
            for each in (Path(place) / "faults").glob(f"{name}-*"):
                shutil.copytree(each, OUT / each.name, dirs_exist_ok=True)
                shutil.rmtree(each)
    return tally


def table(tallies: dict[str, Tally]) -> Iterator[str]:
    """The figures of a campaign, a target a line."""
    yield f"{'target':<14} {'inputs':>8} {'past the first check':>21} {'a second':>9} {'faults':>7}"
    for name, each in tallies.items():
        rate = each.tried / max(each.seconds, 1e-3)
        yield f"{name:<14} {each.tried:>8} {each.share:>20.0%} {rate:>10.1f} {len(each.faults):>7}"
    for name, each in tallies.items():
        for number, fault in sorted(each.faults.items()):
            yield f"{name} {number}: {fault}"
            yield f"    python tests/fuzz/campaign.py --target {name} --number {number}"


def main(words: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--target", choices=WANTED, help="this one alone")
    parser.add_argument("--number", type=int, help="this input alone")
    parser.add_argument("--first", type=int, default=0, help="the number to begin with")
    asked = parser.parse_args(None if words is None else list(words))
    if asked.number is not None:
        tallies = {asked.target: fuzz(asked.target, asked.number, 1, STUCK)}
    else:
        names = [asked.target] if asked.target else [*WANTED]
        tallies, end = {}, time.monotonic() + 60 * asked.minutes
        for place, name in enumerate(names):
            share = max(0.0, end - time.monotonic()) / (len(names) - place)  # of the time left
            tallies[name] = fuzz(name, asked.first, WANTED[name], share)
            print(list(table({name: tallies[name]}))[1], file=sys.stderr, flush=True)
    print("\n".join(table(tallies)))
    return int(any(each.faults for each in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
