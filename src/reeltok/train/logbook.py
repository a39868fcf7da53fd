"""What a run writes down: JSON lines always, a live table on a terminal, TensorBoard if asked.

`draw_runs` turns the lines into a picture of the curves.
"""

import json
import math
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reeltok.files.atomic import naming, replacing, write_file
from reeltok.files.parsing import finite, parse_json
from reeltok.files.text import printable
from reeltok.parallel import averaged

if TYPE_CHECKING:
    from reeltok.train.run import Run

FIRST = frozenset((1, 2, 5, 10, 20))  # logged whatever the interval, so that a run shows life early
MOST_CURVES = 300  # of one picture
TALLEST = 1e100  # what a picture's axis can show
MOST_STEPS = 2**53  # what a curve can show
TIMES = ("seconds", "waited")  # numbers of a line that say how fast, not how well
Line = dict[str, Any]


class Log:
    """Means over the steps since the last line, to `RUN/log.jsonl` and to whoever watches.

    Lines after step `since` (of a run that was killed and resumed) are removed. Only the first
    process writes.
    """

    def __init__(self, out: Path, run: "Run", *, since: int = 0) -> None:
        self.run, self.path, self.quiet = run, out / "log.jsonl", not run.at.first
        self.sums, self.counts = dict[str, float](), Counter[str]()
        self.began = time.monotonic()
        self.board, self.table = None, None
        if self.quiet:
            return
        self.board = open_board(out) if run.config.tensorboard else None
        kept = [line for line in read_lines(self.path) if line["step"] <= since]
        write_file(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.table = LiveTable(run.config.schedule.steps) if sys.stderr.isatty() else None

    def __enter__(self) -> "Log":
        if self.table is not None:
            self.table.open()
        return self

    def __exit__(self, *error: object) -> None:
        for part in (self.table, self.board):
            if part is not None:
                part.close()

    def step(
        self, step: int, numbers: Mapping[str, float], *, seconds: float, waited: float
    ) -> None:
        """Count one step; write a line where one is due."""
        for name, value in {**numbers, "seconds": seconds, "waited": waited}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] += 1
        if step % self.run.config.log_every and step not in FIRST:
            return
        means = {name: value / self.counts[name] for name, value in self.sums.items()}
        self._write({"step": step, **averaged(self.run.at, means)})
        self.sums, self.counts = {}, Counter()

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """One validation, with its pictures where the task has some."""
        self._write({"step": step, "validation": True, **scores})
        if self.board is not None and hasattr(self.run.task, "pictures"):
            for name, picture in self.run.task.pictures().items():
                self.board.add_image(name, picture, step, dataformats="HWC")

    def event(self, step: int, **what: object) -> None:
        """Anything else worth keeping: what the data holds, a resume, a stop."""
        self._write({"step": step, **what})

    def _write(self, line: Line) -> None:
        if self.quiet:
            return
        line = {"step": line["step"], "time": round(time.monotonic() - self.began, 2), **line}
        with naming(self.path), self.path.open("a") as file:
            file.write(json.dumps(finite(line), allow_nan=False) + "\n")
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, float):
                    self.board.add_scalar(name, value, line["step"])
        if self.table is not None:
            self.table.show(line)
        else:
            say(format_line(line))


def say(text: str) -> None:
    """Tell whoever watches a run something beside its log, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def format_line(line: Line) -> str:
    """A line of the log for people: a flag by its name alone, numbers to four digits."""
    parts = []
    for name, value in line.items():
        if value is True:
            parts.append(name)
        elif value is not False:
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return "  ".join(parts)


def open_board(out: Path) -> Any:
    """A TensorBoard writer; the `tensorboard` extra must be installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "loop.tensorboard needs TensorBoard: pip install 'reeltok[tensorboard]'"
        ) from error
    return SummaryWriter(str(out / "tensorboard"))


