"""`train`, `data check` and `runs`."""

import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts
from reeltok.files.places import check_place
from reeltok.wording import count, duration, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reeltok.recipes import AnyRecipe


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", show_default=False)],
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Clips to train on: a folder, a pattern, a list or a .tar shard; no default, "
            "needed unless --dry-run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder of the run; no default, needed unless --dry-run."),
    ] = None,
    changes: given.ChangesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in RUN.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Run a few steps on noise, and print parameters, memory and speed."
        ),
    ] = False,
    damage: Annotated[
        str | None,
        typer.Option(
            metavar="refuse|stop|skip",
            help="What to do about frames that cannot be decoded: refuse the clip, stop before"
            " them, or skip them; by default what the recipe says.",
        ),
    ] = None,
    exit_on_term: Annotated[
        int | None, typer.Option(metavar="CODE", help="Exit code after SIGTERM; by default 143.")
    ] = None,
    device: given.DeviceOption = "auto",
) -> Report:
    """Train a tokenizer, a packing model or a generator from a recipe.

    RECIPE is a name, a recipe.json, or the folder of a run that has one; --set changes its values.
    RUN/model is the latest model, RUN/best the best; `--model` takes both. After SIGTERM or Ctrl-C,
    --resume continues exactly. For several processes: torchrun -m reeltok train ...
    """
    from reeltok.devices import pick_device
    from reeltok.recipes import find_recipe, run_recipe
    from reeltok.train.recipe import change

    changed = given.parse_changes(changes)
    if damage is not None:
        changed["data.damage"] = damage
    if exit_on_term is not None:
        changed["loop.exit_on_term"] = str(exit_on_term)
    resolved = change(find_recipe(recipe), changed)
    place = None if device == "auto" else str(pick_device(device))
    if dry_run:
        return try_some_steps(resolved, place)
    if data is None or out is None:
        raise ValueError("training needs --data DATA and --out RUN")
    check_place(str(out))
    run = run_recipe(resolved, data=data, out=out, resume=resume, device=place, show=show_clips)
    first = os.environ.get("RANK", "0") == "0"  # under torchrun one process speaks for all
    record = {"run": str(out), "recipe": resolved.name, "steps": run.step, "best": run.best}
    best = "" if run.best is None else f", best {resolved.loop.best} {run.best:.4g}"
    text = f"{resolved.name}: {count(run.step, 'step')}{best}; the model is in {out / 'model'}"
    return Report(data=record, text=text if first else "")


@contextmanager
def show_clips(clips: int) -> "Iterator[Callable[[int], None]]":
    """A bar while clips become the examples of a generator."""
    with Progress("encoding", clips) as bar:
        yield bar.finish_files


def try_some_steps(recipe: "AnyRecipe", device: str | None) -> Report:
    """What a run of this recipe will need."""
    from reeltok.recipes import try_recipe
    from reeltok.train import as_json

    tried, steps = try_recipe(recipe, device=device), recipe.loop.schedule.steps
    said = {
        "recipe": recipe.name,
        "trained parameters": tried.parameters,
        "memory": f"{tried.memory_gb:.2f} GB",
        "speed": f"{rate(tried.steps_per_second, 1)} steps, "
        f"{rate(tried.frames_per_second, 1)} frames per second",
        "all steps": f"{steps:,} in about {duration(steps / tried.steps_per_second)}",
    }
    if tried.estimated:
        few = " and ".join(str(clips) for clips in tried.measured)
        said["estimated"] = f"from steps of {few} clips; a batch has {tried.clips}"
    return Report(data={**asdict(tried), "recipe": json.loads(as_json(recipe))}, text=facts(said))


def check_data(
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write check.json and clean.csv to; by default the folder of the clips.",
        ),
    ] = None,
    damage: given.DamageOption = "refuse",
    jobs: given.JobsOption = 2,
) -> Report:
    """Decode every clip to its end, and list the clips that are intact.

    DATA is a folder, a pattern, a list (.csv, .jsonl, .txt) or a .tar shard. Writes check.json (a
    report) and clean.csv, a list that `train`, `encode` and `evaluate` take.
    """
    from reeltok.train import check_clips
    from reeltok.video.decode import check_damage

    found = check_clips(data, out=out, workers=jobs, damage=check_damage(damage))
    broken = [{"name": bad.name, "reason": bad.reason} for bad in found.broken]
    whole = f"{count(found.clips, 'clip')} {'is' if found.clips == 1 else 'are'} whole"
    lines = [f"{whole}: {count(found.frames, 'frame')}, {found.seconds:.1f} s"]
    lines += [f"broken: {bad}" for bad in found.broken]
    lines += [f"damaged: {name}: {left} left out" for name, left in found.damaged.items()]
    lines += [f"written: {found.report}, {found.clean}"]
    return Report(data={**asdict(found), "broken": broken}, text="\n".join(lines))


def runs(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Picture to write; by default RUN/curves.png."),
    ] = None,
) -> Report:
    """Plot the curves of a training run to a picture, and print its latest numbers."""
    from reeltok.train import draw_runs
    from reeltok.train.logbook import read_lines

    picture = draw_runs(run, out)
    latest: dict[str, float] = {}
    for line in read_lines(run / "log.jsonl"):
        latest |= {name: value for name, value in line.items() if isinstance(value, int | float)}
    latest.pop("validation", None)
    text = f"{facts(latest)}\n\nthe curves are in {picture}"
    return Report(data={"picture": str(picture), "latest": latest}, text=text)
