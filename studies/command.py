"""A study as a command: measure every row, write the table and the record, draw."""

import argparse
import json
import subprocess
from collections.abc import Sequence
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
    parser.add_argument("--first-seed", type=int, default=0, help="that of the first run (0)")
    parser.add_argument(
        "--known",
        type=Path,
        action="append",
        default=[],
        metavar="RECORD",
        help="record.json of other seeds, trained elsewhere: they are judged along, not trained",
    )
    parser.add_argument("--steps", type=int, help="cut every stage, to rehearse")
    parser.add_argument("--lines", type=int, help="only the first so many lines of each seed")
    parser.add_argument("--device", help="cpu, cuda; by default what is there")
    asked = parser.parse_args()
    if asked.setting == "push" and study.simulated is not None:
        study = study.simulated
    seeds = asked.seeds or (1 if asked.setting == "full" else study.seeds)
    given = {key: getattr(asked, key) for key in ("data", "out", "setting", "device", "steps")}
    try:
        lab = Lab(study=study, **given)
        known = [result for record in asked.known for result in read_record(lab, record)]
        conduct(lab, range(asked.first_seed, asked.first_seed + seeds), known, asked.lines)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{study.name}: {error}") from error


def conduct(
    lab: Lab, seeds: range, known: Sequence[Result] = (), lines: int | None = None
) -> list[Result]:
    """Measure every row (or the first `lines`) with every seed; write after each what is known.

    `known` are results of other seeds, trained elsewhere.
    """
    results = list(known)
    twice = sorted({result.seed for result in known}.intersection(seeds))
    if twice:
        numbers = ", ".join(map(str, twice))
        raise ValueError(f"seed {numbers} is asked and in --known: pass another --first-seed")
    for seed in seeds:
        for row in lab.study.rows(lab.setting, seed)[:lines]:
            results.append(lab.measure(row, seed))
            write(lab, results)
            print(f"{row.name} (seed {seed}): {results[-1].scores}", flush=True)
    if lines is None or lab.setting == "push":
        lab.study.draw(lab, results)
    print((lab.out / "table.md").read_text())
    return results


def read_record(lab: Lab, path: Path) -> list[Result]:
    """The results that an earlier `record.json` of the same study and setting holds."""
    record = json.loads(path.read_text())
    found, wanted = (record["study"], record["setting"]), (lab.study.name, lab.setting)
    if found != wanted:
        raise ValueError(f"{path} is a record of {' '.join(found)}, not of {' '.join(wanted)}")
    results = []
    for kept in record["rows"]:
        rows = {row.name: row for row in lab.study.rows(lab.setting, kept["seed"])}
        row = rows.get(kept["name"])
        if row is None or repr(row.judge) != kept["judge"]:
            raise ValueError(f"{path} has a line {kept['name']!r} of an earlier state of the study")
        if not kept.get("points"):
            raise ValueError(f"{path} keeps no scores of single clips: train its seeds here")
        points = {int(step): each for step, each in kept["points"].items()}
        seed, scores = kept["seed"], kept["scores"]
        results.append(Result(row=row, seed=seed, scores=scores, stages=[], points=points))
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
                **({"points": r.points} if r.points else {}),
            }
            for r in results
        ],
    }
    (lab.out / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    text = table(results, lab.study.columns, lab.study.published, lab.setting)
    (lab.out / "table.md").write_text(text)