class LiveTable:
    """The latest numbers on a terminal, with steps per second and the time left."""

    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self.steps, self.latest, self.scores = steps, Line(), Line()
        self.live = Live(console=Console(stderr=True), refresh_per_second=2)

    def open(self) -> None:
        self.live.start()

    def close(self) -> None:
        self.live.stop()

    def show(self, line: Line) -> None:
        """Replace what stands there by this line."""
        from rich.table import Table as Grid

        if line.get("validation"):
            self.scores = line
        elif "seconds" in line:
            self.latest = line
        grid = Grid.grid(padding=(0, 2))
        seconds = self.latest.get("seconds")
        if seconds:
            left = timedelta(seconds=round((self.steps - line["step"]) * seconds))
            grid.add_row("step", f"{line['step']} of {self.steps}")
            grid.add_row("speed", f"{1 / seconds:.2f} steps a second, {left} left")
        for name, value in {**self.latest, **self.scores}.items():
            if isinstance(value, float) and name not in ("seconds", "time"):
                grid.add_row(name, f"{value:.4g}")
        self.live.update(grid)


def read_lines(path: Path) -> list[Line]:
    """The whole lines of a log; a last one that a kill cut off is left out.

    ValueError that names the line where any other is not a line of a log.
    """
    text = path.read_bytes() if path.is_file() else b""
    whole, _, rest = text.rpartition(b"\n")
    rows = whole.split(b"\n") if whole else []
    lines = [_line(row, f"line {number} of {path}") for number, row in enumerate(rows, 1)]
    with suppress(ValueError):
        lines += [_line(rest, f"the last line of {path}")] if rest else []
    return lines


def _line(row: bytes, what: str) -> Line:
    line = parse_json(row, what)
    step = line.get("step") if isinstance(line, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"{what} is damaged (it is of no step): remove it")
    return line


def draw_runs(run: str | Path, png: str | Path | None = None) -> Path:
    """Draw the curves of a run's losses and scores to a PNG (by default `RUN/curves.png`).

    Needs the `plot` extra. Raises FileNotFoundError where the folder holds no log.
    """
    run = Path(run)
    lines = read_lines(run / "log.jsonl")
    if not lines:
        raise FileNotFoundError(f"no log of a run in {run}: give the folder that training wrote")
    import matplotlib.figure  # not pyplot: no window, no state

    curves = gather_curves(lines)
    if len(curves) > MOST_CURVES:
        raise ValueError(f"{run / 'log.jsonl'} has {len(curves)} curves: at most {MOST_CURVES} fit")
    times = {name: curves.pop(name) for name in TIMES if name in curves}
    rows = math.ceil(len(curves) / 3)
    heights = [2.6] * rows + [1.1] * bool(times)
    figure = matplotlib.figure.Figure(figsize=(12, sum(heights) or 1), layout="constrained")
    grid = figure.add_gridspec(len(heights) or 1, 6, height_ratios=heights or None)
    wide = 6 // min(3, len(curves) or 1)
    for number, (name, points) in enumerate(curves.items()):
        row, column = divmod(number, 3)
        axes = figure.add_subplot(grid[row, column * wide : (column + 1) * wide])
        draw_curves(axes, {name: points}, name)
    if times:  # what a step takes: less in view than what it learns
        draw_curves(figure.add_subplot(grid[rows, :]), times, "seconds of a step")
    target = Path(png) if png else run / "curves.png"
    with replacing(target) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks, heights that overflow
        figure.savefig(part, dpi=110)
    return target


def draw_curves(axes: Any, curves: Mapping[str, list[tuple[int, float]]], title: str) -> None:
    """Curves over the steps under one title; several with their names."""
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        heights = [max(-TALLEST, min(TALLEST, value)) for value in values]
        axes.plot(steps, heights, linewidth=1, label=name)
    if len(curves) > 1:
        axes.legend(fontsize=7, loc="upper right")
    axes.set_title(printable(title)[:60], fontsize=9, parse_math=False)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)


def gather_curves(lines: list[Line]) -> dict[str, list[tuple[int, float]]]:
    """Every number of the log over the steps; a single point is not a curve."""
    curves = defaultdict(list)
    for line in lines:
        for name, value in line.items():
            if isinstance(value, float) and name != "time":
                curves[name].append((line["step"], value))
    return {name: points for name, points in curves.items() if len(points) > 1}
