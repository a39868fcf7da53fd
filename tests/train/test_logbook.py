"""What a run writes down: whole lines, nothing of steps that a kill undid, curves."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from reeltok.parallel import Rank
from reeltok.train.logbook import LiveTable, Log, draw_runs, format_line, gather_curves, read_lines
from reeltok.train.run import LoopConfig


def run(log_every: int = 2, *, rank: int = 0) -> SimpleNamespace:
    at = Rank(device=torch.device("cpu"), rank=rank)
    return SimpleNamespace(config=LoopConfig(log_every=log_every), at=at, task=None)


def steps(log: Log, first: int, last: int) -> None:
    for step in range(first, last + 1):
        log.step(step, {"loss": float(step)}, seconds=0.5, waited=0.0)


def test_early_steps_are_seen_then_means(tmp_path: Path) -> None:
    with Log(tmp_path, run(log_every=30)) as log:
        steps(log, 1, 60)
    lines = read_lines(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 5, 10, 20, 30, 60]
    assert lines[-1]["loss"] == sum(range(31, 61)) / 30


def test_a_term_that_joins_late_is_averaged_over_its_own_steps(tmp_path: Path) -> None:
    with Log(tmp_path, run(log_every=20)) as log:
        for step in range(1, 41):
            late = {"lpips": 0.5} if step > 30 else {}
            log.step(step, {"loss": 1.0, **late}, seconds=0.5, waited=0.0)
    last = read_lines(tmp_path / "log.jsonl")[-1]
    assert (last["step"], last["lpips"], last["loss"], last["seconds"]) == (40, 0.5, 1.0, 0.5)


def test_a_resumed_log_has_no_step_twice(tmp_path: Path) -> None:
    with Log(tmp_path, run(1)) as log:
        steps(log, 1, 7)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # a kill in the middle of a line
    with Log(tmp_path, run(1), since=4) as log:
        steps(log, 5, 6)
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "line",
    *[
        [
            *(b"[1]", b"5", b"null", b'{"loss": 1.0}', b'{"step": "1"}', b'{"step": -1}'),
            *(b'{"step": 1e3}', b'{"step": true}', b'{"step": 1, "loss": NaN}', b'{"step": 1'),
            *(b'{"step": 99999999999999999999}', b'{"step": 1, "x": "\xff"}', b"", b"[" * 9999),
        ]
    ],
)
def test_a_damaged_line_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n' + line + b'\n{"step": 2, "loss": 0.5}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*log\.jsonl") as caught:
        draw_runs(tmp_path)
    assert type(caught.value) is ValueError
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n' + line)  # as a kill leaves it
    assert read_lines(path) == [{"step": 1, "loss": 0.5}]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *[(name, (1.0, 2.0)) for name in ("$x^$", "$\\frac{", "a\nb\x1b[31m", "損失", "n" * 999)],
        *[("loss", pair) for pair in ((1e308, -1e308), (1e-320, 0.0), (5.0, 5.0))],
    ],
)
def test_odd_names_and_numbers_are_drawn(
    tmp_path: Path, name: str, values: tuple[float, float]
) -> None:
    pytest.importorskip("matplotlib")
    lines = [json.dumps({"step": n, name: value}) + "\n" for n, value in enumerate(values)]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    assert draw_runs(tmp_path).read_bytes().startswith(b"\x89PNG")


def test_not_a_number_is_null(tmp_path: Path) -> None:
    with Log(tmp_path, run()) as log:
        log.scores(1, {"psnr": float("nan"), "ssim": 0.5})
        log.event(2, stopped="SIGTERM")
    first, second = (json.loads(t) for t in (tmp_path / "log.jsonl").read_text().splitlines())
    assert (first["psnr"], first["ssim"], second["stopped"]) == (None, 0.5, "SIGTERM")


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with Log(tmp_path / "run", run(1, rank=1)) as log:
        steps(log, 1, 2)
    assert not (tmp_path / "run").exists()


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with Log(tmp_path, run(1)) as log:
        steps(log, 1, 5)
        log.scores(5, {"psnr": 20.0})
    curves = gather_curves(read_lines(tmp_path / "log.jsonl"))
    assert curves["loss"] == [(n, float(n)) for n in range(1, 6)]
    assert "psnr" not in curves
    assert draw_runs(tmp_path).read_bytes().startswith(b"\x89PNG")
    assert draw_runs(tmp_path, tmp_path / "other.png") == tmp_path / "other.png"
    with pytest.raises(FileNotFoundError, match="no log of a run"):
        draw_runs(tmp_path / "nowhere")


def test_times_are_less_in_view_than_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matplotlib = pytest.importorskip("matplotlib.figure")
    drawn = []
    save = matplotlib.Figure.savefig
    keep = lambda self, *words, **more: (drawn.append(self), save(self, *words, **more))
    monkeypatch.setattr(matplotlib.Figure, "savefig", keep)
    with Log(tmp_path, run(1)) as log:
        for step in (1, 2):
            log.step(step, {"loss": 1.0, "norm": 2.0}, seconds=0.5, waited=0.1)
    draw_runs(tmp_path)
    axes = {each.get_title(): each for each in drawn[0].axes}
    assert set(axes) == {"loss", "norm", "seconds of a step"}
    assert [line.get_label() for line in axes["seconds of a step"].lines] == ["seconds", "waited"]
    heights = {name: each.get_position().height for name, each in axes.items()}
    assert heights["seconds of a step"] < heights["loss"] / 2


def test_table_shows_speed_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    table = LiveTable(steps=100)
    table.open()
    table.show({"step": 10, "loss": 0.25, "seconds": 2.0})
    table.show({"step": 10, "validation": True, "psnr": 21.5})
    table.close()
    written = capsys.readouterr().err
    for part in ("10 of 100", "0.50 steps a second, 0:03:00 left", "loss", "0.25", "psnr", "21.5"):
        assert part in written


def test_flags_are_printed_by_their_names() -> None:
    assert (
        format_line({"step": 5, "validation": True, "psnr": 21.54321})
        == "step 5  validation  psnr 21.54"
    )
    assert (
        format_line({"step": 5, "resumed": False, "stopped": "SIGTERM"})
        == "step 5  stopped SIGTERM"
    )
