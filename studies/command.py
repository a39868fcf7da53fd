"""A study as a command: measure every row, write the table and the record, draw."""

import argparse
import json
import subprocess
from pathlib import Path

from display import table
from lab import Lab, Result, Study

from reeltok.devices import describe_machine


def run(study: Study) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(description=study.title)
    parser.add_argument("--data", type=Path, required=True, help="clips to train on and hold out")
    settings = ("tiny", "full", "push") if study.simulated else ("tiny", "full")
    parser.add_argument("--setting", choices=settings, default="tiny")
    parser.add_argument("--out", type=Path, default=Path("runs/studies") / study.name)
    parser.add_argument("--seeds", type=int, help="runs of each row")
    parser.add_argument("--steps", type=int, help="cut every stage, to rehearse")
    parser.add_argument("--lines", type=int, help="only the first so many lines of each seed")
    parser.add_argument("--device", help="cpu, cuda; by default what is there")
    asked = parser.parse_args()
    if asked.setting == "push" and study.simulated is not None:
        study = study.simulated
    seeds = asked.seeds or (1 if asked.setting == "full" else study.seeds)
    given = {key: getattr(asked, key) for key in ("data", "out", "setting", "device", "steps")}
    try:
        conduct(Lab(study=study, **given), seeds, asked.lines)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{study.name}: {error}") from error


def conduct(lab: Lab, seeds: int, lines: int | None = None) -> list[Result]:
    """Measure every row (or the first `lines`) with every seed; write after each what is known."""
    results: list[Result] = []
    for seed in range(seeds):
        for row in lab.study.rows(lab.setting, seed)[:lines]:
            results.append(lab.measure(row, seed))
            write(lab, results)
            print(f"{row.name} (seed {seed}): {results[-1].scores}", flush=True)
    if lines is None or lab.setting == "push":
        lab.study.draw(lab, results)
    print((lab.out / "table.md").read_text())
    return results


def write(lab: Lab, results: list[Result]) -> None:
    """`table.md` for people and `record.json` with machine and commit."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "study": lab.study.name,
        "setting": lab.setting,
        "machine": {**describe_machine(), "commit": commit},
        "rows": [
            {
                "name": r.row.name,
                "seed": r.seed,
                "published": r.row.published,
                "judge": repr(r.row.judge),
                "scores": {key: round(value, 5) for key, value in r.scores.items()},
            }
            for r in results
        ],
    }
    (lab.out / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(results, lab.study.columns, lab.study.published, lab.setting)
    (lab.out / "table.md").write_text(text)
